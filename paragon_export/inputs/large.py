"""Large pictures: the sizes that people ship, at which a candidate runs once."""

from __future__ import annotations

import math
from dataclasses import replace

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


def large_probe(channels: int, size: Size, *, video: bool = False) -> Probe:
    """Return a photograph; for video two frames, of which the second is blended."""
    if video:
        clip = video_probe(channels, size, frames=2)
        return replace(clip, label="blended frame", blend=(0.0, 0.2))
    frame = photograph_crop(channels, size)[None]
    return Probe(label="photograph", size=size, frames=(frame,))
