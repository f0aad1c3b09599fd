"""The acceptance rule: when an output of a candidate counts as equal to the reference's.

A rule is a tuple of criteria. Each checks the measured values and returns the reason for a failure,
or an empty string. The first reason is the failure of the row. The tolerances are in
:mod:`paragon_export.specs.tolerance`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

from paragon_export.parity.metrics import InFloat32, Measured
from paragon_export.specs.tolerance import Tolerance
from paragon_export.specs.types import Precision


class Criterion(Protocol):
    """One condition of the verdict."""

    def check(self, measured: Measured) -> str:
        """Return the reason for a failure in a few words; empty if the condition holds."""


@dataclass(frozen=True)
class Finite:
    """No value is infinite or NaN."""

    def check(self, measured: Measured) -> str:
        return "" if measured.found.is_finite else "non-finite"


@dataclass(frozen=True)
class NotConstant:
    """No item of the output is constant where the reference's is not.

    A constant that is within ``NOT_VISIBLE`` of the reference, or as near to it as PyTorch, is
    right: the reference hardly varies there, as on a black image.
    """

    def check(self, measured: Measured) -> str:
        own = measured.reference_max_abs if measured.reference_is_finite else 0.0
        near = measured.found.max_abs <= max(own, NOT_VISIBLE * measured.full_range)
        return "constant" if measured.found.is_constant and not near else ""


@dataclass(frozen=True)
class MaxError:
    """No error exceeds a limit that follows from PyTorch's own error."""

    tolerance: Tolerance

    def limit(self, measured: Measured) -> float:
        """Return the largest error allowed.

        It is the smaller of two limits. The relative one is ``times_reference`` times PyTorch's
        own error, which is at least the change that one rounding of the input causes, or a
        smaller multiple of its largest error on any image, whichever is less. The
        absolute one is ``max_abs`` times full range, or times the float64 output's peak if that
        is larger, because the rounding error of a float grows with its value. Where PyTorch itself
        errs as much, ``times_beyond`` times its error takes the place of the absolute limit. Where
        ``times_reference`` roundings of the input exceed it, no arithmetic could meet it, and the
        relative limit alone applies. Where PyTorch is not finite, the absolute one alone applies.
        Where the network diverges, it is the larger of the absolute limit and ``times_diverged``
        times PyTorch's error.
        """
        t = self.tolerance
        is_logits = measured.wrong_top1 is not None  # their errors are divided by the peak already
        peak = 1.0 if is_logits else measured.reference_peak
        absolute = t.max_abs * max(measured.full_range, peak)
        if not measured.reference_is_finite:
            return absolute
        moved, found = measured.reference_moved, measured.reference_max_abs
        if measured.has_diverged:
            return max(absolute, t.times_diverged * found)
        relative = t.times_reference * max(found, moved, t.reference_floor * measured.full_range)
        if t.times_reference * moved > absolute:
            return relative
        floor = t.reference_floor
        largest = t.largest_limit(measured.images) * max(measured.largest_own, floor)
        relative = min(relative, largest * measured.full_range)
        return min(relative, max(absolute, t.times_beyond * found))

    def check(self, measured: Measured) -> str:
        limit = self.limit(measured)
        if measured.found.max_abs <= limit:
            return ""
        return "error at the border" if measured.found.interior_max_abs <= limit else "error"


@dataclass(frozen=True)
class AtMost:
    """No error exceeds a share of full range, or of the float64 output's peak if that is larger."""

    share: float

    def limit(self, measured: Measured) -> float:
        """Return the largest error allowed."""
        return self.share * max(measured.full_range, measured.reference_peak)

    def check(self, measured: Measured) -> str:
        return "" if measured.found.max_abs <= self.limit(measured) else "error"


@dataclass(frozen=True)
class Everywhere:
    """No pixel of a large image differs from PyTorch's float32 by more than ``LIMITS`` limits.

    Both may err there, and the largest of many rounding errors grows with their number: the
    limit follows from PyTorch's errors in an excerpt. Where the difference is beyond it, from those
    around the largest difference too, which the excerpt may not show: the output may be many times
    larger there.
    """

    max_error: MaxError

    def limit(self, measured: Measured) -> float:
        """Return the largest difference allowed."""
        around = measured.around_gap
        if around is not None:
            largest = max(measured.largest_own, around.max_abs / measured.full_range)
            measured = replace(
                measured,
                reference_max_abs=max(measured.reference_max_abs, around.max_abs),
                largest_own=largest,
                reference_peak=max(measured.reference_peak, around.peak),
            )
        return LIMITS * self.max_error.limit(measured)

    def check(self, measured: Measured) -> str:
        gap = measured.float32_gap
        is_near = gap is None or gap <= self.limit(measured)
        return "" if is_near else "error outside the excerpt"


LIMITS = 2.0
"""How many times the largest error allowed a pixel may be off PyTorch's float32."""


