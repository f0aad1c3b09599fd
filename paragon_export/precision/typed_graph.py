"""Typed graph: helpers for graphs in which the type of every value is known."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from paragon_export.errors import PlanError
from paragon_export.graph.inspection import copied
from paragon_export.graph.metadata import FLOAT32_MARK
from paragon_export.graph.onnx_checks import ATTENTIONS
from paragon_export.graph.onnx_io import silenced_onnx_ir
from paragon_export.specs.types import Precision

FLOAT = ir.DataType.FLOAT


HALF_TYPES = {Precision.FP16: ir.DataType.FLOAT16, Precision.BF16: ir.DataType.BFLOAT16}


NUMPY_TYPES = {
    ir.DataType.FLOAT16: np.dtype(np.float16),
    ir.DataType.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}


VALUES_INPUT = 2
"""Position of the values among the inputs of ``ATTENTIONS``. The result has their shape."""


ORIGIN = "paragon_export.origin"
"""Key in ``ir.Value.meta``, which is never written to a file: see :func:`origin_of`."""


def is_float32(node: ir.Node) -> bool:
    """Return whether a node is marked to be computed in float32 in every precision."""
    return node.metadata_props.get(FLOAT32_MARK) == "float32"


def typed_copy(model: ir.Model) -> ir.Model:
    """Return a copy in which every value has a type and every constant is an initializer.

    Origins (see :func:`origin_of`) are kept.

    Raises:
        PlanError: If the model has subgraphs or custom operators.
    """
    with silenced_onnx_ir():
        copy = _inferred_copy(model)
    origins = {value.name: value.meta[ORIGIN] for value in values_of(model) if ORIGIN in value.meta}
    for value in values_of(copy):
        if value.name in origins:
            value.meta[ORIGIN] = origins[value.name]
    return copy


def _inferred_copy(model: ir.Model) -> ir.Model:
    copy = copied(model)
    if any(
        (node.domain and node.op_identifier()[:2] not in ATTENTIONS)
        or any(a.type == ir.AttributeType.GRAPH for a in node.attributes.values())
        for node in copy.graph
    ):
        raise PlanError(
            "the model has subgraphs or custom operators and cannot be converted; export it without "
            "them"
        )
    common.RemoveInitializersFromInputsPass()(copy)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(copy)
    for value in (value for node in copy.graph for value in node.outputs):
        if not value.is_graph_output():
            value.shape = None  # inferred below; what a foreign file declares may be wrong
    attentions = [(n, n.domain, n.op_type, tuple(n.inputs)) for n in copy.graph if n.domain]
    for node, _, _, operands in attentions:
        # Shape inference sees a Max of the values: the result has their type and shape.
        node.domain, node.op_type = "", "Max"
        for index in range(len(operands)):
            node.replace_input_with(index, operands[VALUES_INPUT])
    common.ShapeInferencePass(data_prop=False)(copy)
    for node, domain, op_type, operands in attentions:
        node.domain, node.op_type = domain, op_type
        for index, operand in enumerate(operands):
            node.replace_input_with(index, operand)
    return copy


def forget_axis_names(model: ir.Model) -> ir.Model:
    """Remove the names of dynamic axes from all computed values of a graph; return the graph.

    Files of other tools give the axes of the output the names of the input's axes, also where the
    output is larger. ONNX Runtime then reuses the memory of a smaller tensor for an output that
    another node reads, and fails.
    """
    for value in (value for node in model.graph for value in node.outputs):
        if value.shape is not None:
            value.shape = ir.Shape([dim if isinstance(dim, int) else None for dim in value.shape])
    return model


def values_of(model: ir.Model) -> list[ir.Value]:
    """Return the inputs, the weights and the outputs of nodes, in this order and the graph's."""
    graph = model.graph
    computed = [value for node in graph for value in node.outputs]
    return [*graph.inputs, *graph.initializers.values(), *computed]


def constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Add an initializer to a graph and return it."""
    tensor, shape = ir.tensor(array, name=name), ir.Shape(array.shape)
    kind = ir.TensorType(tensor.dtype)
    value = ir.Value(name=name, shape=shape, type=kind, const_value=tensor)
    graph.register_initializer(value)
    return value


def origin_of(value: ir.Value) -> str:
    """Return the name of the tensor of the float32 model whose value this one holds, rounded or not.

    A value that no conversion has derived from another is its own origin.
    """
    return str(value.meta.get(ORIGIN, value.name))


def derive(value: ir.Value, source: ir.Value) -> None:
    """Record that ``value`` holds the value of ``source``: both get the same origin.

    It must be called before ``source`` is renamed.
    """
    source.meta[ORIGIN] = value.meta[ORIGIN] = origin_of(source)
