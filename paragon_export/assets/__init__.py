"""Files that ship with the package: a trained checkpoint and a photograph.

This package imports no other package of this project.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

_HERE = Path(__file__).parent

CHECKPOINT = _HERE / "2xParagonSR2_Realtime_shipped.safetensors"
"""ParagonSR2 2x, variant realtime, generation v11; see ``benchmarks/training``."""

PHOTOGRAPH = _HERE / "photograph.png"
"""An 8-bit RGB photograph."""


@cache
def photograph() -> np.ndarray:
    """Return the shipped photograph: read-only (H, W, 3), float32, RGB in [0, 1]."""
    from PIL import Image

    with Image.open(PHOTOGRAPH) as image:
        pixels = np.asarray(image.convert("RGB"), np.float32) / 255
    pixels.setflags(write=False)
    return pixels
