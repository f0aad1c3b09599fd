"""Limits: memory and time that somebody else's model may take, where the system can set them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_lock = threading.RLock()


@contextmanager
def limited_memory(more: int) -> Iterator[None]:
    """Let the process take at most so many bytes more than it has now.

    What asks for more gets a MemoryError, or what a library makes of it. Linux alone counts
    memory so that this can be set without counting what is merely reserved; elsewhere nothing
    is limited.
    """
    taken = _taken()
    if taken is None:
        yield
        return
    import resource

    with _lock:
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = min(n for n in (soft, hard, taken + more) if n != resource.RLIM_INFINITY)
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _taken() -> int | None:
    """Return the bytes of memory that the process may write to; None where that is not told."""
    with suppress(OSError), open("/proc/self/status", encoding="ascii") as file:
        lines = [line for line in file if line.startswith("VmData:")]
        return int(lines[0].split()[1]) * 1024 if lines else None
    return None


@contextmanager
def limited_time(seconds: float, stop: Callable[[], object]) -> Iterator[None]:
    """Call ``stop`` if the body takes longer."""
    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
