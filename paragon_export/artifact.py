"""Artifacts: files we made, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paragon_export.errors import PlanError


@dataclass
class Staged:
    """A file in the making."""

    path: Path
    """Where to write it: in a temporary folder on the same file system, under its own name."""
    keep: bool = True
    """Set to False to throw it away."""


@contextmanager
def staged(path: Path) -> Iterator[Staged]:
    """Make a file that takes the place of ``path`` in one step once the body has ended.

    If the body raises or clears ``keep``, what stood at ``path`` is untouched.

    Raises:
        PlanError: If the folder cannot be written to.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix=".paragon-", dir=path.parent)
    except OSError as error:
        raise PlanError(
            f"cannot write {path}: {error.strerror or error}; choose another output with -o"
        ) from error
    with folder as name:
        file = Staged(Path(name) / path.name)
        yield file
        if not file.keep:
            return
        try:
            with file.path.open("rb") as written:
                os.fsync(written.fileno())
            os.replace(file.path, path)
        except OSError as error:
            raise PlanError(f"cannot write {path}: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Raises:
        PlanError: If it cannot be written.
    """
    with staged(path) as file:
        file.path.write_text(text, encoding="utf-8")


def check_writable(path: Path, *sources: Path | None) -> None:
    """Refuse an output before work is done for it.

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
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise PlanError(f"cannot write {path}: {error.strerror or error}") from error


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_json(document: Any) -> str:
    """Return strict JSON, readable by people."""
    return json.dumps(document, indent=2, allow_nan=False, sort_keys=False) + "\n"
