"""Error metrics between two outputs, computed with NumPy in float64 over all pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

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
