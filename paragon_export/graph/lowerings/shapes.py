"""Lowerings that read, index or change the shape of a tensor, and move its values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from paragon_export.graph.emitter import (
    Emitter,
    Operand,
    Size,
    cannot_lower,
    is_int64,
    mark_int64,
)
from paragon_export.graph.lowerings.arithmetic import numbers


def getattr_(g: Emitter, x: ir.Value, name: str) -> Shape:
    """Return the shape of a tensor; other attributes cannot be lowered."""
    if name != "shape":
        raise cannot_lower(f"tensor attribute {name!r}", "shape")
    return Shape(g, x)


def with_part(g: Emitter, x: ir.Value, index: Any, value: Operand) -> ir.Value:
    """Emit a map whose first channels are replaced: ``x[:, :k] = value``."""
    everything = slice(None)
    first, kept, *rest = [*index, everything] if isinstance(index, tuple) else [index, None]
    is_front = isinstance(kept, slice) and not kept.start and kept.step in (None, 1)
    if not is_front or first != everything or any(part != everything for part in rest):
        raise cannot_lower(f"a change of {index} in place", "one of the first channels")
    assert isinstance(kept, slice)
    others = g.op("Slice", x, g.ints([kept.stop]), g.ints([np.iinfo(np.int64).max]), g.ints([1]))
    return g.op("Concat", value, others, axis=1)


def size(g: Emitter, x: ir.Value, dim: int | None = None) -> Any:
    """Return the shape of a tensor, or one extent of it."""
    return Shape(g, x) if dim is None else Shape(g, x)[dim]


class Shape:
    """The shape of a tensor, or what follows an axis of it. Extents are emitted when they are read."""

    def __init__(self, emitter: Emitter, tensor: ir.Value, first: int = 0) -> None:
        self._emitter, self._tensor, self._first = emitter, tensor, first

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            start = index.start or 0
            if self._first or index.stop is not None or index.step not in (None, 1):
                raise cannot_lower(f"the part {index} of a shape", "all from one axis on")
            return Shape(self._emitter, self._tensor, start)
        index += self._first
        if index < -1:
            return Size(self._emitter.op("Shape", self._tensor, start=index, end=index + 1))
        if index == -1:
            return Size(self._emitter.op("Shape", self._tensor, start=index))
        fixed = self._emitter.extents.fixed(self._tensor, index)
        return self._emitter.extent(self._tensor, index) if fixed is None else fixed


def getitem(g: Emitter, x: Any, index: Any) -> Any:
    """Read an item of a shape or a tuple; or index, slice or add axes to a tensor."""
    if not isinstance(x, ir.Value):
        return x[index]
    index = index if isinstance(index, tuple) else (index,)
    starts, ends, axes = [], [], []
    new_axes: list[int] = []
    if len(index) == 1 and isinstance(index[0], int):
        scalar = g.constant(f"int_{index[0]}", np.array(index[0], np.int64))
        return g.op("Gather", x, scalar, axis=0)
    is_behind = False
    for axis, item in enumerate(index):
        if item is Ellipsis and not new_axes:
            is_behind = True
        elif item is None and not is_behind:
            new_axes.append(axis)
        elif not isinstance(item, slice) or item.step not in (None, 1):
            raise cannot_lower(f"index {item!r}", "an integer, slices of step 1 and new axes")
        elif item != slice(None):
            starts.append(item.start or 0)
            ends.append(np.iinfo(np.int64).max if item.stop is None else item.stop)
            # Behind an ellipsis axes are counted from the end: the rank is unknown.
            axes.append(axis - len(index if is_behind else new_axes))
    if axes:
        y = g.op("Slice", x, g.ints(starts), g.ints([_int_or_size(e) for e in ends]), g.ints(axes))
        x = mark_int64(y) if is_int64(x) else y
    if new_axes:
        y = g.op("Unsqueeze", x, g.ints(new_axes))
        x = mark_int64(y) if is_int64(x) else y
    return x


def _int_or_size(extent: Any) -> int | Size:
    return extent if isinstance(extent, Size) else int(extent)


def reshape(g: Emitter, x: ir.Value, *sizes: Any) -> ir.Value:
    """Emit ``Reshape`` to sizes, of which one may be -1."""
    sizes = tuple(sizes[0]) if isinstance(sizes[0], (tuple, list)) else sizes
    y = g.op("Reshape", x, g.ints(sizes))
    return mark_int64(y) if is_int64(x) else y


def permute(g: Emitter, x: ir.Value, *dims: int) -> ir.Value:
    """Emit ``Transpose``."""
    return g.op("Transpose", x, perm=list(dims))


def expand(g: Emitter, x: Operand, *sizes: Any) -> ir.Value:
    """Emit ``Expand``."""
    return g.op("Expand", x, g.ints(sizes))


def cat(g: Emitter, tensors: Sequence[ir.Value], dim: int = 0) -> ir.Value:
    """Emit ``Concat`` along ``dim``."""
    return g.op("Concat", *tensors, axis=dim)


def chunk(g: Emitter, x: ir.Value, chunks: int, dim: int = 0) -> Sequence[ir.Value]:
    """Emit ``Split`` into equal parts along ``dim``."""
    return g.ops("Split", chunks, x, axis=dim, num_outputs=chunks)


def split(g: Emitter, x: ir.Value, sizes: Any, dim: int = 0) -> Sequence[ir.Value]:
    """Emit ``Split`` into parts of given extents along ``dim``."""
    if not isinstance(sizes, (tuple, list)):
        extent = g.extents.fixed(x, dim) if dim >= 0 else None
        if extent is None or not isinstance(sizes, int):
            raise cannot_lower(f"a split into parts of {sizes}", "a list of extents")
        sizes = [min(sizes, extent - start) for start in range(0, extent, sizes)]
    return g.ops("Split", len(sizes), x, g.ints(sizes), axis=dim)


def repeat_interleave(g: Emitter, x: ir.Value, repeats: int, dim: int) -> ir.Value:
    """Emit ``Gather`` that reads every slice along ``dim`` several times in a row."""
    extent = g.extents.fixed(x, dim) if dim >= 0 else None
    if extent is None or not isinstance(repeats, int):
        raise cannot_lower(f"repeating {repeats} times along axis {dim}", "axes of known extent")
    places = np.repeat(np.arange(extent), repeats)
    return g.op("Gather", x, g.constant(f"repeat_{extent}_{repeats}", places), axis=dim)


def unsqueeze(g: Emitter, x: ir.Value, dim: int) -> ir.Value:
    """Emit ``Unsqueeze``."""
    y = g.op("Unsqueeze", x, g.ints([dim]))
    return mark_int64(y) if is_int64(x) else y


def flatten(g: Emitter, x: ir.Value, start_dim: int = 0, end_dim: int = -1) -> ir.Value:
    """Emit ``Reshape`` of the last axes to one."""
    if end_dim != -1 or start_dim < 0:
        raise cannot_lower(f"flattening axes {start_dim} to {end_dim}", "flattening the last axes")
    return g.op("Reshape", x, g.ints([*[0] * start_dim, -1]))


def index_select(g: Emitter, x: ir.Value, dim: int, index: ir.Value) -> ir.Value:
    """Emit ``Gather`` along ``dim``."""
    return g.op("Gather", x, index, axis=dim)


def pad(
    g: Emitter, x: ir.Value, pad: Sequence[Any], mode: str = "constant", value: Any = None
) -> ir.Value:
    """Emit padding of a map of rank 4 with zeros, by reflection or by repetition of the edge.

    PyTorch lists axes from the last one on, each as a pair (before, after).
    """
    if mode not in _PADS or value:
        raise cannot_lower(f"padding of mode {mode} with value {value}", "zeros and reflection")
    rank = 4
    before, after = [0] * rank, [0] * rank
    for i in range(len(pad) // 2):
        before[rank - 1 - i], after[rank - 1 - i] = pad[2 * i], pad[2 * i + 1]
    y = g.op("Pad", x, g.ints([*before, *after]), mode=_PADS[mode])
    if len(pad) <= 4:
        g.extents.declare(y, x, axes=(0, 1))
    return y


_PADS = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}
"""Modes of ``Pad`` for those of PyTorch."""


def roll(g: Emitter, x: ir.Value, shifts: Any, dims: Any) -> ir.Value:
    """Emit a cyclic shift by less than the extent: two slices, concatenated in reverse order."""
    for shift, axis in zip(shifts, dims, strict=True):
        cut = g.op("Neg", shift) if isinstance(shift, Size) else g.ints([-shift])
        last = g.ints([np.iinfo(np.int64).max])
        head = g.op("Slice", x, g.ints([0]), cut, g.ints([axis]))
        tail = g.op("Slice", x, cut, last, g.ints([axis]))
        x = g.op("Concat", tail, head, axis=axis)
    return x


_RESIZES: Mapping[str, Mapping[str, Any]] = {
    "nearest": {
        "mode": "nearest",
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    },
    "bilinear": {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
}
"""Attributes of ``Resize`` for the modes of PyTorch's ``interpolate``."""


