"""Operators: how each PyTorch call is written in ONNX. One row of a table per call.

Tensors are ``ir.Value``. Sizes read from a tensor are :class:`Size`, weights are
:class:`Weight`, everything else is a plain Python number.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn
from torch.nn import functional as F

from paragon_export.errors import TraceError
from paragon_export.graph.emitter import (
    GELU_OPSET,
    Emitter,
    Operand,
    Size,
    Weight,
    as_ints,
    is_whole,
    whole,
)
from paragon_export.graph.spectrum import lower_spectrum
from paragon_export.networks.ops import (
    PENALTY,
    floating,
    multi_head_attention,
    numbers,
    outermost,
    padding_penalty,
    positions,
    set_edges,
    single_head_attention,
    sized_like,
    spectrum,
)


def _conv2d(g: Emitter, module: nn.Conv2d, name: str, x: Operand) -> ir.Value:
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise TraceError(
            f"{name}: only explicit zero padding is lowered, not {module.padding_mode}"
        )
    weights = [Weight(f"{name}.weight", module.weight.detach())]
    if module.bias is not None:
        weights.append(Weight(f"{name}.bias", module.bias.detach()))
    return g.op(
        "Conv",
        x,
        *weights,
        kernel_shape=list(module.kernel_size),
        strides=list(module.stride),
        pads=[*module.padding, *module.padding],
        dilations=list(module.dilation),
        group=module.groups,
    )


def _linear(g: Emitter, module: nn.Linear, name: str, x: Operand) -> ir.Value:
    y = g.op("MatMul", x, Weight(f"{name}.weight.T", module.weight.detach().T))
    return (
        y if module.bias is None else g.op("Add", y, Weight(f"{name}.bias", module.bias.detach()))
    )


def _gelu(g: Emitter, x: ir.Value, approximate: str = "none") -> ir.Value:
    """``x / 2 * (1 + erf(x / sqrt 2))``, as one operator where the operator set has it."""
    if approximate != "none":
        raise TraceError(f"only the exact GELU is lowered, not approximate={approximate!r}")
    if g.opset >= GELU_OPSET:
        return g.op("Gelu", x)
    erf = g.op("Erf", g.op("Mul", x, math.sqrt(0.5)))
    return g.op("Mul", g.op("Mul", x, 0.5), g.op("Add", erf, 1.0))


def _leaky_relu(
    g: Emitter, x: ir.Value, negative_slope: float = 0.01, inplace: bool = False
) -> ir.Value:
    return g.op("LeakyRelu", x, alpha=float(negative_slope))


def _power(g: Emitter, x: Operand, exponent: float) -> Operand:
    """A power of a size, in float32."""
    if not isinstance(x, Size):
        raise TraceError("only powers of sizes are lowered")
    return g.op("Pow", g.op("Cast", x, to=ir.DataType.FLOAT.value), float(exponent))


def _pixel_shuffle(g: Emitter, module: nn.PixelShuffle, name: str, x: Operand) -> ir.Value:
    return g.op("DepthToSpace", x, blocksize=module.upscale_factor, mode="CRD")


def _batch_norm(g: Emitter, module: nn.BatchNorm2d, name: str, x: Operand) -> ir.Value:
    weights = [
        Weight(f"{name}.{leaf}", getattr(module, leaf).detach())
        for leaf in ("weight", "bias", "running_mean", "running_var")
    ]
    return g.op("BatchNormalization", x, *weights, epsilon=module.eps)


def _layer_norm(g: Emitter, module: nn.LayerNorm, name: str, x: Operand) -> ir.Value:
    weights = [
        Weight(f"{name}.{leaf}", getattr(module, leaf).detach()) for leaf in ("weight", "bias")
    ]
    return g.op(
        "LayerNormalization", x, *weights, axis=-len(module.normalized_shape), epsilon=module.eps
    )


def _max_pool(g: Emitter, module: nn.MaxPool2d, name: str, x: Operand) -> ir.Value:
    sizes = module.kernel_size, module.stride
    if (
        module.padding
        or module.dilation != 1
        or module.ceil_mode
        or not all(isinstance(size, int) for size in sizes)
    ):
        raise TraceError(f"{name}: only square max pooling without padding is lowered")
    kernel, stride = sizes
    return g.op("MaxPool", x, kernel_shape=[kernel, kernel], strides=[stride, stride])


def _embedding(g: Emitter, ids: ir.Value, table: Weight, **_: Any) -> ir.Value:
    return g.op("Gather", table, ids, axis=0)


def _elementwise(op_type: str, compute: Callable[[Any, Any], Any]) -> Callable[..., Operand]:
    """A binary operator on tensors; on sizes alone it is integer arithmetic."""

    def lower(g: Emitter, a: Operand, b: Operand) -> Operand:
        if isinstance(a, (int, float)) and isinstance(b, (int, float)):
            return compute(a, b)
        if isinstance(a, (Size, int)) and isinstance(b, (Size, int)):
            return Size(g.op(op_type, g.ints([a]), g.ints([b])))
        if is_whole(a) or is_whole(b):
            return whole(g.op(op_type, *(as_ints(g, operand) for operand in (a, b))))
        return g.op(op_type, a, b)

    return lower


def _getattr(g: Emitter, x: ir.Value, name: str) -> Shape:
    if name != "shape":
        raise TraceError(f"tensor attribute {name!r} is not known while tracing")
    return Shape(g, x)


class Shape:
    """The shape of a tensor, of which dimensions are read one at a time."""

    def __init__(self, emitter: Emitter, tensor: ir.Value) -> None:
        self._emitter, self._tensor = emitter, tensor

    def __getitem__(self, index: int) -> Size | int:
        if index < 0:
            return Size(self._emitter.op("Shape", self._tensor, start=index))
        fixed = self._emitter.extents.fixed(self._tensor, index)
        return self._emitter.extent(self._tensor, index) if fixed is None else fixed


def _getitem(g: Emitter, x: Any, index: Any) -> Any:
    """Pick from a shape or a tuple, or slice, index and add axes to a tensor."""
    if not isinstance(x, ir.Value):
        return x[index]
    index = index if isinstance(index, tuple) else (index,)
    starts, ends, axes, new_axes = [], [], [], []
    if len(index) == 1 and isinstance(index[0], int):
        scalar = g.constant(f"int_{index[0]}", np.array(index[0], np.int64))
        return g.op("Gather", x, scalar, axis=0)
    for axis, item in enumerate(index):
        if item is None:
            new_axes.append(axis)
        elif not isinstance(item, slice) or item.step not in (None, 1):
            raise TraceError(f"index {item!r} is not lowered")
        elif item != slice(None):
            starts.append(item.start or 0)
            ends.append(np.iinfo(np.int64).max if item.stop is None else item.stop)
            axes.append(axis - len(new_axes))
    if axes:
        y = g.op("Slice", x, g.ints(starts), g.ints([_plain(e) for e in ends]), g.ints(axes))
        x = whole(y) if is_whole(x) else y
    if new_axes:
        y = g.op("Unsqueeze", x, g.ints(new_axes))
        x = whole(y) if is_whole(x) else y
    return x


def _plain(size: Any) -> int | Size:
    return size if isinstance(size, Size) else int(size)


_RESIZES: Mapping[str, Mapping[str, Any]] = {
    "nearest": {
        "mode": "nearest",
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    },
    "bilinear": {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
}


def _interpolate(
    g: Emitter,
    x: ir.Value,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    **_: Any,
) -> ir.Value:
    if mode == "nearest" and size is not None:
        for dim, extent in zip((2, 3), size, strict=True):
            x = g.op("Gather", x, _nearest(g, x, dim, extent), axis=dim)
        return x
    if mode not in _RESIZES or size is not None or not float(scale_factor).is_integer():
        raise TraceError(
            "only nearest resizing to a size, and nearest and bilinear upsampling by a whole "
            "factor, are lowered"
        )
    scales = np.array([1, 1, scale_factor, scale_factor], np.float32)
    return g.op(
        "Resize",
        x,
        None,
        g.constant(f"scales_{scale_factor:g}", scales),
        **_RESIZES[mode],
    )


def _nearest(g: Emitter, x: ir.Value, dim: int, extent: Size | int) -> ir.Value:
    """Which slice stands at each place, in PyTorch's own float32 arithmetic whatever the model's."""
    with g.float32():
        have, wanted = (
            g.op("Cast", whole, to=ir.DataType.FLOAT.value)
            for whole in (g.op("Shape", x, start=dim, end=dim + 1), g.ints([extent]))
        )
        place = g.op("Cast", _numbers(g, 0, Size(g.ints([extent]))), to=ir.DataType.FLOAT.value)
        index = g.op("Floor", g.op("Mul", place, g.op("Div", have, wanted)))
        index = g.op("Min", index, g.op("Sub", have, 1.0))
        return g.op("Cast", index, to=ir.DataType.INT64.value)


def _pad(
    g: Emitter, x: ir.Value, pad: Sequence[Any], mode: str = "constant", value: Any = None
) -> ir.Value:
    """Zero padding of a 4-D map; PyTorch counts axes from the last, in (before, after) pairs."""
    if mode != "constant" or value:
        raise TraceError(f"only zero padding is lowered, not {mode}")
    rank = 4
    before, after = [0] * rank, [0] * rank
    for i in range(len(pad) // 2):
        before[rank - 1 - i], after[rank - 1 - i] = pad[2 * i], pad[2 * i + 1]
    return g.op("Pad", x, g.ints([*before, *after]), mode="constant")


def _roll(g: Emitter, x: ir.Value, shifts: Any, dims: Any) -> ir.Value:
    """A cyclic shift by less than the map's extent: two slices in the other order."""
    for shift, axis in zip(shifts, dims, strict=True):
        cut = g.op("Neg", shift) if isinstance(shift, Size) else g.ints([-shift])
        last = g.ints([np.iinfo(np.int64).max])
        head = g.op("Slice", x, g.ints([0]), cut, g.ints([axis]))
        tail = g.op("Slice", x, cut, last, g.ints([axis]))
        x = g.op("Concat", tail, head, axis=axis)
    return x


