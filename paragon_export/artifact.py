"""Artifacts: files we made, written whole or not at all.

What is made lies in a hidden folder beside its place, so that it can be moved there by renaming::

    .paragon-XXXX/lock      held by the run that makes it; who can take it owns what a dead run left
    .paragon-XXXX/files/    the files of one artefact: an engine, its manifest, its ONNX file
    .paragon-commit/        the same folder once it is whole: each file in it belongs beside it

Renaming ``files`` to ``.paragon-commit`` is the one step that counts. Before it the old artefact
stands. After it anyone may move the files out, in any order and however often: a run that was
killed half-way is finished by the next one, or by the next reader of an engine. A second run must
wait with its own until that folder is empty and gone, and helps to empty it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paragon_export.errors import ParagonExportError, PlanError
from paragon_export.foreign import finite
from paragon_export.signals import before_end

if TYPE_CHECKING:
    from filelock import BaseFileLock

PREFIX, COMMIT = ".paragon-", ".paragon-commit"

LONGEST_WAIT_S = 10.0
"""For other runs to move their files out of the way, which takes each a few milliseconds."""

_ours: set[Path] = set()
"""The staging folders of this process."""


@dataclass
class Staged:
    """One artefact in the making: a file, or several that belong together."""

    path: Path
    """Where to write the first: in a temporary folder on the same file system, under its name."""
    keep: bool = True
    """Set to False to throw all of it away."""

    def beside(self, target: Path) -> Path:
        """Return where to write another of the files."""
        return self.path.with_name(target.name)


@contextmanager
def staged(path: Path, *others: Path) -> Iterator[Staged]:
    """Make files of one folder that take their places in one step once the body has ended.

    If the body raises or clears ``keep``, what stood there is untouched. The first file must be
    written; of the others those that are.

    Raises:
        PlanError: If the folder cannot be written to, the disk is full, or a folder is in the way.
    """
    assert all(other.parent == path.parent for other in others)
    with _staging(path) as folder:
        file = Staged(folder / "files" / path.name)
        try:
            file.path.parent.mkdir()
            yield file
            if file.keep:
                _commit(file, path, others)
        except (OSError, ParagonExportError) as error:
            if isinstance(error, OSError) or not folder.exists():
                raise _cannot_write(path, error if folder.exists() else None) from error
            told = str(error).replace(str(file.path.parent), str(path.parent))
            error.args = (told,)  # nobody asked for a file in our folder
            raise


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder for what a library writes and forgets, also if the process is killed.

    Libraries that ask for a temporary file get it there too.

    Raises:
        PlanError: If no temporary folder can be written to.
    """
    usual = tempfile.tempdir
    with _staging(Path(tempfile.gettempdir()) / "scratch") as folder:
        tempfile.tempdir = str(folder)
        try:
            yield folder
        finally:
            tempfile.tempdir = usual


@contextmanager
def _staging(path: Path) -> Iterator[Path]:
    """Make a folder beside ``path`` that no other run takes for a leftover, and remove it."""
    parent = path.parent.absolute()
    try:
        sweep(parent)
        folder, lock = _locked_folder(parent)
    except OSError as error:
        raise _cannot_write(path, error, "; choose another output with -o") from error
    try:
        yield folder
    finally:
        lock.release()
        _forget(folder)


def _locked_folder(parent: Path) -> tuple[Path, BaseFileLock]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        _ours.add(folder)
        try:
            lock = _take(folder)
        except OSError:
            if folder.exists():
                _forget(folder)
                raise
            lock = None
        if lock is not None and (folder / "lock").exists():
            return folder, lock
        _ours.discard(folder)  # a run that swept was quicker than our lock


