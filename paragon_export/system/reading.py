"""Read regular files of limited size, and parse JSON strictly.

Input files are untrusted. The functions of this module never wait for a pipe, never read from a
device, and never read more bytes than allowed.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from paragon_export.errors import ParagonExportError

MAX_JSON_DEPTH = 100
"""Levels of nested objects and arrays."""

INDEX_SUFFIX = ".index.json"
"""Ends the name of a file that names the shards of a checkpoint, in its own folder."""

SHARD_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def is_input(path: Path, source: Path) -> bool:
    """Return whether a file is an input, or next to an index and named as its shards are.

    Raises:
        OSError: If the system cannot tell.
    """
    if not path.exists() or not source.exists():
        return False
    is_index = source.name.endswith(INDEX_SUFFIX) and path.suffix in SHARD_SUFFIXES
    return path.samefile(source) or (is_index and path.parent.samefile(source.parent))


def read_bytes(path: Path, max_bytes: int, what: str, error: type[ParagonExportError]) -> bytes:
    """Return the bytes of a regular file.

    Args:
        path: The file; symbolic links are followed.
        max_bytes: Largest size of the file.
        what: What the file is, for error messages, as in "option file".
        error: The class of the error to raise.

    Raises:
        ParagonExportError: Of the class ``error``, if it is no regular file, is too large, cannot
            be read, or has not the size that the system reports, as files in /proc.
    """
    name = f"{what} {path}" if what else str(path)
    try:
        _checked_size(path.stat(), name, max_bytes, error)  # before opening: devices may react
        with open(path, "rb", opener=_open_nonblocking) as file:
            size = _checked_size(os.fstat(file.fileno()), name, max_bytes, error)
            data = file.read(size + 1)
    except (OSError, ValueError) as cause:  # ValueError: a NUL in the name
        reason = getattr(cause, "strerror", None) or cause
        raise error(f"cannot read {name}: {reason}") from cause
    if len(data) != size:
        raise error(f"cannot read {name}: it does not hold the {size} bytes that it should")
    return data


def _open_nonblocking(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _checked_size(
    status: os.stat_result, name: str, max_bytes: int, error: type[ParagonExportError]
) -> int:
    """Return the size in bytes of a regular file; raise ``error`` for any other or a larger one."""
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise error(f"cannot read {name}: expected a file, found {kind}")
    if status.st_size > max_bytes:
        raise error(
            f"cannot read {name}: it has {status.st_size} bytes; at most {max_bytes} are supported"
        )
    return status.st_size


def parse_json(text: str | bytes) -> Any:
    """Return the document of a JSON text.

    Raises:
        ValueError: If it is not JSON, has a duplicate key in an object, holds NaN or infinity, or
            is nested more than ``MAX_JSON_DEPTH`` levels deep.
    """
    try:
        document = json.loads(text, object_pairs_hook=_object, parse_constant=_reject_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    _check_depth(document)
    return document


def _check_depth(document: Any) -> None:
    """Raise ValueError for a document so deep that recursive functions would fail on it."""
    level = [document]
    for _ in range(MAX_JSON_DEPTH):
        containers = (v.values() if isinstance(v, dict) else v for v in level
                      if isinstance(v, (dict, list)))  # fmt: skip
        level = [value for container in containers for value in container]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the key-value pairs of a JSON object as a dict; raise ValueError for duplicates."""
    document = dict(pairs)
    if len(document) != len(pairs):
        names = [name for name, _ in pairs]
        duplicate = next(name for name in document if names.count(name) > 1)
        raise ValueError(f"key {duplicate[:100]!r} appears twice")
    return document


def _reject_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")
