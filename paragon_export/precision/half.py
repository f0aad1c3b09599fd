"""Half: a float32 ONNX model in, a strongly typed half-precision model out.

TensorRT-RTX and TensorRT 11 take precision from the graph alone. Every float tensor becomes half,
except inside float32 islands: the nodes that the network or the range audit has marked. Casts at
their borders make the type of every computation explicit.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from paragon_export.errors import PlanError
from paragon_export.precision.counts import keep_counts
from paragon_export.precision.typed_graph import (
    FLOAT,
    HALF_TYPES,
    NUMPY_TYPES,
    derive,
    is_float32,
    typed_copy,
    values_of,
)
from paragon_export.specs.types import Precision

BFLOAT16_OPSET = 22
"""First operator set in which convolutions may be bfloat16."""


FLOAT32_INPUTS = {"Resize": (1, 2)}
"""Positions of inputs that the ONNX standard requires in float32, by operator."""


def to_precision(model: ir.Model, precision: Precision, io: Precision) -> ir.Model:
    """Return a strongly typed copy of a float32 model; ``model`` is not changed.

    Args:
        model: A float32 model without subgraphs.
        precision: Type of the arithmetic outside the islands.
        io: Type of the image inputs and outputs. Scalar inputs stay float32.

    Returns:
        A copy. Its values know their origin in ``model`` (see ``typed_graph.origin_of``).

    Raises:
        PlanError: If the model is half already, its operator set has no bfloat16, or a weight is
            too large for ``precision``.
    """
    if not precision.is_half:
        return typed_copy(model)
    copy = convertible_copy(model, precision)
    _Converter(copy, HALF_TYPES[precision], io_is_half=io.is_half).run()
    return copy


def convertible_copy(model: ir.Model, precision: Precision) -> ir.Model:
    """Return a typed copy whose sizes, positions and indices are marked as float32 islands.

    Raises:
        PlanError: If it is half already, or its operator set has no bfloat16.
    """
    copy = typed_copy(model)
    if any(v.dtype in NUMPY_TYPES for v in values_of(copy)):
        raise PlanError(
            f"--{precision.value} wants a float32 model, and this one is half already; convert the "
            "float32 model"
        )
    if precision is Precision.BF16 and model.opset_imports.get("", 0) < BFLOAT16_OPSET:
        raise PlanError(
            f"--bf16 wants a model of operator set {BFLOAT16_OPSET} or later, and this one is of "
            f"{model.opset_imports.get('', 0)}; export it with --opset {BFLOAT16_OPSET}"
        )
    keep_counts(copy)
    return copy


def _give_type(node: ir.Node, wanted: ir.DataType) -> None:
    """Set the type of a result where an attribute determines it, and no input does."""
    attributes = node.attributes
    if node.op_type == "Cast":  # from integers
        attributes["to"] = ir.AttrInt64("to", wanted.value)
    elif node.op_type == "ConstantOfShape":
        given = attributes.get("value")
        array = given.as_tensor().numpy() if given else np.zeros(1, np.float32)
        filling = array.astype(NUMPY_TYPES.get(wanted, np.dtype(np.float32)))
        attributes["value"] = ir.AttrTensor("value", ir.tensor(filling, dtype=wanted))
    elif "dtype" in attributes:
        attributes["dtype"] = ir.AttrInt64("dtype", wanted.value)


class _Converter:
    """Converts a typed float32 model in place."""

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
                is_fixed = index in FLOAT32_INPUTS.get(node.op_type, ())
                node.replace_input_with(index, self._as(value, FLOAT if is_fixed else wanted, node))
        for value in node.outputs:
            if value in self.floats:
                value.dtype = wanted
                _give_type(node, wanted)

    def _as(self, value: ir.Value, wanted: ir.DataType, before: ir.Node) -> ir.Value:
        """Return a value in another type; it is cast once for all nodes that use it."""
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
        """Add a rounded copy of a weight.

        Raises:
            PlanError: If an element overflows.
        """
        with np.errstate(over="ignore"):
            half = wide.astype(NUMPY_TYPES[self.half])
        overflows = ~np.isfinite(half.astype(np.float32)) & np.isfinite(wide)  # masks hold -inf
        if overflows.any():
            raise PlanError(
                f"weight {value.name} reaches {np.abs(wide[overflows]).max():g}, which {self.half.name} cannot "
                "hold; export in fp32 or bf16"
            )
        name = f"{value.name}.{self.half.name.lower()}"
        tensor = ir.tensor(half, dtype=self.half, name=name)
        weight = ir.Value(
            name=name, shape=value.shape, type=ir.TensorType(self.half), const_value=tensor
        )
        derive(weight, value)
        self.graph.register_initializer(weight)
        return weight

    def _cast(self, value: ir.Value, wanted: ir.DataType, before: ir.Node | None) -> ir.Value:
        node = ir.node("Cast", [value], {"to": wanted.value})
        node.name = f"{value.name}/to_{wanted.name.lower()}"
        (result,) = node.outputs
        result.name, result.shape, result.type = node.name, value.shape, ir.TensorType(wanted)
        derive(result, value)
        producer = value.producer()
        if producer is not None:
            producer.append(node)
        elif before is not None:
            before.prepend(node)
        else:
            self.graph.append(node)
        return result

    def _retype_output(self, index: int, value: ir.Value) -> None:
        """Cast an output to the type of the model's outputs, under its own name."""
        wanted = self.half if self.io_is_half else FLOAT
        if value.dtype in (wanted, None):
            return
        derive(value, value)
        name, value.name = value.name, f"{value.name}/half"
        cast = self._cast(value, wanted, before=None)
        value.shape = None  # the names of its axes are those of the output
        cast.name = name
        self.graph.outputs[index] = cast
