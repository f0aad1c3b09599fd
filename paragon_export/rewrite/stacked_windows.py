"""Rule on attention inside windows for TensorRT: its fused attention reads what products wrote."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.networks.float32 import narrow, widen
from paragon_export.networks.layers import RMSNorm, WindowAttention
from paragon_export.networks.ops import floating, numbers, positions, sized_like
from paragon_export.rewrite.attention import size_sources
from paragon_export.rewrite.fx_network import Network, feeds_only


def stack_windows(network: Network) -> int:
    """Lay out windows with the place inside the window as the first axis, and norm them there.

    TensorRT's fused attention takes heads that lie at one distance in memory. They do if the axes
    are place, window, head, channel: then it reads the results of the products for q, k and v as
    they are. In the trained order of axes a kernel copies them first.

    The norm before the attention treats each pixel alone, so it is the same before and after the
    map is cut into windows. After it, TensorRT pads, rolls, cuts and norms in one kernel, and no
    float32 map is written. Padding is zero after the trained norm, so the norm's bias is
    multiplied by a mask (:class:`InsideWindows`); the norm of zero is zero.

    Constants move as in :func:`~paragon_export.rewrite.attention.gather_windows`. Only q keeps
    a bias, so k and v share one product of two matrices. The norm moves if it is an
    :class:`RMSNorm` whose result no other call uses; the layout changes in any case.
    """
    fired = 0
    masks: dict[tuple[Any, int, int], Any] = {}
    sources = size_sources(network)
    for node, attention in network.calls(WindowAttention):
        before = node.args[0]
        norm = network.layer(before, RMSNorm)
        if norm is None or not feeds_only(before, node):
            network.swap(node, StackedAttention(attention, None))
        else:
            key = sources[node], attention.window, attention.shift
            if key not in masks:
                masks[key] = network.call(
                    network.after(key[0]), InsideWindows(attention.window, attention.shift), key[0]
                )
            network.swap(node, StackedAttention(attention, norm), masks[key])
            network.replace(before, before.args[0])
        fired += 1
    return fired


class InsideWindows(nn.Module):
    """The mask of padding for the size of a map, whose values are not used."""

    def __init__(self, window: int, shift: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift

    def forward(self, x: Tensor) -> Tensor:
        """Return 1 for each place that holds a pixel of ``x`` (N, C, H, W), and 0 for padding.

        The shape is (window^2, 1, windows of one map, 1).
        """
        size = self.window
        rows, columns = (self._inside(x, dim) for dim in (2, 3))
        inside = rows.reshape(size, 1, 1, -1, 1) * columns.reshape(1, size, 1, 1, -1)
        return floating(inside, x).reshape(size * size, 1, -1, 1)

    def _inside(self, x: Tensor, dim: int) -> Tensor:
        """Return the mask of one axis, (window, windows along it), int64."""
        extent = x.shape[dim]
        padded = (extent + self.window - 1) // self.window * self.window
        # A sum with a position is int64 in a trace as well.
        place = positions(x, dim)[:1] + numbers(0, padded)
        inside = (extent - place).clamp(0, 1)
        if self.shift:
            inside = torch.roll(inside, (-self.shift,), (0,))
        return inside.reshape(-1, self.window).permute(1, 0)


class StackedAttention(nn.Module):
    """An optional norm and attention inside windows, with the place as the first axis."""

    def __init__(self, attention: WindowAttention, norm: RMSNorm | None) -> None:
        super().__init__()
        c = attention.channels
        self.channels, self.window, self.shift = c, attention.window, attention.shift
        self.width = c // attention.heads
        self.norm = norm
        self.q = nn.Linear(c, c, dtype=torch.float64)
        self.proj = nn.Linear(c, c, dtype=torch.float64)
        q, k, v = attention.qkv.weight.detach().double().chunk(3)
        q_bias, _, v_bias = attention.qkv.bias.detach().double().chunk(3)
        self.kv = nn.Parameter(torch.stack((k.T, v.T)))
        """Matrices of k and v, (2, C, C), from the right of a row of channels."""
        with torch.no_grad():
            self.q.weight.copy_(q * self.width**-0.5)
            self.q.bias.copy_(q_bias * self.width**-0.5)
            self.proj.weight.copy_(attention.proj.weight)
            self.proj.bias.copy_(attention.proj.bias + attention.proj.weight @ v_bias)

    def forward(self, x: Tensor, inside: Tensor | None = None) -> Tensor:
        """Return the attended map, (N, C, H, W).

        Args:
            x: (N, C, H, W).
            inside: Result of :class:`InsideWindows`, if the norm is part of this layer.
        """
        n, c, size = x.shape[0], self.channels, self.window
        rows, columns = ((x.shape[dim] + size - 1) // size for dim in (2, 3))
        y = self._cut(x, n, rows, columns)
        if self.norm is not None:
            y = _normed(self.norm, y, inside)
        y = self.proj(self._attend(y.reshape(1, -1, c)))
        y = y.reshape(size, size, n, rows, columns, c).permute(2, 5, 3, 0, 4, 1)
        y = y.reshape(n, c, rows * size, columns * size)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (2, 3))
        return sized_like(y[:, :, : x.shape[2], : x.shape[3]], x)

    def _cut(self, x: Tensor, n: int, rows: int, columns: int) -> Tensor:
        """Return the places of the padded and rolled map, (window^2, N, windows, C)."""
        size = self.window
        x = F.pad(x, (0, columns * size - x.shape[3], 0, rows * size - x.shape[2]))
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (2, 3))
        x = x.reshape(n, self.channels, rows, size, columns, size).permute(3, 5, 0, 2, 4, 1)
        return x.reshape(size * size, n, -1, self.channels)

    def _attend(self, y: Tensor) -> Tensor:
        """Return the attended values of places (1, all places, C), (all places, C)."""
        kv = y @ self.kv
        q, k, v = (self._heads(part) for part in (self.q(y), kv[0], kv[1]))
        weights = torch.softmax(q @ k.permute(0, 2, 1), dim=-1)
        return (weights @ v).permute(1, 0, 2).reshape(-1, self.channels)

    def _heads(self, y: Tensor) -> Tensor:
        """Return (windows and heads, places of a window, channels of a head)."""
        return y.reshape(self.window**2, -1, self.width).permute(1, 0, 2)


def _normed(norm: RMSNorm, y: Tensor, inside: Any) -> Tensor:
    """Return the norm of ``y`` (places, N, windows, C), and 0 where ``inside`` is 0."""
    wide = widen(y)
    unit = wide / torch.sqrt(wide.square().mean(dim=-1, keepdim=True) + 1e-6)
    return narrow((unit * norm.scale.flatten() + norm.bias.flatten()) * inside, y)