def interpolate(
    g: Emitter,
    x: ir.Value,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    antialias: bool = False,
    **_: Any,
) -> ir.Value:
    """Emit nearest resizing to a size, or nearest or bilinear upsampling by an integer factor."""
    if align_corners or antialias:
        raise cannot_lower("resizing with align_corners or antialias", "resizing without them")
    if mode == "nearest" and size is not None:
        for dim, extent in zip((2, 3), size, strict=True):
            x = g.op("Gather", x, _nearest_index(g, x, dim, extent), axis=dim)
        return x
    if isinstance(scale_factor, (tuple, list)) and len(set(scale_factor)) == 1:
        scale_factor = scale_factor[0]
    is_whole = isinstance(scale_factor, (int, float)) and float(scale_factor).is_integer()
    if mode not in _RESIZES or size is not None or not is_whole:
        raise cannot_lower(
            f"resizing of mode {mode} to size {size} or by factor {scale_factor}",
            "nearest resizing to a size, and nearest and bilinear upsampling by an integer factor",
        )
    scales = np.array([1, 1, scale_factor, scale_factor], np.float32)
    return g.op(
        "Resize",
        x,
        None,
        g.constant(f"scales_{scale_factor:g}", scales),
        **_RESIZES[mode],
    )


def _nearest_index(g: Emitter, x: ir.Value, dim: int, extent: Size | int) -> ir.Value:
    """Emit the index of the nearest slice for each place, computed in float32 as PyTorch does."""
    with g.float32():
        old, new = (
            g.op("Cast", count, to=ir.DataType.FLOAT.value)
            for count in (g.op("Shape", x, start=dim, end=dim + 1), g.ints([extent]))
        )
        place = g.op("Cast", numbers(g, 0, Size(g.ints([extent]))), to=ir.DataType.FLOAT.value)
        index = g.op("Floor", g.op("Mul", place, g.op("Div", old, new)))
        index = g.op("Min", index, g.op("Sub", old, 1.0))
        return g.op("Cast", index, to=ir.DataType.INT64.value)


def sized_like(g: Emitter, y: ir.Value, x: ir.Value) -> ir.Value:
    """Return ``y``; later reads of its batch, height and width read those of ``x``."""
    g.extents.declare(y, x)
    return y
