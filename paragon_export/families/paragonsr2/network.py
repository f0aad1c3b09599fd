"""The ParagonSR2 network of the release generations v9, v10 and v11.

``output = base(x) + detail_gain * detail(x)``: a fixed linear upsampler plus a learned
residual computed at low resolution and shuffled up. Attribute names are the checkpoint's
key names, so that a state dict loads strictly and without translation.

Shapes are (N, C, H, W), floating point of any width, RGB in [0, 1], outputs not clamped.
Borders are part of the function: every convolution zero-pads, the window attention rolls
without a mask and attends to the zeros it padded, and the base darkens the outermost rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.families.paragonsr2.layout import HEADS, Hyperparameters
from paragon_export.islands import narrow, widen

HALF_MAX = 65504.0
"""Largest finite float16; the stream block clamps its product to it."""


class SeparableFilter(nn.Module):
    """Depthwise filter along the width, then along the height, zero padded, frozen."""

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__()
        pad = taps // 2
        self.h = nn.Conv2d(
            channels, channels, (1, taps), padding=(0, pad), groups=channels, bias=False
        )
        self.v = nn.Conv2d(
            channels, channels, (taps, 1), padding=(pad, 0), groups=channels, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.v(self.h(x))


class BaseUpsampler(nn.Module):
    """Magic upsampler: blend with a 7-tap filter, repeat pixels, smooth with 5 taps."""

    def __init__(self, channels: int, scale: int, alpha: float) -> None:
        super().__init__()
        self.scale = scale
        self.alpha = alpha
        self.sharp = SeparableFilter(channels, 7)
        self.blur = SeparableFilter(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        if self.alpha > 0:
            x = x + self.alpha * (self.sharp(x) - x)
        return self.blur(F.interpolate(x, scale_factor=float(self.scale), mode="nearest"))


class LayerScale(nn.Module):
    """Multiply by a learned gain per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((1, channels, 1, 1), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class RMSNorm(nn.Module):
    """``scale * x / sqrt(mean over channels of x^2 + 1e-6) + bias``.

    The mean of squares is taken in float32 at least: it overflows in float16 from |x| = 256.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        wide = widen(x)
        rms = torch.sqrt(wide.square().mean(dim=1, keepdim=True) + 1e-6)
        return self.scale * narrow(wide / rms, x) + self.bias


class WindowAttention(nn.Module):
    """Multi-head self-attention inside square windows, channels last.

    The map is zero padded at the bottom and right to whole windows and, in odd blocks, rolled
    by half a window without a mask; padded zeros take part in the softmax.
    """

    def __init__(self, channels: int, window: int, shift: int) -> None:
        super().__init__()
        self.channels = channels
        self.window = window
        self.shift = shift
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        c, size, width = self.channels, self.window, self.channels // HEADS
        rows, columns = (h + size - 1) // size, (w + size - 1) // size
        # Always pad and always crop: a Python branch on the size would be baked into a trace.
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, columns * size - w, 0, rows * size - h))
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        x = x.reshape(n, rows, size, columns, size, c).permute(0, 1, 3, 2, 4, 5)
        qkv = self.qkv(x.reshape(-1, size * size, c))
        qkv = qkv.reshape(-1, size * size, 3, HEADS, width).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]  # (windows, heads, tokens, width)
        weights = torch.softmax(q @ k.permute(0, 1, 3, 2) * width**-0.5, dim=-1)
        x = self.proj((weights @ v).permute(0, 2, 1, 3).reshape(-1, size * size, c))
        x = x.reshape(n, rows, columns, size, size, c).permute(0, 1, 3, 2, 4, 5)
        x = x.reshape(n, rows * size, columns * size, c)
        if self.shift:
            x = torch.roll(x, (self.shift, self.shift), (1, 2))
        return x[:, :h, :w].permute(0, 3, 1, 2)


class ConvBlock(nn.Module):
    """``conv2(gelu(dw(conv1(x))))``, the convolutional part that all variants but stream share."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 2 * channels, 1)
        self.dw = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.conv2 = nn.Conv2d(2 * channels, channels, 1)

    def mix(self, x: Tensor) -> Tensor:
        return self.conv2(F.gelu(self.dw(self.conv1(x))))


class RealtimeBlock(ConvBlock):
    def __init__(self, hp: Hyperparameters, index: int) -> None:
        super().__init__(hp.features)
        self.scale = LayerScale(hp.features) if hp.layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale(self.mix(x))


class StreamBlock(nn.Module):
    """Two depthwise contexts (dilation 1 and 3), fused, gated, projected back."""

    def __init__(self, hp: Hyperparameters, index: int) -> None:
        super().__init__()
        c = hp.features
        self.dw1 = nn.Conv2d(c, c, 3, padding=1, groups=c)
        self.dw3 = nn.Conv2d(c, c, 3, padding=3, dilation=3, groups=c)
        self.fuse = nn.Conv2d(2 * c, c, 1)
        self.proj = nn.Conv2d(c, 4 * c, 1)
        self.gate = nn.Conv2d(4 * c, 4 * c, 3, padding=1, groups=4 * c)
        self.out = nn.Conv2d(2 * c, c, 1)
        self.scale = LayerScale(c) if hp.layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        context = self.fuse(torch.cat((self.dw1(x), self.dw3(x)), dim=1))
        a, b = self.gate(self.proj(context)).chunk(2, dim=1)
        product = (widen(a) * widen(b)).clamp(-HALF_MAX, HALF_MAX)
        return x + self.scale(self.out(narrow(product, x)))


class PhotoBlock(ConvBlock):
    """Convolution and window attention, each normalised, under one shared LayerScale."""

    def __init__(self, hp: Hyperparameters, index: int) -> None:
        super().__init__(hp.features)
        self.norm = RMSNorm(hp.features)
        self.scale = LayerScale(hp.features)
        self.attends = hp.attention
        if hp.attention:
            self.attn_norm = RMSNorm(hp.features)
            self.attn = WindowAttention(hp.features, hp.window_size, shift_of(hp, index))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale(self.mix(self.norm(x)))
        if self.attends:
            x = x + self.scale(self.attn(self.attn_norm(x)))
        return x


class ChannelAttention(nn.Module):
    """Gate the channels by a two-layer perceptron on their means over the image."""

    def __init__(self, channels: int, squeeze: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, squeeze, bias=False),
            nn.GELU(),
            nn.Linear(squeeze, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean(dim=(2, 3)))[:, :, None, None]


class TokenAttention(nn.Module):
    """Cross-attention from every pixel to a learned dictionary of tokens."""

    def __init__(self, channels: int, tokens: int, width: int) -> None:
        super().__init__()
        self.token_dict = nn.Parameter(torch.zeros(1, tokens, channels))
        self.q_proj = nn.Linear(channels, width)
        self.k_proj = nn.Linear(channels, width)
        self.temperature = width**-0.5
        self.v_proj = nn.Linear(channels, channels)
        self.out_proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.permute(0, 2, 3, 1)
        key, value = self.k_proj(self.token_dict), self.v_proj(self.token_dict)
        query = self.q_proj(pixels)
        weights = torch.softmax(query @ key.permute(0, 2, 1) * self.temperature, dim=-1)
        return self.out_proj(weights @ value).permute(0, 3, 1, 2)


class ProBlock(ConvBlock):
    """Convolution, channel attention, window attention and token attention in turn."""

    def __init__(self, hp: Hyperparameters, index: int) -> None:
        super().__init__(hp.features)
        c = hp.features
        self.norm1, self.scale1 = RMSNorm(c), LayerScale(c)
        self.channel_attn, self.scale2 = ChannelAttention(c, hp.squeeze), LayerScale(c)
        self.attends = hp.attention
        if hp.attention:
            self.norm3, self.scale3 = RMSNorm(c), LayerScale(c)
            self.window_attn = WindowAttention(c, hp.window_size, shift_of(hp, index))
        self.norm4, self.scale4 = RMSNorm(c), LayerScale(c)
        self.token_ca = TokenAttention(c, hp.tokens, hp.token_width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale1(self.mix(self.norm1(x)))
        x = x + self.scale2(self.channel_attn(x))
        if self.attends:
            x = x + self.scale3(self.window_attn(self.norm3(x)))
        return x + self.scale4(self.token_ca(self.norm4(x)))


def shift_of(hp: Hyperparameters, index: int) -> int:
    """Roll of the windows in block ``index``, counted over all groups, in pixels."""
    return hp.window_size // 2 if index % 2 else 0


BLOCKS = {"realtime": RealtimeBlock, "stream": StreamBlock, "photo": PhotoBlock, "pro": ProBlock}


class Group(nn.Module):
    def __init__(self, hp: Hyperparameters, group: int) -> None:
        super().__init__()
        block = BLOCKS[hp.variant]
        self.blocks = nn.Sequential(*(block(hp, group * hp.blocks + i) for i in range(hp.blocks)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class ParagonSR2(nn.Module):
    """Upscale pictures: (N, C, H, W) to (N, C, H * scale, W * scale)."""

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
        detail = self.conv_out(self.up(self.conv_mid(self.body(features))))
        return self.base(x) + self.detail_gain * detail


class VideoParagonSR2(ParagonSR2):
    """The same network for frames of a video, blended with the features of the frame before.

    ``features = (1 - alpha) * conv_in(x) + alpha * prev_feat``; ``alpha`` 0 starts afresh.
    """

    def forward(  # type: ignore[override]
        self, x: Tensor, prev_feat: Tensor, alpha: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the picture and the blended features (N, features, H, W) for the next frame."""
        features = (1 - alpha) * self.conv_in(x) + alpha * prev_feat
        return self.upscale(x, features), features
