"""Transparency: colors for pixels that show none, so that they do not bleed into their neighbors."""

from __future__ import annotations

import numpy as np


def filled(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return a picture in which pixels that are fully transparent have the color of those around.

    The picture is halved, by the mean of what is opaque, until every pixel has a color; then each
    size takes what it lacks from the next smaller one.

    Args:
        color: (C, H, W), float32 in [0, 1].
        alpha: (1, H, W), float32; 0 is transparent.

    Returns:
        (C, H, W). Pixels that are not fully transparent are as before. Black if all are.
    """
    known = (alpha > 0).astype(np.float32)
    if known.all() or not known.any():
        return color if known.all() else np.zeros_like(color)
    height, width = color.shape[1:]
    summed, count = (_halved(x) for x in (color * known, known))
    half = filled(summed / np.maximum(count, 1), count)
    enlarged = half.repeat(2, axis=1).repeat(2, axis=2)[:, :height, :width]
    return np.where(known > 0, color, enlarged)


def _halved(x: np.ndarray) -> np.ndarray:
    """Return the sums of blocks of 2x2; odd sizes are padded with zeros."""
    height, width = (extent + extent % 2 for extent in x.shape[1:])
    padded = np.zeros((len(x), height, width), x.dtype)
    padded[:, : x.shape[1], : x.shape[2]] = x
    return padded.reshape(len(x), height // 2, 2, width // 2, 2).sum(axis=(2, 4))
