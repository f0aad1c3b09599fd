"""Draw the image of the README: a crop of the shipped photograph, bicubic and the network.

The photograph is halved (bicubic, antialiased) and upscaled again: with bicubic interpolation, and
by the shipped checkpoint, exported with ``paragon-export onnx`` and run in ONNX Runtime. Both show
the same crop, enlarged without interpolation. The photograph was among the training images of the
network, so the image shows what the network does and is no measure of quality.

Writes ``docs/images/before_after.png``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageFont

from paragon_export.assets import CHECKPOINT, photograph

TARGET = Path(__file__).parent.parent / "docs" / "images" / "before_after.png"

CROP = (112, 60, 272, 180)
"""Left, top, right and bottom in pixels of the outputs."""

ENLARGED = 3
"""Pixels of the image for each pixel of the outputs, along each side."""

LABEL_PX = 34

GAP_PX = 8


def upscaled(pixels: np.ndarray) -> Image.Image:
    """Return the output of the shipped network for an (H, W, 3) float32 image in [0, 1]."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        command = [sys.executable, "-m", "paragon_export", "onnx", str(CHECKPOINT), "-o", str(file)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        (output,) = session.run(None, {"input": pixels.transpose(2, 0, 1)[None]})
    return image_of(output[0].transpose(1, 2, 0))


def image_of(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))


def side_by_side(images: dict[str, Image.Image]) -> Image.Image:
    """Return the same crop of each image, with its label above."""
    left, top, right, bottom = CROP
    width, height = (right - left) * ENLARGED, (bottom - top) * ENLARGED
    canvas = Image.new("RGB", (len(images) * (width + GAP_PX) - GAP_PX, height + LABEL_PX), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(20)
    for index, (label, image) in enumerate(images.items()):
        x = index * (width + GAP_PX)
        draw.text((x + 4, LABEL_PX / 2), label, "black", font, anchor="lm")
        detail = image.crop(CROP)
        enlarged = detail.resize((width, height), Image.Resampling.NEAREST)
        canvas.paste(enlarged, (x, LABEL_PX))
    return canvas


def main() -> None:
    original = image_of(np.array(photograph()))
    half = original.resize((original.width // 2, original.height // 2), Image.Resampling.BICUBIC)
    network = upscaled(np.asarray(half, np.float32) / 255)
    bicubic = half.resize(network.size, Image.Resampling.BICUBIC)
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    side_by_side({"before: bicubic 2x": bicubic, "after: shipped network 2x": network}).save(
        TARGET, optimize=True
    )


if __name__ == "__main__":
    main()
