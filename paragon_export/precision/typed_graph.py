"""Precision: a float32 ONNX model in, a strongly typed half-precision one out.

TensorRT-RTX and TensorRT 11 take precision from the graph alone. Every float tensor becomes
half except inside the float32 islands that the network marked (see ``islands``); casts stand
at their borders, so that any consumer sees exactly what is computed in what.
"""

from __future__ import annotations

from collections.abc import Container

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from paragon_export.errors import PlanError
from paragon_export.graph.metadata import FLOAT32_MARK
from paragon_export.graph.onnx_checks import ATTENTIONS
from paragon_export.specs.types import Precision

FLOAT = ir.DataType.FLOAT


HALF_TYPES = {Precision.FP16: ir.DataType.FLOAT16, Precision.BF16: ir.DataType.BFLOAT16}


NUMPY_TYPES = {
    ir.DataType.FLOAT16: np.dtype(np.float16),
    ir.DataType.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}


VALUES = 2
"""Position of the values among the inputs of ``ATTENTIONS``, whose result has their shape."""


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


_SUFFIXES = ("/value", "/half", *(f"/to_{t.name.lower()}" for t in (FLOAT, *NUMPY_TYPES)),
             *(f".{t.name.lower()}" for t in NUMPY_TYPES))  # fmt: skip


def origin_of(name: str, known: Container[str]) -> str:
    """Return the tensor of the float32 model whose value a tensor of a converted one holds."""
    while name not in known:
        suffix = next((s for s in _SUFFIXES if name.endswith(s)), None)
        if suffix is None:
            return name
        name = name.removesuffix(suffix)
    return name
