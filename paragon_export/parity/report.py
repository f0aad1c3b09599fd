"""Reports: verdicts as data. A report decides the exit code; it is never an exception."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from paragon_export.parity.metrics import Difference
from paragon_export.specs.tolerance import DIVERGED, UNDETERMINED, Tolerance
from paragon_export.specs.types import Precision, Quantization, Size
from paragon_export.system.text import finite


@dataclass(frozen=True, kw_only=True)
class ParityRow:
    """One candidate on one probe."""

    candidate: str
    precision: Precision | Quantization
    output: str
    """Name of the graph output that was compared."""
    picture: str
    size: Size
    batch: int
    found: Difference
    reference_max_abs: float
    """What PyTorch itself errs in this precision, against the same float64 reference."""
    tolerance: Tolerance
    reference_peak: float = 1.0
    """Largest magnitude of the float64 output, in units of full range."""
    full_range: float = 1.0
    """What errors are relative to: 1 for pictures; the peak, but 1 at least, of what is none."""
    reference_moved: float = 0.0
    """How far the float64 output moves with its input by one rounding; 0 where not measured."""
    is_stress: bool = False
    """Whether the picture is one that a network need not know."""
    fault: str = ""
    """Set where nothing could be compared: a wrong shape, a run that failed."""
    wrong_top1: int | None = None
    """Of logits: items whose best class is not the reference's although the reference's two best
    are further apart than the error allowed. None where the output is a picture."""
    allowed_wrong: int = 0
    """How many of them may be: more than none in INT8 alone."""

    @property
    def limit(self) -> float:
        """The largest error allowed here.

        The bar is a share of full range, or of the float64 output's peak where that is larger: a
        float's rounding grows with it, PyTorch's as well, which bounds the error in any case.

        Where a few roundings of the input move the output beyond the bar, no arithmetic could
        stay below it: there the bar is left out, and what one rounding does counts as an error of
        PyTorch's own.
        """
        t = self.tolerance
        own = max(self.reference_max_abs, t.reference_floor * self.full_range, self.reference_moved)
        is_logits = self.wrong_top1 is not None  # whose errors are relative already
        bar = t.max_abs * max(self.full_range, 1.0 if is_logits else self.reference_peak)
        beyond = t.times_reference * self.reference_moved > bar
        return t.times_reference * own if beyond else min(bar, t.times_reference * own)

    @property
    def is_undetermined(self) -> bool:
        """Whether one rounding of the input moves the output by a visible part of its range."""
        return self.reference_moved > UNDETERMINED * self.full_range

    @property
    def is_judged(self) -> bool:
        """False where the float64 network itself diverges on a stress picture.

        A network may blow up on a checkerboard: its output is no picture then, the slightest
        rounding changes it wholly, and PyTorch disagrees with itself. Photographs always count.
        """
        diverged = self.reference_peak > DIVERGED * self.full_range or self.is_undetermined
        return bool(self.fault) or not (self.is_stress and diverged)

    @property
    def failure(self) -> str:
        """What is wrong, in a word or two; empty where the row passes or is not judged."""
        if not self.is_judged:
            return ""
        if self.fault:
            return self.fault
        if not self.found.is_finite:
            return "non-finite"
        if self.found.is_constant:
            return "constant"
        if not self.found.max_abs <= self.limit:
            inside = self.found.interior_max_abs <= self.limit
            return "error at the border" if inside else "error"
        if (self.wrong_top1 or 0) > self.allowed_wrong:
            return "top-1"
        decibels = self.found.psnr_db + 20 * math.log10(self.full_range)
        if not decibels >= self.tolerance.min_psnr_db:
            return "PSNR"
        return ""

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
