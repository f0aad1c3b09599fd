"""Reports: verdicts as data. A report decides the exit code; it is never an exception."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from paragon_export.parity.acceptance import Criteria, Measured, limit_of
from paragon_export.specs.network import NetworkSpec
from paragon_export.specs.types import Precision, Quantization, Size
from paragon_export.system.text import finite


@dataclass(frozen=True, kw_only=True)
class ParityRow(Measured):
    """The verdict on one output of one candidate on one probe."""

    candidate: str
    precision: Precision | Quantization
    output: str
    """Name of the graph output that was compared."""
    picture: str
    size: Size
    batch: int
    criteria: Criteria
    is_stress: bool = False
    """Whether the probe's content is one that a network need not handle."""
    fault: str = ""
    """Set where nothing could be compared: a wrong shape, a run that failed."""

    @property
    def limit(self) -> float:
        """The largest error allowed; infinite where no criterion bounds it."""
        return limit_of(self.criteria, self)

    @property
    def is_judged(self) -> bool:
        """False where the float64 network itself diverges on a stress probe.

        A network may diverge on a checkerboard: the slightest rounding changes its output then,
        and PyTorch disagrees with itself. Photographs always count.
        """
        return bool(self.fault) or not (
            self.is_stress and (self.has_diverged or self.is_undetermined)
        )

    @property
    def failure(self) -> str:
        """What is wrong, in a word or two; empty where the row passes or is not judged."""
        if not self.is_judged:
            return ""
        return self.fault or next(filter(None, (c.check(self) for c in self.criteria)), "")

    def to_json(self) -> dict[str, Any]:
        """Return the figures; null for those that are infinite or not known.

        ``psnr_db`` is null where both outputs are equal (``max_abs`` is 0), and with every error
        where nothing could be compared (``failure`` says why). ``reference_max_abs`` is null where
        PyTorch itself is not finite in this precision, ``limit`` where no error is too large,
        ``reference_peak`` where the float64 network overflows (the row is not judged then).
        """
        return finite(
            {
                "candidate": self.candidate,
                "precision": self.precision.value,
                "output": self.output,
                "picture": self.picture,
                "size": str(self.size),
                "batch": self.batch,
                "max_abs": self.found.max_abs,
                "psnr_db": self.found.psnr_db,
                "border_max_abs": self.found.border_max_abs,
                "interior_max_abs": self.found.interior_max_abs,
                "reference_max_abs": self.reference_max_abs,
                "limit": self.limit,
                "reference_peak": self.reference_peak,
                "reference_moved": self.reference_moved,
                "judged": self.is_judged,
                "passed": not self.failure,
                "failure": self.failure,
                **({} if self.wrong_top1 is None else {"wrong_top1": self.wrong_top1}),
            }
        )


@dataclass(frozen=True)
class Finding:
    """What one output of a candidate that failed looks like."""

    candidate: str
    output: str
    symptom: str
    """The same words for the same mistake."""
    detail: str

    def __str__(self) -> str:
        return f"{self.symptom} ({self.detail})" if self.detail else self.symptom


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """The verdict on one or several candidates. Nothing compared is a failure."""

    rows: tuple[ParityRow, ...]
    notes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    """What failures look like; the verdict does not depend on them."""
    spec: NetworkSpec | None = None
    """The reference network; None where the reference is an ONNX file."""

    @property
    def passed(self) -> bool:
        judged = [row for row in self.rows if row.is_judged]
        return bool(judged) and not any(row.failure for row in judged)

    @property
    def worst(self) -> ParityRow | None:
        """The row that fails, or comes closest to failing."""
        return max((row for row in self.rows if row.is_judged), key=_badness, default=None)

    def to_json(self) -> dict[str, Any]:
        worst = self.worst
        return {
            "passed": self.passed,
            "rows": [row.to_json() for row in self.rows],
            "worst": worst.to_json() if worst else None,
            "looks_like": [asdict(finding) for finding in self.findings],
            "notes": list(self.notes),
        }


def _badness(row: ParityRow) -> tuple[bool, float]:
    share = row.found.max_abs / row.limit if 0 < row.limit < math.inf else row.found.max_abs
    return bool(row.failure), share
