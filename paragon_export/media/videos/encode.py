"""Encode: what the network made of a frame, as an encoder takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from paragon_export.media.videos.frames import to_frame
from paragon_export.media.videos.writing import Encoding
from paragon_export.specs.types import Size

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


def encodable(rgb: np.ndarray, size: Size, encoding: Encoding) -> VideoFrame:
    """Return a frame as an encoder takes it.

    Args:
        rgb: (1, 3, H, W) or (1, 1, H, W), in [0, 1] after clipping.
        size: What it is reduced to, before it is cut to the size of the encoding.
        encoding: How frames are encoded.
    """
    wanted = encoding.size
    cut = _reduced(rgb, size)[:, :, : wanted.height, : wanted.width]
    return to_frame(cut, encoding.coding, encoding.pixel_format)


def _reduced(rgb: np.ndarray, size: Size) -> np.ndarray:
    """Return a frame reduced to a size by Lanczos' filter."""
    if rgb.shape[2:] == (size.height, size.width):
        return rgb
    channels = [
        Image.fromarray(channel).resize((size.width, size.height), Image.Resampling.LANCZOS)
        for channel in np.clip(rgb[0], 0, 1)
    ]
    return np.stack([np.asarray(channel) for channel in channels])[None]
