"""Blocks of SwinIR, Swin2SR, DRCT and HAT in a form that a trace can follow.

spandrel's blocks compare sizes, fill a mask slice by slice and cut windows by ``unfold``. Here windows
and masks are computed from the places of pixels, in the same way for every size.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from paragon_export.networks.float32 import narrow, widen
from paragon_export.networks.ops import floating, numbers, positions, shift_penalty

LEAST_LENGTH = 1e-12
"""The least length that a vector is divided by, as in ``torch.nn.functional.normalize``."""

LARGEST_BIAS, LARGEST_FACTOR = 16.0, 100.0
"""Of the scores of Swin2SR."""


class WindowHeads(nn.Module):
    """Multi-head attention in windows, with a bias for each pair of places."""

    def __init__(self, attention: Any, index: Tensor, window: int) -> None:
        """Take the weights of a layer.

        Args:
            attention: The layer of spandrel.
            index: Row of its table of biases for each pair of places, (T, S).
            window: Side of the windows in pixels; T is its square.
        """
        super().__init__()
        self.heads, self.window = int(attention.num_heads), window
        qkv, table = attention.qkv, attention.relative_position_bias_table.detach()
        self.channels = int(qkv.in_features)
        weights = qkv.weight.detach().split(self.channels)
        biases = [None] * 3 if qkv.bias is None else qkv.bias.detach().split(self.channels)
        self.q = linear(weights[0] * attention.scale, scaled(biases[0], attention.scale))
        self.k, self.v = linear(weights[1], biases[1]), linear(weights[2], biases[2])
        self.proj: nn.Linear = attention.proj
        pairs = table[index.reshape(-1)].reshape(*index.shape, self.heads)
        self.bias = nn.Parameter(pairs.permute(2, 0, 1).contiguous(), requires_grad=False)
        self.tokens = (int(index.shape[0]), int(index.shape[1]))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, penalty: Tensor | None, windows: Any
    ) -> Tensor:
        """Return the attended values of windows, (windows, T, channels of all heads).

        Args:
            q: Queries (windows, T, channels of all heads).
            k: Keys (windows, S, channels of all heads).
            v: Values (windows, S, channels of all heads).
            penalty: Added to scores, (windows of one image, T, S); None for none.
            windows: Windows of one image.
        """
        asking, asked = self.tokens
        query, key, value = (
            self._split(part, count) for part, count in ((q, asking), (k, asked), (v, asked))
        )
        query, key = self.compared(query, key)
        scores = query @ key.permute(0, 1, 3, 2) + self.bias
        if penalty is not None:
            scores = scores.reshape(-1, windows, self.heads, *self.tokens) + penalty[:, None]
            scores = scores.reshape(-1, self.heads, *self.tokens)
        attended = torch.softmax(scores, dim=-1) @ value
        return attended.permute(0, 2, 1, 3).reshape(-1, asking, self.q.out_features)

    def compared(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors whose products are scores; both (windows, heads, tokens, channels)."""
        return query, key

    def _split(self, x: Tensor, tokens: int) -> Tensor:
        """Return (windows, heads, tokens, channels of a head)."""
        width = self.q.out_features // self.heads
        return x.reshape(-1, tokens, self.heads, width).permute(0, 2, 1, 3)

    def cut(self, x: Tensor, height: Any, width: Any, channels: int) -> Tensor:
        """Return the windows (windows, T, channels) of a map (N, H, W, channels)."""
        size = self.window
        x = x.reshape(-1, height // size, size, width // size, size, channels)
        return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, size * size, channels)

    def join(self, x: Tensor, height: Any, width: Any) -> Tensor:
        """Return the map (N, H, W, C) of windows (windows, T, C)."""
        size = self.window
        x = x.reshape(-1, height // size, width // size, size, size, self.channels)
        return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, self.channels)


