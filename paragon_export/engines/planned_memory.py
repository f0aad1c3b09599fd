"""Planned memory: the size of the largest tensor of a graph, from the shapes of its inputs.

ONNX's shape inference does not resolve every size that a graph computes. The nodes that it leaves
open are evaluated here, if their results are small: a few integers each. No map is computed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper, shape_inference

MAX_EVALUATED_ELEMENTS = 4096
"""Elements of the largest tensor that is evaluated. Sizes and positions are smaller."""

Dims = tuple[int, ...]
"""Extents of a tensor."""


def largest_bytes(model: ir.Model, inputs: Mapping[str, Dims]) -> int | None:
    """Return the size in bytes of the largest tensor of a graph, weights left out.

    Args:
        model: A model without subgraphs; it is not changed.
        inputs: Name to shape of every input.

    Returns:
        Bytes; None if a shape does not follow from the shapes of the inputs alone.
    """
    graph = _prepared(model, inputs)
    while True:
        tensors = _inferred(graph)
        if not _fold(graph.graph, {name: tensor.dims for name, tensor in tensors.items()}):
            break
    computed = [name for node in graph.graph.node for name in node.output if name]
    if any(name not in tensors for name in computed):
        return None
    return max(tensors[name].bytes for name in [*computed, *inputs])


def _prepared(model: ir.Model, inputs: Mapping[str, Dims]) -> onnx.ModelProto:
    """Return a copy with fixed input shapes, and with inputs in place of large weights."""
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    fed = [port for port in proto.graph.input if port.name in inputs]
    del proto.graph.input[:]  # old files list their weights as well
    proto.graph.input.extend(fed)
    for port in proto.graph.input:
        kind = port.type.tensor_type.elem_type
        port.CopyFrom(helper.make_tensor_value_info(port.name, kind, inputs[port.name]))
    for port in proto.graph.output:
        port.type.tensor_type.ClearField("shape")
    weights = list(proto.graph.initializer)
    del proto.graph.initializer[:]
    for weight in weights:
        if math.prod(weight.dims) <= MAX_EVALUATED_ELEMENTS:
            proto.graph.initializer.append(weight)
        else:
            port = helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
            proto.graph.input.append(port)
    return proto


@dataclass(frozen=True)
class _Tensor:
    """Shape and dtype of a tensor."""

    dims: Dims
    dtype: int
    """Number of an ONNX data type."""

    @property
    def bytes(self) -> int:
        return math.ceil(math.prod(self.dims) * ir.DataType(self.dtype).itemsize)


def _inferred(model: onnx.ModelProto) -> dict[str, _Tensor]:
    """Return the tensors whose shapes ONNX infers completely."""
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    inferred = {w.name: _Tensor(tuple(w.dims), w.data_type) for w in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        dims = kind.shape.dim
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            sizes = tuple(dim.dim_value for dim in dims)
            inferred[value.name] = _Tensor(sizes, kind.elem_type)
    return inferred


def _fold(graph: onnx.GraphProto, shapes: Mapping[str, Dims]) -> bool:
    """Replace nodes by constants where the results are small and can be computed.

    Return whether any node was replaced.
    """
    constants = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    nodes = list(graph.node)
    kept = []
    for node in nodes:
        results = _results(node, shapes, constants)
        if len(results) != len(node.output):
            kept.append(node)
            continue
        for name, array in zip(node.output, results, strict=True):
            constants[name] = array
            graph.initializer.append(numpy_helper.from_array(array, name))
    del graph.node[:]
    graph.node.extend(kept)
    return len(kept) < len(nodes)


def _results(
    node: onnx.NodeProto, shapes: Mapping[str, Dims], constants: Mapping[str, np.ndarray]
) -> Sequence[np.ndarray]:
    """Return the results of a node; nothing if they are large or cannot be computed."""
    if node.op_type == "Shape" and node.input[0] in shapes:
        dims = np.array(shapes[node.input[0]], np.int64)
        ends = {attribute.name: attribute.i for attribute in node.attribute}
        return [dims[ends.get("start", 0) : ends.get("end", len(dims))]]
    if not all(name in constants for name in node.input if name):
        return []
    for name in node.output:
        if name not in shapes or math.prod(shapes[name]) > MAX_EVALUATED_ELEMENTS:
            return []
    from onnx.reference import ReferenceEvaluator

    feeds = {name: constants[name] for name in node.input if name}
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(node).run(None, feeds)
    except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError):
        return []  # the evaluator lacks the operator, or the operands do not fit
    return [np.asarray(result) for result in results]
