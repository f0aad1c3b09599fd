"""ONNX files: read and write them, with what a consumer must know inside."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from paragon_export.errors import PlanError, RunError
from paragon_export.graph.inspection import (
    input_spec_of,
    metadata_of,
    port_of,
    ports_of,
    precision_of,
    static_size,
    task_of,
)
from paragon_export.graph.metadata import TOOL, ModelMetadata
from paragon_export.graph.onnx_checks import check_model
from paragon_export.networks.describe import LoadedNetwork
from paragon_export.networks.glyph.layout import CELL, GRID
from paragon_export.specs.network import InputSpec, Port, Task
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.types import ONNX_SUFFIXES, Precision, Size
from paragon_export.system.environment import export_versions
from paragon_export.system.limits import limited_memory
from paragon_export.system.reading import read_bytes
from paragon_export.system.text import brief, one_line, utf_8

if TYPE_CHECKING:
    import onnx


CONTENT_DIGEST = "content_sha256"
"""Metadata key: SHA-256 of the file's bytes without this very entry."""


MAX_FILE_BYTES = 2**30


MAX_READ_MEMORY_BYTES = 3 * 2**30
"""Bytes: a short file may parse to a large one."""

# Where a model is damaged the library logs a traceback and goes on, which nobody asked for.
logging.getLogger("onnx_ir").addHandler(logging.NullHandler())


