"""Large pictures: the sizes that people ship, at which a candidate runs once, and sizes between."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from paragon_export.inputs.probes import Probe, photograph_crop, video_probe
from paragon_export.specs.types import Size

LARGE = Size(1080, 1920)
"""The large size by default. Its height is 8 modulo 16."""


def smaller(size: Size, pixels: int, smallest: int = 1) -> Size:
    """Return a size of about the same shape with at most ``pixels`` pixels.

    The height keeps its residue modulo 16, the width becomes a multiple of 16.

    Args:
        size: Height and width.
        pixels: Most pixels of the result, unless ``smallest`` demands more.
        smallest: Least height and width.
    """
    area = size.height * size.width
    if area <= pixels:
        return size
    factor = math.sqrt(pixels / area)
    rest = size.height % 16
    height = max(int(factor * size.height) - rest, 0) // 16 * 16 + rest
    width = int(factor * size.width) // 16 * 16
    return Size(max(height, smallest), max(width, smallest, 1))


SQUARE_PX = 128
"""Largest side of the squares."""

STRIP = Size(4096, 16)
"""The longest strip."""


def middle_sizes(pixels: int, smallest: int = 1) -> list[tuple[Size, int]]:
    """Return sizes between the small ones and a large one, and longer ones, with their batches.

    They are a square, in a batch of two if that fits, and two strips. All sides are multiples of 16,
    the long ones of 64. Small sizes have none of it: squares of many pixels, tall ones, multiples of
    64 both ways, batches of many pixels. The strips may be longer than the large size.

    Args:
        pixels: Most pixels of each of them; few pixels allow none of them.
        smallest: Least height and width.
    """
    batch = 2 if pixels >= 2 * 64**2 else 1
    side = min(SQUARE_PX, math.isqrt(pixels // batch) // 64 * 64)
    narrow = max(STRIP.width, smallest)
    long = min(STRIP.height, pixels // narrow // 64 * 64)
    found = [(Size(side, side), batch), (Size(long, narrow), 1), (Size(narrow, long), 1)]
    return [(s, batch) for s, batch in found if min(s.height, s.width) >= max(smallest, 1)]


def large_probe(channels: int, size: Size, batch: int = 1, *, video: bool = False) -> Probe:
    """Return photographs in a batch; for video clips of two frames, of which the second is blended."""
    if video:
        clip = video_probe(channels, size, frames=2, clips=batch)
        return replace(clip, label="blended frame", blend=(0.0, 0.2))
    frame = np.stack([photograph_crop(channels, size, index) for index in range(batch)])
    return Probe(label="photograph", size=size, frames=(frame,))
