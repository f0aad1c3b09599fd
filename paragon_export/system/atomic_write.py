"""Write files: each appears complete or not at all, and nothing of the user's is touched.

The files of one artifact are written to a temporary folder in the folder of the output, synced to
disk, and renamed one by one, the manifest last::

    .paragon-XXXXXXXX/      made by ``mkdtemp``: a new name, mode 0700, never a link
        lock                held while the run lives; names the folder and the files it will hold
        net.engine ...      renamed to their places once all of them are complete

A run that is killed between two renames leaves a manifest that does not match the other files.
Every reader checks the digests in the manifest, so the next run builds again.

Nothing on disk is believed because of its name. A private folder of an earlier run is removed only
if its lock file holds the identity (device and inode) of this very folder, belongs to this user,
and is not locked by a run that lives; and only if the folder holds nothing but the files named
there.
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
from paragon_export.system.signals import before_end
from paragon_export.system.text import finite

PREFIX, LOCK = ".paragon-", "lock"

MAX_LOCK_BYTES = 2**16

IsOurs = Callable[[Path], bool]
"""Tells whether a file was written by this tool."""


@dataclass(frozen=True)
class _PrivateFolder:
    """A temporary folder of this run, in the folder of its outputs."""

    path: Path
    names: tuple[str, ...]
    """The files that it may hold, besides the lock."""

    def remove(self) -> None:
        """Remove the files that this run put there, and the folder if it is empty then."""
        for name in (*self.names, LOCK):
            with suppress(OSError):
                self.path.joinpath(name).unlink()
        with suppress(OSError):
            self.path.rmdir()


_open_folders: set[_PrivateFolder] = set()

_scratch_folders: set[str] = set()


def write_files(files: Mapping[Path, bytes]) -> None:
    """Write files of one folder. The last one is renamed last: put the manifest there.

    Files that cannot be written, because the disk is full for example, change nothing that was
    there.

    Raises:
        PlanError: If the folder cannot be written to, the disk is full, or something other than
            an ordinary file is in the way.
    """
    first, parent = next(iter(files)), next(iter(files)).parent
    assert all(path.parent == parent for path in files)
    try:
        for path in files:
            _check_replaceable(path)
        with _private_folder(parent, [path.name for path in files]) as folder:
            for path, data in files.items():
                _write_new(folder.path / path.name, data)
            for path in files:  # as late as possible: another run may have changed the place
                _check_replaceable(path)
            for path in files:
                os.replace(folder.path / path.name, path)
            _sync(parent)
    except OSError as error:
        gone = not parent.is_dir()
        raise _cannot_write(first, None if gone else error) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file.

    Raises:
        PlanError: As for ``write_files``.
    """
    write_texts({path: text})


def write_texts(texts: Mapping[Path, str]) -> None:
    """Write text files of one folder, in UTF-8.

    Raises:
        PlanError: As for ``write_files``.
    """
    write_files({path: encoded(text) for path, text in texts.items()})


def encoded(text: str) -> bytes:
    """Return text in UTF-8. Bytes of a file name that are no UTF-8 are escaped."""
    return text.encode("utf-8", errors="backslashreplace")


def check_writable(
    path: Path, *sources: Path | None, named: bool = True, is_ours: IsOurs | None = None
) -> None:
    """Refuse an output before work is done for it, and remove what killed runs left behind.

    Args:
        path: The file to be written.
        sources: The files that it is made from.
        named: Whether the user named this very file. If not, only a file of ours is replaced.
        is_ours: Tells whether the file there was written by this tool.

    Raises:
        PlanError: If ``path`` is a folder, lies in one that is missing or not writable, is one of
            the ``sources``, or is a file that the user did not name and that is not ours.
    """
    try:
        for source in sources:
            if source is not None and path.exists() and source.exists() and path.samefile(source):
                raise PlanError(f"output {path} is the file it would be made from; choose another")
        if path.is_dir():
            raise PlanError(f"output {path} is a folder; give a file name")
        if not path.parent.is_dir():
            raise PlanError(f"cannot write {path}: folder {path.parent} does not exist")
        _check_replaceable(path)
        if not named and os.path.lexists(path) and not (is_ours and is_ours(path)):
            raise PlanError(
                f"{path} is in the way and was not written by this tool; move it, or name another "
                "output with -o"
            )
        _remove_leftovers(path.parent)
        with _private_folder(path.parent, [path.name]):
            pass
    except OSError as error:
        raise _cannot_write(path, error, "; choose another output with -o") from error