def _reshape(g: Emitter, x: ir.Value, *sizes: Any) -> ir.Value:
    sizes = tuple(sizes[0]) if isinstance(sizes[0], (tuple, list)) else sizes
    y = g.op("Reshape", x, g.ints(sizes))
    return whole(y) if is_whole(x) else y


def _permute(g: Emitter, x: ir.Value, *dims: int) -> ir.Value:
    return g.op("Transpose", x, perm=list(dims))


def _cat(g: Emitter, tensors: Sequence[ir.Value], dim: int = 0) -> ir.Value:
    return g.op("Concat", *tensors, axis=dim)


def _softmax(g: Emitter, x: ir.Value, dim: int) -> ir.Value:
    return g.op("Softmax", x, axis=dim)


def _mean(g: Emitter, x: ir.Value, dim: Any, keepdim: bool = False) -> ir.Value:
    axes = [dim] if isinstance(dim, int) else list(dim)
    return g.op("ReduceMean", x, g.ints(axes), keepdims=int(keepdim))


def _chunk(g: Emitter, x: ir.Value, chunks: int, dim: int = 0) -> Sequence[ir.Value]:
    return g.ops("Split", chunks, x, axis=dim, num_outputs=chunks)


def _clamp(g: Emitter, x: ir.Value, min: Any = None, max: Any = None) -> ir.Value:
    if not is_whole(x):
        return g.op("Clip", x, min, max)
    for op_type, bound in (("Max", min), ("Min", max)):
        x = x if bound is None else whole(g.op(op_type, x, as_ints(g, bound)))
    return x


