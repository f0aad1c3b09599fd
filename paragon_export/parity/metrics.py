"""Error metrics between two outputs, computed with NumPy in float64 over all pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from paragon_export.specs.tolerance import DIVERGED, UNDETERMINED

PEAK = 1.0
"""Full range of an image. PSNR is relative to it, not to the largest value of the data."""


@dataclass(frozen=True)
class Difference:
    """How a candidate differs from the reference. Errors are absolute, in units of full range."""

    max_abs: float
    psnr_db: float
    """Lowest PSNR of any item of the batch; infinite if both are equal. Items of less than
    ``MIN_ITEM_VALUES`` count together."""
    border_max_abs: float
    """Largest error in the border band; 0 if its width is 0."""
    interior_max_abs: float
    """Largest error inside the band; 0 if the image is too small to have an interior."""
    is_finite: bool
    is_constant: bool
    """Whether any item of the candidate is constant while the reference's is not."""
    rms: float = 0.0
    """Root mean square of the error of all values."""
    high: float = 0.0
    """The error that all but ``HIGH_SHARE`` of the values stay within."""

    def worse(self, other: Difference) -> Difference:
        """Return the worse value of each measure, of two candidates on the same input."""
        return Difference(
            max_abs=max(self.max_abs, other.max_abs),
            psnr_db=min(self.psnr_db, other.psnr_db),
            border_max_abs=max(self.border_max_abs, other.border_max_abs),
            interior_max_abs=max(self.interior_max_abs, other.interior_max_abs),
            is_finite=self.is_finite and other.is_finite,
            is_constant=self.is_constant or other.is_constant,
            rms=max(self.rms, other.rms),
            high=max(self.high, other.high),
        )

    def divided(self, unit: float) -> Difference:
        """Return the same errors in another unit."""
        return replace(
            self,
            max_abs=self.max_abs / unit,
            psnr_db=self.psnr_db + 20 * math.log10(unit),
            border_max_abs=self.border_max_abs / unit,
            interior_max_abs=self.interior_max_abs / unit,
            rms=self.rms / unit,
            high=self.high / unit,
        )


MIN_ITEM_VALUES = 256
"""Least number of values of an item whose PSNR is computed by itself."""

HIGH_SHARE = 0.01
"""Share of the values whose errors exceed ``Difference.high``."""

NOT_COMPARED = Difference(math.inf, -math.inf, math.inf, math.inf, False, False, math.inf, math.inf)
"""Used if nothing could be compared."""


class Around(NamedTuple):
    """What PyTorch computes around one place of a large image, against float64."""

    max_abs: float
    """Its largest error in the candidate's precision."""
    peak: float
    """Largest magnitude of the float64 output."""


class InFloat32(NamedTuple):
    """What a half-precision file computes in float32, where only its weights are rounded."""

    found: Difference
    """Difference from the float64 reference."""
    moved_rms: float
    """How far the output moves if each half weight moves by half a step: the largest root mean
    square of several draws of signs."""
    own: Difference
    """Errors of PyTorch in float32."""

    def divided(self, unit: float) -> InFloat32:
        """Return the same in another unit."""
        return InFloat32(self.found.divided(unit), self.moved_rms / unit, self.own.divided(unit))


class Ratios(NamedTuple):
    """Errors of a candidate, each in PyTorch's in the same precision."""

    rms: float
    """Root mean square."""
    high: float
    """What all but 1 % of the values stay within."""
    max_abs: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The measured values of one output of a candidate on one probe."""

    found: Difference
    """Difference from the float64 reference."""
    reference_max_abs: float = 0.0
    """Largest error of PyTorch in the candidate's precision, against the same reference."""
    reference_errors: Difference | None = None
    """All errors of PyTorch in that precision: the worst of several roundings; None if unknown."""
    overall: Ratios | None = None
    """The geometric means of ``ratios`` over all images of this output."""
    images: int = 1
    """The number of these images."""
    largest_own: float = math.inf
    """PyTorch's largest error on any of them, in units of full range; infinite if unknown."""
    reference_peak: float = 1.0
    """Largest magnitude of the float64 output."""
    full_range: float = 1.0
    """Divisor of errors: 1.0 for images, max(1, peak) for maps, the peak for all other outputs."""
    is_stress: bool = False
    """Whether the probe is an artificial pattern, on which a network may diverge."""
    picture_diverges: bool = False
    """Whether, for an output that is not the image, the float64 image is far outside of its range."""
    float32_gap: float | None = None
    """Largest difference from PyTorch's float32 on all of a large image of which float64 computed
    an excerpt; None for other images."""
    gap_place: tuple[int, int] = (0, 0)
    """Row and column of that difference, in pixels of the input."""
    around_gap: Around | None = None
    """What was measured around that place; None if it was not."""
    in_float32: InFloat32 | None = None
    """What a half-precision file computes in float32; None if it was not measured."""
    reference_moved: float = 0.0
    """Largest change of the float64 output when its input changes by one rounding; 0 if not measured."""
    moved_rms: float = 0.0
    """Root mean square of that change."""
    moved_high: float = 0.0
    """What all but ``HIGH_SHARE`` of that change stay within."""
    wrong_top1: int | None = None
    """Items whose best class differs from the reference's, although the reference's two largest
    logits differ by more than the error allowed. None if the output is an image or a map."""

    @property
    def reference_is_finite(self) -> bool:
        """Whether PyTorch is finite in the candidate's precision."""
        return math.isfinite(self.reference_max_abs)

    @property
    def has_yardstick(self) -> bool:
        """Whether the distribution of the errors can be compared with PyTorch's."""
        own = self.reference_errors
        return own is not None and own.is_finite and self.found.is_finite and not self.has_diverged

    def ratios(self, floor: float) -> Ratios:
        """Return the errors in those of PyTorch.

        These count as at least ``floor``, and as what one rounding of the input changes.
        """
        own, found = self.reference_errors, self.found
        assert own is not None
        least = floor * self.full_range
        return Ratios(
            rms=found.rms / max(own.rms, self.moved_rms, least),
            high=found.high / max(own.high, self.moved_high, least),
            max_abs=found.max_abs / max(own.max_abs, self.reference_moved, least),
        )

    @property
    def has_diverged(self) -> bool:
        """Whether the float64 network itself diverges on an artificial pattern."""
        return self.is_stress and (self.picture_diverges or self.is_beyond_range)

    @property
    def is_beyond_range(self) -> bool:
        """Whether the float64 output is far outside of its range, or not finite."""
        return not self.reference_peak <= DIVERGED * self.full_range

    @property
    def is_undetermined(self) -> bool:
        """Whether one rounding of an artificial pattern changes the output visibly."""
        return self.is_stress and self.reference_moved > UNDETERMINED * self.full_range

    @property
    def is_judged(self) -> bool:
        """Whether the verdict depends on the values. Photographs always count.

        Not judged is an artificial pattern on which float64 overflows. Where the network does not
        determine its output, and where it diverges and PyTorch overflows in this precision, only
        values that are not finite although PyTorch's are finite count.
        """
        if not (self.has_diverged or self.is_undetermined):
            return True
        if not math.isfinite(self.reference_peak):
            return False
        if not self.found.is_finite:
            return self.reference_is_finite
        return not self.is_undetermined


