"""Emitter: builds an ONNX graph node by node."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from paragon_export.errors import TraceError
from paragon_export.graph.extents import Extents
from paragon_export.graph.metadata import FLOAT32_MARK

MIN_OPSET = 18
"""First operator set in which reductions take their axes as an input."""


GELU_OPSET = 20
"""First operator set with ``Gelu``."""


@dataclass(frozen=True)
class Size:
    """A dimension whose extent is known only at run time: an int64 tensor of one element."""

    value: ir.Value


@dataclass(frozen=True)
class Weight:
    """A constant tensor of the network and its name in the exported graph."""

    name: str
    tensor: torch.Tensor


Operand = ir.Value | Weight | Size | int | float


class Emitter:
    """Collects ONNX nodes and weights.

    Equal nodes are emitted once, which is safe because every operator used here is pure.
    """

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self._inputs: list[ir.Value] = []
        self._outputs: list[ir.Value] = []
        self._nodes: list[ir.Node] = []
        self._weights: dict[str, ir.Value] = {}
        self._emitted: dict[tuple[Any, ...], Sequence[ir.Value]] = {}
        self._opsets = {"": opset}
        self.extents = Extents()
        self._scope = ""
        self._is_float32 = False

    @contextmanager
    def scope(self, name: str, *, is_float32: bool) -> Iterator[None]:
        """Prefix the names of nodes emitted inside with ``name``; optionally mark them as float32.

        A mark keeps a node in float32 in half-precision exports.
        """
        self._scope, self._is_float32 = name, is_float32
        yield

    @contextmanager
    def float32(self) -> Iterator[None]:
        """Mark the nodes emitted inside as float32."""
        before, self._is_float32 = self._is_float32, True
        yield
        self._is_float32 = before

    def input(self, name: str, dims: Sequence[int | str], dtype: str = "float32") -> ir.Value:
        """Add an input of the graph. A string in ``dims`` names a dynamic dimension."""
        kind = ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype)))
        value = ir.Value(name=name, shape=ir.Shape(dims), type=kind)
        self._inputs.append(value)
        return value

    def output(self, value: Operand, name: str, dims: Sequence[int | str]) -> None:
        """Make a float32 value an output of the graph under a name."""
        tensor = self.tensor(value)
        if tensor.is_graph_input() or tensor in self._inputs or tensor in self._outputs:
            tensor = self.op("Identity", tensor)
        tensor.name, tensor.shape = name, ir.Shape(dims)
        tensor.type = ir.TensorType(ir.DataType.FLOAT)
        self._outputs.append(tensor)

    def tensor(self, operand: Operand) -> ir.Value:
        """Return any operand as a value of the graph; numbers become float32 scalars."""
        if isinstance(operand, ir.Value):
            return operand
        if isinstance(operand, Size):
            return operand.value
        if isinstance(operand, Weight):
            tensor = operand.tensor
            if tensor.is_floating_point():
                return self.constant(operand.name, tensor.float().numpy())
            # Layers share tables of indices, which are large: one constant for each content.
            table = tensor.numpy()
            digest = hashlib.sha256(table.tobytes()).hexdigest()[:16]
            shape = "x".join(map(str, table.shape))
            return self.constant(f"table_{table.dtype}_{shape}_{digest}", table)
        return self.constant(f"float_{operand!r}", np.array(operand, np.float32))

    def ints(self, values: Iterable[int | Size]) -> ir.Value:
        """Return an int64 vector, a constant if every element is a plain number."""
        parts: list[ir.Value] = []
        constants: list[int] = []
        for value in [*values, None]:
            if isinstance(value, int):
                constants.append(value)
                continue
            if constants:
                name = "ints_" + "_".join(map(str, constants))
                parts.append(self.constant(name, np.array(constants, np.int64)))
                constants = []
            if value is not None:
                parts.append(value.value)
        return parts[0] if len(parts) == 1 else self.op("Concat", *parts, axis=0)

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        """Return the initializer of a name. If there is one already, ``array`` is ignored."""
        if name not in self._weights:
            tensor = ir.Tensor(np.array(array, order="C"), name=name)
            self._weights[name] = ir.Value(
                name=name,
                shape=ir.Shape(array.shape),
                type=ir.TensorType(tensor.dtype),
                const_value=tensor,
            )
        return self._weights[name]

    def extent(self, x: ir.Value, axis: int) -> Size:
        """Return the extent of a tensor, read from the earliest tensor that certainly shares it."""
        earliest, its_axis = self.extents.source(x, axis)
        return Size(self.op("Shape", earliest, start=its_axis, end=its_axis + 1))

    def op(self, op_type: str, *operands: Operand | None, **attributes: Any) -> ir.Value:
        """Emit a node with one output and return that output."""
        return self.ops(op_type, 1, *operands, **attributes)[0]

    def ops(
        self,
        op_type: str,
        outputs: int,
        *operands: Operand | None,
        domain: str = "",
        **attributes: Any,
    ) -> Sequence[ir.Value]:
        """Emit a node and return its outputs; None stands for an optional input left out."""
        inputs = [None if o is None else self.tensor(o) for o in operands]
        key = (op_type, tuple(map(id, inputs)), repr(sorted(attributes.items())), self._is_float32)
        if key not in self._emitted:
            self._opsets.setdefault(domain, 1)
            node = ir.node(op_type, inputs, attributes, num_outputs=outputs, domain=domain)
            node.name = f"{self._scope}/{op_type}_{len(self._nodes)}"
            for index, value in enumerate(node.outputs):
                value.name = f"{node.name}:{index}" if outputs > 1 else node.name
            if self._is_float32:
                node.metadata_props[FLOAT32_MARK] = "float32"
            self._nodes.append(node)
            self._emitted[key] = node.outputs
        return self._emitted[key]

    def model(self) -> ir.Model:
        """Return the model of all that was emitted."""
        graph = ir.Graph(
            self._inputs,
            self._outputs,
            nodes=self._nodes,
            initializers=list(self._weights.values()),
            opset_imports=dict(self._opsets),
            name="network",
        )
        version = ir_version_of(self.opset)
        return ir.Model(graph, ir_version=version, producer_name="paragon-export")


def ir_version_of(opset: int) -> int:
    """Return the IR version that was released with an operator set.

    A runtime of that time reads no later IR version. Metadata of nodes, which IR version 10
    introduced, is written all the same: earlier readers skip it.
    """
    from onnx import helper

    version: int = helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
    return version


def mark_int64(value: ir.Value) -> ir.Value:
    """Give a tensor the type int64, so that numbers combined with it do not become float32."""
    value.type = ir.TensorType(ir.DataType.INT64)
    return value


def is_int64(operand: Operand) -> bool:
    """Return whether an operand is a tensor that was marked as int64."""
    return isinstance(operand, ir.Value) and operand.dtype == ir.DataType.INT64


def as_ints(g: Emitter, operand: Any) -> ir.Value:
    """Return a number, a size or an int64 tensor as an int64 tensor.

    Raises:
        TraceError: If it is a floating number or a floating tensor of the network.
    """
    is_weight = isinstance(operand, Weight) and operand.tensor.is_floating_point()
    if is_weight or isinstance(operand, float):
        raise TraceError(
            "an int64 tensor is combined with a floating operand; convert it with "
            "networks.ops.floating first"
        )
    return g.ints([operand]) if isinstance(operand, (Size, int)) else g.tensor(operand)


def cannot_lower(found: str, supported: str) -> TraceError:
    """Return the error for a PyTorch call with options that have no ONNX lowering.

    Args:
        found: The call and its options.
        supported: What can be lowered instead.
    """
    return TraceError(
        f"{found} has no ONNX lowering, only {supported}; change the network or add a lowering "
        "in graph/lowerings"
    )
