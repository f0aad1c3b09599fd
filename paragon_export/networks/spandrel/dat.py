"""Blocks of DAT in a form that a trace can follow.

spandrel's blocks branch on the size to choose a mask, and copy maps between tokens and pixels. Here the
mask is computed for every size, and attention between channels stays on maps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.networks.ops import shift_penalty
from paragon_export.networks.spandrel.swin import UnitVectors, linear, scaled


class StripWindows(nn.Module):
    """Multi-head attention in rectangular windows, of some of the channels of a map."""

    def __init__(self, branch: Any, weight: Tensor, bias: Tensor | None, shift: int) -> None:
        """Take the weights of a branch of spandrel's attention.

        Args:
            branch: ``Spatial_Attention``.
            weight: Of queries, keys and values of the branch, (3, C, channels of the map).
            bias: (3, C), or None.
            shift: 1 if the windows are shifted by half their sides, else 0.
        """
        super().__init__()
        self.heads, self.channels = int(branch.num_heads), int(weight.shape[1])
        self.window = (int(branch.H_sp), int(branch.W_sp))
        self.shift = (self.window[0] // 2 * shift, self.window[1] // 2 * shift)
        biases = [None] * 3 if bias is None else list(bias)
        self.q = linear(weight[0] * branch.scale, scaled(biases[0], branch.scale))
        self.k, self.v = linear(weight[1], biases[1]), linear(weight[2], biases[2])
        self.tokens = self.window[0] * self.window[1]
        with torch.no_grad():
            pairs = branch.pos(branch.rpe_biases)[branch.relative_position_index.reshape(-1)]
        pairs = pairs.reshape(self.tokens, self.tokens, self.heads).permute(2, 0, 1).contiguous()
        self.bias = nn.Parameter(pairs, requires_grad=False)

    def forward(self, x: Tensor, height: Any, width: Any, side: int) -> Tensor:
        """Return the attended tokens (N, H W, C).

        Args:
            x: Tokens (N, H W, channels of the map).
            height: H.
            width: W.
            side: Height and width are padded by zeros to a multiple of it.
        """
        rows, columns = ((extent + side - 1) // side * side for extent in (height, width))
        q, k, v = (
            self._cut(part(x), height, width, rows, columns) for part in (self.q, self.k, self.v)
        )
        scores = q @ k.permute(0, 1, 3, 2) + self.bias
        if any(self.shift):
            penalty = shift_penalty(x, rows, columns, self.window, self.shift)
            windows = (rows // self.window[0]) * (columns // self.window[1])
            scores = scores.reshape(-1, windows, self.heads, self.tokens, self.tokens)
            scores = (scores + penalty[:, None]).reshape(-1, self.heads, self.tokens, self.tokens)
        y = self._join(torch.softmax(scores, dim=-1) @ v, rows, columns)
        return y[:, :height, :width].reshape(-1, height * width, self.channels)

    def _cut(self, x: Tensor, height: Any, width: Any, rows: Any, columns: Any) -> Tensor:
        """Return windows (windows, heads, tokens, channels of a head) of tokens (N, H W, C)."""
        (h, w), channels = self.window, self.channels
        x = x.reshape(-1, height, width, channels)
        x = F.pad(x, (0, 0, 0, columns - width, 0, rows - height))
        if any(self.shift):
            x = torch.roll(x, tuple(-s for s in self.shift), (1, 2))
        x = x.reshape(-1, rows // h, h, columns // w, w, self.heads, channels // self.heads)
        x = x.permute(0, 1, 3, 5, 2, 4, 6)
        return x.reshape(-1, self.heads, self.tokens, channels // self.heads)

    def _join(self, x: Tensor, rows: Any, columns: Any) -> Tensor:
        """Return the map (N, H, W, C) of windows; H and W are ``rows`` and ``columns``."""
        (h, w), width = self.window, self.channels // self.heads
        x = x.reshape(-1, rows // h, columns // w, self.heads, h, w, width)
        x = x.permute(0, 1, 4, 2, 5, 3, 6).reshape(-1, rows, columns, self.channels)
        return torch.roll(x, self.shift, (1, 2)) if any(self.shift) else x


class SpatialBlock(nn.Module):
    """What spandrel's ``Adaptive_Spatial_Attention`` computes: window attention and a parallel convolution."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.channels, self.side = int(layer.dim), int(max(layer.split_size))
        shift = int(layer.attn_mask_0 is not None)
        half = self.channels // 2
        weight = layer.qkv.weight.detach().reshape(3, 2, half, self.channels)
        bias = None if layer.qkv.bias is None else layer.qkv.bias.detach().reshape(3, 2, half)
        self.branches = nn.ModuleList(
            StripWindows(branch, weight[:, i], None if bias is None else bias[:, i], shift)
            for i, branch in enumerate(layer.attns)
        )
        self.v = linear(weight[2].flatten(0, 1), None if bias is None else bias[2].flatten())
        self.dwconv, self.proj = layer.dwconv, layer.proj
        self.gate_channels, self.gate_places = layer.channel_interaction, layer.spatial_interaction

    def forward(self, x: Tensor, height: Any, width: Any) -> Tensor:
        """Map tokens (N, H W, C) to the same shape."""
        parts = [branch(x, height, width, self.side) for branch in self.branches]
        attended = to_map(torch.cat(parts, dim=2), height, width)
        convolved = self.dwconv(to_map(self.v(x), height, width))
        places = torch.sigmoid(self.gate_places(attended))
        channels = torch.sigmoid(self.gate_channels(convolved))
        return self.proj(to_tokens(attended * channels + places * convolved))


