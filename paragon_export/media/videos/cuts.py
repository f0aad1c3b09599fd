"""Cuts: where a new scene begins, so that a network forgets the one before."""

from __future__ import annotations

import numpy as np

GRID = 32
"""Blocks across and down, of whose means frames are compared."""

MIN_JUMP = 0.08
"""How much more than the frame before a frame must differ to begin a scene, in units of full range."""


class CutFinder:
    """Finds the first frames of scenes.

    The means of blocks of luma are compared with those of the frame before. A scene begins where the
    mean difference is larger than that between the two frames before by ``MIN_JUMP``, so that steady
    motion and fades begin none.
    """

    def __init__(self) -> None:
        """Begin before the first frame."""
        self._before: np.ndarray | None = None
        self._difference = 0.0

    def begins(self, luma: np.ndarray, bits: int) -> bool:
        """Take the next frame, (H, W), integers. Return whether it begins a scene."""
        means = _means(luma) / (2**bits - 1)
        before, self._before = self._before, means
        if before is None:
            return True
        last, self._difference = self._difference, float(np.abs(means - before).mean())
        return self._difference - last >= MIN_JUMP


def _means(luma: np.ndarray) -> np.ndarray:
    """Return the means of blocks; frames smaller than the grid are taken as they are."""
    for axis in (0, 1):
        starts = np.linspace(0, luma.shape[axis], min(GRID, luma.shape[axis]), False).astype(int)
        sums = np.add.reduceat(luma, starts, axis=axis, dtype=np.float64)
        counts = np.diff(np.append(starts, luma.shape[axis]))
        luma = sums / np.expand_dims(counts, 1 - axis)
    return luma
