"""Write files atomically: each file appears complete or not at all.

The files of one artifact are written to a temporary folder next to the output, synced to disk, and
renamed one by one, the manifest last::

    .paragon-XXXXXXXX/      created by ``mkdtemp``: a new name, mode 0700, never a link
        lock                locked while the run lives; names the folder and its files
        net.engine ...      renamed to their final names once all files are complete

If a run is killed between two renames, the manifest does not match the other files. Every reader
checks the digests in the manifest, so the next run builds again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from paragon_export.errors import PlanError
from paragon_export.system.private_folder import private_folder, remove_leftovers
from paragon_export.system.reading import is_input
from paragon_export.system.text import finite

IsOurs = Callable[[Path], bool]
"""Returns whether this tool wrote the file."""


def write_files(files: Mapping[Path, bytes]) -> None:
    """Write files of one folder, replacing files of the same names.

    If one file cannot be written, for example because the disk is full, none is replaced.

    Args:
        files: Contents by path. They are renamed into place in this order: put the manifest last.

    Raises:
        PlanError: If the folder is not writable, the disk is full, or something other than a
            regular file has the name of an output.
    """
    with writing(list(files)) as folder:
        for path, data in files.items():
            (folder / path.name).write_bytes(data)


@contextmanager
def writing(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield an empty folder for files of these names; at the end they replace ``paths``, in order.

    The body writes every one of them there. If it raises an error, none is replaced.

    Raises:
        PlanError: As for :func:`write_files`; an OSError of the body becomes one, too.
    """
    first, parent = paths[0], paths[0].parent
    assert all(path.parent == parent for path in paths)
    try:
        for path in paths:
            _check_replaceable(path)
        with private_folder(parent, [path.name for path in paths]) as folder:
            yield folder.path
            for path in paths:
                _sync_file(folder.path / path.name)
            for path in paths:  # as late as possible: another process may have changed the path
                _check_replaceable(path)
            for path in paths:
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
        remove_leftovers(path.parent)
        with private_folder(path.parent, [path.name]):
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


def _sync_file(path: Path) -> None:
    """Sync the contents of a file to disk."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Sync the entries of a folder to disk, on systems that support it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


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