class ChannelBlock(nn.Module):
    """What spandrel's ``Adaptive_Channel_Attention`` computes: attention between channels."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.channels, self.heads = int(layer.qkv.in_features), int(layer.num_heads)
        self.qkv, self.dwconv, self.proj = layer.qkv, layer.dwconv, layer.proj
        self.unit = UnitVectors()
        self.temperature = nn.Parameter(layer.temperature.detach(), requires_grad=False)
        self.gate_channels, self.gate_places = layer.channel_interaction, layer.spatial_interaction

    def forward(self, x: Tensor, height: Any, width: Any) -> Tensor:
        """As :meth:`SpatialBlock.forward`."""
        q, k, v = self.qkv(x).permute(0, 2, 1).split([self.channels] * 3, 1)
        q, k = (self.unit(self._split(part)) for part in (q, k))
        weights = torch.softmax(q @ k.permute(0, 1, 3, 2) * self.temperature, dim=-1)
        attended = (weights @ self._split(v)).reshape(-1, self.channels, height, width)
        convolved = self.dwconv(v.reshape(-1, self.channels, height, width))
        channels = torch.sigmoid(self.gate_channels(attended))
        places = torch.sigmoid(self.gate_places(convolved))
        return self.proj(to_tokens(attended * places + convolved * channels))

    def _split(self, x: Tensor) -> Tensor:
        """Return (N, heads, channels of a head, H W) of (N, C, H W)."""
        return x.reshape(x.shape[0], self.heads, self.channels // self.heads, -1)


class GatedFeed(nn.Module):
    """What spandrel's ``SGFN`` computes: a multilayer perceptron with a gate from a convolution."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        weight, bias = layer.fc1.weight.detach(), layer.fc1.bias.detach()
        half = weight.shape[0] // 2
        self.first, self.second = (
            linear(weight[part], bias[part]) for part in (slice(0, half), slice(half, None))
        )
        self.act, self.norm, self.conv = layer.act, layer.sg.norm, layer.sg.conv
        self.fc2 = layer.fc2

    def forward(self, x: Tensor, height: Any, width: Any) -> Tensor:
        """As :meth:`SpatialBlock.forward`."""
        gate = to_map(self.norm(self.act(self.second(x))), height, width)
        return self.fc2(self.act(self.first(x)) * to_tokens(self.conv(gate)))


def features(network: Any, x: Tensor) -> Tensor:
    """Return what ``forward_features`` of spandrel's ``DAT`` computes of a map (N, C, H, W)."""
    height, width = x.shape[2], x.shape[3]
    x = network.before_RG[1](to_tokens(x))
    for group in network.layers:
        y = x
        for block in group.blocks:
            y = block(y, (height, width))
        x = x + to_tokens(group.conv(to_map(y, height, width)))
    return to_map(network.norm(x), height, width)


def to_map(x: Tensor, height: Any, width: Any) -> Tensor:
    """Return the map (N, C, H, W) of tokens (N, H W, C)."""
    return x.permute(0, 2, 1).reshape(x.shape[0], -1, height, width)


def to_tokens(x: Tensor) -> Tensor:
    """Return the tokens (N, H W, C) of a map (N, C, H, W)."""
    return x.flatten(2).permute(0, 2, 1)
