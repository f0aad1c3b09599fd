"""Lowerings of arithmetic: elementwise operators, reductions, integer vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from paragon_export.graph.emitter import (
    Emitter,
    Operand,
    Size,
    as_ints,
    cannot_lower,
    is_int64,
    mark_int64,
)


def elementwise(op_type: str, compute: Callable[[Any, Any], Any]) -> Callable[..., Operand]:
    """Return the lowering of a binary operator.

    Args:
        op_type: The ONNX operator for tensors. On sizes and int64 tensors it computes in int64.
        compute: The same operator for two plain numbers.
    """

    def lower(g: Emitter, a: Operand, b: Operand) -> Operand:
        if isinstance(a, (int, float)) and isinstance(b, (int, float)):
            return compute(a, b)
        if isinstance(a, (Size, int)) and isinstance(b, (Size, int)):
            return Size(g.op(op_type, g.ints([a]), g.ints([b])))
        if is_int64(a) or is_int64(b):
            return mark_int64(g.op(op_type, *(as_ints(g, operand) for operand in (a, b))))
        return g.op(op_type, a, b)

    return lower


def power(g: Emitter, x: Operand, exponent: float) -> Operand:
    """Emit a power of a size, in float32."""
    if not isinstance(x, Size):
        raise cannot_lower("a power of a tensor", "powers of sizes")
    return g.op("Pow", g.op("Cast", x, to=ir.DataType.FLOAT.value), float(exponent))


def clamp(g: Emitter, x: ir.Value, min: Any = None, max: Any = None) -> ir.Value:
    """Emit ``Clip``; of int64 tensors ``Max`` and ``Min``."""
    if not is_int64(x):
        return g.op("Clip", x, min, max)
    for op_type, bound in (("Max", min), ("Min", max)):
        x = x if bound is None else mark_int64(g.op(op_type, x, as_ints(g, bound)))
    return x


def softmax(g: Emitter, x: ir.Value, dim: int) -> ir.Value:
    """Emit ``Softmax`` along ``dim``."""
    return g.op("Softmax", x, axis=dim)


def mean(g: Emitter, x: ir.Value, dim: Any, keepdim: bool = False) -> ir.Value:
    """Emit ``ReduceMean`` over one axis or several."""
    axes = [dim] if isinstance(dim, int) else list(dim)
    return g.op("ReduceMean", x, g.ints(axes), keepdims=int(keepdim))


def sum_(g: Emitter, x: ir.Value, dim: Any, keepdim: bool = False) -> ir.Value:
    """Emit ``ReduceSum``; of squares ``ReduceSumSquare``."""
    axes = [dim] if isinstance(dim, int) else list(dim)
    if isinstance(x, ir.Value) and (root := _square_root_of(x)) is not None:
        return g.op("ReduceSumSquare", root, g.ints(axes), keepdims=int(keepdim))
    return g.op("ReduceSum", x, g.ints(axes), keepdims=int(keepdim))


def _square_root_of(x: ir.Value) -> ir.Value | None:
    """Return the value whose square ``x`` is; None if it is no square."""
    node = x.producer()
    if node is None or node.op_type != "Mul" or node.inputs[0] is not node.inputs[1]:
        return None
    return node.inputs[0]


def numbers(g: Emitter, first: int, count: Size | int) -> ir.Value:
    """Emit ``count`` integers from ``first`` on, as an int64 vector."""
    if isinstance(count, int):
        return g.constant(f"numbers_{first}_{count}", np.arange(first, first + count))
    start, step = (g.constant(f"int_{i}", np.array(i, np.int64)) for i in (first, 1))
    end = g.op("Add", g.op("Squeeze", count.value, g.ints([0])), start)
    return g.op("Range", start, end, step)


def positions(g: Emitter, x: ir.Value, dim: int) -> ir.Value:
    """Emit the integers from 0 up to the extent of ``x`` along ``dim``, as an int64 vector."""
    return mark_int64(numbers(g, 0, g.extent(x, dim)))
