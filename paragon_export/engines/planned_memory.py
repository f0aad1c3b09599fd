"""Volumes: how large the tensors of a graph are for given shapes of its inputs.

ONNX's shape inference does not work out all that a graph computes about its own sizes. What it
leaves open is evaluated here, node by node: a few integers each. No tensor of the network's is made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper, shape_inference

SMALL = 4096
"""Elements up to which a tensor may be sizes or positions, and is evaluated."""

Dims = tuple[int, ...]


def largest_bytes(model: ir.Model, inputs: Mapping[str, Dims]) -> int | None:
    """Return the size of the largest tensor of a graph that is no weight.

    Args:
        model: Without subgraphs; not changed.
        inputs: Shape of every input.

    Returns:
        Bytes; None where the shape of a tensor follows from more than the inputs' shapes.
    """
    graph = _prepared(model, inputs)
    while True:
        tensors = _inferred(graph)
        if not _fold(graph.graph, {name: tensor.dims for name, tensor in tensors.items()}):
            break
    made = [name for node in graph.graph.node for name in node.output if name]
    if any(name not in tensors for name in made):
        return None
    return max(tensors[name].bytes for name in [*made, *inputs])


def _prepared(model: ir.Model, inputs: Mapping[str, Dims]) -> onnx.ModelProto:
    """Return a copy with fixed inputs and without large weights, whose shapes are enough."""
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    for port in proto.graph.input:
        kind = port.type.tensor_type.elem_type
        port.CopyFrom(helper.make_tensor_value_info(port.name, kind, inputs[port.name]))
    for port in proto.graph.output:
        port.type.tensor_type.ClearField("shape")
    weights = list(proto.graph.initializer)
    del proto.graph.initializer[:]
    for weight in weights:
        if math.prod(weight.dims) <= SMALL:
            proto.graph.initializer.append(weight)
        else:
            port = helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
            proto.graph.input.append(port)
    return proto


@dataclass(frozen=True)
class _Tensor:
    dims: Dims
    dtype: int

    @property
    def bytes(self) -> int:
        return math.ceil(math.prod(self.dims) * ir.DataType(self.dtype).itemsize)


def _inferred(model: onnx.ModelProto) -> dict[str, _Tensor]:
    """Return the tensors whose shapes are known in full."""
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    known = {w.name: _Tensor(tuple(w.dims), w.data_type) for w in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        dims = kind.shape.dim
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            sizes = tuple(dim.dim_value for dim in dims)
            known[value.name] = _Tensor(sizes, kind.elem_type)
    return known


def _fold(graph: onnx.GraphProto, shapes: Mapping[str, Dims]) -> bool:
    """Put constants in the place of nodes whose results are known and small; tell if any was."""
    known = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    nodes = list(graph.node)
    kept = []
    for node in nodes:
        results = _results(node, shapes, known)
        if len(results) != len(node.output):
            kept.append(node)
            continue
        for name, array in zip(node.output, results, strict=True):
            known[name] = array
            graph.initializer.append(numpy_helper.from_array(array, name))
    del graph.node[:]
    graph.node.extend(kept)
    return len(kept) < len(nodes)


def _results(
    node: onnx.NodeProto, shapes: Mapping[str, Dims], known: Mapping[str, np.ndarray]
) -> Sequence[np.ndarray]:
    """Return what a node gives; nothing where that is not known, or large."""
    if node.op_type == "Shape" and node.input[0] in shapes:
        dims = np.array(shapes[node.input[0]], np.int64)
        ends = {attribute.name: attribute.i for attribute in node.attribute}
        return [dims[ends.get("start", 0) : ends.get("end", len(dims))]]
    if not all(name in known for name in node.input if name):
        return []
    if any(math.prod(shapes.get(name, (SMALL + 1,))) > SMALL for name in node.output):
        return []
    from onnx.reference import ReferenceEvaluator

    feeds = {name: known[name] for name in node.input if name}
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(node).run(None, feeds)
    except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError):
        return []  # an operator that the evaluator lacks, or operands that do not fit
    return [np.asarray(result) for result in results]
