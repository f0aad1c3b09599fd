"""Attention in overlapping square windows whose results are blended, for maps of any size.

A map whose height and width are at most ``window`` is one window. Along a longer axis, windows
start at every multiple of ``window - overlap``, and the last one ends at the end of the axis.

There is no loop over windows, so that one graph is valid for all sizes: pixels are gathered into
windows, and each output pixel is gathered from the at most two windows per axis that contain it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from paragon_export.networks.float32 import narrow, widen
from paragon_export.networks.ops import floating, positions

WEIGHT_EPSILON = 1e-8
"""Added to the sum of the windows' weights before the blend is divided by it."""


class MaskedAttention(nn.Module):
    """``softmax(q k') v`` with one head and a mask of keys."""

    def __init__(self, widths: tuple[int, int] | None = None) -> None:
        """Take the channels of queries and of values, which some rewrites need to know."""
        super().__init__()
        self.widths = widths

    def forward(self, q: Tensor, k: Tensor, v: Tensor, inside: Tensor) -> Tensor:
        """Return the attended values.

        Args:
            q: Queries (N, windows, tokens, R).
            k: Keys (N, windows, tokens, R).
            v: Values (N, windows, tokens, C).
            inside: Mask (1, windows, tokens, 1): 1 for a key, 0 for a token that is no key.

        Returns:
            (N, windows, tokens, C).
        """
        # log(1) = 0 keeps a score, log(0) = -inf excludes it.
        scores = q @ k.permute(0, 1, 3, 2) + torch.log(inside).permute(0, 1, 3, 2)
        return torch.softmax(scores, dim=-1) @ v