@dataclass(frozen=True)
class Distribution:
    """The errors are distributed as PyTorch's own: on each image, and over all images.

    The largest of many rounding errors is a random number. Their root mean square and the error
    that 99 % of them stay within vary far less, and means over many images less still, so that
    smaller mistakes are seen.
    """

    tolerance: Tolerance

    def check(self, measured: Measured) -> str:
        t = self.tolerance
        if not measured.has_yardstick:
            return ""
        ratios = measured.ratios(t.reference_floor)
        if not ratios.rms <= t.times_rms:
            return "RMS error"
        if not ratios.high <= t.times_high:
            return "error of 1 %"
        limits = t.overall_limits(measured.images)
        for here, overall, limit in zip(ratios, measured.overall or (), limits, strict=False):
            if overall > limit and here > limit:
                return "mean error over all"
        return ""


@dataclass(frozen=True)
class RightInFloat32:
    """Computed in float32, a half-precision file errs no more than its half weights explain.

    Otherwise a few half values would give a float32 file the tolerance of half precision. Where
    its half weights explain less, the file must meet the rule of float32.
    """

    def check(self, measured: Measured) -> str:
        if measured.in_float32 is None or self.is_explained(measured.in_float32):
            return ""
        _, _, own = measured.in_float32
        in_float32 = replace(
            measured,
            found=measured.in_float32.found,
            reference_max_abs=own.max_abs,
            reference_errors=own,
        )
        rule = MaxError(Tolerance.for_precision(Precision.FP32))
        return WRONG_IN_FLOAT32 if rule.check(in_float32) else ""

    @staticmethod
    def is_explained(errors: InFloat32) -> bool:
        """Return whether the rounding of half weights may be all that is wrong."""
        return errors.found.rms <= TIMES_MOVED * errors.moved_rms


WRONG_IN_FLOAT32 = "error in float32"

TIMES_MOVED = 3.0
"""Most that a half-precision file may err in float32, in what half a step of each half weight moves.
Of 291 outputs of 84 random networks the largest ratio was 1.05."""


@dataclass(frozen=True)
class MinPsnr:
    """The PSNR against the reference is at least ``decibels``; its peak is ``full_range``.

    An image on which PyTorch itself is below, in the same precision, may fall below it too: by no
    more than ``ROOM_DB`` below PyTorch.
    """

    decibels: float

    def check(self, measured: Measured) -> str:
        if measured.has_diverged:
            return ""  # judged relative to the output, by ``MaxError``
        return "" if self.found_db(measured) >= self.bar(measured) else "PSNR"

    def bar(self, measured: Measured) -> float:
        """Return the least PSNR in dB."""
        own = measured.reference_errors
        if own is None or not own.is_finite:
            return self.decibels
        return min(self.decibels, _in_range(own.psnr_db, measured) - ROOM_DB)

    def found_db(self, measured: Measured) -> float:
        """Return the PSNR in dB, relative to ``full_range``."""
        return _in_range(measured.found.psnr_db, measured)


def _in_range(decibels: float, measured: Measured) -> float:
    return decibels + 20 * math.log10(measured.full_range)


ROOM_DB = 6.0
"""Twice the error."""


@dataclass(frozen=True)
class SameTopClass:
    """Every item keeps its best class if the reference decides it by more than the error."""

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
    """The user has accepted any loss: for INT8 image networks."""

    accepted: bool

    def check(self, measured: Measured) -> str:
        return "" if self.accepted else "loss not accepted"


NOT_VISIBLE = 1e-6
"""Share of full range that no variation of an output is seen below, in any precision."""


Criteria = tuple[Criterion, ...]


def image_criteria(tolerance: Tolerance) -> Criteria:
    """Return the rule for images and maps."""
    largest, bar = MaxError(tolerance), MinPsnr(tolerance.min_psnr_db)
    distribution = Distribution(tolerance)
    return (
        Finite(),
        NotConstant(),
        largest,
        Everywhere(largest),
        distribution,
        RightInFloat32(),
        bar,
    )


def logit_criteria(tolerance: Tolerance) -> Criteria:
    """Return the rule for logits."""
    largest, distribution = MaxError(tolerance), Distribution(tolerance)
    return Finite(), NotConstant(), largest, distribution, RightInFloat32(), SameTopClass()


def default_criteria(precision: Precision, *, logits: bool = False) -> Criteria:
    """Return the rule for a precision, with the default tolerances."""
    if logits:
        return logit_criteria(Tolerance.for_logits(precision))
    return image_criteria(Tolerance.for_precision(precision))


def conversion_criteria(precision: Precision) -> Criteria:
    """Return the rule for a half-precision file whose checkpoint is unknown.

    PyTorch's own error is then unknown too, so the PSNR decides.
    """
    return Finite(), NotConstant(), MinPsnr(Tolerance.for_precision(precision).min_psnr_db)


def limit_of(criteria: Criteria, measured: Measured) -> float:
    """Return the largest error that the criteria allow; infinite if none of them bounds it."""
    bounds = (c for c in criteria if isinstance(c, (MaxError, AtMost)))
    return min((bound.limit(measured) for bound in bounds), default=math.inf)
