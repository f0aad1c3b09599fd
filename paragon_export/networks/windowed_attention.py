"""Windows: attention in square windows that overlap and are blended, at every size at once.

A map of at most ``window`` pixels a side is one window. Along a longer axis the windows start
at every multiple of ``window - overlap``, the last one ends where the map does, and neighbours
fade into each other. Nothing loops over windows: pixels are gathered into windows, and each
pixel of the result is gathered back from the two windows per axis that may hold it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from paragon_export.networks.float32 import narrow, widen
from paragon_export.networks.ops import floating, positions

FADE = 1e-8
"""Added to the sum of the windows' weights before the blend is divided by it."""


class MaskedAttention(nn.Module):
    """``softmax(q k') v`` with one head, some places being no keys."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, inside: Tensor) -> Tensor:
        """Attend.

        Args:
            q: Queries (N, windows, tokens, R).
            k: Keys, as ``q``.
            v: Values (N, windows, tokens, C).
            inside: (1, windows, tokens, 1): 1, or 0 where a place is no key.

        Returns:
            (N, windows, tokens, C).
        """
        # The logarithm of 1 or 0.
        scores = q @ k.permute(0, 1, 3, 2) + torch.log(inside).permute(0, 1, 3, 2)
        return torch.softmax(scores, dim=-1) @ v


class BlendedWindows(nn.Module):
    """``softmax(q k' / sqrt(tokens of the window)) v`` in overlapping windows, blended.

    Along an axis of length L there are ``(L + overlap - 1) // (window - overlap)`` windows, or
    one where L is at most ``window``. A window's weight rises from 0 to 1 over its first f
    pixels unless it starts the axis, falls likewise over its last f unless it ends it, with
    ``f = min(overlap, length // 4)``; the weights of both axes multiply, and the weighted sum is
    divided by the sum of weights plus 1e-8.

    Three traits of the trained function follow and are kept. The formula leaves the tail of
    some lengths, such as 33 to 40, in no window, and the result is 0 there. An axis of less than 4
    pixels has no window at all once the other is longer than ``window``. A map that is one
    window is not divided by anything.
    """

    def __init__(self, overlap: int) -> None:
        super().__init__()
        self.overlap = overlap
        self.attend: nn.Module = MaskedAttention()

    def forward(self, q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        """Attend.

        Args:
            q: Queries (N, R, H, W).
            k: Keys, as ``q``.
            v: Values (N, C, H, W).
            window: Side of the windows in pixels; may follow from the map's size.

        Returns:
            (N, C, H, W): weighted means of values, 0 where no window is.
        """
        rows, columns = _along(q, 2, window, self.overlap), _along(q, 3, window, self.overlap)
        inside = rows.inside[:, None, :, None] * columns.inside[:, None]
        inside = inside.reshape(1, -1, rows.width * columns.width, 1)
        tokens = (rows.lengths[:, None] * columns.lengths).reshape(-1, 1, 1)
        query = _cut(q, rows, columns) / torch.sqrt(floating(tokens, q))
        key, value = _cut(k, rows, columns), _cut(v, rows, columns)
        attended = self.attend(query, key, value, inside)
        blended = _blend(_join(attended, rows, columns), rows, columns)
        # 1e-8 is no float16, and where no window is it is all there is to divide by.
        total = widen(rows.cover[:, None] * columns.cover)
        divisor = total + FADE * widen(floating(_beyond(rows, columns), q))
        return narrow(widen(blended) * _exists(rows, columns, q) / divisor, q)


class OverlappingWindows(BlendedWindows):
    """The same with windows of one size."""

    def __init__(self, window: int = 32, overlap: int = 8) -> None:
        """Take the extent of a window and of an overlap in pixels.

        Raises:
            ValueError: If a window that ends the axis could be too short for a ramp.
        """
        if not (2 <= overlap <= window // 4 and window - 2 * overlap >= 7):
            raise ValueError(f"windows of {window} cannot overlap by {overlap}")
        super().__init__(overlap)
        self.window = window

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # type: ignore[override]
        """Attend; see :class:`BlendedWindows`."""
        return super().forward(q, k, v, self.window)


class Coverage(nn.Module):
    """How much of a map the windows of :class:`BlendedWindows` cover."""

    def __init__(self, overlap: int) -> None:
        super().__init__()
        self.overlap = overlap

    def forward(self, x: Tensor, window: int) -> tuple[Tensor, Tensor]:
        """Look at the size of ``x`` (N, C, H, W) alone.

        Returns:
            (H, W): the sum of weights over itself plus 1e-8, so 1 in windows and 0 in gaps; 0
            throughout where the map is one window. And (1): 1 where it is more than one, else 0.
        """
        rows, columns = _along(x, 2, window, self.overlap), _along(x, 3, window, self.overlap)
        total = widen(rows.cover[:, None] * columns.cover)
        several = floating(_beyond(rows, columns), x)
        covered = total / (total + FADE) * widen(several) * _exists(rows, columns, x)
        return narrow(covered, x), several


@dataclass(frozen=True)
class _Axis:
    """The windows along one axis; L is its length, ``count`` and ``width`` those of windows."""

    held: Tensor
    """(count * width) int64: the pixel at each place of each window, one after the other."""
    inside: Tensor
    """(count, width): 1, or 0 where the place is beyond the axis' end and holds a copy."""
    lengths: Tensor
    """(count) int64."""
    holders: tuple[tuple[Tensor, Tensor], ...]
    """For each of the two windows that may hold a pixel: the place among ``held`` (L, int64)
    and the window's weight there (L), 0 where it does not hold the pixel."""
    cover: Tensor
    """(L): sum of both weights."""
    is_long: Tensor
    """(1) int64: 1 where the axis is longer than a window, else 0."""
    is_tiny: Tensor
    """(1) int64: 1 where the axis has less than 4 pixels, else 0."""
    count: Any
    width: Any


def _along(x: Tensor, dim: int, window: int, overlap: int) -> _Axis:
    place = positions(x, dim)
    extent = x.shape[dim]
    stride = window - overlap
    offset = place[:window]
    width = offset.shape[0]
    # 1 where the axis is one window, else (extent + overlap - 1) // stride, without a branch.
    count = 1 + (extent - width + 2 * overlap - 1) // stride
    start = place[:count] * stride
    held = start[:, None] + offset
    first = place // stride
    holders = tuple(
        _holder(x, place, index, extent, count, width, window, overlap)
        for index in (first, first - 1)
    )
    return _Axis(
        held=held.clamp(max=extent - 1).reshape(-1),
        inside=floating((extent - held).clamp(0, 1), x),
        lengths=(extent - start).clamp(max=window),
        holders=holders,
        cover=holders[0][1] + holders[1][1],
        is_long=(extent - place[:1] - window).clamp(0, 1),
        is_tiny=(place[:1] + 4 - extent).clamp(0, 1),
        count=count,
        width=width,
    )


def _holder(
    x: Tensor,
    place: Tensor,
    index: Tensor,
    extent: Any,
    count: Any,
    width: Any,
    window: int,
    overlap: int,
) -> tuple[Tensor, Tensor]:
    """Where window ``index`` (one for each pixel) holds the pixel, and with which weight.

    Whole numbers throughout, 1 and 0 for yes and no: exact whatever the precision.
    """
    start = index * (window - overlap)
    offset = place - start
    exists = (count - index).clamp(0, 1) * (index + 1).clamp(0, 1) * (window - offset).clamp(0, 1)
    length = (extent - start).clamp(0, window)
    rise = ((length // 4).clamp(max=overlap) - 1).clamp(min=1)
    fall = overlap - 1
    is_first = (1 - index).clamp(0, 1)
    is_last = (start + (window + 1) - extent).clamp(0, 1)
    # A window at an end of the axis does not fade there: its offset counts as beyond the ramp.
    risen = (offset + is_first * window).clamp(max=rise)
    fallen = (window - 1 - offset + is_last * window).clamp(0, fall)
    weight = floating(exists * risen * fallen, x) / floating(rise * fall, x)
    return index.clamp(min=0).clamp(max=count - 1) * width + offset.clamp(max=width - 1), weight


def _cut(x: Tensor, rows: _Axis, columns: _Axis) -> Tensor:
    """(N, C, H, W) to (N, windows, tokens, C)."""
    n, c, _, _ = x.shape
    x = torch.index_select(torch.index_select(x, 2, rows.held), 3, columns.held)
    x = x.reshape(n, c, rows.count, rows.width, columns.count, columns.width)
    x = x.permute(0, 2, 4, 3, 5, 1)
    return x.reshape(n, rows.count * columns.count, rows.width * columns.width, c)


def _join(x: Tensor, rows: _Axis, columns: _Axis) -> Tensor:
    """Undo :func:`_cut`, with the windows side by side: rows and columns as in ``held``."""
    n, _, _, c = x.shape
    x = x.reshape(n, rows.count, columns.count, rows.width, columns.width, c)
    x = x.permute(0, 5, 1, 3, 2, 4)
    return x.reshape(n, c, rows.count * rows.width, columns.count * columns.width)


def _blend(x: Tensor, rows: _Axis, columns: _Axis) -> Tensor:
    """Weigh and add the windows that hold each pixel: one axis after the other."""
    (row_a, weight_a), (row_b, weight_b) = rows.holders
    x = (
        torch.index_select(x, 2, row_a) * weight_a[:, None]
        + torch.index_select(x, 2, row_b) * weight_b[:, None]
    )
    (column_a, weight_a), (column_b, weight_b) = columns.holders
    return (
        torch.index_select(x, 3, column_a) * weight_a
        + torch.index_select(x, 3, column_b) * weight_b
    )


def _beyond(rows: _Axis, columns: _Axis) -> Tensor:
    """1 where the map is more than one window, else 0."""
    return (rows.is_long + columns.is_long).clamp(max=1)


def _exists(rows: _Axis, columns: _Axis, like: Tensor) -> Tensor:
    """0 where an axis is too short to have a window beside one that is cut, else 1."""
    without = rows.is_tiny * columns.is_long + columns.is_tiny * rows.is_long
    return widen(floating(1 - without, like))
