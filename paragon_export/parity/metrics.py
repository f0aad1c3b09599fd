"""Metrics: how far two pictures are apart. Pure NumPy, float64, every pixel counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

PEAK = 1.0
"""Full range of a picture: PSNR is always relative to it, never to the data."""


@dataclass(frozen=True)
class Difference:
    """How a candidate differs from the reference. Errors are absolute, in units of full range."""

    max_abs: float
    psnr_db: float
    """Infinite where both are equal."""
    border_max_abs: float
    """0 where no band was asked for."""
    interior_max_abs: float
    """0 where the picture is too small to have an interior."""
    is_finite: bool
    is_constant: bool
    """Whether any picture of the candidate is all one value while the reference's is not."""


NOT_COMPARED = Difference(math.inf, -math.inf, math.inf, math.inf, False, False)
"""Stands where nothing could be compared."""


def difference(candidate: np.ndarray, reference: np.ndarray, border: int) -> Difference:
    """Compare two batches of maps of equal shape (N, C, H, W).

    Args:
        candidate: Any floating type; cast to float64 before subtracting.
        reference: The truth, float64.
        border: Width in pixels of the band at all four sides that is also reported apart.

    Raises:
        ValueError: If the shapes differ or there is no pixel to compare.
    """
    if candidate.shape != reference.shape or candidate.size == 0:
        raise ValueError(f"cannot compare {candidate.shape} with {reference.shape}")
    wide = candidate.astype(np.float64)
    if not np.isfinite(wide).all():
        return Difference(math.inf, -math.inf, math.inf, math.inf, False, False)
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
    )


def wrong_top1(candidate: np.ndarray, reference: np.ndarray, allowed: float) -> int:
    """Count the rows whose best class differs although the reference's is clearly the best.

    Args:
        candidate: (N, classes) logits; the first of equal ones is the best.
        reference: The truth, of the same shape.
        allowed: Rows count whose two best logits in the reference are further apart than this.
    """
    ordered = np.sort(reference, axis=1)
    gap = ordered[:, -1] - ordered[:, -2] if reference.shape[1] > 1 else np.zeros(len(reference))
    differs = candidate.argmax(axis=1) != reference.argmax(axis=1)
    return int(np.count_nonzero(differs & (gap > allowed)))


def psnr_db(error: np.ndarray) -> float:
    """``10 log10(PEAK^2 / mean(error^2))``; infinite where there is no error."""
    mean_square = float(np.mean(np.square(error, dtype=np.float64)))
    return math.inf if mean_square == 0 else 10 * math.log10(PEAK**2 / mean_square)


def _worst_psnr_db(error: np.ndarray) -> float:
    """The lowest PSNR of any picture of the batch: an average would hide one broken item."""
    return min(psnr_db(picture) for picture in error)


def luma(rgb: np.ndarray) -> np.ndarray:
    """Return the BT.601 luma in [16, 235] of an (..., 3) picture in [0, 1], as papers use it."""
    return 16 + rgb @ np.array([65.481, 128.553, 24.966])
