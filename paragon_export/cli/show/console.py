"""Print documents as JSON, results as tables, and notes on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from rich.console import Console
from rich.markup import escape

from paragon_export.cli.show.held_notes import take_notes
from paragon_export.system.text import finite, one_line, printable

Document = dict[str, Any]

MAX_PIPED_COLUMNS = 100_000
"""Width of a table that is not printed on a terminal, in characters."""

_is_quiet: ContextVar[bool] = ContextVar("is_quiet", default=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Print no notes within a block."""
    token = _is_quiet.set(True)
    try:
        yield
    finally:
        _is_quiet.reset(token)


def show(as_json: bool, document: Document, table: Callable[..., None], *results: object) -> None:
    """Print a result: the document as JSON on stdout, or else ``table(console, *results)``.

    The notes of the document go to stderr, after those that were held.
    """
    for text in (*take_notes(), *document.get("notes", ())):
        note(text)
    if as_json:
        write_json(document)
    else:
        table(output_console(), *results)


def output_console() -> Console:
    """Return the console of stdout, as wide as the terminal; without one as wide as needed."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=MAX_PIPED_COLUMNS)


def note(text: str) -> None:
    """Print one note on stderr, unless notes are switched off."""
    if not _is_quiet.get():
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        console.print(f"note: {one_line(text)}", markup=False, style="yellow")


def error_document(message: str) -> Document:
    """Return what ``--json`` prints where a command is refused: its one line, as on stderr."""
    return {"error": one_line(message)}


def show_error(message: str) -> None:
    """Print the document of a refusal on stdout."""
    write_json(error_document(message))


def write_json(document: Document) -> None:
    """Print one object of numbers, text and null: JSON has no NaN and no infinity."""
    sys.stdout.write(json.dumps(finite(document), indent=2, allow_nan=False) + "\n")


def line(console: Console, text: str, style: str | None = None) -> None:
    """Print text that holds no markup; a terminal never sees its control characters."""
    console.print(printable(text), markup=False, style=style)


def cell(text: object) -> str:
    """Return text for a table's cell: printable, and no markup."""
    return escape(printable(str(text)))


def verdict(console: Console, passed: bool, reason: str) -> None:
    """Print PASSED or FAILED and what decides."""
    color, word = ("green", "PASSED") if passed else ("red", "FAILED")
    console.print(f"[{color} bold]{word}[/]: {cell(reason)}")


def written(console: Console, path: object, replaced: bool) -> None:
    """Say what file was written, and whether another one was there."""
    line(console, f"wrote {path}" + (" (replaced)" if replaced else ""))
