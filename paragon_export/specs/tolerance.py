"""Plans: what the user asks for, complete and checked before any work is done."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from paragon_export.specs.types import Precision


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """When a candidate counts as equal to the float64 reference. Errors are absolute, of range 1.

    The factors refer to what PyTorch itself errs in the same precision. They were chosen by
    measurement: see the benchmarks of the verdict.
    """

    max_abs: float
    """No pixel may be further off than this, unless PyTorch itself errs about as much."""
    times_reference: float
    """Nor further than this many times PyTorch's largest error on the same image."""
    times_largest: float
    """Nor further than this many times PyTorch's largest error on any of many images."""
    times_beyond: float
    """Where PyTorch errs about ``max_abs`` or more, this many times its error is allowed instead."""
    times_diverged: float
    """Where the network diverges, this many times PyTorch's error is allowed, or ``max_abs``."""
    times_rms: float
    """Most that the root mean square of the error of one image may be, in PyTorch's."""
    times_high: float
    """Most that the error of all but 1 % of the values of an image may be, in PyTorch's."""
    times_overall: float
    """Most that the geometric means of these ratios over many images may be, and of the largest
    errors' ratio."""
    reference_floor: float
    """PyTorch's error counts as at least this: below it, rounding is a matter of luck."""
    min_psnr_db: float
    """No picture may fall below this, peak 1, unless PyTorch itself does."""

    @classmethod
    def for_precision(cls, precision: Precision) -> Tolerance:
        """Return the defaults for a precision.

        The floor of a half precision is a quarter of its largest rounding error in [0, 1].
        """
        if precision is Precision.FP32:
            return cls(
                max_abs=1e-5, times_reference=4, times_largest=math.inf, times_beyond=3, times_diverged=4,
                times_rms=math.inf, times_high=math.inf, times_overall=math.inf,
                reference_floor=2.5e-7, min_psnr_db=-math.inf,
            )  # fmt: skip
        is_fp16 = precision is Precision.FP16
        return cls(
            max_abs=0.05 if is_fp16 else 0.25,
            times_reference=4, times_largest=2, times_beyond=4, times_diverged=4,
            times_rms=2, times_high=2.5, times_overall=1.25,
            reference_floor=2.0**-14 if is_fp16 else 2.0**-11,
            min_psnr_db=50.0 if is_fp16 else 30.0,
        )  # fmt: skip

    @classmethod
    def for_logits(cls, precision: Precision) -> Tolerance:
        """Return the defaults for rows of logits: those for pictures without a bar of decibels.

        Errors are in units of the largest logit, or of 1 where that is larger.
        """
        return replace(cls.for_precision(precision), min_psnr_db=-math.inf)

    def largest_limit(self, images: int) -> float:
        """Return ``times_largest`` for a number of images; ``times_reference`` for one."""
        return max(self.times_largest, 1 + (self.times_reference - 1) / math.sqrt(images))

    def overall_limits(self, images: int) -> tuple[float, float, float]:
        """Return the limits of the means over a number of images: RMS, error of 1 %, largest error.

        Each is ``times_overall``, or more for few images, as a mean of few varies. The largest
        errors of an image vary at least as much as what 99 % of its errors stay within.
        """
        rms, high = (
            max(self.times_overall, 1 + (times - 1) / math.sqrt(images))
            for times in (self.times_rms, self.times_high)
        )
        return rms, high, high


DIVERGED = 4.0
"""A float64 output beyond this many times full range is no picture any more."""


UNDETERMINED = 0.01
"""An output that one rounding of the input moves by this part of its range is undetermined."""
