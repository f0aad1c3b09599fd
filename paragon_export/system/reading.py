"""Read: the bytes of an ordinary file of bounded size, and JSON that means one thing.

Whatever a user names may have been written by somebody else. Nothing here waits for a pipe,
drains a device or reads more than it was told to.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from paragon_export.errors import ParagonExportError

MAX_DEPTH = 100
"""Tables and lists in one another, of JSON."""

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read_bytes(path: Path, most: int, what: str, error: type[ParagonExportError]) -> bytes:
    """Return the bytes of an ordinary file.

    Args:
        path: The file; symbolic links are followed.
        most: Bytes that it may have.
        what: What it is called in an error, as in "option file".
        error: What is raised.

    Raises:
        ParagonExportError: Of the type ``error``, if it is no file, is larger, cannot be read, or
            is not as long as the system says, as in /proc.
    """
    name = f"{what} {path}" if what else str(path)
    try:
        _check(path.stat(), name, most, error)  # opening a device may do something already
        with open(path, "rb", opener=_without_waiting) as file:
            size = _check(os.fstat(file.fileno()), name, most, error)
            data = file.read(size + 1)
    except (OSError, ValueError) as reason:  # ValueError: a NUL in the name
        told = getattr(reason, "strerror", None) or reason
        raise error(f"cannot read {name}: {told}") from reason
    if len(data) != size:
        raise error(f"cannot read {name}: it does not hold the {size} bytes that it should")
    return data


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check(found: os.stat_result, name: str, most: int, error: type[ParagonExportError]) -> int:
    """Return the size of an ordinary file that is not too large."""
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise error(f"cannot read {name}: expected a file, found {kind}")
    if found.st_size > most:
        raise error(
            f"cannot read {name}: it is {found.st_size} bytes long, at most {most} are read"
        )
    return found.st_size


def parse_json(text: str | bytes) -> Any:
    """Return what a JSON text says.

    Raises:
        ValueError: If it is no JSON, names an entry of a table twice, holds a number that is none
            or is nested too deeply.
    """
    try:
        document = json.loads(text, object_pairs_hook=_table, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    _check_depth(document)
    return document


def _check_depth(document: Any) -> None:
    """Refuse what is so deep that other functions than the parser would give up."""
    level = [document]
    for _ in range(MAX_DEPTH):
        tables = (v.values() if isinstance(v, dict) else v for v in level
                  if isinstance(v, (dict, list)))  # fmt: skip
        level = [value for table in tables for value in table]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in table if names.count(name) > 1)
        raise ValueError(f"entry {twice[:100]!r} is there twice")
    return table


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")
