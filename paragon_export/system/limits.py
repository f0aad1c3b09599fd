"""Memory of a process, and limits of memory and time for untrusted models."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits for an untrusted model: an allowance for loading, and more for each input value."""

    base_bytes: int = 3 * 2**30
    bytes_per_value: int = 2**14
    base_seconds: float = 300.0
    seconds_per_value: float = 0.001

    def bytes_for(self, values: int) -> int:
        """Return the bytes that a run on inputs with ``values`` elements may allocate."""
        return self.base_bytes + self.bytes_per_value * values

    def seconds_for(self, values: int) -> float:
        """Return the seconds that a run on inputs with ``values`` elements may take."""
        return self.base_seconds + self.seconds_per_value * values


def process_memory_bytes(field: str, process: int | str = "self") -> int | None:
    """Return a memory figure of a process, in bytes, from ``/proc/.../status``.

    Args:
        field: ``VmData`` (writable private memory), ``VmRSS`` (resident memory) or ``VmHWM`` (peak
            of the resident memory); see proc_pid_status(5).
        process: ``self`` or the ID of a child process.

    Returns:
        None on systems without this file or this field.
    """
    with suppress(OSError), open(f"/proc/{process}/status", encoding="ascii") as file:
        for line in file:
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return None


def memory_taken() -> int | None:
    """Return the bytes that count against RLIMIT_DATA; None on systems other than Linux."""
    return process_memory_bytes("VmData")


def available_memory() -> int | None:
    """Return the bytes that new processes can take without swapping; None but on Linux."""
    with suppress(OSError), open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def reset_peak_memory(process: int | str = "self") -> int | None:
    """Start a new high-water mark of the resident memory of a process, this one or one of its children.

    Return the bytes now; None but on Linux.
    """
    if not os.path.exists(f"/proc/{process}/clear_refs"):
        return None
    with suppress(OSError), open(f"/proc/{process}/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    return process_memory_bytes("VmRSS", process)


def peak_memory_bytes(before: int | None, process: int | str = "self") -> int | None:
    """Return how far resident memory rose above ``before`` since the mark was reset, in bytes."""
    peak = process_memory_bytes("VmHWM", process)
    return None if before is None or peak is None else max(0, peak - before)


def limit_memory(used_bytes: int | None, extra_bytes: int) -> None:
    """Limit the memory of this process to ``used_bytes + extra_bytes``.

    A larger allocation fails: with MemoryError in Python, with an error of their own in libraries.
    Only Linux is supported, whose RLIMIT_DATA leaves out memory that is reserved but not writable.
    If ``used_bytes`` is None, nothing is limited.
    """
    if used_bytes is None:
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    allowed = used_bytes + extra_bytes
    soft = allowed if hard == resource.RLIM_INFINITY else min(hard, allowed)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@contextmanager
def limited_memory(extra_bytes: int) -> Iterator[None]:
    """Let the process allocate at most ``extra_bytes`` in the body (see ``limit_memory``).

    A lower limit that is set already stays in force.
    """
    used_bytes = memory_taken()
    if used_bytes is None:
        yield
        return
    import resource

    with _lock:
        previous = resource.getrlimit(resource.RLIMIT_DATA)
        if previous[0] == resource.RLIM_INFINITY or used_bytes + extra_bytes < previous[0]:
            limit_memory(used_bytes, extra_bytes)
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, previous)


_lock = threading.RLock()


@contextmanager
def limited_time(seconds: float, stop: Callable[[], object]) -> Iterator[None]:
    """Call ``stop`` from another thread if the body takes longer than ``seconds``."""
    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
