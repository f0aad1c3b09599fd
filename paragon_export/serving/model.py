"""Model: what a server must know of an exported model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paragon_export.engines.manifest import read_engine
from paragon_export.errors import PlanError
from paragon_export.graph.onnx_io import is_onnx, read_onnx_file
from paragon_export.specs.profiles import DEFAULT_PROFILE, Profile
from paragon_export.specs.types import Backend, Size

Dims = tuple[int | None, ...]
"""Extents; None for any."""

TYPES = {"FLOAT": "FP32", "FLOAT16": "FP16", "BFLOAT16": "BF16", "INT64": "INT64"}
"""ONNX's name of a type to Triton's."""


@dataclass(frozen=True)
class Tensor:
    """One input or output."""

    name: str
    kind: str
    """A value of ``TYPES``."""
    dims: Dims
    """With the batch."""


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """An ONNX file, or an engine with the ports of the ONNX file that it was built from."""

    data: bytes
    is_engine: bool
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    sizes: tuple[Size, ...]
    """Sizes to run before the first request."""
    batch: int | None
    """Largest batch; 1 for a fixed batch of 1, None for any."""


def make_folder(path: Path) -> None:
    """Make a folder if it is not there.

    Raises:
        PlanError: If it cannot be made.
    """
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise PlanError(f"cannot write {path}: {error.strerror or error}") from error


def read_served(path: Path, sizes: Sequence[Size] = ()) -> ServedModel:
    """Read what a server must know.

    Args:
        path: The ONNX file or engine.
        sizes: Sizes to warm up at; empty for those of the engine's profile, the only size of the
            model, or 720x1280.

    Raises:
        RunError: If an ONNX file cannot be read.
        PlanError: If no server can run the model, or it does not take a size.
    """
    if is_onnx(path):
        return _read_onnx(path, sizes)
    return _read_engine(path, sizes)


def _read_engine(path: Path, sizes: Sequence[Size]) -> ServedModel:
    engine = read_engine(path)
    manifest = engine.manifest
    if manifest is None or engine.mismatch or manifest.onnx is None:
        raise PlanError(f"{path} has no manifest that matches its bytes; build it again with trt")
    if manifest.backend is not Backend.TENSORRT:
        raise PlanError(
            f"{path} is an engine of TensorRT-RTX, which Triton does not run; give the ONNX file, or "
            "an engine made with trt --backend tensorrt"
        )
    source, profile = path.parent / manifest.onnx, manifest.profile
    if not source.is_file():
        raise PlanError(f"{path}: {source}, which it was built from, is gone; build it again")
    pictures = isinstance(profile, Profile)
    wanted = tuple(sizes) or (
        tuple(dict.fromkeys(s for one in profile.all for s in (one.optimal, one.largest)))
        if isinstance(profile, Profile)
        else ()
    )
    ports = _read_onnx(source, wanted if pictures else ())
    batch = profile.batch if isinstance(profile, Profile) else profile.largest if profile else 1
    return ServedModel(
        data=engine.data, is_engine=True, inputs=ports.inputs, outputs=ports.outputs,
        sizes=wanted, batch=batch if ports.batch is None else ports.batch,
    )  # fmt: skip


def _read_onnx(path: Path, sizes: Sequence[Size]) -> ServedModel:
    file = read_onnx_file(path)
    if file.video:
        raise PlanError(
            f"{path} carries features from frame to frame, which a server of single requests does "
            "not; export it without --video"
        )
    graph = file.model.graph
    inputs, outputs = (
        tuple(
            Tensor(str(value.name), TYPES[value.dtype.name if value.dtype else ""],
                   tuple(dim if isinstance(dim, int) else None for dim in value.shape or ()))
            for value in values
        )
        for values in ([v for v in graph.inputs if v.const_value is None], graph.outputs)
    )  # fmt: skip
    for size in sizes:
        file.fixed.check(size)
    default = () if file.task.is_classifier else (file.static or DEFAULT_PROFILE.optimal,)
    return ServedModel(
        data=file.data, is_engine=False, inputs=inputs, outputs=outputs,
        sizes=tuple(sizes) or default, batch=inputs[0].dims[0],
    )  # fmt: skip
