"""Progress: a long stage names its steps, and whoever shows them is installed by the command line.

Without a reporter every function here does nothing. A reporter holds for the thread that installed
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Reporter(Protocol):
    """Shows steps. Steps may be nested; ``advance`` and ``end`` are about the innermost one.

    ``tell`` prints a line.
    """

    def begin(self, name: str, total: int | None, unit: str = "") -> None: ...

    def advance(self) -> None: ...

    def end(self) -> None: ...

    def tell(self, text: str) -> None: ...


_reporter: ContextVar[Reporter | None] = ContextVar("reporter", default=None)


@contextmanager
def reporting(reporter: Reporter) -> Iterator[None]:
    """Install a reporter for a block."""
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)


@contextmanager
def step(name: str, total: int | None = None, unit: str = "") -> Iterator[None]:
    """Name what happens in a block, or in a function that this decorates.

    Args:
        name: As in ``float64 reference``.
        total: How often ``advance`` will be called, where that is known.
        unit: What is counted, as ``frames``, if it takes about the same time each: then their rate
            and the time that is left are shown.
    """
    reporter = _reporter.get()
    if reporter is None:
        yield
        return
    reporter.begin(name, total, unit)
    try:
        yield
    finally:
        reporter.end()


def advance() -> None:
    """Start the next part of the innermost step."""
    if reporter := _reporter.get():
        reporter.advance()


def tell(text: str) -> None:
    """Print a line, for example a result that is known before the step ends."""
    if reporter := _reporter.get():
        reporter.tell(text)


def counted(name: str, items: Iterable[Item]) -> Iterator[Item]:
    """Yield items within a step that counts them: ``NAME 3 of 14``."""
    if _reporter.get() is None:
        yield from items
        return
    known = list(items)
    with step(name, len(known)):
        for item in known:
            advance()
            yield item
