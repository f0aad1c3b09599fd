"""Precision: a float32 ONNX model in, a strongly typed half-precision one out.

TensorRT-RTX and TensorRT 11 take precision from the graph alone. Every float tensor becomes
half except inside the float32 islands that the network marked (see ``islands``); casts stand
at their borders, so that any consumer sees exactly what is computed in what.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from paragon_export.errors import PlanError
from paragon_export.onnx_guard import ATTENTIONS
from paragon_export.plan import FLOAT32_MARK, Precision

FLOAT = ir.DataType.FLOAT

HALF_TYPES = {Precision.FP16: ir.DataType.FLOAT16, Precision.BF16: ir.DataType.BFLOAT16}

_NUMPY = {
    ir.DataType.FLOAT16: np.dtype(np.float16),
    ir.DataType.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}

BFLOAT16_OPSET = 22
"""Convolutions may be bfloat16 from here on."""

FLOAT32_INPUTS = {"Resize": (1, 2)}
"""Operands that the operator itself wants in float32, whatever the precision."""

VALUES = 2
"""Position of the values among the inputs of ``ATTENTIONS``, whose result has their shape."""

MOVES = frozenset(
    {"Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape"}
    | {"Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)
"""Operators that move values without computing: their results need no rounding."""


def to_precision(model: ir.Model, precision: Precision, io: Precision) -> ir.Model:
    """Return a strongly typed copy of a float32 model; ``model`` is not changed.

    Args:
        model: Float32, without subgraphs.
        precision: Type of the arithmetic outside the islands.
        io: Type of the image inputs and outputs. Scalar inputs stay float32.

    Raises:
        PlanError: If the model is not float32 throughout, or a weight is too large for
            ``precision``.
    """
    copy = typed_copy(model)
    if precision.is_half:
        check_convertible(copy, precision)
        _Converter(copy, HALF_TYPES[precision], io_is_half=io.is_half).run()
    return copy


def check_convertible(model: ir.Model, precision: Precision) -> None:
    """Refuse a model of known types that cannot be made half.

    Raises:
        PlanError: If it is half already, or its operator set has no bfloat16.
    """
    if any(v.dtype in _NUMPY for v in values_of(model)):
        raise PlanError(f"--{precision.value} wants a float32 model, and this one is half already")
    if precision is Precision.BF16 and model.opset_imports.get("", 0) < BFLOAT16_OPSET:
        raise PlanError(
            f"--bf16 wants a model of operator set {BFLOAT16_OPSET} or later, and this one is of "
            f"{model.opset_imports.get('', 0)}; export it with --opset {BFLOAT16_OPSET}"
        )


def is_float32(node: ir.Node) -> bool:
    """Whether a node is marked to be computed in float32 whatever the precision."""
    return node.metadata_props.get(FLOAT32_MARK) == "float32"


def typed_copy(model: ir.Model) -> ir.Model:
    """Return a copy with the type of every value known and constants as initializers.

    Raises:
        PlanError: If the model has subgraphs or operators that nobody here knows.
    """
    copy = ir.from_proto(ir.to_proto(model))
    if any(
        (node.domain and node.op_identifier()[:2] not in ATTENTIONS)
        or any(a.type == ir.AttributeType.GRAPH for a in node.attributes.values())
        for node in copy.graph
    ):
        raise PlanError("models with subgraphs or custom operators cannot be converted")
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(copy)
    foreign = [(n, n.domain, n.op_type, tuple(n.inputs)) for n in copy.graph if n.domain]
    for node, _, _, operands in foreign:
        # To inference it is a Max of its values: its result has their type and shape.
        node.domain, node.op_type = "", "Max"
        for index in range(len(operands)):
            node.replace_input_with(index, operands[VALUES])
    common.ShapeInferencePass(data_prop=False)(copy)
    for node, domain, op_type, operands in foreign:
        node.domain, node.op_type = domain, op_type
        for index, operand in enumerate(operands):
            node.replace_input_with(index, operand)
    return copy


def values_of(model: ir.Model) -> list[ir.Value]:
    """Return inputs, weights and what nodes make, in that order and the graph's."""
    graph = model.graph
    made = [value for node in graph for value in node.outputs]
    return [*graph.inputs, *graph.initializers.values(), *made]


def constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Add a constant to a graph."""
    tensor, shape = ir.tensor(array, name=name), ir.Shape(array.shape)
    kind = ir.TensorType(tensor.dtype)
    value = ir.Value(name=name, shape=shape, type=kind, const_value=tensor)
    graph.register_initializer(value)
    return value


class _Converter:
    def __init__(self, model: ir.Model, half: ir.DataType, *, io_is_half: bool) -> None:
        self.model = model
        self.graph = model.graph
        self.half = half
        self.io_is_half = io_is_half
        self.floats = {v for v in values_of(model) if v.dtype == FLOAT}
        self.casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def run(self) -> None:
        if self.io_is_half:
            for value in self.graph.inputs:
                if value in self.floats and value.shape is not None and len(value.shape):
                    value.dtype = self.half
        for node in list(self.graph):
            self._convert(node)
        for index, value in enumerate(list(self.graph.outputs)):
            if value in self.floats:
                self._retype_output(index, value)
        common.RemoveUnusedNodesPass()(self.model)

    def _convert(self, node: ir.Node) -> None:
        wanted = FLOAT if is_float32(node) else self.half
        for index, value in enumerate(node.inputs):
            if value in self.floats:
                pinned = index in FLOAT32_INPUTS.get(node.op_type, ())
                node.replace_input_with(index, self._as(value, FLOAT if pinned else wanted, node))
        for value in node.outputs:
            if value in self.floats:
                value.dtype = wanted
                if node.op_type == "Cast":  # of whole numbers
                    node.attributes["to"] = ir.AttrInt64("to", wanted.value)

    def _as(self, value: ir.Value, wanted: ir.DataType, before: ir.Node) -> ir.Value:
        """The value in another type, cast once however many nodes want it."""
        if value.dtype == wanted:
            return value
        if (value, wanted) not in self.casts:
            weight = value.const_value
            self.casts[value, wanted] = (
                self._cast(value, wanted, before)
                if weight is None
                else self._half_weight(value, weight.numpy())
            )
        return self.casts[value, wanted]

    def _half_weight(self, value: ir.Value, wide: np.ndarray) -> ir.Value:
        with np.errstate(over="ignore"):
            half = wide.astype(_NUMPY[self.half])
        if not np.isfinite(half.astype(np.float32)).all():
            raise PlanError(
                f"weight {value.name} reaches {np.abs(wide).max():g}, which {self.half.name} cannot "
                "hold; export in fp32 or bf16"
            )
        name = f"{value.name}.{self.half.name.lower()}"
        tensor = ir.tensor(half, dtype=self.half, name=name)
        weight = ir.Value(
            name=name, shape=value.shape, type=ir.TensorType(self.half), const_value=tensor
        )
        self.graph.register_initializer(weight)
        return weight

    def _cast(self, value: ir.Value, wanted: ir.DataType, before: ir.Node | None) -> ir.Value:
        node = ir.node("Cast", [value], {"to": wanted.value})
        node.name = f"{value.name}/to_{wanted.name.lower()}"
        (result,) = node.outputs
        result.name, result.shape, result.type = node.name, value.shape, ir.TensorType(wanted)
        producer = value.producer()
        if producer is not None:
            producer.append(node)
        elif before is not None:
            before.prepend(node)
        else:
            self.graph.append(node)
        return result

    def _retype_output(self, index: int, value: ir.Value) -> None:
        wanted = self.half if self.io_is_half else FLOAT
        if value.dtype in (wanted, None):
            return
        name, value.name = value.name, f"{value.name}/half"
        cast = self._cast(value, wanted, before=None)
        cast.name = name
        self.graph.outputs[index] = cast


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


_SUFFIXES = ("/value", "/half", *(f"/to_{t.name.lower()}" for t in (FLOAT, *_NUMPY)),
             *(f".{t.name.lower()}" for t in _NUMPY))  # fmt: skip


def origin_of(name: str, known: Container[str]) -> str:
    """Return the tensor of the float32 model whose value a tensor of a converted one holds."""
    while name not in known:
        suffix = next((s for s in _SUFFIXES if name.endswith(s)), None)
        if suffix is None:
            return name
        name = name.removesuffix(suffix)
    return name


def widened(copy: ir.Model) -> Iterator[tuple[ir.Node, ir.Value, ir.DataType]]:
    """Make a half model float32, and yield what is to be rounded to which type, and near what.

    Weights, which are rounded already, are yielded too.
    """
    halves = {v: dtype for v in values_of(copy) if (dtype := v.dtype) in _NUMPY and dtype}
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
            if to in _NUMPY:
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