def _sum(g: Emitter, x: ir.Value, dim: Any, keepdim: bool = False) -> ir.Value:
    axes = [dim] if isinstance(dim, int) else list(dim)
    if isinstance(x, ir.Value) and (factor := _square_of(x)) is not None:
        return g.op("ReduceSumSquare", factor, g.ints(axes), keepdims=int(keepdim))
    return g.op("ReduceSum", x, g.ints(axes), keepdims=int(keepdim))


def _square_of(x: ir.Value) -> ir.Value | None:
    """Return what ``x`` is the square of, if it is one."""
    node = x.producer()
    if node is None or node.op_type != "Mul" or node.inputs[0] is not node.inputs[1]:
        return None
    return node.inputs[0]


def _index_select(g: Emitter, x: ir.Value, dim: int, index: ir.Value) -> ir.Value:
    return g.op("Gather", x, index, axis=dim)


def _expand(g: Emitter, x: Operand, *sizes: Any) -> ir.Value:
    return g.op("Expand", x, g.ints(sizes))


def _numbers(g: Emitter, first: int, count: Size | int) -> ir.Value:
    if isinstance(count, int):
        return g.constant(f"numbers_{first}_{count}", np.arange(first, first + count))
    start, step = (g.constant(f"int_{i}", np.array(i, np.int64)) for i in (first, 1))
    end = g.op("Add", g.op("Squeeze", count.value, g.ints([0])), start)
    return g.op("Range", start, end, step)


def _positions(g: Emitter, x: ir.Value, dim: int) -> ir.Value:
    return whole(_numbers(g, 0, g.extent(x, dim)))


def _outermost(
    g: Emitter, x: ir.Value, dim: int, last: bool, count: int
) -> tuple[ir.Value, ir.Value]:
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


def _set_edges(g: Emitter, x: ir.Value, edges: ir.Value, dim: int) -> ir.Value:
    ends = g.op("Reshape", g.ints([0, -1]), g.ints([2 if axis == dim else 1 for axis in range(4)]))
    index = g.op("Expand", ends, g.op("Shape", edges))
    return g.op("ScatterElements", x, index, edges, axis=dim)


