"""Rule on attention inside windows for TensorRT: its fused attention reads what products wrote."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, nn

from paragon_export.networks.float32 import narrow, widen
from paragon_export.networks.layers import RMSNorm, WindowAttention
from paragon_export.networks.ops import floating, numbers, positions, sized_like
from paragon_export.rewrite.attention.windows import size_sources
from paragon_export.rewrite.fx_network import Network, feeds_only


def stack_windows(network: Network) -> int:
    """Lay out windows with the place inside the window as the first axis, and norm them there.

    TensorRT's fused attention takes heads that lie at one distance in memory. They do if the axes
    are place, window, head, channel: then it reads the results of the products for q, k and v as
    they are. In the trained order of axes a kernel copies them first. The product for q is a 1x1
    convolution, because TensorRT may join three products of one map and copy their results.

    The norm before the attention treats each pixel alone, so it is the same before and after the
    map is cut into windows. After it, TensorRT cuts and norms in one kernel, and no float32 map is
    written. Padding is zero after the trained norm, so the result is multiplied by a mask. Rows and
    columns are padded, rolled and cropped by index (:class:`WindowPlaces`), so that TensorRT plans
    no memory for padding.

    Constants move as in :func:`~paragon_export.rewrite.attention.gather_windows`. Only q keeps
    a bias. The norm moves if it is an :class:`RMSNorm` whose result no other call uses; the layout
    changes in any case.
    """
    fired = 0
    places: dict[tuple[Any, int, int], list[Any]] = {}
    sources = size_sources(network)
    for node, attention in network.calls(WindowAttention):
        before = node.args[0]
        key = sources[node], attention.window, attention.shift
        if key not in places:
            first = network.after(key[0])
            found = network.call(first, WindowPlaces(attention.window, attention.shift), key[0])
            places[key] = [network.apply(first, operator.getitem, found, i) for i in range(3)]
        norm = network.layer(before, RMSNorm)
        if norm is not None and not feeds_only(before, node):
            norm = None
        network.swap(node, StackedAttention(attention, norm), *places[key])
        if norm is not None:
            network.replace(before, before.args[0])
        fired += 1
    return fired


class WindowPlaces(nn.Module):
    """Where the windows of a map lie: the map is padded to whole windows and rolled by ``shift``."""

    def __init__(self, window: int, shift: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift

    def forward(self, x: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
        """Compute the places from the size of ``x`` (N, C, H, W); its values are not used.

        Returns:
            Three values. First, for each row of the padded and rolled map the row of ``x``, and
            for each column the column of ``x``, int64; any row or column for padding. Second, for
            each row of ``x`` its row in the padded and rolled map, and for each column. Third,
            1 for each place that holds a pixel and 0 for padding, (window^2, 1, windows, 1).
        """
        size = self.window
        (row, back_row, rows), (column, back_column, columns) = (self._along(x, d) for d in (2, 3))
        inside = rows.reshape(size, 1, 1, -1, 1) * columns.reshape(1, size, 1, 1, -1)
        inside = floating(inside, x).reshape(size * size, 1, -1, 1)
        return (row, column), (back_row, back_column), inside

    def _along(self, x: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the places along one axis, there and back, and the mask (window, windows)."""
        extent, place = x.shape[dim], positions(x, dim)
        padded = (extent + self.window - 1) // self.window * self.window
        # A sum with a position is int64 in a trace as well.
        there = place[:1] + numbers(0, padded) + self.shift
        there = there - there // padded * padded
        back = place + (padded - self.shift)
        back = back - back // padded * padded
        inside = (extent - there).clamp(0, 1).reshape(-1, self.window).permute(1, 0)
        return there.clamp(max=extent - 1), back, inside


class StackedAttention(nn.Module):
    """An optional norm and attention inside windows, with the place as the first axis."""

    def __init__(self, attention: WindowAttention, norm: RMSNorm | None) -> None:
        super().__init__()
        c = attention.channels
        self.channels, self.window, self.shift = c, attention.window, attention.shift
        self.inner, self.width = attention.inner, attention.width
        self.norm = norm
        self.q = nn.Conv2d(c, self.inner, 1, dtype=torch.float64)
        self.proj = nn.Linear(self.inner, c, dtype=torch.float64)
        self.k, self.v = (
            nn.Linear(c, self.inner, bias=False, dtype=torch.float64) for _ in range(2)
        )
        q, k, v = attention.qkv.weight.detach().double().chunk(3)
        q_bias, _, v_bias = attention.qkv.bias.detach().double().chunk(3)
        with torch.no_grad():
            self.q.weight.copy_(q[:, :, None, None] * self.width**-0.5)
            assert self.q.bias is not None
            self.q.bias.copy_(q_bias * self.width**-0.5)
            self.k.weight.copy_(k)
            self.v.weight.copy_(v)
            self.proj.weight.copy_(attention.proj.weight)
            self.proj.bias.copy_(attention.proj.bias + attention.proj.weight @ v_bias)

    def forward(
        self, x: Tensor, there: tuple[Tensor, ...], back: tuple[Tensor, ...], inside: Tensor
    ) -> Tensor:
        """Return the attended map.

        Args:
            x: (N, C, H, W), as the result.
            there: First result of :class:`WindowPlaces`.
            back: Its second result.
            inside: Its third result.
        """
        n, c, size = x.shape[0], self.channels, self.window
        rows, columns = ((x.shape[dim] + size - 1) // size for dim in (2, 3))
        y = _taken(x, there).reshape(n, c, rows, size, columns, size).permute(3, 5, 0, 2, 4, 1)
        y = y.reshape(size * size, n, -1, c)
        y = y * inside if self.norm is None else _normed(self.norm, y, inside)
        y = self.proj(self._attend(y))
        y = y.reshape(size, size, n, rows, columns, c).permute(2, 5, 3, 0, 4, 1)
        return sized_like(_taken(y.reshape(n, c, rows * size, columns * size), back), x)

    def _attend(self, y: Tensor) -> Tensor:
        """Return the attended values (places and windows, inner) of (places, N, windows, C)."""
        rows = y.reshape(-1, self.channels)
        query = self.q(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        q, k, v = (self._heads(part) for part in (query, self.k(rows), self.v(rows)))
        weights = torch.softmax(q @ k.permute(0, 2, 1), dim=-1)
        return (weights @ v).permute(1, 0, 2).reshape(-1, self.inner)

    def _heads(self, y: Tensor) -> Tensor:
        """Return (windows and heads, places of a window, channels of a head)."""
        return y.reshape(self.window**2, -1, self.width).permute(1, 0, 2)


def _taken(x: Tensor, places: Any) -> Tensor:
    """Return rows and columns of (N, C, H, W), by index."""
    return torch.index_select(torch.index_select(x, 2, places[0]), 3, places[1])


def _normed(norm: RMSNorm, y: Tensor, inside: Any) -> Tensor:
    """Return the norm of ``y`` (places, N, windows, C), and 0 where ``inside`` is 0."""
    wide = widen(y)
    unit = wide / torch.sqrt(wide.square().mean(dim=-1, keepdim=True) + 1e-6)
    return narrow((unit * norm.scale.flatten() + norm.bias.flatten()) * inside, y)
