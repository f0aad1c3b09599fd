"""Blocks that the generations before v9 share.

Shapes are (N, C, H, W) and dtypes any floating point type. All convolutions are zero-padded.
Attribute names are the names of tensors in checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.networks.float32 import narrow, widen
from paragon_export.networks.ops import picture_mean

SLOPE = 0.1
"""Negative slope of all leaky ReLUs."""


def depthwise(channels: int, kernel: int | tuple[int, int]) -> nn.Conv2d:
    """Return a depthwise convolution that keeps height and width."""
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (sides[0] // 2, sides[1] // 2)
    return nn.Conv2d(channels, channels, sides, padding=padding, groups=channels)


def convolution(into: int, out: int, side: int = 3) -> nn.Conv2d:
    """Return a convolution with a square kernel that keeps height and width."""
    return nn.Conv2d(into, out, side, padding=side // 2)


def squeeze_gate(channels: int, inner: int) -> nn.Sequential:
    """Return layers that map a map to gains in (0, 1), (N, C, 1, 1), by the means of its channels."""
    return nn.Sequential(
        Means(),
        nn.Conv2d(channels, inner, 1),
        nn.ReLU(),
        nn.Conv2d(inner, channels, 1),
        nn.Sigmoid(),
    )


class Means(nn.Module):
    """The means of the channels, (N, C, 1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return picture_mean(x, x.shape[2], x.shape[3])[:, :, None, None]


class FlatLayerScale(nn.Module):
    """Multiply by a learned gain for each channel, stored as (C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma.reshape(1, -1, 1, 1)


class InceptionContext(nn.Module):
    """Depthwise 3x3, 1xk and kx1 convolutions, each on ``part`` channels, with k = ``band``.

    They are applied to the last ``3 * part`` channels. The others are not changed.
    """

    def __init__(self, channels: int, part: int, band: int) -> None:
        super().__init__()
        self.untouched, self.part = channels - 3 * part, part
        self.dwconv_hw = depthwise(part, 3)
        self.dwconv_w = depthwise(part, (1, band))
        self.dwconv_h = depthwise(part, (band, 1))

    def forward(self, x: Tensor) -> Tensor:
        a, p = self.untouched, self.part
        convolved = (
            self.dwconv_hw(x[:, a : a + p]),
            self.dwconv_w(x[:, a + p : a + 2 * p]),
            self.dwconv_h(x[:, a + 2 * p : a + 3 * p]),
        )
        return torch.cat((x[:, :a], *convolved), dim=1)


class PreV9RMSNorm(nn.Module):
    """``scale * x / (rms + 1e-6) + offset`` with the RMS over channels; a float32 island."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))
        self.offset = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        wide = widen(x)
        rms = torch.sqrt(wide.square().mean(dim=1, keepdim=True))
        return self.scale * narrow(wide / (rms + 1e-6), x) + self.offset


class GroupNorm(nn.Module):
    """Group norm with one group, mean and variance over C, H and W; a float32 island."""

    def __init__(self, channels: int, *, affine: bool) -> None:
        super().__init__()
        self.affine = affine
        if affine:
            self.weight = nn.Parameter(torch.ones(channels))
            self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        wide = widen(x)
        centered = wide - _mean(wide)
        variance = _mean(centered.square())
        y = narrow(centered / torch.sqrt(variance + 1e-5), x)
        if self.affine:
            y = y * self.weight.reshape(1, -1, 1, 1) + self.bias.reshape(1, -1, 1, 1)
        return y


def _mean(x: Tensor) -> Tensor:
    """Return the mean over C, H and W, (N, 1, 1, 1)."""
    means = picture_mean(x, x.shape[2], x.shape[3])
    return means.mean(1, keepdim=True)[:, :, None, None]


class Shuffle(nn.Module):
    """Convolution to ``factor^2 * channels`` channels and pixel shuffle.

    (N, C, H, W) to (N, C, H * factor, W * factor).
    """

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.up_conv = convolution(channels, channels * factor**2)
        self.shuffle = nn.PixelShuffle(factor)

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(self.up_conv(x))


def leaky(x: Tensor) -> Tensor:
    """Return the leaky ReLU of ``x``."""
    return F.leaky_relu(x, SLOPE)
