"""Operators: how each PyTorch call is written in ONNX. One row of a table per call.

Tensors are ``ir.Value``. Sizes read from a tensor are :class:`Size`, weights are
:class:`Weight`, everything else is a plain Python number.
"""

from __future__ import annotations

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
"""Reductions take their axes as an input from here on."""


GELU_OPSET = 20
"""Gelu is an operator from here on."""


@dataclass(frozen=True)
class Size:
    """A dimension that is known only at run time: an int64 tensor of one element."""

    value: ir.Value


@dataclass(frozen=True)
class Weight:
    """A constant tensor of the network and the name it has in the checkpoint."""

    name: str
    tensor: torch.Tensor


Operand = ir.Value | Weight | Size | int | float


class Emitter:
    """Collects ONNX nodes. Equal nodes are emitted once: every operator used here is pure."""

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
        self._wide = False

    @contextmanager
    def scope(self, name: str, *, wide: bool) -> Iterator[None]:
        """Name the nodes emitted inside after ``name``; ``wide`` marks them as float32."""
        self._scope, self._wide = name, wide
        yield

    @contextmanager
    def float32(self) -> Iterator[None]:
        """Mark the nodes emitted inside as float32, whatever stands around them."""
        around, self._wide = self._wide, True
        yield
        self._wide = around

    def input(self, name: str, dims: Sequence[int | str], dtype: str = "float32") -> ir.Value:
        kind = ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype)))
        value = ir.Value(name=name, shape=ir.Shape(dims), type=kind)
        self._inputs.append(value)
        return value

    def output(self, value: Operand, name: str, dims: Sequence[int | str]) -> None:
        tensor = self.tensor(value)
        if tensor.is_graph_input() or tensor in self._inputs or tensor in self._outputs:
            tensor = self.op("Identity", tensor)
        tensor.name, tensor.shape = name, ir.Shape(dims)
        tensor.type = ir.TensorType(ir.DataType.FLOAT)
        self._outputs.append(tensor)

    def tensor(self, operand: Operand) -> ir.Value:
        """Turn any operand into a graph value; numbers become float32 scalars."""
        if isinstance(operand, ir.Value):
            return operand
        if isinstance(operand, Size):
            return operand.value
        if isinstance(operand, Weight):
            tensor = operand.tensor
            if tensor.is_floating_point():
                return self.constant(operand.name, tensor.float().numpy())
            # Tables of indices are shared by layers, and large.
            return self.constant(f"table_{tensor.data_ptr():x}", tensor.numpy())
        return self.constant(f"float_{operand!r}", np.array(operand, np.float32))

    def ints(self, values: Iterable[int | Size]) -> ir.Value:
        """An int64 vector, constant where all of it is known."""
        parts: list[ir.Value] = []
        known: list[int] = []
        for value in [*values, None]:
            if isinstance(value, int):
                known.append(value)
                continue
            if known:
                name = "ints_" + "_".join(map(str, known))
                parts.append(self.constant(name, np.array(known, np.int64)))
                known = []
            if value is not None:
                parts.append(value.value)
        return parts[0] if len(parts) == 1 else self.op("Concat", *parts, axis=0)

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        """An initializer; the first array given under a name is kept."""
        if name not in self._weights:
            tensor = ir.tensor(np.array(array, order="C"), name=name)
            self._weights[name] = ir.Value(
                name=name,
                shape=ir.Shape(array.shape),
                type=ir.TensorType(tensor.dtype),
                const_value=tensor,
            )
        return self._weights[name]

    def extent(self, x: ir.Value, axis: int) -> Size:
        """The extent of a tensor, read from the earliest one that is known to share it."""
        earliest, its_axis = self.extents.source(x, axis)
        return Size(self.op("Shape", earliest, start=its_axis, end=its_axis + 1))

    def op(self, op_type: str, *operands: Operand | None, **attributes: Any) -> ir.Value:
        return self.ops(op_type, 1, *operands, **attributes)[0]

    def ops(
        self,
        op_type: str,
        outputs: int,
        *operands: Operand | None,
        domain: str = "",
        **attributes: Any,
    ) -> Sequence[ir.Value]:
        inputs = [None if o is None else self.tensor(o) for o in operands]
        key = (op_type, tuple(map(id, inputs)), repr(sorted(attributes.items())), self._wide)
        if key not in self._emitted:
            self._opsets.setdefault(domain, 1)
            node = ir.node(op_type, inputs, attributes, num_outputs=outputs, domain=domain)
            node.name = f"{self._scope}/{op_type}_{len(self._nodes)}"
            for index, value in enumerate(node.outputs):
                value.name = f"{node.name}:{index}" if outputs > 1 else node.name
            if self._wide:
                node.metadata_props[FLOAT32_MARK] = "float32"
            self._nodes.append(node)
            self._emitted[key] = node.outputs
        return self._emitted[key]

    def model(self) -> ir.Model:
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
    """Return the IR version that came with an operator set: runtimes as old as it read no later one.

    Nodes keep their metadata all the same, which IR version 10 brought: readers before it skip it.
    """
    from onnx import helper

    version: int = helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
    return version


def whole(value: ir.Value) -> ir.Value:
    """Note that a tensor holds int64: numbers beside it must not become float32."""
    value.type = ir.TensorType(ir.DataType.INT64)
    return value


def is_whole(operand: Operand) -> bool:
    return isinstance(operand, ir.Value) and operand.dtype == ir.DataType.INT64


def as_ints(g: Emitter, operand: Any) -> ir.Value:
    if isinstance(operand, (float, Weight)):
        raise TraceError("a tensor of whole numbers beside others; see primitives.floating")
    return g.ints([operand]) if isinstance(operand, (Size, int)) else g.tensor(operand)
