"""Inspection: questions to an ONNX model about its inputs, outputs, precision and kind."""

from __future__ import annotations

import copy
from dataclasses import replace

import onnx_ir as ir

from paragon_export.errors import PlanError
from paragon_export.graph.extents import MAP_RANK
from paragon_export.graph.metadata import ModelMetadata
from paragon_export.graph.onnx_checks import MAX_RANK
from paragon_export.specs.network import MAX_CHANNELS, InputSpec, Port, Task
from paragon_export.specs.ports import FixedExtents, PortNames
from paragon_export.specs.types import Precision
from paragon_export.system.text import brief

FLOAT_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
"""Types that the image input and the outputs of a model may have."""

VIDEO_INPUTS = frozenset({"input", "prev_feat", "alpha"})
"""Inputs of a video network."""

TYPE_ATTRIBUTES = ("to", "dtype", "output_datatype", "output_dtype")
"""Attributes of ONNX operators that name the type of a result."""


def copied(model: ir.Model) -> ir.Model:
    """Return a copy of a model that shares nothing with it but the arrays of its weights."""
    clone = model.clone()
    graph = clone.graph
    computed = (value for node in graph for value in node.outputs)
    for value in (*graph.inputs, *graph.initializers.values(), *computed):
        value.type = copy.copy(value.type)  # onnx_ir shares it, and a dtype is set in place
    return clone


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


def fed_inputs(model: ir.Model) -> list[ir.Value]:
    """Return the inputs that must be fed: files of an old format list their weights as well."""
    return [value for value in model.graph.inputs if value.const_value is None]


def port_names(model: ir.Model, title: str) -> PortNames:
    """Return how a model calls its image input and its result.

    They are ``input`` and ``output`` where both exist. One input and one output may have any
    names. ``title`` is for errors.

    Raises:
        PlanError: If the ports are neither these nor those of a video network, or the input holds
            no pictures of a fixed number of channels.
    """
    inputs = {str(value.name): value for value in fed_inputs(model)}
    outputs = [str(value.name) for value in model.graph.outputs]
    if "input" in inputs and "output" in outputs and set(inputs) in ({"input"}, VIDEO_INPUTS):
        names = PortNames()
    elif len(inputs) == len(outputs) == 1:
        names = PortNames(image=next(iter(inputs)), result=outputs[0])
    else:
        raise PlanError(
            f"{title}: inputs are {brief(list(inputs))} and outputs {brief(outputs)}; expected one "
            "input and one output, or those of a video network of this tool; export the network alone"
        )
    if not task_of(model).is_classifier:
        _check_picture(inputs[names.image], title)
    return names


def _check_picture(value: ir.Value, title: str) -> None:
    """Refuse an input that is not a picture of floats with a fixed number of channels.

    Raises:
        PlanError: Naming its shape and type.
    """
    dims = None if value.shape is None else port_of(value).dims
    is_picture = dims is not None and len(dims) == MAP_RANK and dims[1] in range(1, MAX_CHANNELS)
    if value.dtype in FLOAT_TYPES and is_picture:
        return
    shape = "no shape" if dims is None else f"shape ({', '.join(map(str, dims[:MAX_RANK]))})"
    kind = "no type" if value.dtype is None else f"type {value.dtype.name.lower()}"
    raise PlanError(
        f"{title}: input {brief(value.name)} has {shape} and {kind}; expected pictures (batch, "
        "channels, height, width) with a fixed number of channels, in float32 or half"
    )


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
    fed = fed_inputs(model)
    inputs, outputs = (
        tuple(port_of(value) for value in values) for values in (fed, model.graph.outputs)
    )
    if any(port.is_logits for port in outputs):
        spans = [
            (0, _table_rows(value) - 1) if port.dtype == "int64" else (0, 1)
            for value, port in zip(fed, inputs, strict=True)
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
        PlanError: As :func:`port_names`.
    """
    task, metadata = task_of(model), metadata_of(model)
    if task.is_classifier:
        return InputSpec(task=task, channels=1)
    return InputSpec(
        task=task,
        channels=int(_picture_of(model, name).dims[1]),
        window=metadata.window,
        smallest=metadata.smallest,
    )


def fixed_extents(model: ir.Model, name: str) -> FixedExtents:
    """Return the extents that a model fixes; none for a classifier. ``name`` is for errors.

    Raises:
        PlanError: As :func:`port_names`.
    """
    if task_of(model).is_classifier:
        port_names(model, name)
        return FixedExtents()
    batch, _, height, width = (
        dim if isinstance(dim, int) and dim > 0 else None for dim in _picture_of(model, name).dims
    )
    return FixedExtents(batch=batch, height=height, width=width)


def _picture_of(model: ir.Model, name: str) -> Port:
    """Return the image input of a model that takes images."""
    image = port_names(model, name).image
    return next(port_of(value) for value in fed_inputs(model) if value.name == image)
