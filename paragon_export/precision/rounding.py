"""Rounding: simulate a half-precision model in float32, by rounding every result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import ml_dtypes
import numpy as np
import onnx_ir as ir

from paragon_export.errors import PlanError
from paragon_export.graph.inspection import TYPE_ATTRIBUTES
from paragon_export.precision.counts import refuse_half_counts
from paragon_export.precision.typed_graph import (
    FLOAT,
    NUMPY_TYPES,
    derive,
    forget_axis_names,
    typed_copy,
    values_of,
)
from paragon_export.system.text import brief

MOVES = frozenset(
    {"Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape"}
    | {"Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)
"""Operators that copy values without computing: their results need no rounding."""


LARGEST_EXACT = 256
"""Integers up to this one are exact in every half type."""


def rounding_model(model: ir.Model, title: str = "") -> ir.Model:
    """Return a float32 model that simulates a half-precision one on any machine.

    ``title`` is what a foreign model is called in the error, if sizes in half precision are to be
    refused (see ``counts.check_counts``).

    Every node computes in float32, and its result is rounded to the type that ``model`` declares
    for it, overflow to infinity included. A runtime without half arithmetic computes in float32
    from end to end instead and hides every overflow. ONNX Runtime's CPU provider does so for
    float16, and has no bfloat16.

    Raises:
        PlanError: If the type of a value is unknown, or, with a title, if a size is half.
    """
    copy = typed_copy(model)
    if title:
        refuse_half_counts(copy, title)
    for node, value, half in widened(copy):
        if value.const_value is None:
            round_after(copy.graph, node, value, half)
    return forget_axis_names(copy)


def unrounded_model(model: ir.Model, draw: int = 0) -> ir.Model:
    """Return a float32 model of a half one that rounds nothing: what its weights alone compute.

    Args:
        model: The half model.
        draw: 0 leaves its half weights as they are. Another number is the seed of signs: each
            of them is moved by half a step of its type, up or down, as far as a rounding may move it.

    Raises:
        PlanError: If the type of a value is unknown.
    """
    copy, rng = typed_copy(model), np.random.default_rng(draw)

    def moved(half: np.ndarray) -> np.ndarray:
        return _wide(half) + rng.choice((-0.5, 0.5), half.shape).astype(np.float32) * _steps(half)

    for _ in widened(copy, moved if draw else _wide):
        pass
    return forget_axis_names(copy)


def _wide(half: np.ndarray) -> np.ndarray:
    return half.astype(np.float32)


def _steps(half: np.ndarray) -> np.ndarray:
    """Return in float32 how far apart the values of a half type are, at each value of an array.

    It is 0 for infinities, for powers of two and for integers up to ``LARGEST_EXACT``: nothing was
    rounded to them, as they are rather constants of the network than weights.
    """
    limits = ml_dtypes.finfo(half.dtype)  # type: ignore[no-untyped-call]
    wide = _wide(half)
    fractions, exponents = np.frexp(wide)
    steps = np.ldexp(np.float32(1), exponents - 1 - limits.nmant)
    steps = np.maximum(steps, np.float32(limits.smallest_subnormal))
    is_whole = (wide == np.rint(wide)) & (np.abs(wide) <= LARGEST_EXACT)
    is_exact = is_whole | (np.abs(fractions) == 0.5) | ~np.isfinite(wide)
    return np.where(is_exact, np.float32(0), steps)


def widened(
    copy: ir.Model, read: Callable[[np.ndarray], np.ndarray] = _wide
) -> Iterator[tuple[ir.Node, ir.Value, ir.DataType]]:
    """Make a half model float32 in place, and yield what must be rounded.

    ``read`` returns the values of a half weight in float32.

    Yields:
        A node, a value and the half type of the value. The value is an output of the node, or an
        input or weight of the graph; then the node is the first of the graph. Weights are rounded
        already.

    Raises:
        PlanError: If the type of a value is unknown or is not the one that its node makes.
    """
    halves = {v: dtype for v in values_of(copy) if (dtype := v.dtype) in NUMPY_TYPES and dtype}
    for node in copy.graph:
        _widen_attributes(node, halves, read)
    nodes = list(copy.graph)
    for value in halves:
        value.dtype = FLOAT
        if value.const_value is not None:
            wide = read(value.const_value.numpy())
            value.const_value = ir.tensor(wide, name=value.name)
    for value in [*copy.graph.inputs, *copy.graph.initializers.values()]:
        if value in halves:
            yield nodes[0], value, halves[value]
    for node in nodes:
        if node.op_type in MOVES or (node.op_type == "Resize" and _is_nearest(node)):
            continue
        for value in node.outputs:
            if value in halves:
                yield node, value, halves[value]


def _widen_attributes(
    node: ir.Node,
    halves: Mapping[ir.Value, ir.DataType],
    read: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Let a node make float32 where its attributes ask for half.

    Raises:
        PlanError: If the type of a result is unknown or another: it would not be rounded.
    """
    makes_half = False
    for name, attribute in list(node.attributes.items()):
        if name in TYPE_ATTRIBUTES and attribute.type == ir.AttributeType.INT:
            if ir.DataType(attribute.as_int()) in NUMPY_TYPES:
                makes_half, node.attributes[name] = True, ir.AttrInt64(name, FLOAT.value)
        elif attribute.type == ir.AttributeType.TENSOR:
            tensor = attribute.as_tensor()
            if tensor.dtype in NUMPY_TYPES:
                wide = ir.tensor(read(tensor.numpy()), name=tensor.name)
                makes_half, node.attributes[name] = True, ir.AttrTensor(name, wide)
    for value in node.outputs:
        if value.uses() and (value.dtype is None or (makes_half and value not in halves)):
            raise PlanError(
                f"the type of {brief(str(value.name))} of {node.op_type} is not the one that the file "
                "declares, so that its rounding is unknown; export it again"
            )


def _is_nearest(node: ir.Node) -> bool:
    mode = node.attributes.get("mode")
    return mode is None or mode.as_string() == "nearest"


def round_after(
    graph: ir.Graph,
    node: ir.Node,
    value: ir.Value,
    half: ir.DataType,
    enabled: ir.Value | None = None,
) -> None:
    """Insert two casts after a value, to its half type and back to float32.

    Args:
        graph: The graph of the value.
        node: The node that computes the value, or before which the casts are inserted.
        value: The value; its users then read the rounded one.
        half: The half type.
        enabled: A boolean scalar of the graph: False leaves the value as it is at run time. None
            always rounds.
    """
    users = list(value.uses())
    down = ir.node("Cast", [value], {"to": half.value}, name=f"{value.name}/round")
    down.outputs[0].name = f"{value.name}/rounded"
    up = ir.node("Cast", [down.outputs[0]], {"to": FLOAT.value}, name=f"{value.name}/widen")
    added = [down, up]
    if enabled is not None:
        up.outputs[0].name = f"{value.name}/widened"
        added.append(ir.node("Where", [enabled, up.outputs[0], value], name=f"{value.name}/select"))
    (rounded,) = added[-1].outputs
    rounded.name, rounded.type = f"{value.name}/value", ir.TensorType(FLOAT)
    rounded.shape = value.shape
    derive(rounded, value)
    if value.producer() is None:
        node.prepend(added)
    else:
        node.append(added)
    for user, index in users:
        user.replace_input_with(index, rounded)
    if value.is_graph_output():
        position = list(graph.outputs).index(value)
        rounded.name, value.name = value.name, f"{value.name}/raw"
        graph.outputs[position] = rounded
