"""Writing PNG: ``PngWriter`` with ISA-L and with zlib against Pillow, on one picture.

The picture is the shipped photograph, enlarged. The ways take turns in one process; ``ROUNDS`` times. Milliseconds
are of the processor, because a machine that runs other programs adds theirs to the time by the clock.

Writes ``png.json``.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from common import median, median_ratio, write
from PIL import Image

from paragon_export.assets import photograph
from paragon_export.media.png import PngWriter

ROUNDS = 9

SIZE = (1152, 1760)


def main() -> None:
    image = Image.fromarray(np.rint(255 * photograph()).astype(np.uint8))
    pixels = np.asarray(image.resize(SIZE[::-1], Image.Resampling.LANCZOS))
    ways: dict[str, Callable[[np.ndarray], bytes]] = {
        "ISA-L": ours, "zlib": without_isal, "Pillow": pillow, "Pillow, level 1": quick_pillow,
    }  # fmt: skip
    taken: dict[str, list[float]] = {name: [] for name in ways}
    sizes = {}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.process_time()
            sizes[name] = len(way(pixels))
            taken[name].append(time.process_time() - start)
    rows: list[dict[str, Any]] = [
        {
            "way": name,
            "picture": f"{SIZE[0]}x{SIZE[1]}",
            "processor ms": 1e3 * median(seconds),
            "of Pillow": median_ratio(seconds, taken["Pillow"]),
            "MB": sizes[name] / 1e6,
        }
        for name, seconds in taken.items()
    ]
    write("png", rows, ("way",))


def ours(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    with PngWriter(file, *pixels.shape, pixels.dtype) as writer:
        for top in range(0, len(pixels), 64):
            writer.write(pixels[top : top + 64])
    return file.getvalue()


def without_isal(pixels: np.ndarray) -> bytes:
    there = sys.modules.get("isal")
    sys.modules["isal"] = None  # type: ignore[assignment]
    try:
        return ours(pixels)
    finally:
        del sys.modules["isal"]
        if there is not None:
            sys.modules["isal"] = there


def pillow(pixels: np.ndarray, **how: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **how)
    return file.getvalue()


def quick_pillow(pixels: np.ndarray) -> bytes:
    return pillow(pixels, compress_level=1)


if __name__ == "__main__":
    main()
