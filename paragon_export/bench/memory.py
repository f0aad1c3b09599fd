"""How much resident memory the process took while something ran, on Linux."""

from __future__ import annotations

import os
from contextlib import suppress


def _status_mib(field: str) -> float | None:
    with suppress(OSError), open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
    return None


def reset_peak_memory() -> float | None:
    """Start a new high-water mark of resident memory; return the size now, if Linux tells."""
    if not os.path.exists("/proc/self/clear_refs"):
        return None
    with suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    return _status_mib("VmRSS")


def peak_memory_mib(before: float | None) -> float | None:
    peak = _status_mib("VmHWM")
    return None if before is None or peak is None else max(0.0, peak - before)