class BlendedWindows(nn.Module):
    """``softmax(q k' / sqrt(tokens of the window)) v`` in overlapping windows, blended.

    Along an axis of length L there are ``(L + overlap - 1) // (window - overlap)`` windows, or one
    if L is at most ``window``. The weight of a window rises linearly from 0 to 1 over its first f
    pixels, unless it is at the start of the axis, and falls over its last f pixels, unless it is at
    the end, with ``f = min(overlap, length // 4)``. The weights of both axes are multiplied. The
    weighted sum is divided by the sum of the weights plus 1e-8.

    Networks were trained with three special cases of this formula, which are kept:

    * For some lengths, such as 33 to 40, the last pixels are in no window. The result is 0 there.
    * An axis of less than 4 pixels has no window if the other axis is longer than ``window``.
    * A map that is one window is not divided.
    """

    def __init__(self, overlap: int, widths: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.overlap = overlap
        self.attend: nn.Module = MaskedAttention(widths)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        """Return the attended values.

        Args:
            q: Queries (N, R, H, W).
            k: Keys (N, R, H, W).
            v: Values (N, C, H, W).
            window: Side of the windows in pixels. It may depend on the size of the map.

        Returns:
            (N, C, H, W): weighted means of values; 0 at pixels that are in no window.
        """
        rows, columns = _along(q, 2, window, self.overlap), _along(q, 3, window, self.overlap)
        inside = rows.inside[:, None, :, None] * columns.inside[:, None]
        inside = inside.reshape(1, -1, rows.width * columns.width, 1)
        tokens = (rows.lengths[:, None] * columns.lengths).reshape(-1, 1, 1)
        # In float32: float16 holds no count above 65504, and no odd one above 2048.
        scale = torch.sqrt(floating(tokens, widen(q)))
        query = _cut(q, rows, columns) / narrow(scale, q)
        key, value = _cut(k, rows, columns), _cut(v, rows, columns)
        attended = self.attend(query, key, value, inside)
        blended = _blend(_join(attended, rows, columns), rows, columns)
        # In float32: float16 rounds 1e-8 to 0, and outside of all windows the total is 0 as well.
        total = widen(rows.cover[:, None] * columns.cover)
        divisor = total + WEIGHT_EPSILON * widen(floating(_beyond(rows, columns), q))
        return narrow(widen(blended) * _exists(rows, columns, q) / divisor, q)


class OverlappingWindows(BlendedWindows):
    """:class:`BlendedWindows` with windows of a fixed size."""

    def __init__(
        self, window: int = 32, overlap: int = 8, widths: tuple[int, int] | None = None
    ) -> None:
        """Take the side of a window and the overlap of two windows in pixels.

        ``widths`` is for :class:`MaskedAttention`.

        Raises:
            ValueError: If the last window of an axis could be too short to fade.
        """
        if not (2 <= overlap <= window // 4 and window - 2 * overlap >= 7):
            raise ValueError(f"windows of {window} cannot overlap by {overlap}")
        super().__init__(overlap, widths)
        self.window = window

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # type: ignore[override]
        """Return the attended values, (N, C, H, W); see :class:`BlendedWindows`."""
        return super().forward(q, k, v, self.window)


class Coverage(nn.Module):
    """Where the windows of :class:`BlendedWindows` cover a map."""

    def __init__(self, overlap: int) -> None:
        super().__init__()
        self.overlap = overlap

    def forward(self, x: Tensor, window: int) -> tuple[Tensor, Tensor]:
        """Return the coverage for the size of ``x`` (N, C, H, W), whose values are not used.

        Returns:
            The coverage (H, W): ``t / (t + 1e-8)`` with the sum t of the weights at a pixel, which
            is 1 in windows and 0 elsewhere; all 0 if the map is one window. And (1): 1 if the map
            is more than one window, else 0.
        """
        rows, columns = _along(x, 2, window, self.overlap), _along(x, 3, window, self.overlap)
        total = widen(rows.cover[:, None] * columns.cover)
        several = floating(_beyond(rows, columns), x)
        covered = total / (total + WEIGHT_EPSILON) * widen(several) * _exists(rows, columns, x)
        return narrow(covered, x), several


@dataclass(frozen=True)
class _Axis:
    """The windows along one axis of length L."""

    held: Tensor
    """(count * width) int64: the pixels of all windows, window by window."""
    inside: Tensor
    """(count, width): 1; 0 for positions beyond the end of the axis, where ``held`` repeats the
    last pixel."""
    lengths: Tensor
    """(count) int64: the number of pixels of each window."""
    holders: tuple[tuple[Tensor, Tensor], ...]
    """For each of the two windows that may contain a pixel: the pixel's index in ``held`` (L),
    int64, and the weight of the window there (L), 0 if it does not contain the pixel."""
    cover: Tensor
    """(L): sum of both weights."""
    is_long: Tensor
    """(1) int64: 1 if the axis is longer than a window, else 0."""
    is_tiny: Tensor
    """(1) int64: 1 if the axis has less than 4 pixels, else 0."""
    count: Any
    """Number of windows: an int, or a symbolic extent in a trace."""
    width: Any
    """Pixels of a window along the axis: an int, or a symbolic extent in a trace."""


def _along(x: Tensor, dim: int, window: int, overlap: int) -> _Axis:
    """Return the windows along dimension ``dim`` of ``x`` (N, C, H, W)."""
    place = positions(x, dim)
    extent = x.shape[dim]
    stride = window - overlap
    offset = place[:window]
    width = offset.shape[0]
    # 1 if the axis is one window, else (extent + overlap - 1) // stride, without a branch.
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
    """Return the positions of pixels in one window for each, and the windows' weights there.

    Conditions are int64 values 1 and 0, which are exact in every precision.

    Args:
        x: The map, for its dtype.
        place: Pixels (L), int64.
        index: For each pixel the index of a window (L), int64. It may be out of range.
        extent: Length of the axis.
        count: Number of windows.
        width: Pixels of a window.
        window: Largest number of pixels of a window.
        overlap: Pixels that two windows share.

    Returns:
        As an element of ``_Axis.holders``.
    """
    start = index * (window - overlap)
    offset = place - start
    exists = (count - index).clamp(0, 1) * (index + 1).clamp(0, 1) * (window - offset).clamp(0, 1)
    length = (extent - start).clamp(0, window)
    rise = ((length // 4).clamp(max=overlap) - 1).clamp(min=1)
    fall = overlap - 1
    is_first = (1 - index).clamp(0, 1)
    is_last = (start + (window + 1) - extent).clamp(0, 1)
    # A window at an end of the axis does not fade there: its offset is moved beyond the ramp.
    risen = (offset + is_first * window).clamp(max=rise)
    fallen = (window - 1 - offset + is_last * window).clamp(0, fall)
    weight = floating(exists * risen * fallen, x) / floating(rise * fall, x)
    return index.clamp(min=0).clamp(max=count - 1) * width + offset.clamp(max=width - 1), weight


def _cut(x: Tensor, rows: _Axis, columns: _Axis) -> Tensor:
    """Return the windows of (N, C, H, W) as (N, windows, tokens, C)."""
    n, c, _, _ = x.shape
    x = torch.index_select(torch.index_select(x, 2, rows.held), 3, columns.held)
    x = x.reshape(n, c, rows.count, rows.width, columns.count, columns.width)
    x = x.permute(0, 2, 4, 3, 5, 1)
    return x.reshape(n, rows.count * columns.count, rows.width * columns.width, c)


def _join(x: Tensor, rows: _Axis, columns: _Axis) -> Tensor:
    """Return windows (N, windows, tokens, C) next to each other, with rows and columns as ``held``.

    The result is (N, C, count * width of rows, count * width of columns).
    """
    n, _, _, c = x.shape
    x = x.reshape(n, rows.count, columns.count, rows.width, columns.width, c)
    x = x.permute(0, 5, 1, 3, 2, 4)
    return x.reshape(n, c, rows.count * rows.width, columns.count * columns.width)


def _blend(x: Tensor, rows: _Axis, columns: _Axis) -> Tensor:
    """Return the weighted sum of the windows that contain each pixel, (N, C, H, W)."""
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
    """Return (1), int64: 1 if the map is more than one window, else 0."""
    return (rows.is_long + columns.is_long).clamp(max=1)


def _exists(rows: _Axis, columns: _Axis, like: Tensor) -> Tensor:
    """Return (1): 0 if one axis has less than 4 pixels and the other several windows, else 1."""
    without = rows.is_tiny * columns.is_long + columns.is_tiny * rows.is_long
    return widen(floating(1 - without, like))
