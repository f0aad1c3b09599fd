"""Private folders: where files are completed before they appear under their names.

A file name alone is no proof of who wrote a file. The folder of an earlier run is removed only if
its lock file holds the identity (device and inode) of that folder, belongs to this user and is not
locked by a running process, and if the folder holds only the files that the lock file names.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from paragon_export.system import signals

PREFIX = ".paragon-"
"""First characters of the name of a temporary folder."""

LOCK = "lock"
"""Name of the lock file in a temporary folder."""

MAX_LOCK_BYTES = 2**16

END_S = 1.0
"""How long the end of the process waits for a folder that is being created, in seconds."""


@dataclass(frozen=True)
class PrivateFolder:
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


_open_folders: set[PrivateFolder] = set()

_creating = threading.RLock()
"""Held while a folder is created. Kept when the process ends, so that its threads create no more."""

_scratch_folders: set[str] = set()


@contextmanager
def private_folder(parent: Path, names: Sequence[str]) -> Iterator[PrivateFolder]:
    """Create a temporary folder for files of these names, and remove it at the end."""
    with _creating:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        folder = PrivateFolder(path.absolute(), tuple(names))
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


def _make_lock(folder: PrivateFolder) -> int:
    """Create and lock the lock file. Return its handle; closing it releases the lock."""
    handle = os.open(folder.path / LOCK, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    with suppress(OSError):  # on network file systems without locks, leftovers are never removed
        lock_file(handle, wait=True)  # another run may hold it while it looks for leftovers
    names = [os.fsencode(name).hex() for name in folder.names]
    os.write(handle, json.dumps({"folder": _identity(folder.path), "files": names}).encode())
    return handle


def lock_file(handle: int, *, wait: bool = False) -> bool:
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


def remove_leftovers(parent: Path) -> None:
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
        if not _is_my_file(os.fstat(handle)) or not lock_file(handle):
            return
        record = json.loads(os.read(handle, MAX_LOCK_BYTES))
        names = tuple(os.fsdecode(bytes.fromhex(name)) for name in record["files"])
        entries = set(os.listdir(folder))
        if record["folder"] != [status.st_dev, status.st_ino] or entries - {*names, LOCK}:
            return
        if any(os.path.basename(name) != name for name in names):
            return
        if all(_is_my_file(os.lstat(folder / name)) for name in entries):
            PrivateFolder(folder, names).remove()
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
    """Remove the temporary folders of this process, which ends."""
    _creating.acquire(timeout=END_S)
    for folder in (
        *_open_folders,
        *_open_folders,
    ):  # again: a thread may have created a file meanwhile
        folder.remove()
    for name in tuple(_scratch_folders):
        shutil.rmtree(name, ignore_errors=True)


signals.before_end(_remove_unfinished)
