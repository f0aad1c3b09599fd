"""ONNX files: read and write them, with what a consumer must know inside."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from paragon_export.checkpoint import Checkpoint
from paragon_export.environment import makers
from paragon_export.errors import PlanError, RunError
from paragon_export.families.glyph.layout import CELL, GRID
from paragon_export.foreign import brief, one_line, utf_8
from paragon_export.limits import limited_memory
from paragon_export.metadata import TOOL, ModelMetadata
from paragon_export.onnx_guard import check_model
from paragon_export.plan import ONNX_SUFFIXES, ExportPlan, Precision, Size
from paragon_export.ranges import RangeAudit
from paragon_export.reading import read_bytes
from paragon_export.variant import Port, Variant

if TYPE_CHECKING:
    import onnx

CONTENT_DIGEST = "content_sha256"
"""Metadata key: SHA-256 of the file's bytes without this very entry."""

LARGEST_FILE_BYTES = 2**30

MEMORY_TO_READ = 3 * 2**30
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

    data = read_bytes(path, LARGEST_FILE_BYTES, "", RunError)
    try:
        with limited_memory(MEMORY_TO_READ):
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
        return str(read_onnx(path).metadata_props.get("tool", "")).startswith("paragon-export")
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
    variant: Variant,
    checkpoint: Checkpoint,
    plan: ExportPlan,
    rewrites: Mapping[str, int],
) -> None:
    """Write into the model's ``metadata_props`` what a consumer needs to run it rightly.

    What libraries left there goes: it tells how they were called, not what the model is.
    """
    made_with = makers()
    metadata = ModelMetadata(
        family=variant.family,
        generation=variant.generation,
        variant=variant.name,
        scale=variant.scale,
        in_channels=variant.in_channels,
        out_channels=variant.out_channels,
        window=variant.window,
        smallest=variant.smallest,
        is_picture=variant.is_picture,
        switches=variant.switches,
        precision=plan.precision.value,
        io=plan.io.value,
        video=plan.video,
        rewrites=dict(rewrites),
        runtime=plan.runtime.value,
        **variant.contract,
        checkpoint=utf_8(checkpoint.path.name),
        checkpoint_sha256=checkpoint.sha256,
        dropped_tensors=len(variant.dropped),
        tool=f"{TOOL} {made_with['paragon-export']}",
        torch=made_with["torch"],
        made_with=made_with,
    )
    model.metadata_props.clear()
    model.metadata_props.update(metadata.to_props())


def describe_islands(model: ir.Model, ranges: RangeAudit | None) -> None:
    """Write into the metadata which nodes the audit had computed in float32, if any."""
    if ranges is not None and ranges.islands:
        islands = [island.to_json() for island in ranges.islands]
        model.metadata_props["islands"] = json.dumps(islands)


def metadata_of(model: ir.Model) -> ModelMetadata:
    """Return what a model says of itself; of one from ``read_onnx`` it was checked.

    Raises:
        ValueError: If it says what cannot be.
    """
    return ModelMetadata.from_props(model.metadata_props)


def precision_of(model: ir.Model) -> Precision:
    """Tell the arithmetic of a model from the type of its weights."""
    types = {value.dtype for value in model.graph.initializers.values()}
    if ir.DataType.FLOAT16 in types:
        return Precision.FP16
    return Precision.BF16 if ir.DataType.BFLOAT16 in types else Precision.FP32


def ports_of(model: ir.Model) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Return the inputs and outputs of a model as ports; those of a classifier with their span.

    Raises:
        PlanError: If a classifier reads IDs from nowhere that says how many there are.
    """
    inputs, outputs = (
        tuple(_port(value) for value in values)
        for values in (model.graph.inputs, model.graph.outputs)
    )
    if any(port.is_logits for port in outputs):
        spans = [
            (0, _table_rows(value) - 1) if port.dtype == "int64" else (0, 1)
            for value, port in zip(model.graph.inputs, inputs, strict=True)
        ]
        inputs = tuple(replace(p, span=span) for p, span in zip(inputs, spans, strict=True))
    return inputs, outputs


def _check_items(path: Path, model: ir.Model) -> None:
    """Refuse a classifier whose input is something else than grids of IDs or cells."""
    inputs, outputs = ([_port(v) for v in vs] for vs in (model.graph.inputs, model.graph.outputs))
    if not outputs or not outputs[0].is_logits:
        return
    for port in inputs:
        item = (GRID, GRID) if port.dtype == "int64" else (1, CELL, CELL)
        if not port.dims or port.dims[1:] != item:
            raise PlanError(
                f"{path}: input {brief(port.name)} of shape {brief(list(port.dims))}; a classifier "
                f"takes (batch, {GRID}, {GRID}) IDs or (batch, 1, {CELL}, {CELL}) cells"
            )


def guarded_ports(data: bytes) -> tuple[Port, ...]:
    """Return the inputs of a serialized model, with the values that may be fed to them."""
    import onnx

    return ports_of(ir.from_proto(onnx.ModelProto.FromString(data)))[0]


def _port(value: ir.Value) -> Port:
    dims = tuple(dim if isinstance(dim, int) else str(dim) for dim in value.shape or ())
    whole = value.dtype is not None and value.dtype.is_integer()
    return Port(str(value.name), dims, "int64" if whole else "float32")


def _table_rows(ids: ir.Value) -> int:
    """Return how many rows the table has from which ``ids`` picks."""
    values = [ids]
    while values:
        for user, index in values.pop().uses():
            if user.op_type == "Cast":
                values.append(user.outputs[0])
            table = user.inputs[0] if user.op_type == "Gather" and index == 1 else None
            if table is not None and table.shape and isinstance(table.shape[0], int):
                return table.shape[0]
    raise PlanError(f"input {ids.name} holds whole numbers and no Gather says how many there are")


def is_classifier(model: ir.Model) -> bool:
    """Tell a model that gives a row of logits for each item from one that gives pictures."""
    return any(_port(value).is_logits for value in model.graph.outputs)


def static_size(model: ir.Model) -> Size | None:
    """Return the picture size that a model is fixed to; None where it is dynamic or there is none."""
    if is_classifier(model):
        return None
    dims = [
        dim for value in model.graph.inputs if value.name == "input" for dim in value.shape or ()
    ]
    if len(dims) != 4:
        raise PlanError(
            f"input has {len(dims)} dimensions; expected batch, channels, height, width"
        )
    height, width = dims[2:]
    return Size(height, width) if isinstance(height, int) and isinstance(width, int) else None
