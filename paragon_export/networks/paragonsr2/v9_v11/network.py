"""The network ParagonSR2 of the generations v9, v10 and v11.

``output = base(x) + detail_gain * detail(x)``: a fixed linear upsampler, and a learned residual that
is computed at low resolution and enlarged by a pixel shuffle. Attribute names are the names of
tensors in checkpoints.

Shapes are (N, C, H, W) and dtypes any floating point type. Images are RGB in [0, 1]; the output is
not clamped. Near borders the result depends on three properties of the trained network: all
convolutions are zero-padded, which makes the outermost rows of the base darker; the window
attention rolls the map without a mask; and it attends to the padded zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.networks.float32 import narrow, widen
from paragon_export.networks.layers import (
    BaseUpsampler,
    ChannelAttention,
    LayerScale,
    RMSNorm,
    TokenAttention,
    WindowAttention,
)
from paragon_export.networks.paragonsr2.v9_v11.layout import HEADS, Hyperparameters

MAX_FLOAT16 = 65504.0
"""Largest finite float16 value. The stream block clamps its product to it."""


class Branch(NamedTuple):
    """One term that a block adds to its input: ``scale(compute(x))``."""

    compute: Callable[[Tensor], Tensor]
    scale: nn.Module
    kind: str = ""
    """The field of :class:`Widths` that tells its width; empty if none does."""
    features: Callable[[Tensor], Tensor] | None = None
    """The map of that width, (N, width, H, W): ``compute`` is this and the layer ``output``."""
    output: nn.Conv2d | nn.Linear | None = None


class Block(nn.Module):
    """``x = x + scale(compute(x))`` for each branch in turn."""

    def branches(self) -> list[Branch]:
        """Return the branches in the order of computation."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        for branch in self.branches():
            x = x + branch.scale(branch.compute(x))
        return x


