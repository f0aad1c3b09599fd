"""``upscale`` on a folder of pictures against the bare session and against plain loops.

The folder holds crops of the shipped photograph. All ways take turns, ``REPEATS`` times:

- the bare session, on pixels that are in memory already, one run after the other on all cores;
- ``upscale``;
- reading, converting and writing alone: ``upscale`` with a network that returns what it returned before;
- a loop that reads, runs the same file and writes, one picture after the other, as scripts do, with Pillow;
- the same with OpenCV and the network in PyTorch, as traiNNer's and the author's scripts do.

``upscale / limit``: the limit is what the cores would make if they were never idle: the time of the processor of
the bare session and of reading and writing, over the number of cores. ``idle`` is the share of the cores' time in
which this process did not run; on a machine that does nothing else, they were idle then.

Writes ``upscaling.json``.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
import typer
from common import median, median_ratio, write
from PIL import Image

from paragon_export.assets import CHECKPOINT, photograph
from paragon_export.networks.describe import load_network
from paragon_export.parity.reference import build_reference
from paragon_export.pipeline.export import export_onnx
from paragon_export.runtimes.base import Arrays
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.specs.plans import NetworkOptions
from paragon_export.specs.types import OnnxBackend, Size
from paragon_export.upscaling.flow import upscale_with
from paragon_export.upscaling.model import cores, open_model
from paragon_export.upscaling.plan import UpscalePlan

REPEATS = 5

Ways = Mapping[str, Callable[[], object]]


def main(
    networks: Annotated[
        list[Path] | None, typer.Option("--network", help="Checkpoints to time.")
    ] = None,
    sizes: Annotated[list[str], typer.Option("--size")] = ["288x440", "576x880"],  # noqa: B006
    megapixels: Annotated[float, typer.Option(help="Of all inputs of a folder.")] = 4.0,
) -> None:
    for network in networks or [CHECKPOINT]:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "net.onnx")
            assert export_onnx(network, file).passed
            for size in map(Size.parse, sizes):
                pictures = max(1, round(1e6 * megapixels / (size.height * size.width)))
                for kind in ("png", "jpg"):
                    row = speed(network, file, Path(folder), size, kind, pictures)
                    write("upscaling", [row], ("network", "input", "format"))


def speed(
    network: Path, file: Path, folder: Path, size: Size, kind: str, pictures: int
) -> dict[str, Any]:
    """Time all ways on one folder; return the row."""
    image = folder_of(folder / f"in{size}", size, pictures)
    model = open_model(file, OnnxBackend.ONNXRUNTIME, NetworkOptions())
    feeds = model.feeds(np.ascontiguousarray(np.moveaxis(image, -1, 0)[None], np.float32) / 255)
    known = replace(model, runner=Known(model.runner.infer(feeds)), open_again=None)
    plan = UpscalePlan(
        model=file, inputs=(folder / f"in{size}",), output=folder / f"out{size}", format=kind
    )
    ways: Ways = {
        "bare": lambda: [model.runner.infer(feeds) for _ in range(pictures)],
        "upscale": lambda: upscale_with(model, plan),
        "coding": lambda: upscale_with(known, plan),
        "loop": loop(file, plan, kind),
        "PyTorch": torch_loop(network, plan, kind),
    }
    seconds, worked = timed(ways)
    limit = [(a + b) / cores() for a, b in zip(worked["bare"], worked["coding"], strict=True)]
    idle = [
        1 - a / (cores() * b) for a, b in zip(worked["upscale"], seconds["upscale"], strict=True)
    ]
    return {
        "network": network.stem,
        "input": str(size),
        "format": kind,
        "bare session pictures/s": pictures / median(seconds["bare"]),
        "upscale pictures/s": pictures / median(seconds["upscale"]),
        "upscale / bare session": median_ratio(seconds["bare"], seconds["upscale"]),
        "upscale / loop": median_ratio(seconds["loop"], seconds["upscale"]),
        "upscale / PyTorch loop": median_ratio(seconds["PyTorch"], seconds["upscale"]),
        "bare processor ms": 1e3 * median(worked["bare"]) / pictures,
        "coding processor ms": 1e3 * median(worked["coding"]) / pictures,
        "upscale processor ms": 1e3 * median(worked["upscale"]) / pictures,
        "upscale / limit": median_ratio(limit, seconds["upscale"]),
        "idle": median(idle),
    }


def timed(ways: Ways) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return seconds and seconds of the processor, one figure a round; each way takes its turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    worked: dict[str, list[float]] = {name: [] for name in ways}
    for step in range(REPEATS + 1):
        for name, way in ways.items():
            start, cpu = time.perf_counter(), time.process_time()
            way()
            if step:
                seconds[name].append(time.perf_counter() - start)
                worked[name].append(time.process_time() - cpu)
    return seconds, worked


class Known:
    """A network that returns what it returned before."""

    name = "known"

    def __init__(self, outputs: Arrays) -> None:
        self.outputs = outputs

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        return {"output": self.outputs["output"].copy()}


def folder_of(folder: Path, size: Size, pictures: int) -> np.ndarray:
    """Write a folder of pictures if it is not there; return one of them, (H, W, 3) uint8."""
    pixels = np.rint(photograph() * 255).astype(np.uint8)
    height, width = pixels.shape[:2]
    tiled = np.tile(pixels, (-(-size.height // height), -(-size.width // width), 1))
    image: np.ndarray = tiled[: size.height, : size.width]
    folder.mkdir(exist_ok=True)
    for index in range(pictures):
        Image.fromarray(np.roll(image, 7 * index, axis=1)).save(folder / f"{index}.png")
    return image


def loop(file: Path, plan: UpscalePlan, kind: str) -> Callable[[], None]:
    """Read, run, write, one after the other, with Pillow and ONNX Runtime."""
    runner = OnnxRunner(file)

    def run() -> None:
        for path in sorted(plan.inputs[0].iterdir()):
            image = np.asarray(Image.open(path).convert("RGB"), np.float32) / 255
            feeds = {"input": np.ascontiguousarray(image.transpose(2, 0, 1)[None])}
            found = runner.infer(feeds)["output"][0].transpose(1, 2, 0)
            values = np.rint(np.clip(found, 0, 1) * 255).astype(np.uint8)
            Image.fromarray(values).save(
                plan.output / f"l{path.stem}.{kind}", quality=95, subsampling=0
            )

    return run


def torch_loop(network: Path, plan: UpscalePlan, kind: str) -> Callable[[], None]:
    """Read, run, write, one after the other, with OpenCV and PyTorch."""
    module = build_reference(load_network(network)).module

    def run() -> None:
        for path in sorted(plan.inputs[0].iterdir()):
            image = cv2.imread(str(path), cv2.IMREAD_COLOR).astype(np.float32) / 255
            tensor = torch.from_numpy(np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)))
            with torch.inference_mode():
                found = module(tensor[None])[0].clamp(0, 1)
            values = (found.permute(1, 2, 0).numpy()[..., ::-1] * 255).round().astype(np.uint8)
            cv2.imwrite(str(plan.output / f"t{path.stem}.{kind}"), values)

    return run


if __name__ == "__main__":
    typer.run(main)
