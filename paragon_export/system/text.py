"""Foreign values in words: one short printable line, whatever a file holds."""

from __future__ import annotations

import math
import reprlib
from typing import Any

MAX_LINE_CHARACTERS = 4000
"""Characters of an error; a tensor's name may be megabytes long."""

_short = reprlib.Repr()
_short.maxlevel, _short.maxlist, _short.maxdict, _short.maxstring = 2, 3, 3, 60


def brief(value: Any) -> str:
    """Return a value for an error message; nested anchors unfold to gigabytes otherwise."""
    return _short.repr(value)


def printable(text: str) -> str:
    """Return text with what is not printable escaped: a terminal obeys control characters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def utf_8(name: str) -> str:
    """Return a file's name as UTF-8 can hold it; bytes that are none are escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def one_line(text: str) -> str:
    """Return text as one printable line of at most ``MAX_LINE_CHARACTERS`` characters."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= MAX_LINE_CHARACTERS else line[: MAX_LINE_CHARACTERS - 3] + "..."


def all_printable(document: Any) -> Any:
    """Return a document of dicts, lists and values with every text in it printable."""
    if isinstance(document, str):
        return printable(document)
    if isinstance(document, dict):
        return {all_printable(key): all_printable(value) for key, value in document.items()}
    if isinstance(document, (list, tuple)):
        return [all_printable(value) for value in document]
    return document


def finite(document: Any) -> Any:
    """Return a document of dicts, lists and values with None for every NaN and infinity.

    JSON has no number for them.
    """
    if isinstance(document, float):
        return document if math.isfinite(document) else None
    if isinstance(document, dict):
        return {key: finite(value) for key, value in document.items()}
    if isinstance(document, (list, tuple)):
        return [finite(value) for value in document]
    return document