def _multi_head_attention(
    g: Emitter, q: ir.Value, k: ir.Value, v: ir.Value, bias: Weight, heads: int
) -> ir.Value:
    (y,) = g.ops(
        "MultiHeadAttention", 1, q, k, v, bias, domain="com.microsoft", num_heads=heads, scale=1.0
    )
    return y


def _single_head_attention(g: Emitter, q: ir.Value, k: ir.Value, v: ir.Value) -> ir.Value:
    (y,) = g.ops("MultiHeadAttention", 1, q, k, v, domain="com.microsoft", num_heads=1, scale=1.0)
    return y


def _sized_like(g: Emitter, y: ir.Value, x: ir.Value) -> ir.Value:
    g.extents.declare(y, x)
    return y


def _padding_penalty(g: Emitter, x: ir.Value, window: int) -> ir.Value:
    one, side = g.ints([1]), g.ints([window])
    beyond, windows = [], []
    for axis in (2, 3):
        extent = g.extent(x, axis).value
        count = g.op("Div", g.op("Add", extent, g.ints([window - 1])), side)
        padded = Size(g.op("Mul", count, side))
        place = _numbers(g, 0, padded)
        outside = g.op("GreaterOrEqual", place, extent)
        sizes = [padded if axis == other else 1 for other in range(4)]
        beyond.append(g.op("Reshape", outside, g.ints(sizes)))
        windows.append(count)
    is_alone = g.op("Equal", g.op("Mul", *windows), one)
    hidden = g.op("And", g.op("Or", *beyond), is_alone)
    return g.op("Where", hidden, PENALTY, 0.0)


MODULES: Mapping[type, Callable[..., Any]] = {
    nn.Conv2d: _conv2d,
    nn.Linear: _linear,
    nn.BatchNorm2d: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.MaxPool2d: _max_pool,
    nn.Flatten: lambda g, module, name, x: g.op("Flatten", x, axis=module.start_dim),
    nn.GELU: lambda g, module, name, x: _gelu(g, x, module.approximate),
    nn.Sigmoid: lambda g, module, name, x: g.op("Sigmoid", x),
    nn.ReLU: lambda g, module, name, x: g.op("Relu", x),
    nn.LeakyReLU: lambda g, module, name, x: _leaky_relu(g, x, module.negative_slope),
    nn.Hardswish: lambda g, module, name, x: g.op("HardSwish", x),
    nn.PixelShuffle: _pixel_shuffle,
    nn.Identity: lambda g, module, name, x: x,
}


FUNCTIONS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    operator.add: _elementwise("Add", operator.add),
    operator.sub: _elementwise("Sub", operator.sub),
    operator.mul: _elementwise("Mul", operator.mul),
    operator.truediv: _elementwise("Div", operator.truediv),
    operator.floordiv: _elementwise("Div", operator.floordiv),
    operator.matmul: lambda g, a, b: g.op("MatMul", a, b),
    operator.eq: lambda g, a, b: g.op("Equal", a, b),
    torch.where: lambda g, condition, a, b: g.op("Where", condition, a, b),
    operator.getitem: _getitem,
    getattr: _getattr,
    torch.sqrt: lambda g, x: g.op("Sqrt", x),
    torch.log: lambda g, x: g.op("Log", x),
    torch.softmax: _softmax,
    torch.roll: _roll,
    torch.cat: _cat,
    F.gelu: _gelu,
    F.embedding: _embedding,
    F.interpolate: _interpolate,
    F.pad: _pad,
    torch.index_select: _index_select,
    numbers: _numbers,
    positions: _positions,
    floating: lambda g, x, like: g.op("Cast", x, to=ir.DataType.FLOAT.value),
    spectrum: lower_spectrum,
    set_edges: _set_edges,
    outermost: _outermost,
    multi_head_attention: _multi_head_attention,
    single_head_attention: _single_head_attention,
    padding_penalty: _padding_penalty,
    sized_like: _sized_like,
    F.leaky_relu: _leaky_relu,
    F.mish: lambda g, x, inplace=False: g.op("Mish", x),
    operator.pow: _power,
}


METHODS: Mapping[str, Callable[..., Any]] = {
    "square": lambda g, x: g.op("Mul", x, x),
    "mean": _mean,
    "sum": _sum,
    "expand": _expand,
    "clamp": _clamp,
    "chunk": _chunk,
    "permute": _permute,
    "reshape": _reshape,
}
