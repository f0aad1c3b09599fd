"""Inspection: questions to an ONNX model about its inputs, outputs, precision and kind."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from paragon_export.errors import PlanError
from paragon_export.graph.metadata import ModelMetadata
from paragon_export.specs.network import InputSpec, Port, Task
from paragon_export.specs.types import Precision, Size

TYPE_ATTRIBUTES = ("to", "dtype", "output_datatype", "output_dtype")
"""Attributes of ONNX operators that name the type of a result."""


def metadata_of(model: ir.Model) -> ModelMetadata:
    """Return the metadata of a model.

    Raises:
        ValueError: If an entry is invalid. ``read_onnx`` has refused such a file already.
    """
    return ModelMetadata.from_props(model.metadata_props)


def precision_of(model: ir.Model) -> Precision:
    """Return the precision of a model: FP16 or BF16 if any tensor that it uses is of that type.

    Half tensors begin at an input, a weight, a constant or a cast. What no output depends on does
    not count.
    """
    types = {value.dtype for value in model.graph.inputs}
    waiting: list[ir.Value | None] = list(model.graph.outputs)
    seen: set[ir.Value] = set()
    while waiting:
        value = waiting.pop()
        if value is None or value in seen:
            continue
        seen.add(value)
        node = value.producer()
        if node is not None:
            types |= _types_made_by(node)
            waiting.extend(node.inputs)
        elif value.const_value is not None:
            types.add(value.const_value.dtype)
    if ir.DataType.FLOAT16 in types:
        return Precision.FP16
    return Precision.BF16 if ir.DataType.BFLOAT16 in types else Precision.FP32


def _types_made_by(node: ir.Node) -> set[ir.DataType]:
    """Return the types that the attributes of a node ask for: ``to``, ``dtype`` or of a tensor."""
    types = set()
    for name, attribute in node.attributes.items():
        if attribute.type == ir.AttributeType.TENSOR:
            types.add(attribute.as_tensor().dtype)
        elif name in TYPE_ATTRIBUTES and attribute.type == ir.AttributeType.INT:
            types.add(ir.DataType(attribute.as_int()))
    return types


def ports_of(model: ir.Model) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Return the inputs and outputs of a model as ports.

    Inputs of a classifier have a span: IDs from 0 to the last row of their table, or [0, 1].

    Raises:
        PlanError: If IDs of a classifier index no table, so that their span is unknown.
    """
    inputs, outputs = (
        tuple(port_of(value) for value in values)
        for values in (model.graph.inputs, model.graph.outputs)
    )
    if any(port.is_logits for port in outputs):
        spans = [
            (0, _table_rows(value) - 1) if port.dtype == "int64" else (0, 1)
            for value, port in zip(model.graph.inputs, inputs, strict=True)
        ]
        inputs = tuple(replace(p, span=span) for p, span in zip(inputs, spans, strict=True))
    return inputs, outputs


def guarded_ports(data: bytes) -> tuple[Port, ...]:
    """Return the inputs of a serialized model as ports, as :func:`ports_of` does."""
    import onnx

    return ports_of(ir.from_proto(onnx.ModelProto.FromString(data)))[0]


def port_of(value: ir.Value) -> Port:
    """Return an input or output as a port of dtype int64 or float32, without a span."""
    dims = tuple(dim if isinstance(dim, int) else str(dim) for dim in value.shape or ())
    whole = value.dtype is not None and value.dtype.is_integer()
    return Port(str(value.name), dims, "int64" if whole else "float32")


def _table_rows(ids: ir.Value) -> int:
    """Return the number of rows of the table that ``ids`` index.

    Raises:
        PlanError: If they index no table of a fixed size.
    """
    values = [ids]
    while values:
        for user, index in values.pop().uses():
            if user.op_type == "Cast":
                values.append(user.outputs[0])
            table = user.inputs[0] if user.op_type == "Gather" and index == 1 else None
            if table is not None and table.shape and isinstance(table.shape[0], int):
                return table.shape[0]
    raise PlanError(
        f"input {ids.name} holds integers that index no table of a fixed size; expected a Gather on "
        "a weight"
    )


def task_of(model: ir.Model) -> Task:
    """Return what a model maps to what, by its ports and its metadata."""
    if any(port_of(value).is_logits for value in model.graph.outputs):
        takes_ids = any(port_of(value).dtype == "int64" for value in model.graph.inputs)
        return Task.GRID if takes_ids else Task.CELLS
    return Task.IMAGE if metadata_of(model).is_picture else Task.MAP


def input_spec_of(model: ir.Model, name: str) -> InputSpec:
    """Return what a model is fed, by its ports and its metadata; ``name`` is for errors.

    Raises:
        PlanError: If it takes images and the number of channels is not fixed.
    """
    task, metadata = task_of(model), metadata_of(model)
    if task.is_classifier:
        return InputSpec(task=task, channels=1)
    channels = [port.dims[1] for port in map(port_of, model.graph.inputs) if len(port.dims) == 4]
    if not channels or not isinstance(channels[0], int):
        raise PlanError(f"{name}: the number of input channels must be fixed")
    return InputSpec(
        task=task,
        channels=channels[0],
        window=metadata.window,
        smallest=metadata.smallest,
    )


def static_size(model: ir.Model) -> Size | None:
    """Return the image size of a static model; None for a dynamic one and for a classifier.

    Raises:
        PlanError: If the input is not of rank 4.
    """
    if task_of(model).is_classifier:
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
