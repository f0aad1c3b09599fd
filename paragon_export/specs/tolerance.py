"""Plans: what the user asks for, complete and checked before any work is done."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from paragon_export.specs.types import Precision


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """When a candidate counts as equal to the float64 reference. Errors are absolute, of range 1."""

    max_abs: float
    """No pixel may be further off than this, unless PyTorch itself errs about as much."""
    times_reference: float
    """Nor further than this many times what PyTorch errs in the same precision."""
    times_beyond: float
    """Where PyTorch errs more than ``max_abs``, this many times its error is allowed instead."""
    times_diverged: float
    """Where the network diverges, this many times PyTorch's error is allowed, or ``max_abs``."""
    reference_floor: float
    """PyTorch's error counts as at least this: below it, rounding is a matter of luck."""
    min_psnr_db: float
    """No picture may fall below this, peak 1."""

    @classmethod
    def for_precision(cls, precision: Precision) -> Tolerance:
        """The defaults.

        FP32: 1e-5, and 4 times what PyTorch errs or 1e-6. FP16: 0.05, 1.5 times what PyTorch errs,
        and 50 dB. BF16, which has three bits less: 0.25, the same factor, and 30 dB.
        """
        if precision is Precision.FP32:
            return cls(
                max_abs=1e-5,
                times_reference=4,
                times_beyond=2,
                times_diverged=4,
                reference_floor=2.5e-7,
                min_psnr_db=-math.inf,
            )
        is_fp16 = precision is Precision.FP16
        return cls(
            max_abs=0.05 if is_fp16 else 0.25,
            times_reference=1.5,
            times_beyond=1.5,
            times_diverged=4,
            reference_floor=0.0,
            min_psnr_db=50.0 if is_fp16 else 30.0,
        )

    @classmethod
    def for_logits(cls, precision: Precision) -> Tolerance:
        """The defaults for rows of logits: those for pictures without a bar of decibels.

        Errors are in units of the largest logit, or of 1 where that is larger.
        """
        return replace(cls.for_precision(precision), min_psnr_db=-math.inf)


DIVERGED = 4.0
"""A float64 output beyond this many times full range is no picture any more."""


UNDETERMINED = 0.01
"""An output that one rounding of the input moves by this part of its range is undetermined."""
