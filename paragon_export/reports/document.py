"""A document: what a report says, before it becomes a page or Markdown.

Text is a sequence of parts. A part that comes from outside, such as a file's name or the message of
a library, is a ``Code``: it is shown in a fixed-width font and never read as markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Text = Sequence[str]
"""Parts that are shown one after the other. Names and messages among them are ``Code``."""


class Code(str):
    """A name, a message or a value that this tool did not choose."""

    __slots__ = ()


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with a caption."""

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """Cells, as many as ``heads``; ``Code`` where they come from outside."""
    figures: frozenset[int] = frozenset()
    """Columns of numbers, which are aligned to the right."""
    short: int = 10
    """Rows that a short report shows; the rest is counted."""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot with a caption."""

    caption: str
    svg: str
    """An ``svg`` element, made by :mod:`paragon_export.reports.plots.svg`: all names in it are escaped."""
    about: Text = ()


@dataclass(frozen=True, kw_only=True)
class Image:
    """One picture, as the address of its PNG bytes."""

    caption: str
    address: str
    """A ``data:`` address."""
    width: int
    height: int
    """In pixels of the picture."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The worst picture of a candidate beside the reference."""

    caption: Text
    reference: Image
    candidate: Image
    difference: Image
    error_map: Image
    scale: str
    """An ``svg`` element: the colors of errors, and what they stand for."""
    about: Text
    profile: Plot | None = None
    """Errors by distance from the edge; None if a picture was compared in part."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """A report of one command."""

    command: str
    """What made it, as ``parity``."""
    passed: bool | None
    """None if nothing was judged."""
    outcome: str = "measured"
    """What was done where nothing was judged."""
    verdict: Text
    """One sentence."""
    findings: tuple[Text, ...] = ()
    """What failures look like."""
    notes: tuple[str, ...] = ()
    """Sentences for the user, which may hold names."""
    comparisons: tuple[Comparison, ...] = ()
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()
    provenance: tuple[tuple[str, Text], ...] = ()
    """What the report is about and was made with, by name."""

    @property
    def word(self) -> str:
        """The verdict in a word."""
        return {True: "passed", False: "failed", None: self.outcome}[self.passed]
