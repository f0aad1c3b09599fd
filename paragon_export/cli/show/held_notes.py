"""Notes that are held until a result is shown, so that an error stays the only line on stderr."""

from __future__ import annotations

from contextvars import ContextVar

_held: ContextVar[tuple[str, ...]] = ContextVar("held", default=())


def hold_note(text: str) -> None:
    """Keep a note for the result of this command."""
    _held.set((*_held.get(), text))


def take_notes() -> tuple[str, ...]:
    """Return the notes that are held and forget them."""
    notes = _held.get()
    _held.set(())
    return notes
