"""Say when the figures of a benchmark are worthless: the machine was busy, or samples scatter."""

from __future__ import annotations

import os

from paragon_export.bench.report import BenchReport

MAX_LOAD_PER_CORE = 0.5

MAX_SPREAD = 1.5
"""95th percentile over median of the samples of one row."""


def load_average() -> float | None:
    """Return the load average of the last minute; None where the system has none (Windows)."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def doubt(report: BenchReport, load: float | None, cores: int | None = None) -> list[str]:
    """Return why the figures of a report are worthless, in one note; empty if they are not.

    Args:
        report: What was measured.
        load: Load average before the measurement; None if it is not known.
        cores: Of the machine; None asks the system.
    """
    rows = [row for row in report.rows if row.samples_ms]
    if not rows:
        return []
    reasons = []
    cores = cores or os.cpu_count() or 1
    if load is not None and load > MAX_LOAD_PER_CORE * cores:
        reasons.append(f"the load average was {load:.1f} on {cores} cores before the start")
    worst = max(rows, key=lambda row: row.p95_ms / row.median_ms)
    if worst.p95_ms > MAX_SPREAD * worst.median_ms:
        reasons.append(
            f"the samples of {worst.backend} on {worst.artifact} scatter: the 95th percentile is "
            f"{worst.p95_ms / worst.median_ms:.1f} times the median"
        )
    if not reasons:
        return []
    return [f"these figures are worthless: {'; '.join(reasons)}; measure on an idle machine"]
