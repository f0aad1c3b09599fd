"""Lowerings of arithmetic: elementwise operators, reductions, integer vectors."""

from __future__ import annotations

import operator
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
        if op_type == "Div" and compute is operator.floordiv and not (is_int64(a) or is_int64(b)):
            raise cannot_lower("a floor division of floating tensors", "that of sizes")
        if is_int64(a) or is_int64(b):
            return mark_int64(g.op(op_type, *(as_ints(g, operand) for operand in (a, b))))
        a, b = (_as_float(g, operand) for operand in (a, b))
        return g.op(op_type, a, b)

    return lower


def _as_float(g: Emitter, operand: Operand) -> Operand:
    """Emit a size as a float32 tensor, which is combined with one."""
    if not isinstance(operand, Size):
        return operand
    return g.op("Cast", operand, to=ir.DataType.FLOAT.value)


def power(g: Emitter, x: Operand, exponent: float) -> Operand:
    """Emit a power of a size, in float32, or the square of a tensor."""
    if not isinstance(x, Size):
        if exponent != 2 or is_int64(x):
            raise cannot_lower(f"a tensor to the power {exponent}", "squares, and powers of sizes")
        return g.op("Mul", x, x)
    return g.op("Pow", g.op("Cast", x, to=ir.DataType.FLOAT.value), float(exponent))


def clamp(g: Emitter, x: ir.Value, min: Any = None, max: Any = None) -> ir.Value:
    """Emit ``Clip``; of int64 tensors ``Max`` and ``Min``."""
    if not is_int64(x):
        return g.op("Clip", x, min, max)
    for op_type, bound in (("Max", min), ("Min", max)):
        x = x if bound is None else mark_int64(g.op(op_type, x, as_ints(g, bound)))
    return x


def compare(op_type: str) -> Callable[..., ir.Value]:
    """Return the lowering of a comparison; int64 tensors are compared with integers."""

    def lower(g: Emitter, a: Operand, b: Operand) -> ir.Value:
        if is_int64(a) or is_int64(b):
            a, b = as_ints(g, a), as_ints(g, b)
        result = g.op(op_type, a, b)
        result.type = ir.TensorType(ir.DataType.BOOL)
        return result

    return lower


def remainder(g: Emitter, a: Size | int, b: Size | int) -> Size | int:
    """Emit the remainder of two extents, with the sign of ``b`` as in Python."""
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    if not isinstance(a, (Size, int)) or not isinstance(b, (Size, int)):
        raise cannot_lower("a remainder of tensors", "that of sizes")
    return Size(g.op("Mod", g.ints([a]), g.ints([b])))


def negative(g: Emitter, x: Operand) -> Operand:
    """Emit ``Neg``."""
    if isinstance(x, (int, float)):
        return -x
    y = g.op("Neg", x)
    if isinstance(x, Size):
        return Size(y)
    return mark_int64(y) if is_int64(x) else y


def larger(g: Emitter, a: Size | int, b: Size | int) -> Size | int:
    """Emit the larger of two extents."""
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    return Size(g.op("Max", g.ints([a]), g.ints([b])))


def where(g: Emitter, condition: Operand, a: Operand, b: Operand) -> ir.Value:
    """Emit ``Where``; of int64 tensors in int64."""
    if is_int64(a) or is_int64(b):
        return mark_int64(g.op("Where", condition, as_ints(g, a), as_ints(g, b)))
    return g.op("Where", condition, a, b)


def as_floating(g: Emitter, x: Operand, *_: Any, **__: Any) -> Operand:
    """Return a floating tensor itself; emit ``Cast`` of others. All floating tensors are float32."""
    if isinstance(x, ir.Value) and x.dtype not in (None, ir.DataType.FLOAT):
        return g.op("Cast", x, to=ir.DataType.FLOAT.value)
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


def reflected(g: Emitter, x: ir.Value, dim: int, padded: Size | int) -> ir.Value:
    """Emit the row or column of a map at each place of the padded map, as an int64 vector."""
    places = mark_int64(numbers(g, 0, padded))
    count = as_ints(g, g.extent(x, dim))
    last = g.op("Sub", count, g.ints([1]))
    back = g.op("Max", g.op("Sub", g.op("Add", last, last), places), g.ints([0]))
    index = mark_int64(g.op("Where", g.op("Less", places, count), places, back))
    index.shape = ir.Shape((None,))
    return index


def positions(g: Emitter, x: ir.Value, dim: int) -> ir.Value:
    """Emit the integers from 0 up to the extent of ``x`` along ``dim``, as an int64 vector."""
    return mark_int64(numbers(g, 0, g.extent(x, dim)))
