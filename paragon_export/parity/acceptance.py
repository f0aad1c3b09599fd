"""The acceptance rule: when an output of a candidate counts as equal to the reference's.

A rule is a tuple of criteria. Each looks at what was measured and returns the reason for a
failure, or an empty string. The first reason is the verdict on the row. The numbers stand in
:mod:`paragon_export.specs.tolerance`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from paragon_export.parity.metrics import Difference
from paragon_export.specs.tolerance import DIVERGED, UNDETERMINED, Tolerance
from paragon_export.specs.types import Precision


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of one output of a candidate on one probe."""

    found: Difference
    """To the float64 reference."""
    reference_max_abs: float = 0.0
    """Largest error of PyTorch itself in the candidate's precision, to the same reference."""
    reference_peak: float = 1.0
    """Largest magnitude of the float64 output, in units of full range."""
    full_range: float = 1.0
    """Divisor of errors: 1.0 for images, else max(1, peak of the float64 output)."""
    reference_moved: float = 0.0
    """Change of the float64 output when its input moves by one rounding; 0 where not measured."""
    wrong_top1: int | None = None
    """Of logits: items whose best class is not the reference's although the reference's two best
    are further apart than the error allowed. None where the output is an image or a map."""

    @property
    def has_diverged(self) -> bool:
        """Whether the float64 network itself leaves the range of an image."""
        return self.reference_peak > DIVERGED * self.full_range

    @property
    def is_undetermined(self) -> bool:
        """Whether one rounding of the input moves the output by a visible part of its range."""
        return self.reference_moved > UNDETERMINED * self.full_range


class Criterion(Protocol):
    """One condition of the verdict."""

    def check(self, measured: Measured) -> str:
        """Return the reason for a failure in a word or two; empty if the condition holds."""


@dataclass(frozen=True)
class Finite:
    """No value is infinite or NaN."""

    def check(self, measured: Measured) -> str:
        return "" if measured.found.is_finite else "non-finite"


@dataclass(frozen=True)
class NotConstant:
    """The output varies where the reference's does."""

    def check(self, measured: Measured) -> str:
        return "constant" if measured.found.is_constant else ""


@dataclass(frozen=True)
class MaxError:
    """No value is further off than a limit that follows from PyTorch's own error."""

    tolerance: Tolerance

    def limit(self, measured: Measured) -> float:
        """Return the largest error allowed.

        It is the smaller of ``max_abs`` and ``times_reference`` times PyTorch's own error. The
        first is a share of full range, or of the float64 output's peak where that is larger: a
        float's rounding error grows with its value. Where a few roundings of the input move the
        output beyond ``max_abs``, no arithmetic could stay below it: then the second alone counts,
        and what one rounding does counts as an error of PyTorch's own.
        """
        t = self.tolerance
        floor = t.reference_floor * measured.full_range
        own = t.times_reference * max(measured.reference_max_abs, floor, measured.reference_moved)
        is_logits = measured.wrong_top1 is not None  # whose errors are relative already
        bar = t.max_abs * max(measured.full_range, 1.0 if is_logits else measured.reference_peak)
        return own if t.times_reference * measured.reference_moved > bar else min(bar, own)

    def check(self, measured: Measured) -> str:
        limit = self.limit(measured)
        if measured.found.max_abs <= limit:
            return ""
        return "error at the border" if measured.found.interior_max_abs <= limit else "error"


@dataclass(frozen=True)
class MinPsnr:
    """The PSNR to the reference, peak 1 or the output's own peak, is at least ``decibels``."""

    decibels: float

    def check(self, measured: Measured) -> str:
        found_db = measured.found.psnr_db + 20 * math.log10(measured.full_range)
        return "" if found_db >= self.decibels else "PSNR"


@dataclass(frozen=True)
class SameTopClass:
    """Every item keeps its best class, wherever the reference decides it beyond the error."""

    def check(self, measured: Measured) -> str:
        return "top-1" if measured.wrong_top1 else ""


@dataclass(frozen=True)
class Agreement:
    """At most ``allowed`` items change their best class: for INT8 classifiers."""

    allowed: int

    def check(self, measured: Measured) -> str:
        return "top-1" if (measured.wrong_top1 or 0) > self.allowed else ""


@dataclass(frozen=True)
class AcceptedLoss:
    """The user has accepted the loss, whatever it is: for INT8 image networks."""

    accepted: bool

    def check(self, measured: Measured) -> str:
        return "" if self.accepted else "loss not accepted"


Criteria = tuple[Criterion, ...]


def image_criteria(tolerance: Tolerance) -> Criteria:
    """Return the rule for images and maps."""
    return Finite(), NotConstant(), MaxError(tolerance), MinPsnr(tolerance.min_psnr_db)


def logit_criteria(tolerance: Tolerance) -> Criteria:
    """Return the rule for logits."""
    return Finite(), NotConstant(), MaxError(tolerance), SameTopClass()


def default_criteria(precision: Precision, *, logits: bool = False) -> Criteria:
    """Return the rule for a precision, with the default tolerances."""
    if logits:
        return logit_criteria(Tolerance.for_logits(precision))
    return image_criteria(Tolerance.for_precision(precision))


def conversion_criteria(precision: Precision) -> Criteria:
    """Return the rule for a half-precision file of which no checkpoint is known.

    PyTorch's own error in half precision is unknown then, so the PSNR alone decides.
    """
    return Finite(), NotConstant(), MinPsnr(Tolerance.for_precision(precision).min_psnr_db)


def limit_of(criteria: Criteria, measured: Measured) -> float:
    """Return the largest error that the criteria allow; infinite if none of them bounds it."""
    return min((c.limit(measured) for c in criteria if isinstance(c, MaxError)), default=math.inf)