def is_onnx(path: Path) -> bool:
    """Tell an ONNX file by its name: protobuf has no signature."""
    return path.suffix.lower() in ONNX_SUFFIXES


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file that was read once: these bytes are checked, judged and compiled."""

    path: Path
    """Where it was read from or is to be written to."""
    data: bytes
    model: ir.Model
    """The same, parsed. Not to be changed."""
    is_own: bool = False
    """Whether this process made it. A file of anybody else is run in a process of its own."""

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def metadata(self) -> ModelMetadata:
        """What it says of itself, checked."""
        return metadata_of(self.model)

    @cached_property
    def precision(self) -> Precision:
        return precision_of(self.model)

    @cached_property
    def task(self) -> Task:
        return task_of(self.model)

    @cached_property
    def static(self) -> Size | None:
        """The only image size that it accepts; None where height and width are dynamic."""
        return static_size(self.model)

    @property
    def is_ours(self) -> bool:
        """Whether this tool wrote it, by its metadata."""
        return str(self.model.metadata_props.get("tool", "")).startswith(TOOL)

    @property
    def video(self) -> bool:
        """Whether it carries features from frame to frame."""
        return any(value.name == "prev_feat" for value in self.model.graph.inputs)

    @cached_property
    def input_spec(self) -> InputSpec:
        return input_spec_of(self.model, str(self.path))

    @cached_property
    def ports(self) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
        """Inputs and outputs; those of a classifier with the values that may be fed."""
        return ports_of(self.model)

    @property
    def was_changed(self) -> bool:
        """Whether it is not what its own digest says; False without one.

        An edit is no fault by itself: what a file computes decides.
        """
        import onnx

        digest, recorded = _content_digest(onnx.ModelProto.FromString(self.data))
        return recorded is not None and recorded != digest


def read_onnx_file(path: Path) -> OnnxFile:
    """Read a self-contained ONNX file, one plain graph (see ``onnx_guard``).

    Raises:
        RunError: If it is not one, or its metadata says what cannot be (see ``metadata``).
        PlanError: If it is a classifier of something else than glyphs.
    """
    import onnx

    data = read_bytes(path, MAX_FILE_BYTES, "", RunError)
    try:
        with limited_memory(MAX_READ_MEMORY_BYTES):
            proto = onnx.ModelProto.FromString(data)
            try:
                check_model(proto)
            except ValueError as error:
                raise RunError(
                    f"{path}: expected one self-contained ONNX file, found {error}"
                ) from error
            model = ir.from_proto(proto)
            try:
                metadata_of(model)
            except ValueError as error:
                raise RunError(
                    f"{path}: its metadata says that {error}; export it again or remove the entry"
                ) from error
            _check_items(path, model)
            return OnnxFile(path, data, model)
    except (RunError, PlanError):
        raise
    except Exception as error:  # protobuf and onnx raise unrelated classes for damaged files
        raise RunError(f"{path} is not an ONNX file: {one_line(str(error))[:200]}") from error


def read_onnx(path: Path) -> ir.Model:
    """Return the model of a self-contained ONNX file.

    Raises:
        RunError: As for ``read_onnx_file``.
    """
    return read_onnx_file(path).model


def serialized(model: ir.Model, path: Path) -> OnnxFile:
    """Return a model as the file that it will be: weights inside, equal bytes for equal models.

    One of ours gets a digest of its content (see ``OnnxFile.was_changed``).
    """
    proto = ir.to_proto(model)
    if "tool" in model.metadata_props:
        digest, _ = _content_digest(proto)
        proto.metadata_props.add(key=CONTENT_DIGEST, value=digest)
    data = proto.SerializeToString(deterministic=True)
    return OnnxFile(path, data, ir.from_proto(proto), is_own=True)


def write_onnx(model: ir.Model, path: Path) -> None:
    """Write a model to a file."""
    path.write_bytes(serialized(model, path).data)


def is_our_onnx(path: Path) -> bool:
    """Tell whether a file is an ONNX file that this tool wrote, by its metadata."""
    try:
        return read_onnx_file(path).is_ours
    except (RunError, PlanError):
        return False


def _content_digest(proto: onnx.ModelProto) -> tuple[str, str | None]:
    """Take the recorded digest off a model; return the right one and what was recorded."""
    told = None
    for index in reversed(range(len(proto.metadata_props))):
        if proto.metadata_props[index].key == CONTENT_DIGEST:
            told = proto.metadata_props[index].value
            del proto.metadata_props[index]
    return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest(), told


def describe_in(
    model: ir.Model,
    network: LoadedNetwork,
    plan: ExportPlan,
    rewrites: Mapping[str, int],
) -> None:
    """Write into the model's ``metadata_props`` what a consumer needs to run it rightly.

    What libraries left there goes: it tells how they were called, not what the model is.
    """
    spec, checkpoint, made_with = network.spec, network.checkpoint, export_versions()
    metadata = ModelMetadata(
        family=spec.architecture,
        generation=spec.generation,
        variant=spec.variant,
        scale=spec.scale,
        in_channels=spec.in_channels,
        out_channels=spec.out_channels,
        window=spec.window,
        smallest=spec.smallest,
        is_picture=spec.task is not Task.MAP,
        switches=spec.options,
        precision=plan.precision.value,
        io=plan.io.value,
        video=plan.video,
        rewrites=dict(rewrites),
        runtime=plan.runtime.value,
        **spec.contract,
        checkpoint=utf_8(checkpoint.path.name),
        checkpoint_sha256=checkpoint.sha256,
        dropped_tensors=len(spec.dropped),
        tool=f"{TOOL} {made_with['paragon-export']}",
        torch=made_with["torch"],
        made_with=made_with,
    )
    model.metadata_props.clear()
    model.metadata_props.update(metadata.to_props())


def _check_items(path: Path, model: ir.Model) -> None:
    """Refuse a classifier whose input is something else than grids of IDs or cells."""
    inputs, outputs = ([port_of(v) for v in vs] for vs in (model.graph.inputs, model.graph.outputs))
    if not outputs or not outputs[0].is_logits:
        return
    for port in inputs:
        item = (GRID, GRID) if port.dtype == "int64" else (1, CELL, CELL)
        if not port.dims or port.dims[1:] != item:
            raise PlanError(
                f"{path}: input {brief(port.name)} of shape {brief(list(port.dims))}; a classifier "
                f"takes (batch, {GRID}, {GRID}) IDs or (batch, 1, {CELL}, {CELL}) cells"
            )
