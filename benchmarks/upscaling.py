"""``upscale`` against the bare session and a plain loop, and its memory by the size of the picture.

Speed: a folder of crops of the shipped photograph, the shipped network as an ONNX file. The bare session runs
on pixels that are in memory already. The loop reads, runs and writes one picture after the other.
They take turns; ``REPEATS`` times.

Memory: a picture of each size, in tiles, in a process of its own: peak of resident memory above that
of the process with the model opened.

Writes ``upscaling_speed.json`` and ``upscaling_memory.json``.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from common import write
from PIL import Image

from paragon_export.assets import CHECKPOINT, photograph
from paragon_export.media.png import PngWriter
from paragon_export.pipeline.export import export_onnx
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.specs.plans import NetworkOptions
from paragon_export.specs.types import OnnxBackend, Size
from paragon_export.system.limits import process_memory_bytes, reset_peak_memory
from paragon_export.upscaling import flow
from paragon_export.upscaling.model import Model, open_model

PICTURES, REPEATS = 12, 5

SIZES = (Size(288, 440), Size(576, 880))

MEMORY_SIDES = (1024, 4096, 16384)

TILE = Size(512, 512)


def main(
    network: Annotated[Path, typer.Option(help="Checkpoint to time.")] = CHECKPOINT,
    memory: Annotated[bool, typer.Option(help="Measure memory too; takes minutes.")] = True,
    side: Annotated[int, typer.Option(hidden=True)] = 0,
    model: Annotated[Path, typer.Option(hidden=True)] = Path(),
) -> None:
    if side:
        print(*memory_of(model, side))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "net.onnx")
        assert export_onnx(network, file).passed
        for size in SIZES:
            for kind in ("png", "jpg"):
                row = speed(file, Path(folder), size, kind)
                write(
                    "upscaling_speed",
                    [{"network": network.stem, **row}],
                    ("network", "input", "format"),
                )
        for extent in MEMORY_SIDES if memory else ():
            here = [sys.executable, __file__, "--side", str(extent), "--model", str(file)]
            done = subprocess.run(here, check=True, capture_output=True, text=True)
            peak, seconds = map(float, done.stdout.split())
            row = {
                "input": f"{extent}x{extent}", "tile": str(TILE), "peak MiB": round(peak),
                "pixels of the input MiB": round(3 * extent**2 / 2**20), "seconds": round(seconds),
            }  # fmt: skip
            write("upscaling_memory", [row], ("input",))


def speed(file: Path, folder: Path, size: Size, kind: str) -> dict[str, Any]:
    """Time the three ways on one folder; return the row."""
    pixels = np.resize(np.rint(photograph() * 255).astype(np.uint8), (size.height, size.width, 3))
    source, output = folder / f"in{size}", folder / f"out{size}"
    source.mkdir(exist_ok=True)
    for index in range(PICTURES):
        Image.fromarray(np.roll(pixels, 7 * index, axis=1)).save(source / f"{index}.png")
    model = open_model(file, OnnxBackend.ONNXRUNTIME, NetworkOptions())
    plan = flow.UpscalePlan(model=file, inputs=(source,), output=output, format=kind)
    ways: dict[str, Callable[[], object]] = {
        "bare": lambda: bare(model, pixels),
        "upscale": lambda: flow.upscale_with(model, plan),
        "loop": lambda: loop(file, source, output, kind),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            taken[name].append((time.perf_counter() - start) / PICTURES)
    seconds = {name: median(all_of) for name, all_of in taken.items()}
    return {
        "input": str(size),
        "format": kind,
        "bare session pictures/s": 1 / seconds["bare"],
        "upscale pictures/s": 1 / seconds["upscale"],
        "loop pictures/s": 1 / seconds["loop"],
        "upscale / bare session": seconds["bare"] / seconds["upscale"],
        "upscale / loop": seconds["loop"] / seconds["upscale"],
    }


def bare(model: Model, pixels: np.ndarray) -> None:
    image = np.ascontiguousarray(np.moveaxis(pixels, -1, 0)[None], np.float32) / 255
    for _ in range(PICTURES):
        model.runner.infer(model.feeds(image))


def loop(file: Path, source: Path, output: Path, kind: str) -> None:
    """Read, run, write, one after the other, as scripts do."""
    output.mkdir(exist_ok=True)
    runner = OnnxRunner(file)
    for path in sorted(source.iterdir()):
        image = np.asarray(Image.open(path).convert("RGB"), np.float32) / 255
        found = runner.infer({"input": np.ascontiguousarray(image.transpose(2, 0, 1)[None])})[
            "output"
        ]
        values = np.rint(np.clip(found[0].transpose(1, 2, 0), 0, 1) * 255).astype(np.uint8)
        Image.fromarray(values).save(output / f"{path.stem}.{kind}", quality=95, subsampling=0)


def memory_of(file: Path, side: int) -> tuple[float, float]:
    """Return the peak of memory above that of the opened model in MiB, and the seconds."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "in.png")
        _write_large(source, side)
        model = open_model(file, OnnxBackend.ONNXRUNTIME, NetworkOptions())
        plan = flow.UpscalePlan(
            model=file, inputs=(source,), output=Path(folder, "out.png"), tile=TILE
        )
        before, start = process_memory_bytes("VmRSS"), time.perf_counter()
        reset_peak_memory()
        assert flow.upscale_with(model, plan).passed
        peak = process_memory_bytes("VmHWM")
        assert peak is not None
        assert before is not None
        return (peak - before) / 2**20, time.perf_counter() - start


def _write_large(path: Path, side: int) -> None:
    """Write the photograph again and again until the picture is full."""
    pixels = np.rint(photograph() * 255).astype(np.uint8)
    band = np.tile(pixels, (1, -(-side // pixels.shape[1]), 1))[:, :side]
    with path.open("wb") as file, PngWriter(file, side, side, 3, band.dtype) as writer:
        for top in range(0, side, len(band)):
            writer.write(band[: side - top])


if __name__ == "__main__":
    typer.run(main)
