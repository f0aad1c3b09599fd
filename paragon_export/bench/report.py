"""Reports: verdicts as data. A report decides the exit code; it is never an exception."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from paragon_export.specs.types import Size


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """One backend at one size."""

    artifact: str
    backend: str
    size: Size
    samples_ms: tuple[float, ...] = ()
    peak_memory_mib: float | None = None
    """Largest resident size of the process while this backend ran alone; None if unknown."""
    reason: str = ""
    """Why it could not run; empty where it did."""
    batch: int | None = None
    """Glyphs at a time; None where the input is a picture."""

    @property
    def median_ms(self) -> float:
        return percentile(self.samples_ms, 50)

    @property
    def p95_ms(self) -> float:
        return percentile(self.samples_ms, 95)

    @property
    def fps(self) -> float:
        """Images, or glyphs of a batch, a second."""
        return 1000 * (self.batch or 1) / self.median_ms

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {
            "artifact": self.artifact,
            "backend": self.backend,
            "size": str(self.size),
            **({} if self.batch is None else {"batch": self.batch}),
        }
        if self.reason:
            return {**row, "reason": self.reason}
        return {
            **row,
            "fps": self.fps,
            "median_ms": self.median_ms,
            "p95_ms": self.p95_ms,
            "samples": len(self.samples_ms),
            "peak_memory_mib": self.peak_memory_mib,
        }


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """Latencies with their provenance."""

    rows: tuple[BenchRow, ...]
    environment: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"rows": [row.to_json() for row in self.rows], "environment": self.environment}


def percentile(samples: Sequence[float], percent: float) -> float:
    """Return a percentile by linear interpolation between the closest samples.

    Raises:
        ValueError: If there is no sample.
    """
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    position = (len(ordered) - 1) * percent / 100
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)
