"""ONNX files: read, serialize and write them, and describe the network in their metadata."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from paragon_export.errors import PlanError, RunError
from paragon_export.graph.inspection import (
    fed_inputs,
    fixed_extents,
    input_spec_of,
    metadata_of,
    port_names,
    port_of,
    ports_of,
    precision_of,
    task_of,
)
from paragon_export.graph.metadata import TOOL, ModelMetadata
from paragon_export.graph.onnx_checks import check_model
from paragon_export.networks.describe import LoadedNetwork
from paragon_export.networks.glyph.layout import CELL, GRID
from paragon_export.specs.network import InputSpec, Port, Task
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.ports import FixedExtents, PortNames
from paragon_export.specs.types import ONNX_SUFFIXES, Precision, Size
from paragon_export.system.environment import export_versions
from paragon_export.system.limits import limited_memory
from paragon_export.system.reading import read_bytes
from paragon_export.system.text import brief, one_line, utf_8

if TYPE_CHECKING:
    import onnx


CONTENT_DIGEST = "content_sha256"
"""Metadata key: SHA-256 of the file's bytes without this entry."""


MAX_FILE_BYTES = 2**30


MAX_READ_MEMORY_BYTES = 3 * 2**30
"""Memory for parsing a file, which may need far more than the bytes of the file."""


@contextmanager
def silenced_onnx_ir() -> Iterator[None]:
    """Keep warnings of onnx-ir from stderr; handlers that the application has set are not touched.

    onnx-ir logs a traceback for a damaged model and goes on. Python prints it if no handler is set.
    """
    logger, handler = logging.getLogger("onnx_ir"), logging.NullHandler()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def is_onnx(path: Path) -> bool:
    """Return whether a path has the suffix of an ONNX file: protobuf has no signature."""
    return path.suffix.lower() in ONNX_SUFFIXES


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file that is read once. The same bytes are checked, compared and compiled."""

    path: Path
    """Where it was read from, or where it will be written."""
    data: bytes
    model: ir.Model
    """The parsed bytes. It must not be changed."""
    is_own: bool = False
    """Whether this process created it. Any other file is run in a child process."""

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
    def fixed(self) -> FixedExtents:
        """The extents of its image input that are fixed.

        Raises:
            PlanError: If its ports are not those of a supported network.
        """
        return fixed_extents(self.model, str(self.path))

    @property
    def static(self) -> Size | None:
        """The only image size that it accepts; None unless height and width are fixed."""
        return self.fixed.size

    @cached_property
    def names(self) -> PortNames:
        """How it calls its image input and its result.

        Raises:
            PlanError: If its ports are not those of a supported network.
        """
        return port_names(self.model, str(self.path))

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
        """Inputs and outputs under their standard names; a classifier's with the values allowed.

        Raises:
            PlanError: If they are not those of a supported network.
        """
        names, (inputs, outputs) = self.names, ports_of(self.model)
        return (
            tuple(replace(p, name="input") if p.name == names.image else p for p in inputs),
            tuple(replace(p, name="output") if p.name == names.result else p for p in outputs),
        )

    @property
    def was_changed(self) -> bool:
        """Whether the bytes do not match the digest in the metadata; False without a digest.

        An edit alone is no fault: the verdict depends on what a file computes.
        """
        import onnx

        digest, recorded = _content_digest(onnx.ModelProto.FromString(self.data))
        return recorded is not None and recorded != digest


def read_onnx_file(path: Path) -> OnnxFile:
    """Read a self-contained ONNX file with one graph (see ``onnx_checks``).

    The memory of the process is limited while the file is parsed.

    Raises:
        RunError: If it is no such file, or its metadata is invalid (see ``metadata``).
        PlanError: If it is a classifier of anything but glyphs.
    """
    import onnx

    data = read_bytes(path, MAX_FILE_BYTES, "", RunError)
    try:
        with limited_memory(MAX_READ_MEMORY_BYTES), silenced_onnx_ir():
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
                    f"{path}: in its metadata {error}; export it again or remove the entry"
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
    """Return a model as a self-contained file: equal models give equal bytes.

    A model of this tool gets a digest of its content (see ``OnnxFile.was_changed``).
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
    """Return whether a file is an ONNX file of this tool, by its metadata."""
    try:
        return read_onnx_file(path).is_ours
    except (RunError, PlanError):
        return False


def _content_digest(proto: onnx.ModelProto) -> tuple[str, str | None]:
    """Remove the recorded digest from a model; return the actual and the recorded digest."""
    recorded = None
    for index in reversed(range(len(proto.metadata_props))):
        if proto.metadata_props[index].key == CONTENT_DIGEST:
            recorded = proto.metadata_props[index].value
            del proto.metadata_props[index]
    return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest(), recorded


def check_types(file: OnnxFile) -> None:
    """Check that no two types in a file contradict each other.

    Half files are judged by a float32 simulation, which would hide it.

    Raises:
        RunError: If they do. No runtime loads such a file.
    """
    import onnx

    try:
        onnx.shape_inference.infer_shapes(
            onnx.ModelProto.FromString(file.data), check_type=True, strict_mode=True
        )
    except Exception as error:  # native code raises unrelated classes
        if "TypeInferenceError" in str(error):
            reason = one_line(str(error))[:300]
            raise RunError(
                f"{file.path}: types in the file contradict each other, so that no runtime loads it: "
                f"{reason}; export it again"
            ) from error


def describe_in(
    model: ir.Model,
    network: LoadedNetwork,
    plan: ExportPlan,
    rewrites: Mapping[str, int],
) -> None:
    """Write the metadata of an export into ``metadata_props`` of the model.

    Entries that libraries wrote are removed.
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
    """Refuse a classifier whose input is neither grids of IDs nor cells."""
    inputs, outputs = ([port_of(v) for v in vs] for vs in (fed_inputs(model), model.graph.outputs))
    if not outputs or not outputs[0].is_logits:
        return
    for port in inputs:
        item = (GRID, GRID) if port.dtype == "int64" else (1, CELL, CELL)
        if not port.dims or port.dims[1:] != item:
            raise PlanError(
                f"{path}: input {brief(port.name)} of shape {brief(list(port.dims))}; a classifier "
                f"takes (batch, {GRID}, {GRID}) IDs or (batch, 1, {CELL}, {CELL}) cells"
            )