def _forget(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _ours.discard(folder)


def _take(folder: Path) -> BaseFileLock | None:
    """Lock a staging folder; None if a run that lives holds it."""
    import filelock

    lock = filelock.FileLock(folder / "lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        return None
    return lock


def sweep(folder: Path) -> None:
    """Finish what a dead run had made whole in a folder, and delete what it had not.

    Raises:
        PlanError: If something whole cannot be moved to its place.
    """
    settle(folder)
    for left in folder.glob(PREFIX + "*"):
        if left.name == COMMIT or left in _ours or not left.is_dir():
            continue
        with suppress(OSError):  # it is another user's, or gone by now
            if lock := _take(left):
                shutil.rmtree(left, ignore_errors=True)
                lock.release()


def settle(folder: Path) -> None:
    """Move the files of an artefact that is whole to their places, if a run was stopped at that.

    Raises:
        PlanError: If a file cannot be moved.
    """
    whole = folder / COMMIT
    for file in _files_of(whole):
        try:
            os.replace(file, folder / file.name)
        except FileNotFoundError:
            continue  # another run has moved it
        except OSError as error:
            raise PlanError(
                f"cannot write {folder / file.name}: {error.strerror or error}; the new file "
                f"waits in {whole}, the next run moves it once nothing is in the way"
            ) from error
    with suppress(OSError):  # there is none, or another run has removed it or filled it anew
        whole.rmdir()
        _sync(folder)


def _files_of(whole: Path) -> list[Path]:
    """List what waits to be moved; nothing of another user's, whose word is not ours."""
    with suppress(OSError):
        if not hasattr(os, "getuid") or whole.lstat().st_uid == os.getuid():
            return list(whole.iterdir())
    return []


def _commit(file: Staged, path: Path, others: tuple[Path, ...]) -> None:
    """Put what was made in its place: one rename for one file, or for the folder of several."""
    made = [path, *(other for other in others if file.beside(other).exists())]
    for target in made:
        _check_replaceable(target)
        with file.beside(target).open("rb") as written:
            os.fsync(written.fileno())
    if len(made) == 1:
        os.replace(file.path, path)
        _sync(path.parent)
        return
    for stray in set(file.path.parent.iterdir()) - {file.beside(target) for target in made}:
        _remove(stray)
    _sync(file.path.parent)
    _rename_when_free(file.path.parent, path.parent / COMMIT)
    _sync(path.parent)
    settle(path.parent)


def _rename_when_free(made: Path, commit: Path) -> None:
    """Rename a folder to a name that other runs take as well, each for a moment."""
    deadline = time.monotonic() + LONGEST_WAIT_S
    while True:
        try:
            os.rename(made, commit)
        except OSError:
            if not commit.is_dir() or time.monotonic() > deadline:
                raise
            settle(commit.parent)
            time.sleep(0.001)
        else:
            return


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Have a folder's names survive a power failure, where the system can do that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _abandon() -> None:
    """Delete what this process was making; what it had made whole takes its place."""
    for folder in tuple(_ours):
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(ParagonExportError, OSError):
            settle(folder.parent)


before_end(_abandon)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Raises:
        PlanError: If it cannot be written.
    """
    write_texts({path: text})


def write_texts(texts: Mapping[Path, str]) -> None:
    """Write text files of one folder, all of them or none.

    Raises:
        PlanError: If one cannot be written.
    """
    with staged(*texts) as file:
        for path, text in texts.items():
            file.beside(path).write_text(text, encoding="utf-8")


def check_writable(path: Path, *sources: Path | None) -> None:
    """Refuse an output before work is done for it, and clean up after runs that were killed.

    Raises:
        PlanError: If ``path`` is a folder, lies in one that is missing or not writable, or is
            one of the ``sources`` that it would be made from.
    """
    for source in sources:
        if source is not None and path.exists() and source.exists() and path.samefile(source):
            raise PlanError(f"output {path} is the file it would be made from; choose another")
    if path.is_dir():
        raise PlanError(f"output {path} is a folder; give a file name")
    if not path.parent.is_dir():
        raise PlanError(f"cannot write {path}: folder {path.parent} does not exist")
    try:
        _check_replaceable(path)
        with _staging(path):
            pass
    except OSError as error:
        raise _cannot_write(path, error) from error


def _check_replaceable(path: Path) -> None:
    """Refuse before the first of several files is moved what would stop at a later one."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "a folder of that name is in the way", str(path))
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(
            errno.EACCES, "the file there is write-protected; remove it first", str(path)
        )


def _cannot_write(path: Path, error: Exception | None, advice: str = "") -> PlanError:
    """Say why; without an error the folder has gone while the file was made."""
    if error is None:
        return PlanError(f"cannot write {path}: its folder was removed or renamed meanwhile")
    reason = error.strerror if isinstance(error, OSError) else None
    return PlanError(f"cannot write {path}: {reason or error}{advice}")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_json(document: Any) -> str:
    """Return strict JSON, readable by people: null for NaN and infinity."""
    return json.dumps(finite(document), indent=2, allow_nan=False, sort_keys=False) + "\n"
