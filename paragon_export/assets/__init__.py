"""What ships with the package: a trained checkpoint and a photograph.

It may import nothing of this project.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

_HERE = Path(__file__).parent

CHECKPOINT = _HERE / "2xParagonSR2_Realtime_shipped.safetensors"
"""2x Realtime, generation v11, trained for this project; see ``benchmarks/training``."""

PHOTOGRAPH = _HERE / "photograph.png"


@cache
def photograph() -> np.ndarray:
    """Return the shipped photograph: (H, W, 3), float32, RGB in [0, 1]. Do not write to it."""
    from PIL import Image

    with Image.open(PHOTOGRAPH) as image:
        pixels = np.asarray(image.convert("RGB"), np.float32) / 255
    pixels.setflags(write=False)
    return pixels
