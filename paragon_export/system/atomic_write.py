"""Write files atomically: each file appears complete or not at all.

The files of one artifact are written to a temporary folder next to the output, synced to disk, and
renamed one by one, the manifest last::

    .paragon-XXXXXXXX/      created by ``mkdtemp``: a new name, mode 0700, never a link
        lock                locked while the run lives; names the folder and its files
        net.engine ...      renamed to their final names once all files are complete

If a run is killed between two renames, the manifest does not match the other files. Every reader
checks the digests in the manifest, so the next run builds again.

A file name alone is no proof of who wrote a file. The temporary folder of an earlier run is removed
only if its lock file holds the identity (device and inode) of that folder, belongs to this user and
is not locked by a running process, and if the folder holds only the files that the lock file names.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paragon_export.errors import PlanError
from paragon_export.system import signals
from paragon_export.system.reading import is_input
from paragon_export.system.text import finite

PREFIX = ".paragon-"
"""First characters of the name of a temporary folder."""

LOCK = "lock"
"""Name of the lock file in a temporary folder."""

MAX_LOCK_BYTES = 2**16

IsOurs = Callable[[Path], bool]
"""Returns whether this tool wrote the file."""


@dataclass(frozen=True)
class _PrivateFolder:
    """A temporary folder of this run, next to its outputs."""

    path: Path
    names: tuple[str, ...]
    """Names of the files that it may hold in addition to the lock file."""

    def remove(self) -> None:
        """Remove these files, and the folder if it is empty then. Errors are ignored."""
        for name in (*self.names, LOCK):
            with suppress(OSError):
                self.path.joinpath(name).unlink()
        with suppress(OSError):
            self.path.rmdir()


_open_folders: set[_PrivateFolder] = set()

_scratch_folders: set[str] = set()


def write_files(files: Mapping[Path, bytes]) -> None:
    """Write files of one folder, replacing files of the same names.

    If one file cannot be written, for example because the disk is full, none is replaced.

    Args:
        files: Contents by path. They are renamed into place in this order: put the manifest last.

    Raises:
        PlanError: If the folder is not writable, the disk is full, or something other than a
            regular file has the name of an output.
    """
    first, parent = next(iter(files)), next(iter(files)).parent
    assert all(path.parent == parent for path in files)
    try:
        for path in files:
            _check_replaceable(path)
        with _private_folder(parent, [path.name for path in files]) as folder:
            for path, data in files.items():
                _write_new(folder.path / path.name, data)
            for path in files:  # as late as possible: another process may have changed the path
                _check_replaceable(path)
            for path in files:
                os.replace(folder.path / path.name, path)
            _sync(parent)
    except OSError as error:
        gone = not parent.is_dir()
        raise _cannot_write(first, None if gone else error) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8. Errors are those of :func:`write_files`."""
    write_texts({path: text})


def write_texts(texts: Mapping[Path, str]) -> None:
    """Write text files of one folder in UTF-8. Errors are those of :func:`write_files`."""
    write_files({path: encoded(text) for path, text in texts.items()})


def encoded(text: str) -> bytes:
    """Return text as UTF-8. Surrogates, which stand for undecodable bytes, are escaped."""
    return text.encode("utf-8", errors="backslashreplace")


def check_writable(
    path: Path, *sources: Path | None, named: bool = True, is_ours: IsOurs | None = None
) -> None:
    """Check before any work that an output can be written. Remove leftovers of killed runs.

    Args:
        path: The file to be written.
        sources: The files that it is made from.
        named: Whether the user chose this path. If not, only a file of this tool is replaced.
        is_ours: Returns whether this tool wrote the existing file.

    Raises:
        PlanError: If ``path`` is a folder, lies in a folder that is missing or not writable, is
            one of the ``sources``, or is a file that the user did not name and that this tool did
            not write.
    """
    try:
        for source in sources:
            if source is not None and is_input(path, source):
                raise PlanError(f"output {path} is also the source; choose another output")
        if path.is_dir():
            raise PlanError(f"output {path} is a folder; give a file name")
        if not path.parent.is_dir():
            raise PlanError(f"cannot write {path}: folder {path.parent} does not exist")
        _check_replaceable(path)
        if not named and os.path.lexists(path) and not (is_ours and is_ours(path)):
            raise PlanError(
                f"{path} exists and was not written by this tool; move it, or name another output "
                "with -o"
            )
        _remove_leftovers(path.parent)
        with _private_folder(path.parent, [path.name]):
            pass
    except OSError as error:
        raise _cannot_write(path, error, "; choose another output with -o") from error


