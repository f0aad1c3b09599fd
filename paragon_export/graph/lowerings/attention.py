"""Lowerings of the project's own functions in ``networks.ops``: attention, edges, penalties."""

from __future__ import annotations

import onnx_ir as ir

from paragon_export.graph.emitter import Emitter, Size, Weight
from paragon_export.graph.lowerings.arithmetic import numbers
from paragon_export.networks.ops import PENALTY, SHIFTED


def multi_head_attention(
    g: Emitter, q: ir.Value, k: ir.Value, v: ir.Value, bias: Weight, heads: int
) -> ir.Value:
    """Emit ONNX Runtime's ``MultiHeadAttention``."""
    (y,) = g.ops(
        "MultiHeadAttention", 1, q, k, v, bias, domain="com.microsoft", num_heads=heads, scale=1.0
    )
    return y


def single_head_attention(g: Emitter, q: ir.Value, k: ir.Value, v: ir.Value) -> ir.Value:
    """Emit ONNX Runtime's ``MultiHeadAttention`` with one head and no bias."""
    (y,) = g.ops("MultiHeadAttention", 1, q, k, v, domain="com.microsoft", num_heads=1, scale=1.0)
    return y


def outermost(
    g: Emitter, x: ir.Value, dim: int, last: bool, count: int
) -> tuple[ir.Value, ir.Value]:
    """Emit the ``count`` first or last slices of a map, and 1 or 0 for each that exists or not."""
    extent = g.extent(x, dim).value
    if last:
        index = g.op("Add", extent, g.ints(range(-count, 0)))
        exists = g.op("GreaterOrEqual", index, g.ints([0]))
        index = g.op("Max", index, g.ints([0]))
    else:
        index = g.ints(range(count))
        exists = g.op("Less", index, extent)
        index = g.op("Min", index, g.op("Sub", extent, g.ints([1])))
    exists = g.op("Reshape", exists, g.ints([count if axis == dim else 1 for axis in range(4)]))
    return g.op("Gather", x, index, axis=dim), g.op("Where", exists, 1.0, 0.0)


def set_edges(g: Emitter, x: ir.Value, edges: ir.Value, dim: int) -> ir.Value:
    """Emit ``x`` with its first and last slice along ``dim`` replaced by ``edges``.

    TensorRT-RTX compiles no more indices than slices, so of one slice the first index is used alone.
    The shape of the indices is read from the earliest tensors that have it: layers on maps of one size
    share them.
    """
    extent = g.extent(x, dim).value
    sizes = [g.extents.fixed(x, axis) or g.extent(x, axis) for axis in range(4)]
    sizes[dim] = 1  # Expand keeps the extent of the indices
    ends = g.op("Reshape", g.ints([0, -1]), g.ints([2 if axis == dim else 1 for axis in range(4)]))
    start, axes = g.ints([0]), g.ints([dim])
    index = g.op("Expand", g.op("Slice", ends, start, extent, axes), g.ints(sizes))
    edges = g.op("Slice", edges, start, extent, axes)
    return g.op("ScatterElements", x, index, edges, axis=dim)


def padding_penalty(g: Emitter, x: ir.Value, window: int) -> ir.Value:
    """Emit the penalty of padded places, (1, 1, H', W'), where a map fits into one window."""
    one, side = g.ints([1]), g.ints([window])
    outside, windows = [], []
    for axis in (2, 3):
        extent = g.extent(x, axis).value
        count = g.op("Div", g.op("Add", extent, g.ints([window - 1])), side)
        padded = Size(g.op("Mul", count, side))
        place = numbers(g, 0, padded)
        is_padding = g.op("GreaterOrEqual", place, extent)
        sizes = [padded if axis == other else 1 for other in range(4)]
        outside.append(g.op("Reshape", is_padding, g.ints(sizes)))
        windows.append(count)
    is_one_window = g.op("Equal", g.op("Mul", *windows), one)
    penalized = g.op("And", g.op("Or", *outside), is_one_window)
    return g.op("Where", penalized, PENALTY, 0.0)


def shift_penalty(
    g: Emitter,
    x: ir.Value,
    height: Size | int,
    width: Size | int,
    window: tuple[int, int],
    shift: tuple[int, int],
) -> ir.Value:
    """Emit the mask of scores for windows of a shifted map, (windows, T, T)."""
    parts = []
    for extent, by in zip((height, width), shift, strict=True):
        start = g.op("Sub", g.ints([extent]), g.ints([by]))
        moved = g.op("GreaterOrEqual", numbers(g, 0, extent), start)
        parts.append(g.op("Cast", moved, to=ir.DataType.INT64.value))
    rows = g.op("Mul", g.op("Unsqueeze", parts[0], g.ints([1])), g.ints([2]))
    part = g.op("Add", rows, parts[1])
    columns = Size(g.op("Div", g.ints([width]), g.ints([window[1]])))
    part = g.op("Reshape", part, g.ints([-1, window[0], columns, window[1]]))
    part = g.op("Transpose", part, perm=[0, 2, 1, 3])
    part = g.op("Reshape", part, g.ints([-1, window[0] * window[1]]))
    pair = (g.op("Unsqueeze", part, g.ints([axis])) for axis in (2, 1))
    return g.op("Where", g.op("Equal", *pair), 0.0, SHIFTED)
