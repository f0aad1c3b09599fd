"""VapourSynth: a script that upscales a video with an exported model in vs-mlrt.

The facts about the model are constants at the top of the script. What follows them is ``upscale.vpy``,
the same in every script. Players such as mpv run it too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import paragon_export
from paragon_export.engines.manifest import EngineFile, Manifest, read_engine
from paragon_export.errors import PlanError
from paragon_export.graph.metadata import ModelMetadata
from paragon_export.graph.onnx_io import OnnxFile, is_onnx, read_onnx_file
from paragon_export.players.overlap import Overlap, overlap_of
from paragon_export.specs.network import Task
from paragon_export.specs.profiles import Profile
from paragon_export.specs.types import Backend, OnnxBackend, Precision, Size
from paragon_export.system.text import one_line

MARK = "# Upscales a video in VapourSynth with vs-mlrt. Written by paragon-export "
"""First words of a script."""

BODY = Path(__file__).with_name("upscale.vpy")

PLUGINS: Mapping[OnnxBackend | Backend, tuple[str, Mapping[str, Any]]] = {
    OnnxBackend.ONNXRUNTIME: ("ort", {"provider": ""}),
    OnnxBackend.CUDA: ("ort", {"provider": "CUDA"}),
    OnnxBackend.OPENVINO: ("ov", {"device": "CPU"}),
    Backend.RTX: ("trt_rtx", {}),
    Backend.TENSORRT: ("trt", {}),
}
"""Plugin of vs-mlrt that runs a model, and what it is given besides the model."""

STREAMS: Mapping[OnnxBackend | Backend, int] = {OnnxBackend.ONNXRUNTIME: 1, OnnxBackend.OPENVINO: 1}
"""Frames that are computed at a time by default: one on a processor, whose cores a frame fills."""

GPU_STREAMS = 2
"""The same on a GPU: one frame is copied while another is computed."""

DITHER = "error_diffusion"
"""How the result is rounded to integers."""

Range = tuple[tuple[int, int], tuple[int, int]]
"""Smallest and largest height and width."""


@dataclass(frozen=True, kw_only=True)
class PlayedModel:
    """What a script says of its model."""

    path: Path
    runs_on: OnnxBackend | Backend
    channels: int
    """Of its input and output: 3 for RGB, 1 for luma."""
    io: Precision
    """Type of its input and output: FP32 or FP16."""
    sizes: tuple[Range, ...] = ()
    """Frames that it takes; empty if it takes all."""
    overlap: Overlap = field(default_factory=Overlap)


def vapoursynth_script(
    model: Path,
    script: Path,
    *,
    backend: OnnxBackend = OnnxBackend.ONNXRUNTIME,
    tile: Size | None = None,
    streams: int | None = None,
) -> str:
    """Return a VapourSynth script that upscales a video with a model in vs-mlrt.

    Args:
        model: The ONNX file or engine, of a network that upscales pictures.
        script: Where the script will be written. A model in its folder or below is named relative
            to it, any other by its absolute path.
        backend: What runs an ONNX file. An engine names its own.
        tile: Largest height and width of a tile in pixels; None for whole frames, or for the largest
            tiles that the model takes.
        streams: Frames that are computed at a time; None for 1 on a processor and 2 on a GPU.

    Raises:
        RunError: If the model cannot be read, or does not run where its overlap is measured.
        PlanError: If no player can run it, or its tiles would change the picture.
    """
    played = played_model(model, backend)
    if tile is not None:
        played = _in_tiles(played, tile)
    return _header(played, script, streams) + BODY.read_text("utf-8")


def is_our_script(path: Path) -> bool:
    """Return whether a file is a script of this tool, by its first line."""
    with path.open("rb") as file:
        return file.read(len(MARK)) == MARK.encode()


def played_model(path: Path, backend: OnnxBackend) -> PlayedModel:
    """Read what a script says of a model.

    Raises:
        RunError, PlanError: As :func:`vapoursynth_script`.
    """
    if is_onnx(path):
        file = read_onnx_file(path)
        _check_kind(path, file.task, file.metadata, file.video)
        image = next(v for v in file.model.graph.inputs if v.name == file.names.image)
        assert image.dtype is not None
        size = file.static
        return PlayedModel(
            path=path,
            runs_on=backend,
            channels=_channels(path, file),
            io=_io(path, image.dtype.name),
            sizes=((_pair(size), _pair(size)),) if size else (),
            overlap=overlap_of(file),
        )
    return _played_engine(path, read_engine(path))


def _played_engine(path: Path, engine: EngineFile) -> PlayedModel:
    """Read what a script says of an engine, by its manifest and the ONNX file that it names."""
    manifest = engine.manifest
    if manifest is None or manifest.backend is None or not isinstance(manifest.profile, Profile):
        raise PlanError(
            f"{path} has no manifest of an engine for pictures; build it again with trt"
        )
    metadata = manifest.onnx_metadata
    _check_kind(
        path, Task.IMAGE if metadata.is_picture else Task.MAP, metadata, bool(manifest.video)
    )
    return PlayedModel(
        path=path,
        runs_on=manifest.backend,
        channels=metadata.in_channels or 3,
        io=_io(path, metadata.io or Precision.FP32),
        sizes=tuple((_pair(one.smallest), _pair(one.largest)) for one in manifest.profile.all),
        overlap=_overlap_of_engine(path, manifest),
    )


def _overlap_of_engine(path: Path, manifest: Manifest) -> Overlap:
    source = path.parent / (manifest.onnx or "")
    if not source.is_file():
        return Overlap(obstacle="the ONNX file that it was built from is not there to be measured")
    return overlap_of(read_onnx_file(source))


def _check_kind(path: Path, task: Task, metadata: ModelMetadata, video: bool) -> None:
    """Refuse what is no network from one picture to one picture."""
    if video:
        raise PlanError(
            f"{path} carries features from frame to frame, which vs-mlrt does not; export it without "
            "--video"
        )
    if task is not Task.IMAGE:
        raise PlanError(f"{path} gives no picture; a player runs networks that upscale pictures")


def _channels(path: Path, file: OnnxFile) -> int:
    """Return the number of channels, which is that of the output too."""
    (image,), (result, *_) = file.ports
    channels, given = image.dims[1], result.dims[1] if len(result.dims) > 1 else None
    if channels not in (1, 3) or (given not in (channels, None) and isinstance(given, int)):
        raise PlanError(
            f"{path} maps {channels} channels to {given}; a player takes 3 to 3 (RGB) or 1 to 1 (luma)"
        )
    return int(channels)


def _io(path: Path, name: str) -> Precision:
    """Return the type of the input; ``name`` is ONNX's or this tool's."""
    known = {"FLOAT": Precision.FP32, "FLOAT16": Precision.FP16, "fp32": Precision.FP32,
             "fp16": Precision.FP16}  # fmt: skip
    if name not in known:
        raise PlanError(
            f"{path} takes {one_line(name).lower()}, which no player has; export it with --io fp32"
        )
    return known[name]


def _in_tiles(played: PlayedModel, tile: Size) -> PlayedModel:
    """Return the model with sizes up to ``tile`` alone.

    Raises:
        PlanError: If tiles would change the picture, or the model does not take such sizes.
    """
    if played.overlap.pixels is None:
        raise PlanError(
            f"--tile: tiles of {played.path} would change the picture: {played.overlap.obstacle}"
        )
    wanted = _pair(tile)
    fitting = [
        (low, (min(high[0], wanted[0]), min(high[1], wanted[1])))
        for low, high in played.sizes or (((1, 1), wanted),)
        if low[0] <= wanted[0] and low[1] <= wanted[1]
    ]
    if not fitting:
        raise PlanError(f"--tile: {played.path} does not take {tile}")
    return replace(played, sizes=tuple(fitting))


def _pair(size: Size) -> tuple[int, int]:
    return size.height, size.width


def _header(played: PlayedModel, script: Path, streams: int | None) -> str:
    """Return the constants of a script."""
    plugin, options = PLUGINS[played.runs_on]
    overlap = played.overlap
    constants: Mapping[str, tuple[Any, str]] = {
        "PLUGIN": (plugin, "of vs-mlrt"),
        "OPTIONS": (dict(options), "of the plugin"),
        "STREAMS": (
            streams or STREAMS.get(played.runs_on, GPU_STREAMS),
            "frames that are computed at a time",
        ),
        "CHANNELS": (played.channels, "3: the model takes RGB; 1: luma"),
        "IS_HALF": (played.io is Precision.FP16, "whether it takes 16-bit floats"),
        "SIZES": (played.sizes, "(height, width) from and to that it takes at a time; empty: any"),
        "OVERLAP": (
            None if overlap.pixels is None else overlap.pixels * overlap.scale,
            "of tiles, in pixels of the output, as vs-mlrt counts; None: no tiles",
        ),
        "NO_TILES": (overlap.obstacle, "why there are none"),
        "DITHER": (DITHER, "how the result is rounded: also ordered, random, none"),
    }
    lines = [f"{name} = {value!a}  # {note}" for name, (value, note) in constants.items()]
    return "\n".join(
        [
            f"{MARK}{paragon_export.__version__}.",
            "#   vspipe -c y4m -a source=film.mkv SCRIPT - | ffmpeg -i - film_upscaled.mkv",
            "#   mpv --vf=vapoursynth=SCRIPT film.mkv",
            "",
            "from pathlib import Path",
            "",
            f"MODEL = {_place(played.path, script)}",
            *lines,
            "",
        ]
    )


def _place(model: Path, script: Path) -> str:
    """Return the expression of the model's path: relative to the script where it lies below it."""
    model, folder = Path(os.path.abspath(model)), Path(os.path.abspath(script)).parent
    if model.is_relative_to(folder):
        return f"Path(__file__).resolve().parent / {str(model.relative_to(folder))!a}"
    return f"Path({str(model)!a})"
