"""Precision: a float32 ONNX model in, a strongly typed half-precision one out.

TensorRT-RTX and TensorRT 11 take precision from the graph alone. Every float tensor becomes
half except inside the float32 islands that the network marked (see ``islands``); casts stand
at their borders, so that any consumer sees exactly what is computed in what.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from paragon_export.precision.typed_graph import FLOAT, NUMPY_TYPES, typed_copy, values_of

MOVES = frozenset(
    {"Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape"}
    | {"Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)
"""Operators that move values without computing: their results need no rounding."""


def rounding_model(model: ir.Model) -> ir.Model:
    """Return a float32 model that computes what a half-precision one would, on any machine.

    Every node computes in float32 and its result is rounded to the type that ``model``
    declares for it, overflow to infinity included. A runtime without half arithmetic would
    otherwise compute in float32 from end to end and hide every overflow: ONNX Runtime's CPU
    provider does, and knows no bfloat16 at all.
    """
    copy = typed_copy(model)
    for near, value, half in widened(copy):
        if value.const_value is None:
            round_behind(copy.graph, near, value, half)
    return copy


def widened(copy: ir.Model) -> Iterator[tuple[ir.Node, ir.Value, ir.DataType]]:
    """Make a half model float32, and yield what is to be rounded to which type, and near what.

    Weights, which are rounded already, are yielded too.
    """
    halves = {v: dtype for v in values_of(copy) if (dtype := v.dtype) in NUMPY_TYPES and dtype}
    nodes = list(copy.graph)
    for value in halves:
        value.dtype = FLOAT
        if value.const_value is not None:
            wide = value.const_value.numpy().astype(np.float32)
            value.const_value = ir.tensor(wide, name=value.name)
    for value in [*copy.graph.inputs, *copy.graph.initializers.values()]:
        if value in halves:
            yield nodes[0], value, halves[value]
    for node in nodes:
        if node.op_type == "Cast":
            to = ir.DataType(node.attributes["to"].as_int())
            if to in NUMPY_TYPES:
                node.attributes["to"] = ir.AttrInt64("to", FLOAT.value)
        if node.op_type in MOVES or (node.op_type == "Resize" and _is_nearest(node)):
            continue
        for value in node.outputs:
            if value in halves:
                yield node, value, halves[value]


def _is_nearest(node: ir.Node) -> bool:
    mode = node.attributes.get("mode")
    return mode is None or mode.as_string() == "nearest"


def round_behind(
    graph: ir.Graph,
    near: ir.Node,
    value: ir.Value,
    half: ir.DataType,
    switch: ir.Value | None = None,
) -> None:
    """Put two casts behind a value: to its half type and back to float32.

    ``switch``, a boolean, tells at run time whether they count.
    """
    users = list(value.uses())
    down = ir.node("Cast", [value], {"to": half.value}, name=f"{value.name}/round")
    down.outputs[0].name = f"{value.name}/rounded"
    up = ir.node("Cast", [down.outputs[0]], {"to": FLOAT.value}, name=f"{value.name}/widen")
    added = [down, up]
    if switch is not None:
        up.outputs[0].name = f"{value.name}/widened"
        added.append(ir.node("Where", [switch, up.outputs[0], value], name=f"{value.name}/switch"))
    (rounded,) = added[-1].outputs
    rounded.name, rounded.type = f"{value.name}/value", ir.TensorType(FLOAT)
    rounded.shape = value.shape
    if value.producer() is None:
        near.prepend(added)
    else:
        near.append(added)
    for user, index in users:
        user.replace_input_with(index, rounded)
    if value.is_graph_output():
        position = list(graph.outputs).index(value)
        rounded.name, value.name = value.name, f"{value.name}/raw"
        graph.outputs[position] = rounded
