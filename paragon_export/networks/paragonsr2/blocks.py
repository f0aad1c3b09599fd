"""Blocks that the generations before v9 share. Attribute names are key names of checkpoints.

Shapes are (N, C, H, W), floating point of any width. Every convolution zero-pads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.networks.float32 import narrow, widen

SLOPE = 0.1
"""Of every leaky ReLU."""


def depthwise(channels: int, kernel: int | tuple[int, int]) -> nn.Conv2d:
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (sides[0] // 2, sides[1] // 2)
    return nn.Conv2d(channels, channels, sides, padding=padding, groups=channels)


def convolution(into: int, out: int, side: int = 3) -> nn.Conv2d:
    return nn.Conv2d(into, out, side, padding=side // 2)


def squeeze_gate(channels: int, inner: int) -> nn.Sequential:
    """Turn the means of channels into gains of 0 to 1; indices 1 and 3 hold the weights."""
    return nn.Sequential(
        nn.Identity(),
        nn.Conv2d(channels, inner, 1),
        nn.ReLU(),
        nn.Conv2d(inner, channels, 1),
        nn.Sigmoid(),
    )


def means(x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3), keepdim=True)


class FlatLayerScale(nn.Module):
    """Multiply by a learned gain per channel that is stored flat, (C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma.reshape(1, -1, 1, 1)


class InceptionContext(nn.Module):
    """Three slices of the channels see 3x3, 1xk and kx1 pixels; the first ones pass unchanged."""

    def __init__(self, channels: int, part: int, band: int) -> None:
        super().__init__()
        self.untouched, self.part = channels - 3 * part, part
        self.dwconv_hw = depthwise(part, 3)
        self.dwconv_w = depthwise(part, (1, band))
        self.dwconv_h = depthwise(part, (band, 1))

    def forward(self, x: Tensor) -> Tensor:
        a, p = self.untouched, self.part
        seen = (
            self.dwconv_hw(x[:, a : a + p]),
            self.dwconv_w(x[:, a + p : a + 2 * p]),
            self.dwconv_h(x[:, a + 2 * p : a + 3 * p]),
        )
        return torch.cat((x[:, :a], *seen), dim=1)


class FormerRMSNorm(nn.Module):
    """``scale * x / (rms + 1e-6) + offset``, rms over channels; in float32 at least."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))
        self.offset = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        wide = widen(x)
        rms = torch.sqrt(wide.square().mean(dim=1, keepdim=True))
        return self.scale * narrow(wide / (rms + 1e-6), x) + self.offset


class GroupNorm(nn.Module):
    """Group norm with one group: mean and variance over a whole picture; in float32 at least."""

    def __init__(self, channels: int, *, affine: bool) -> None:
        super().__init__()
        self.affine = affine
        if affine:
            self.weight = nn.Parameter(torch.ones(channels))
            self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        wide = widen(x)
        centred = wide - _mean(wide)
        variance = _mean(centred.square())
        y = narrow(centred / torch.sqrt(variance + 1e-5), x)
        if self.affine:
            y = y * self.weight.reshape(1, -1, 1, 1) + self.bias.reshape(1, -1, 1, 1)
        return y


def _mean(x: Tensor) -> Tensor:
    """Return the mean of each picture, (N, 1, 1, 1).

    A mean of means: ONNX Runtime sums one after the other, and the rounding error of a sum over
    a whole picture grows with the picture.
    """
    return x.mean(3, keepdim=True).mean(2, keepdim=True).mean(1, keepdim=True)


class Shuffle(nn.Module):
    """Convolve into ``factor^2`` times the channels and shuffle up."""

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.up_conv = convolution(channels, channels * factor**2)
        self.shuffle = nn.PixelShuffle(factor)

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(self.up_conv(x))


def leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)
