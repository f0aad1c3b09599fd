"""The result of a benchmark: samples per backend, and the machine they were measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paragon_export.specs.types import Size


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """One artifact in one backend at one size."""

    artifact: str
    backend: str
    size: Size
    """Input size in pixels; the grid of a glyph classifier."""
    samples_ms: tuple[float, ...] = ()
    """Latency of each run in milliseconds; empty if the backend did not run."""
    peak_memory_mib: float | None = None
    """Growth of resident memory while this backend was opened and warmed up; None if unknown."""
    reason: str = ""
    """Why the backend could not run; empty if it did."""
    estimated_ms: float | None = None
    """Time that was estimated from an engine's kernels, for the GPU here; None if there is none."""
    batch: int | None = None
    """Batch of a glyph classifier, or that an image network fixes; None for single images."""

    @property
    def median_ms(self) -> float:
        """Median latency; raises ValueError without samples."""
        return percentile(self.samples_ms, 50)

    @property
    def p95_ms(self) -> float:
        return percentile(self.samples_ms, 95)

    @property
    def fps(self) -> float:
        """Images, or glyphs of a batch, a second."""
        return 1000 * (self.batch or 1) / self.median_ms

    def to_json(self) -> dict[str, Any]:
        """Return the row as JSON types; ``fps`` counts glyphs per second for classifiers."""
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
            **({} if self.estimated_ms is None else {"estimated_ms": self.estimated_ms}),
        }


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """Rows of all backends, and versions, processor and GPU of the machine."""

    rows: tuple[BenchRow, ...]
    environment: dict[str, Any]

    @property
    def has_estimates(self) -> bool:
        """Whether a row that was measured also has an estimate."""
        return any(row.samples_ms and row.estimated_ms is not None for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        return {"rows": [row.to_json() for row in self.rows], "environment": self.environment}


def percentile(samples: Sequence[float], percent: float) -> float:
    """Return a percentile by linear interpolation between the closest samples.

    Raises:
        ValueError: If there is no sample.
    """
    if not samples:
        raise ValueError("no samples")
    return float(np.percentile(samples, percent))
