"""``upscale`` on a video against the bare session and a plain loop.

The clip is a pan over the shipped photograph with sound, H.264; the network is the shipped one as an ONNX file.
The loops decode, run and encode one frame after the other, with the same encoder and options: one the same file,
one the network in PyTorch. Ways, limit and idle are as in ``upscaling.py``. Milliseconds of the processor are those
of all threads of the process for a frame.

Writes ``upscaling_videos.json``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import av
import numpy as np
import typer
from common import median, median_ratio, write
from upscaling import Ways, timed

from paragon_export.assets import CHECKPOINT, photograph
from paragon_export.media.videos import VideoForm, upscale_video
from paragon_export.media.videos.colors import BT601, Coding, planes_of
from paragon_export.media.videos.writing import CODECS
from paragon_export.pipeline.export import export_onnx
from paragon_export.runtimes.base import Arrays
from paragon_export.specs.plans import NetworkOptions
from paragon_export.specs.types import OnnxBackend, Size
from paragon_export.testing.clips import write_clip
from paragon_export.upscaling.model import Model, cores, open_model
from paragon_export.upscaling.tiles import Tiling
from paragon_export.upscaling.videos import upscaler_of

FRAMES = 24

SIZES = (Size(288, 440),)


def main(
    network: Annotated[Path, typer.Option(help="Checkpoint to time.")] = CHECKPOINT,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "net.onnx")
        assert export_onnx(network, file).passed
        model = open_model(file, OnnxBackend.ONNXRUNTIME, NetworkOptions())
        by_torch = open_model(network, OnnxBackend.ONNXRUNTIME, NetworkOptions())
        for size in SIZES:
            row = {"network": network.stem, **speed(model, by_torch, Path(folder), size)}
            write("upscaling_videos", [row], ("network", "input"))


def frames_of(size: Size) -> Iterator[list[np.ndarray]]:
    """Yield planes of frames that move over the photograph."""
    image = np.moveaxis(photograph(), -1, 0)
    wide = np.tile(image, (1, -(-size.height // image.shape[1]), 1 + size.width // image.shape[2]))
    for number in range(FRAMES):
        frame = np.roll(wide, -number, axis=2)[:, : size.height, : size.width]
        yield planes_of(frame[None], Coding(BT601, False))


def speed(model: Model, by_torch: Model, folder: Path, size: Size) -> dict[str, Any]:
    """Time the three ways on one clip; return the row."""
    source, output = folder / "clip.mp4", folder / "out.mp4"
    write_clip(source, frames_of(size), codec="libx264", matrix=BT601, sound="aac")
    upscaler = upscaler_of(Tiling(model, "auto"))
    known = upscaler_of(
        Tiling(replace(model, runner=Repeated(model.scale), open_again=None), "auto")
    )
    ways: Ways = {
        "bare": lambda: bare(model, size),
        "upscale": lambda: upscale_video(source, output, upscaler, scale=model.scale, run=""),
        "coding": lambda: upscale_video(source, output, known, scale=model.scale, run="known"),
        "loop": lambda: loop(model, source, output),
        "PyTorch": lambda: loop(by_torch, source, output),
    }
    seconds, worked = timed(ways)
    limit = [(a + b) / cores() for a, b in zip(worked["bare"], worked["coding"], strict=True)]
    idle = [
        1 - a / (cores() * b) for a, b in zip(worked["upscale"], seconds["upscale"], strict=True)
    ]
    return {
        "input": str(size),
        "bare frames/s": FRAMES / median(seconds["bare"]),
        "upscale frames/s": FRAMES / median(seconds["upscale"]),
        "upscale / bare": median_ratio(seconds["bare"], seconds["upscale"]),
        "upscale / loop": median_ratio(seconds["loop"], seconds["upscale"]),
        "upscale / PyTorch loop": median_ratio(seconds["PyTorch"], seconds["upscale"]),
        "bare processor ms": 1e3 * median(worked["bare"]) / FRAMES,
        "coding processor ms": 1e3 * median(worked["coding"]) / FRAMES,
        "upscale processor ms": 1e3 * median(worked["upscale"]) / FRAMES,
        "upscale / limit": median_ratio(limit, seconds["upscale"]),
        "idle": median(idle),
    }


class Repeated:
    """A network that repeats pixels, so that the encoder has frames that move."""

    name = "repeated"

    def __init__(self, scale: int) -> None:
        self.scale = scale

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        return {"output": feeds["input"].repeat(self.scale, 2).repeat(self.scale, 3)}


def bare(model: Model, size: Size) -> None:
    feeds = model.feeds(np.full((1, 3, size.height, size.width), 0.5, np.float32))
    for _ in range(FRAMES):
        model.runner.infer(feeds)


def loop(model: Model, source: Path, output: Path) -> None:
    """Decode, run and encode, one after the other, as scripts do."""
    codec = CODECS["h264"]
    crf = str(round(codec.worst * (100 - (VideoForm().quality or codec.default_quality)) / 100))
    with av.open(str(source)) as read, av.open(str(output), "w") as written:
        options = {**codec.options, "crf": crf}
        stream: Any = written.add_stream(codec.encoder, rate=30, options=options)
        first = read.streams.video[0]
        stream.height, stream.width = model.scale * first.height, model.scale * first.width
        stream.pix_fmt = "yuv420p"
        for frame in read.decode(video=0):
            image = (
                np.moveaxis(frame.to_ndarray(format="rgb24"), -1, 0).astype(np.float32)[None] / 255
            )
            found = model.runner.infer(model.feeds(np.ascontiguousarray(image)))["output"][0]
            pixels = np.rint(np.clip(np.moveaxis(found, 0, -1), 0, 1) * 255).astype(np.uint8)
            written.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        written.mux(stream.encode(None))


if __name__ == "__main__":
    typer.run(main)
