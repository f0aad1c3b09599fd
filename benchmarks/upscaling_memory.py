"""Memory of ``upscale`` by the size of the picture, in tiles of one size.

The picture is the shipped photograph, again and again; the network is the shipped one as an ONNX file. Each size
is upscaled in a process of its own. Its figure is the peak of resident memory above that of the process with the
model opened. With tiles it grows by the pixels of the input alone.

Writes ``upscaling_memory.json``. Linux only.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from common import write

from paragon_export.assets import CHECKPOINT, photograph
from paragon_export.media.png import PngWriter
from paragon_export.pipeline.export import export_onnx
from paragon_export.specs.plans import NetworkOptions
from paragon_export.specs.types import OnnxBackend, Size
from paragon_export.system.limits import process_memory_bytes, reset_peak_memory
from paragon_export.upscaling.flow import upscale_with
from paragon_export.upscaling.model import open_model
from paragon_export.upscaling.plan import UpscalePlan

SIDES = [512, 1024, 2048, 4096, 16384]

TILE = Size(512, 512)


def main(
    sides: Annotated[
        list[int], typer.Option("--side", help="Sides of the picture, in pixels.")
    ] = SIDES,
    network: Annotated[Path, typer.Option(help="Checkpoint to run.")] = CHECKPOINT,
    model: Annotated[Path, typer.Option(hidden=True)] = Path(),
) -> None:
    if model.is_file():
        print(*memory_of(model, sides[0]))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "net.onnx")
        assert export_onnx(network, file, at=()).passed
        for side in sides:
            here = [sys.executable, __file__, "--side", str(side), "--model", str(file)]
            done = subprocess.run(here, check=True, capture_output=True, text=True)
            peak, seconds = map(float, done.stdout.split())
            row = {
                "network": network.stem, "input": f"{side}x{side}", "tile": str(TILE),
                "peak MiB": round(peak), "pixels of the input MiB": round(3 * side**2 / 2**20),
                "seconds": round(seconds),
            }  # fmt: skip
            write("upscaling_memory", [row], ("network", "input"))


def memory_of(file: Path, side: int) -> tuple[float, float]:
    """Return the peak of memory above that of the opened model in MiB, and the seconds."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "in.png")
        write_large(source, side)
        model = open_model(file, OnnxBackend.ONNXRUNTIME, NetworkOptions())
        plan = UpscalePlan(model=file, inputs=(source,), output=Path(folder, "out.png"), tile=TILE)
        before, start = process_memory_bytes("VmRSS"), time.perf_counter()
        reset_peak_memory()
        assert upscale_with(model, plan).passed
        peak = process_memory_bytes("VmHWM")
        assert peak is not None
        assert before is not None
        return (peak - before) / 2**20, time.perf_counter() - start


def write_large(path: Path, side: int) -> None:
    """Write the photograph again and again until the picture is full."""
    pixels = np.rint(photograph() * 255).astype(np.uint8)
    rows = np.tile(pixels, (1, -(-side // pixels.shape[1]), 1))[:, :side]
    with path.open("wb") as file, PngWriter(file, side, side, 3, np.dtype(np.uint8)) as writer:
        for top in range(0, side, len(rows)):
            writer.write(rows[: side - top])


if __name__ == "__main__":
    typer.run(main)