class ConvBlock(Block):
    """``conv2(gelu(dw(conv1(x))))``, the convolutions of all variants except stream."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.has_mix = hidden > 0
        if hidden:
            self.conv1 = nn.Conv2d(channels, hidden, 1)
            self.dw = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
            self.conv2 = nn.Conv2d(hidden, channels, 1)

    def hidden(self, x: Tensor) -> Tensor:
        """Return the activations, (N, hidden, H, W)."""
        return F.gelu(self.dw(self.conv1(x)))

    def mix(self, x: Tensor) -> Tensor:
        """Return the result of the convolutions, (N, C, H, W)."""
        return self.conv2(self.hidden(x))

    def branch(self, scale: nn.Module, norm: nn.Module | None = None) -> Branch:
        """Return the convolutions as a branch, behind a norm if there is one."""
        if norm is None:
            return Branch(self.mix, scale, "hidden", self.hidden, self.conv2)
        return Branch(
            lambda x: self.mix(norm(x)), scale, "hidden", lambda x: self.hidden(norm(x)), self.conv2
        )


class RealtimeBlock(ConvBlock):
    """Convolutions with a residual connection."""

    def __init__(self, hp: Hyperparameters, index: int) -> None:
        super().__init__(hp.features, hp.widths_of(index).hidden)
        self.scale = LayerScale(hp.features) if hp.layer_scale else nn.Identity()

    def branches(self) -> list[Branch]:
        return [self.branch(self.scale)]


class StreamBlock(Block):
    """Depthwise convolutions of dilation 1 and 3, fused; then a product of two projections.

    The product is a float32 island.
    """

    def __init__(self, hp: Hyperparameters, index: int) -> None:
        super().__init__()
        c, widths = hp.features, hp.widths_of(index)
        gates = 2 * widths.hidden
        self.dw1 = nn.Conv2d(c, c, 3, padding=1, groups=c)
        self.dw3 = nn.Conv2d(c, c, 3, padding=3, dilation=3, groups=c)
        self.fuse = nn.Conv2d(2 * c, widths.context, 1)
        self.proj = nn.Conv2d(widths.context, gates, 1)
        self.gate = nn.Conv2d(gates, gates, 3, padding=1, groups=gates)
        self.out = nn.Conv2d(widths.hidden, c, 1)
        self.scale = LayerScale(c) if hp.layer_scale else nn.Identity()

    def branches(self) -> list[Branch]:
        return [
            Branch(lambda x: self.out(self.hidden(x)), self.scale, "hidden", self.hidden, self.out)
        ]

    def context(self, x: Tensor) -> Tensor:
        """Return the fused depthwise convolutions, (N, context, H, W)."""
        return self.fuse(torch.cat((self.dw1(x), self.dw3(x)), dim=1))

    def hidden(self, x: Tensor) -> Tensor:
        """Return the product, (N, hidden, H, W)."""
        a, b = self.gate(self.proj(self.context(x))).chunk(2, dim=1)
        product = (widen(a) * widen(b)).clamp(-MAX_FLOAT16, MAX_FLOAT16)
        return narrow(product, x)


class PhotoBlock(ConvBlock):
    """Convolutions and window attention, each after a norm, with one shared LayerScale."""

    def __init__(self, hp: Hyperparameters, index: int) -> None:
        widths = hp.widths_of(index)
        super().__init__(hp.features, widths.hidden)
        if self.has_mix:
            self.norm = RMSNorm(hp.features)
        self.scale = LayerScale(hp.features)
        self.has_attention = hp.attention and widths.heads > 0
        if self.has_attention:
            self.attn_norm = RMSNorm(hp.features)
            self.attn = window_attention(hp, index)

    def branches(self) -> list[Branch]:
        found = []
        if self.has_mix:
            found.append(self.branch(self.scale, self.norm))
        if self.has_attention:
            found.append(attention_branch(self.attn_norm, self.attn, self.scale))
        return found


class ProBlock(ConvBlock):
    """Convolutions, channel attention, window attention and token attention in sequence."""

    def __init__(self, hp: Hyperparameters, index: int) -> None:
        c, widths = hp.features, hp.widths_of(index)
        super().__init__(c, widths.hidden)
        if self.has_mix:
            self.norm1 = RMSNorm(c)
        self.scale1 = LayerScale(c)
        self.channel_attn, self.scale2 = ChannelAttention(c, hp.squeeze), LayerScale(c)
        if hp.attention:
            self.scale3 = LayerScale(c)
        self.has_attention = hp.attention and widths.heads > 0
        if self.has_attention:
            self.norm3 = RMSNorm(c)
            self.window_attn = window_attention(hp, index)
        self.norm4, self.scale4 = RMSNorm(c), LayerScale(c)
        self.token_ca = TokenAttention(c, hp.tokens, hp.token_width)

    def branches(self) -> list[Branch]:
        found = []
        if self.has_mix:
            found.append(self.branch(self.scale1, self.norm1))
        found.append(Branch(self.channel_attn, self.scale2))
        if self.has_attention:
            found.append(attention_branch(self.norm3, self.window_attn, self.scale3))
        found.append(Branch(lambda x: self.token_ca(self.norm4(x)), self.scale4))
        return found


def attention_branch(norm: nn.Module, attention: WindowAttention, scale: nn.Module) -> Branch:
    """Return window attention behind a norm as a branch."""

    def features(x: Tensor) -> Tensor:
        return attention.attended(norm(x))

    return Branch(lambda x: attention(norm(x)), scale, "heads", features, attention.proj)


def window_attention(hp: Hyperparameters, index: int) -> WindowAttention:
    """Return the window attention of a block, counted over all groups."""
    heads, width = hp.widths_of(index).heads, hp.features // HEADS
    return WindowAttention(hp.features, hp.window_size, shift_of(hp, index), heads, width)


def shift_of(hp: Hyperparameters, index: int) -> int:
    """Return by how many pixels the windows of a block are rolled.

    Args:
        hp: Hyperparameters of the network.
        index: Index of the block, counted over all groups.
    """
    return hp.window_size // 2 if index % 2 else 0


BLOCKS = {"realtime": RealtimeBlock, "stream": StreamBlock, "photo": PhotoBlock, "pro": ProBlock}
"""Classes by variant."""


class Group(nn.Module):
    """The blocks of one group, in sequence."""

    def __init__(self, hp: Hyperparameters, group: int) -> None:
        super().__init__()
        block = BLOCKS[hp.variant]
        self.blocks = nn.Sequential(*(block(hp, group * hp.blocks + i) for i in range(hp.blocks)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class ParagonSR2(nn.Module):
    """Upscale images (N, C, H, W) to (N, C, H * scale, W * scale)."""

    def __init__(self, hp: Hyperparameters) -> None:
        super().__init__()
        c, s = hp.features, hp.scale
        self.base = BaseUpsampler(hp.in_channels, s, hp.upsampler_alpha)
        self.conv_in = nn.Conv2d(hp.in_channels, c, 3, padding=1)
        self.body = nn.Sequential(*(Group(hp, g) for g in range(hp.groups)))
        self.conv_mid = nn.Conv2d(c, c, 3, padding=1)
        self.up = nn.Sequential(nn.Conv2d(c, c * s * s, 3, padding=1), nn.PixelShuffle(s))
        self.conv_out = nn.Conv2d(c, hp.in_channels, 3, padding=1)
        self.detail_gain = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor) -> Tensor:
        return self.upscale(x, self.conv_in(x))

    def upscale(self, x: Tensor, features: Tensor) -> Tensor:
        """Return the upscaled image.

        Args:
            x: Image (N, C, H, W).
            features: Input of the trunk (N, features, H, W).
        """
        detail = self.conv_out(self.up(self.conv_mid(self.body(features))))
        return self.base(x) + self.detail_gain * detail


class VideoParagonSR2(ParagonSR2):
    """Upscale a frame of a video, with features blended with those of the previous frame.

    ``features = (1 - alpha) * conv_in(x) + alpha * prev_feat``. If ``alpha`` is 0, ``prev_feat`` is
    not used, and may be NaN or infinite.
    """

    def forward(  # type: ignore[override]
        self, x: Tensor, prev_feat: Tensor, alpha: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the upscaled frame and the blended features (N, features, H, W).

        Args:
            x: Frame (N, C, H, W), in [0, 1].
            prev_feat: Blended features of the previous frame, (N, features, H, W).
            alpha: Scalar in [0, 1], the weight of ``prev_feat``.
        """
        # With where instead of a product, because 0 times NaN or infinity is NaN.
        previous = torch.where(alpha == 0, 0.0, prev_feat)
        features = (1 - alpha) * self.conv_in(x) + alpha * previous
        return self.upscale(x, features), features