class UnitVectors(nn.Module):
    """Gives the vectors along the last axis the length 1; a float32 island."""

    def forward(self, x: Tensor) -> Tensor:
        """Map a tensor to the same shape."""
        wide = widen(x)
        length = wide.square().sum(-1, keepdim=True).sqrt().clamp(min=LEAST_LENGTH)
        return narrow(wide / length, x)


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return a layer of these weights, (out, in) and (out), in their dtype."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer.requires_grad_(False)


def scaled(bias: Tensor | None, scale: float) -> Tensor | None:
    """Return a bias times a number; None for none."""
    return None if bias is None else bias * scale


class ShiftedWindows(WindowHeads):
    """Attention in windows of a map that is shifted cyclically by ``shift`` pixels."""

    def __init__(self, attention: Any, index: Tensor, window: int, shift: int) -> None:
        super().__init__(attention, index, window)
        self.shift = shift

    def forward(self, x: Tensor, height: Any, width: Any) -> Tensor:
        """Return the attended map as tokens.

        Args:
            x: (N, H W, C), as the result.
            height: H, a multiple of the window.
            width: W, a multiple of the window.
        """
        y = x.reshape(-1, height, width, self.channels)
        windows, penalty = (height // self.window) * (width // self.window), None
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
            penalty = shift_penalty(x, height, width, (self.window,) * 2, (self.shift,) * 2)
        y = self.cut(y, height, width, self.channels)
        y = self.proj(self.attend(self.q(y), self.k(y), self.v(y), penalty, windows))
        y = self.join(y, height, width)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        return y.reshape(-1, height * width, self.channels)


class CosineWindows(ShiftedWindows):
    """Attention in windows, whose scores are cosines times a factor for each head, as in Swin2SR."""

    def __init__(self, attention: Any, index: Tensor, window: int, shift: int) -> None:
        table = attention.cpb_mlp(attention.relative_coords_table).reshape(-1, attention.num_heads)
        bias = None
        if attention.q_bias is not None:
            zeros = torch.zeros_like(attention.v_bias)
            bias = torch.cat((attention.q_bias, zeros, attention.v_bias)).detach()
        layer = SimpleNamespace(
            num_heads=attention.num_heads,
            scale=1.0,
            qkv=linear(attention.qkv.weight.detach(), bias),
            relative_position_bias_table=torch.sigmoid(table) * LARGEST_BIAS,
            proj=attention.proj,
        )
        super().__init__(layer, index, window, shift)
        factor = attention.logit_scale.detach().clamp(max=math.log(LARGEST_FACTOR)).exp()
        self.factor = nn.Parameter(factor, requires_grad=False)
        self.unit = UnitVectors()

    def compared(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`WindowHeads.compared`."""
        return self.unit(query) * self.factor, self.unit(key)


class WiderWindows(WindowHeads):
    """Attention of windows to wider windows around them; zeros lie outside the map."""

    def __init__(self, attention: Any, index: Tensor, window: int, wider: int) -> None:
        super().__init__(attention, index, window)
        self.wider = wider

    def forward(self, x: Tensor, height: Any, width: Any) -> Tensor:
        """As :meth:`ShiftedWindows.forward`."""
        channels = self.q.out_features
        q = self.cut(self.q(x), height, width, channels)
        k, v = (self._widened(part(x), height, width, channels) for part in (self.k, self.v))
        attended = self.attend(q, k, v, None, None)
        y = self.join(self.proj(attended), height, width)
        return y.reshape(-1, height * width, self.channels)

    def _widened(self, x: Tensor, height: Any, width: Any, channels: int) -> Tensor:
        """Return the wider windows (windows, S, channels) of tokens (N, H W, channels)."""
        beyond = (self.wider - self.window) // 2
        x = x.reshape(-1, height, width, channels)
        rows, columns = height // self.window, width // self.window
        for dim, extent, count in ((1, height, rows), (2, width, columns)):
            starts = positions(x, dim)[:count] * self.window - beyond
            held = (starts[:, None] + numbers(0, self.wider)).reshape(-1)
            inside = floating((held + 1).clamp(0, 1) * (extent - held).clamp(0, 1), x)
            x = torch.index_select(x, dim, held.clamp(min=0).clamp(max=extent - 1))
            x = x * (inside[:, None, None] if dim == 1 else inside[:, None])
        x = x.reshape(-1, rows, self.wider, columns, self.wider, channels)
        return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, self.wider**2, channels)


class SwinBlock(nn.Module):
    """What spandrel's ``SwinTransformerBlock`` of SwinIR and DRCT computes."""

    def __init__(self, block: Any, windows: type[ShiftedWindows] = ShiftedWindows) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        index = block.attn.relative_position_index
        self.attend = windows(block.attn, index, block.window_size, block.shift_size)

    def forward(self, x: Tensor, x_size: tuple[Any, Any]) -> Tensor:
        """Map tokens (N, H W, C) of a map of the size ``x_size`` to the same shape."""
        x = x + self.attend(self.norm1(x), *x_size)
        return x + self.mlp(self.norm2(x))


class CosineBlock(SwinBlock):
    """What spandrel's ``SwinTransformerBlock`` of Swin2SR computes: norms behind, not before."""

    def __init__(self, block: Any) -> None:
        super().__init__(block, CosineWindows)

    def forward(self, x: Tensor, x_size: tuple[Any, Any]) -> Tensor:
        """As :meth:`SwinBlock.forward`."""
        x = x + self.norm1(self.attend(x, *x_size))
        return x + self.norm2(self.mlp(x))


class HybridBlock(nn.Module):
    """What spandrel's ``HAB`` of HAT computes: attention in windows, and convolutions in parallel."""

    def __init__(self, block: Any, index: Tensor) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.convolve, self.scale = block.conv_block, float(block.conv_scale)
        self.attend = ShiftedWindows(block.attn, index, block.window_size, block.shift_size)

    def forward(self, x: Tensor, x_size: tuple[Any, Any], *_: Any) -> Tensor:
        """As :meth:`SwinBlock.forward`."""
        height, width = x_size
        normed, channels = self.norm1(x), self.attend.channels
        y = normed.reshape(-1, height, width, channels).permute(0, 3, 1, 2)
        y = self.convolve(y).permute(0, 2, 3, 1).reshape(-1, height * width, channels)
        x = x + self.attend(normed, height, width) + y * self.scale
        return x + self.mlp(self.norm2(x))


class CrossBlock(nn.Module):
    """What spandrel's ``OCAB`` of HAT computes: attention to wider windows."""

    def __init__(self, block: Any, index: Tensor) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.attend = WiderWindows(block, index, block.window_size, block.overlap_win_size)

    def forward(self, x: Tensor, x_size: tuple[Any, Any], *_: Any) -> Tensor:
        """As :meth:`SwinBlock.forward`."""
        x = x + self.attend(self.norm1(x), *x_size)
        return x + self.mlp(self.norm2(x))


class ToTokens(nn.Module):
    """What spandrel's ``PatchEmbed`` computes."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.norm: nn.Module = nn.Identity() if layer.norm is None else layer.norm
        self.proj: nn.Module = getattr(layer, "proj", nn.Identity())  # Swin2SR has one

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to tokens (N, H W, C)."""
        return self.norm(self.proj(x).flatten(2).permute(0, 2, 1))


class ToMap(nn.Module):
    """What spandrel's ``PatchUnEmbed`` computes."""

    def __init__(self, channels: int | None = None) -> None:
        """Take the number of channels, if it is the same in every call."""
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor, x_size: tuple[Any, Any]) -> Tensor:
        """Map tokens (N, H W, C) to (N, C, H, W)."""
        first = (x.shape[0], -1) if self.channels is None else (-1, self.channels)
        return x.permute(0, 2, 1).reshape(*first, *x_size)
