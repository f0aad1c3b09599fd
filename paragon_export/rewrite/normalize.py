"""Normalize: an RMS norm without gain and bias, which a later layer has absorbed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paragon_export.networks.float32 import narrow, widen

EPSILON = 1e-6
"""Added to the mean of squares, as in :class:`~paragon_export.networks.layers.RMSNorm`."""


class Normalize(nn.Module):
    """``x / sqrt(sum of x^2 + channels * 1e-6)`` over the channels.

    An RMS norm has the mean in place of the sum. The layer that absorbs the gain absorbs this
    constant factor, ``sqrt(channels)``, too. The sum is computed in float32 or float64.

    Takes and returns (N, C, H, W), or (N, H, W, C) where ``channels_last``.
    """

    def __init__(self, channels: int, *, channels_last: bool = False) -> None:
        super().__init__()
        self.channels = channels
        self.channels_last = channels_last

    def forward(self, x: Tensor) -> Tensor:
        wide = widen(x)
        squares = wide.square().sum(dim=-1 if self.channels_last else 1, keepdim=True)
        return narrow(wide / torch.sqrt(squares + self.channels * EPSILON), x)
