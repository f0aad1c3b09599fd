"""The norm that is left of an RMS norm when its gain and bias have moved on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paragon_export.networks.float32 import narrow, widen

EPSILON = 1e-6
"""Of :class:`~paragon_export.networks.layers.RMSNorm`, added to the mean of squares."""


class Normalize(nn.Module):
    """``x / sqrt(sum of x^2 + channels * 1e-6)`` over the channels.

    With the mean instead of the sum this is an RMS norm; the factor is a constant, and whoever
    absorbs the gain absorbs it too. The sum is taken in float32 at least.
    """

    def __init__(self, channels: int, *, channels_last: bool = False) -> None:
        super().__init__()
        self.channels = channels
        self.channels_last = channels_last

    def forward(self, x: Tensor) -> Tensor:
        wide = widen(x)
        squares = wide.square().sum(dim=-1 if self.channels_last else 1, keepdim=True)
        return narrow(wide / torch.sqrt(squares + self.channels * EPSILON), x)
