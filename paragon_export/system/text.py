"""Turn untrusted values into short printable text, and documents into finite JSON values."""

from __future__ import annotations

import math
import reprlib
from typing import Any

MAX_LINE_CHARACTERS = 4000
"""Length of an error message: names of tensors may be megabytes long."""

_short = reprlib.Repr()
_short.maxlevel, _short.maxlist, _short.maxdict, _short.maxstring = 2, 3, 3, 60


def brief(value: Any) -> str:
    """Return a shortened ``repr`` of a value, for error messages.

    The full ``repr`` of YAML aliases can expand to gigabytes.
    """
    return _short.repr(value)


def printable(text: str) -> str:
    """Return text with all characters escaped that are neither printable nor a line break.

    Control characters could change the state of the user's terminal.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def utf_8(name: str) -> str:
    """Return a file name with its undecodable bytes escaped, so that UTF-8 can encode it."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def one_line(text: str) -> str:
    """Return text as one printable line of at most ``MAX_LINE_CHARACTERS`` characters."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= MAX_LINE_CHARACTERS else line[: MAX_LINE_CHARACTERS - 3] + "..."


def figure(value: float | None, form: str, other: str = "-") -> str:
    """Return a number for a table; ``other`` stands for NaN, infinity and None."""
    return other if value is None or not math.isfinite(value) else format(value, form)


def two_digits(value: float) -> str:
    """Return a positive number with two digits, without an exponent from 0.001 on."""
    two = float(f"{value:.1e}")
    return f"{two:,.0f}" if two >= 10 else f"{two:.2g}"


def all_printable(document: Any) -> Any:
    """Return a JSON document with every string and key in it printable."""
    if isinstance(document, str):
        return printable(document)
    if isinstance(document, dict):
        return {all_printable(key): all_printable(value) for key, value in document.items()}
    if isinstance(document, (list, tuple)):
        return [all_printable(value) for value in document]
    return document


def finite(document: Any) -> Any:
    """Return a JSON document with None for every NaN and infinity, which JSON cannot represent."""
    if isinstance(document, float):
        return document if math.isfinite(document) else None
    if isinstance(document, dict):
        return {key: finite(value) for key, value in document.items()}
    if isinstance(document, (list, tuple)):
        return [finite(value) for value in document]
    return document
