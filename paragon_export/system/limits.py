"""Limits: memory and time that somebody else's model may take, where the system can set them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a model of somebody else may take to load, and for each value of an input more."""

    base_bytes: int = 3 * 2**30
    bytes_per_value: int = 2**14
    base_seconds: float = 300.0
    seconds_per_value: float = 0.001

    def bytes_for(self, values: int) -> int:
        return self.base_bytes + self.bytes_per_value * values

    def seconds_for(self, values: int) -> float:
        return self.base_seconds + self.seconds_per_value * values


def memory_taken() -> int | None:
    """Return the bytes of memory that the process may write to; None where that is not known."""
    with suppress(OSError), open("/proc/self/status", encoding="ascii") as file:
        lines = [line for line in file if line.startswith("VmData:")]
        return int(lines[0].split()[1]) * 1024 if lines else None
    return None


def limit_memory(taken: int | None, more: int) -> None:
    """Let the process take at most ``more`` bytes above ``taken``.

    What asks for more gets a MemoryError, or what a library makes of it. Linux alone counts
    memory so that this can be set without counting what is merely reserved; elsewhere nothing
    is limited.
    """
    if taken is None:
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = taken + more if hard == resource.RLIM_INFINITY else min(hard, taken + more)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))


@contextmanager
def limited_memory(more: int) -> Iterator[None]:
    """Let the process take at most so many bytes more than it has now (see ``limit_memory``)."""
    taken = memory_taken()
    if taken is None:
        yield
        return
    import resource

    with _lock:
        usual = resource.getrlimit(resource.RLIMIT_DATA)
        if usual[0] == resource.RLIM_INFINITY or taken + more < usual[0]:
            limit_memory(taken, more)
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, usual)


_lock = threading.RLock()


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