def _check_replaceable(path: Path) -> None:
    """Check that a path is free, or a writable regular file, or a link to one.

    Raises:
        OSError: If it is anything else.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return  # the path is free, or a dangling link
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "a folder of that name exists", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EEXIST, "a pipe, socket or device of that name exists")
    if not os.access(path, os.W_OK):
        raise PermissionError(
            errno.EACCES, "the existing file is write-protected; remove it first", str(path)
        )


def _cannot_write(path: Path, error: OSError | None, advice: str = "") -> PlanError:
    """Return the error for a file that cannot be written.

    ``error`` is None if its folder was removed during the run.
    """
    if error is None:
        return PlanError(f"cannot write {path}: its folder was removed or renamed during the run")
    return PlanError(f"cannot write {path}: {error.strerror or error}{advice}")


# --- temporary folders ---------------------------------------------------------------------


@contextmanager
def _private_folder(parent: Path, names: Sequence[str]) -> Iterator[_PrivateFolder]:
    """Create a temporary folder for files of these names, and remove it at the end."""
    path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    folder = _PrivateFolder(path.absolute(), tuple(names))
    _open_folders.add(folder)
    lock = None
    try:
        lock = _make_lock(folder)
        yield folder
    finally:
        folder.remove()
        if lock is not None:
            os.close(lock)
        _open_folders.discard(folder)


def _make_lock(folder: _PrivateFolder) -> int:
    """Create and lock the lock file. Return its handle; closing it releases the lock."""
    handle = os.open(folder.path / LOCK, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    with suppress(OSError):  # on network file systems without locks, leftovers are never removed
        _lock(handle, wait=True)  # another run may hold it while it looks for leftovers
    names = [os.fsencode(name).hex() for name in folder.names]
    os.write(handle, json.dumps({"folder": _identity(folder.path), "files": names}).encode())
    return handle


def _lock(handle: int, *, wait: bool = False) -> bool:
    """Lock a file. Return False on systems without ``flock`` (Windows).

    Raises:
        OSError: If another process holds the lock and ``wait`` is False.
    """
    try:
        import fcntl
    except ImportError:
        return False
    fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True


def _identity(folder: Path) -> list[int]:
    """Return the device and the inode of a folder."""
    status = folder.lstat()
    return [status.st_dev, status.st_ino]


def _write_new(path: Path, data: bytes) -> None:
    """Create a file with default permissions, and sync it to disk."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Sync the entries of a folder to disk, on systems that support it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove_leftovers(parent: Path) -> None:
    """Remove the temporary folders that killed runs left in a folder."""
    with suppress(OSError):
        for entry in os.scandir(parent):
            if entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False):
                with suppress(OSError, ValueError, TypeError, KeyError):
                    _remove_leftover(Path(entry.path).absolute())


def _remove_leftover(folder: Path) -> None:
    """Remove a temporary folder if it belongs to a run of this user that has ended.

    Otherwise do nothing.

    Raises:
        OSError, ValueError, TypeError, KeyError: If its lock file is missing, is locked or is not
            one that this tool writes.
    """
    status = folder.lstat()
    if not _is_mine(status) or stat.S_IMODE(status.st_mode) != 0o700:
        return
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    handle = os.open(folder / LOCK, flags)
    try:
        if not _is_my_file(os.fstat(handle)) or not _lock(handle):
            return
        record = json.loads(os.read(handle, MAX_LOCK_BYTES))
        names = tuple(os.fsdecode(bytes.fromhex(name)) for name in record["files"])
        entries = set(os.listdir(folder))
        if record["folder"] != [status.st_dev, status.st_ino] or entries - {*names, LOCK}:
            return
        if any(os.path.basename(name) != name for name in names):
            return
        if all(_is_my_file(os.lstat(folder / name)) for name in entries):
            _PrivateFolder(folder, names).remove()
    finally:
        os.close(handle)


def _is_mine(status: os.stat_result) -> bool:
    """Return whether this user owns it; True on systems without users."""
    return not hasattr(os, "getuid") or status.st_uid == os.getuid()


def _is_my_file(status: os.stat_result) -> bool:
    """Return whether it is a regular file of this user with one name."""
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and _is_mine(status)


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a temporary folder and remove it at the end, also if a signal ends the process.

    In the command line, temporary files of libraries are created in this folder too: there a signal
    ends the process without unwinding, and libraries could not remove their files. In any other
    process ``tempfile.tempdir`` stays as it is.
    """
    previous = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="paragon-export-") as name:
        _scratch_folders.add(name)
        if signals.is_listening():
            tempfile.tempdir = name
        try:
            yield Path(name)
        finally:
            tempfile.tempdir = previous
            _scratch_folders.discard(name)


def _remove_unfinished() -> None:
    """Remove the temporary folders of this process."""
    for folder in tuple(_open_folders):
        folder.remove()
    for name in tuple(_scratch_folders):
        shutil.rmtree(name, ignore_errors=True)


signals.before_end(_remove_unfinished)


# --- contents ------------------------------------------------------------------------------


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: If the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_json(document: Any) -> str:
    """Return a document as indented strict JSON, with null for NaN and infinity."""
    return json.dumps(finite(document), indent=2, allow_nan=False, sort_keys=False) + "\n"