def difference(candidate: np.ndarray, reference: np.ndarray, border: int) -> Difference:
    """Compare two batches of maps of equal shape (N, C, H, W).

    Args:
        candidate: Any floating type; cast to float64 before subtracting.
        reference: Outputs of the reference, float64.
        border: Width in pixels of the band at all four sides whose error is reported separately.

    Raises:
        ValueError: If the shapes differ or there is no pixel to compare.
    """
    if candidate.shape != reference.shape or candidate.size == 0:
        raise ValueError(f"cannot compare {candidate.shape} with {reference.shape}")
    wide = candidate.astype(np.float64)
    if not np.isfinite(wide).all():
        return NOT_COMPARED
    error = np.abs(wide - reference)
    inside = error[..., border:-border, border:-border] if border else error
    interior = float(inside.max()) if inside.size else 0.0
    band = error.copy()
    if not border:
        band[:] = 0.0
    elif inside.size:
        band[..., border:-border, border:-border] = 0.0
    return Difference(
        max_abs=float(error.max()),
        psnr_db=_worst_psnr_db(error),
        border_max_abs=float(band.max()),
        interior_max_abs=interior,
        is_finite=True,
        is_constant=any(
            np.ptp(got) == 0 and np.ptp(expected) > 0
            for got, expected in zip(wide, reference, strict=True)
        ),
        rms=rms(error),
        high=_high(error),
    )


def wrong_top1(candidate: np.ndarray, reference: np.ndarray, allowed: float) -> int:
    """Count the rows whose best class differs from the reference's, near ties left out.

    Args:
        candidate: (N, classes) logits; of equal logits the first is the best.
        reference: Logits of the reference, of the same shape.
        allowed: A row counts only if the two largest logits of the reference differ by more.
    """
    ordered = np.sort(reference, axis=1)
    gap = ordered[:, -1] - ordered[:, -2] if reference.shape[1] > 1 else np.zeros(len(reference))
    differs = candidate.argmax(axis=1) != reference.argmax(axis=1)
    return int(np.count_nonzero(differs & (gap > allowed)))


def rms(error: np.ndarray) -> float:
    """Return the root mean square of errors."""
    return math.sqrt(float(np.mean(np.square(error, dtype=np.float64))))


def _high(error: np.ndarray) -> float:
    """Return the smallest error that all but ``HIGH_SHARE`` of the values do not exceed."""
    rank = min(math.floor((1 - HIGH_SHARE) * error.size), error.size - 1)
    return float(np.partition(error, rank, axis=None)[rank])


def psnr_db(error: np.ndarray) -> float:
    """Return ``10 log10(PEAK^2 / mean(error^2))`` in dB; infinite if all errors are 0."""
    mean_square = float(np.mean(np.square(error, dtype=np.float64)))
    return math.inf if mean_square == 0 else 10 * math.log10(PEAK**2 / mean_square)


def _worst_psnr_db(error: np.ndarray) -> float:
    """Return the lowest PSNR of any item of the batch; a mean would hide one broken item.

    The mean square of a few rounding errors is a random number, so tiny items count together.
    """
    return min(psnr_db(e) for e in (error if error[0].size >= MIN_ITEM_VALUES else [error]))


def luma(rgb: np.ndarray) -> np.ndarray:
    """Return the luma of BT.601, in [16, 235], of an (..., 3) RGB image in [0, 1].

    It is the Y that super-resolution papers measure PSNR on (Rec. ITU-R BT.601, 8-bit studio
    range).
    """
    return 16 + rgb @ np.array([65.481, 128.553, 24.966])
