"""``upscale`` on a video against the bare session and plain loops.

The clip is a pan over the shipped photograph with sound, H.264; the network is the shipped one as an ONNX file.
The bare session runs on pixels that are in memory already. The loops decode, run and encode one frame after
the other, with the same encoder and options: one the same file, one the network in PyTorch, as training frameworks do.
They take turns; ``REPEATS`` times. Milliseconds of the processor are
those of all threads of the process for a frame.

Writes ``upscaling_videos.json``.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import av
import numpy as np
import torch
import typer
from common import write
from torch import nn

from paragon_export.assets import CHECKPOINT, photograph
from paragon_export.media.videos import VideoForm, upscale_video
from paragon_export.media.videos.colors import BT601, Coding, planes_of
from paragon_export.media.videos.writing import CODECS
from paragon_export.networks.describe import load_network
from paragon_export.parity.reference import build_reference
from paragon_export.pipeline.export import export_onnx
from paragon_export.specs.plans import NetworkOptions
from paragon_export.specs.types import OnnxBackend, Size
from paragon_export.testing.clips import write_clip
from paragon_export.upscaling.model import Model, open_model
from paragon_export.upscaling.tiles import Tiling
from paragon_export.upscaling.videos import upscaler_of

FRAMES, REPEATS = 240, 3

SIZES = (Size(288, 440),)


def main(
    network: Annotated[Path, typer.Option(help="Checkpoint to time.")] = CHECKPOINT,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "net.onnx")
        assert export_onnx(network, file).passed
        model = open_model(file, OnnxBackend.ONNXRUNTIME, NetworkOptions())
        for size in SIZES:
            module = build_reference(load_network(network)).module
            row = {"network": network.stem, **speed(model, module, Path(folder), size)}
            write("upscaling_videos", [row], ("network", "input"))


def frames_of(size: Size) -> Iterator[list[np.ndarray]]:
    """Yield planes of frames that move over the photograph."""
    image = np.moveaxis(photograph(), -1, 0)
    wide = np.tile(image, (1, -(-size.height // image.shape[1]), 1 + size.width // image.shape[2]))
    for number in range(FRAMES):
        frame = np.roll(wide, -number, axis=2)[:, : size.height, : size.width]
        yield planes_of(frame[None], Coding(BT601, False))


def speed(model: Model, module: nn.Module, folder: Path, size: Size) -> dict[str, Any]:
    """Time all ways on one clip; return the row."""
    source, output = folder / "clip.mp4", folder / "out.mp4"
    write_clip(source, frames_of(size), codec="libx264", matrix=BT601, sound="aac")
    upscaler = upscaler_of(Tiling(model, "auto"))

    def with_session(image: np.ndarray) -> np.ndarray:
        return model.runner.infer(model.feeds(image))["output"]

    def with_pytorch(image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            found: np.ndarray = module(torch.from_numpy(image)).numpy()
        return found

    ways: dict[str, Callable[[], object]] = {
        "bare": lambda: bare(model, size),
        "upscale": lambda: upscale_video(source, output, upscaler, scale=model.scale, run=""),
        "loop": lambda: loop(with_session, model.scale, source, output),
        "PyTorch": lambda: loop(with_pytorch, model.scale, source, output),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    worked: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()  # not timed
    for _ in range(REPEATS):
        for name, way in ways.items():
            start, cpu = time.perf_counter(), time.process_time()
            way()
            taken[name].append((time.perf_counter() - start) / FRAMES)
            worked[name].append((time.process_time() - cpu) / FRAMES)
    seconds = {name: median(all_of) for name, all_of in taken.items()}
    return {
        "input": str(size),
        "bare session frames/s": 1 / seconds["bare"],
        "upscale frames/s": 1 / seconds["upscale"],
        "loop frames/s": 1 / seconds["loop"],
        "upscale / bare session": seconds["bare"] / seconds["upscale"],
        "upscale / loop": seconds["loop"] / seconds["upscale"],
        "upscale / PyTorch loop": seconds["PyTorch"] / seconds["upscale"],
        **{f"{name} processor ms": 1e3 * median(all_of) for name, all_of in worked.items()},
    }


def bare(model: Model, size: Size) -> None:
    feeds = model.feeds(np.full((1, 3, size.height, size.width), 0.5, np.float32))
    for _ in range(FRAMES):
        model.runner.infer(feeds)


def loop(infer: Callable[[np.ndarray], np.ndarray], scale: int, source: Path, output: Path) -> None:
    """Decode, run and encode, one after the other, as scripts do."""
    codec = CODECS["h264"]
    crf = str(round(codec.worst * (100 - (VideoForm().quality or codec.default_quality)) / 100))
    with av.open(str(source)) as read, av.open(str(output), "w") as written:
        options = {**codec.options, "crf": crf}
        stream: Any = written.add_stream(codec.encoder, rate=30, options=options)
        first = read.streams.video[0]
        stream.height, stream.width = scale * first.height, scale * first.width
        stream.pix_fmt = "yuv420p"
        for frame in read.decode(video=0):
            image = (
                np.moveaxis(frame.to_ndarray(format="rgb24"), -1, 0).astype(np.float32)[None] / 255
            )
            found = infer(np.ascontiguousarray(image))[0]
            pixels = np.rint(np.clip(np.moveaxis(found, 0, -1), 0, 1) * 255).astype(np.uint8)
            written.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        written.mux(stream.encode(None))


if __name__ == "__main__":
    typer.run(main)