def _check_replaceable(path: Path) -> None:
    """Refuse to replace anything but an ordinary file that may be written to, or a link to one."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return  # nothing is there, or a link that leads nowhere
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "a folder of that name is in the way", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EEXIST, "a pipe, socket or device of that name is in the way")
    if not os.access(path, os.W_OK):
        raise PermissionError(
            errno.EACCES, "the file there is write-protected; remove it first", str(path)
        )


def _cannot_write(path: Path, error: OSError | None, advice: str = "") -> PlanError:
    """Say why; without an error the folder has gone while the file was made."""
    if error is None:
        return PlanError(f"cannot write {path}: its folder was removed or renamed meanwhile")
    return PlanError(f"cannot write {path}: {error.strerror or error}{advice}")


# --- private folders -----------------------------------------------------------------------


@contextmanager
def _private_folder(parent: Path, names: Sequence[str]) -> Iterator[_PrivateFolder]:
    """Make a private folder for files of these names, and remove it in the end."""
    made = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    folder = _PrivateFolder(made.absolute(), tuple(names))
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
    """Write and lock the lock file; return its handle, which holds the lock until it is closed."""
    handle = os.open(folder.path / LOCK, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    with suppress(OSError):  # some network file systems have no locks: nothing is removed there
        _lock(handle, wait=True)  # another run may look at the file just now
    names = [os.fsencode(name).hex() for name in folder.names]
    os.write(handle, json.dumps({"folder": _identity(folder.path), "files": names}).encode())
    return handle


def _lock(handle: int, *, wait: bool = False) -> bool:
    """Lock a file; return False where the system has no such locks (Windows).

    Raises:
        OSError: If another process holds the lock, unless this one is to ``wait`` for it.
    """
    try:
        import fcntl
    except ImportError:
        return False
    fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True


def _identity(folder: Path) -> list[int]:
    found = folder.lstat()
    return [found.st_dev, found.st_ino]


def _write_new(path: Path, data: bytes) -> None:
    """Write a file that is not there yet, with the permissions of any new file, to the disk."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Write a folder's names to the disk, where the system can do that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove_leftovers(parent: Path) -> None:
    """Remove the private folders of runs that were killed here."""
    with suppress(OSError):
        for entry in os.scandir(parent):
            if entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False):
                with suppress(OSError, ValueError, TypeError, KeyError):
                    _remove_leftover(Path(entry.path).absolute())


def _remove_leftover(folder: Path) -> None:
    """Remove a folder if it was made by a run of this user that is dead; else do nothing.

    Raises:
        OSError, ValueError, TypeError, KeyError: If it was not.
    """
    found = folder.lstat()
    if not _is_mine(found) or stat.S_IMODE(found.st_mode) != 0o700:
        return
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    handle = os.open(folder / LOCK, flags)
    try:
        if not _is_my_file(os.fstat(handle)) or not _lock(handle):
            return
        record = json.loads(os.read(handle, MAX_LOCK_BYTES))
        names = tuple(os.fsdecode(bytes.fromhex(name)) for name in record["files"])
        inside = set(os.listdir(folder))
        if record["folder"] != [found.st_dev, found.st_ino] or inside - {*names, LOCK}:
            return
        if any(os.path.basename(name) != name for name in names):
            return
        if all(_is_my_file(os.lstat(folder / name)) for name in inside):
            _PrivateFolder(folder, names).remove()
    finally:
        os.close(handle)


def _is_mine(found: os.stat_result) -> bool:
    return not hasattr(os, "getuid") or found.st_uid == os.getuid()


def _is_my_file(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and _is_mine(found)


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a temporary folder, which is removed also if a signal ends the process.

    Libraries that ask for a temporary file get it there too.
    """
    usual = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="paragon-export-") as name:
        _scratch_folders.add(name)
        tempfile.tempdir = name
        try:
            yield Path(name)
        finally:
            tempfile.tempdir = usual
            _scratch_folders.discard(name)


def _abandon() -> None:
    """Remove what this process was writing."""
    for folder in tuple(_open_folders):
        folder.remove()
    for name in tuple(_scratch_folders):
        shutil.rmtree(name, ignore_errors=True)


before_end(_abandon)


# --- contents ------------------------------------------------------------------------------


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_json(document: Any) -> str:
    """Return strict JSON, readable by people: null for NaN and infinity."""
    return json.dumps(finite(document), indent=2, allow_nan=False, sort_keys=False) + "\n"
