"""The convolutions in the transformers of ParagonSR and of ParagonSR2 v0 to v5.

Each mixer maps (N, C, H, W) to (N, C, H, W) and has ``hidden`` channels inside. Attribute names are
the names of tensors in checkpoints.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.networks.paragonsr2.blocks import (
    SLOPE,
    Means,
    convolution,
    depthwise,
    leaky,
    squeeze_gate,
)
from paragon_export.networks.paragonsr2.v0_v5.attention import ATTENTIONS
from paragon_export.networks.paragonsr2.v0_v5.layout import Hyperparameters

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"mish": F.mish, "leaky": leaky}
"""Functions by ``Traits.activation``."""


class Branches(nn.Module):
    """A depthwise 3x3 convolution that is stored as the three branches of its training."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv3x3 = depthwise(channels, 3)
        self.conv1x1 = depthwise(channels, 1)
        self.dw_conv3x3 = depthwise(channels, 3)

    def bake(self) -> None:
        """Add the kernels of the branches. That of 1x1 is the center of a 3x3 kernel."""
        with torch.no_grad():
            total = depthwise(self.conv3x3.out_channels, 3)
            center = F.pad(self.conv1x1.weight, (1, 1, 1, 1))
            total.weight.copy_(self.conv3x3.weight + center + self.dw_conv3x3.weight)
            parts = (self.conv3x3.bias, self.conv1x1.bias, self.dw_conv3x3.bias)
            bias = torch.stack([part for part in parts if part is not None]).sum(dim=0)
            total.load_state_dict({"weight": total.weight, "bias": bias})
        self.total = total
        del self.conv3x3, self.conv1x1, self.dw_conv3x3

    def forward(self, x: Tensor) -> Tensor:
        return self.total(x)


def mixing_convolution(hp: Hyperparameters) -> nn.Module:
    """Return a depthwise 3x3 convolution in the form in which it is stored."""
    return depthwise(hp.hidden, 3) if hp.is_fused else Branches(hp.hidden)


class GatedMixer(nn.Module):
    """The product of two projections, one of them convolved and activated (ParagonSR)."""

    def __init__(self, hp: Hyperparameters) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[hp.traits.activation]
        self.project_in_g = convolution(hp.features, hp.hidden, 1)
        self.project_in_i = convolution(hp.features, hp.hidden, 1)
        self.spatial_mixer = mixing_convolution(hp)
        self.project_out = convolution(hp.hidden, hp.features, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.activation(self.spatial_mixer(self.project_in_g(x)))
        return self.project_out(gate * self.project_in_i(x))


class KernelGenerator(nn.Module):
    """Predict a depthwise 3x3 kernel for each channel from the means of the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.predictor = nn.Sequential(
            Means(),
            convolution(channels, channels, 1),
            nn.ReLU(),
            convolution(channels, 9 * channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return kernels (N, C, 9), with the taps row by row."""
        return self.predictor(x).reshape(x.shape[0], -1, 9)


class DynamicMixer(nn.Module):
    """A depthwise convolution (v0, v0b). Its kernel generator is used in training only."""

    def __init__(self, hp: Hyperparameters) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[hp.traits.activation]
        self.project_in = convolution(hp.features, hp.hidden, 1)
        if hp.has_generator:
            self.kernel_generator = KernelGenerator(hp.hidden)
        self.dynamic_conv = mixing_convolution(hp)
        self.project_out = convolution(hp.hidden, hp.features, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.project_out(self.activation(self.dynamic_conv(self.project_in(x))))


class TrackedMixer(nn.Module):
    """A depthwise convolution with the mean of the kernels that were predicted in training.

    Which kernels are used is explained at ``tracked_kernels.check_tracked_kernels``. With
    ``dynamic_inference``, kernels are predicted for each image instead, or channels are multiplied
    by a gate if the network was trained in the mode "cheap".
    """

    tracked_kernel: Tensor

    def __init__(self, hp: Hyperparameters) -> None:
        super().__init__()
        self.hidden, self.is_dynamic = hp.hidden, hp.dynamic_inference
        self.obeys_flag = hp.obeys_flag
        self.project_in = convolution(hp.features, hp.hidden, 1)
        for name in ("identity_kernel", "tracked_kernel"):
            self.register_buffer(name, torch.zeros(hp.hidden, 1, 3, 3))
        self.register_buffer("tracked_initialized", torch.tensor(False))
        if hp.has_generator:
            self.kernel_generator = KernelGenerator(hp.hidden)
        if hp.cheap:
            self.cheap_dynamic = ChannelGate(hp.hidden, hp.cheap)
        self.mode = "none"
        self.project_out = convolution(hp.hidden, hp.features, 1)

    def bake(self) -> None:
        """Choose the kernels."""
        if self.is_dynamic:
            modes = {"kernel_generator": "predicted", "cheap_dynamic": "gated"}
            self.mode = next((mode for name, mode in modes.items() if hasattr(self, name)), "none")
        elif bool(self.tracked_initialized if self.obeys_flag else self.tracked_kernel.any()):
            self.mode = "tracked"
            h = self.hidden
            self.tracked = nn.Conv2d(h, h, 3, padding=1, groups=h, bias=False)
            with torch.no_grad():
                self.tracked.weight.copy_(self.tracked_kernel)
        del self.identity_kernel, self.tracked_kernel, self.tracked_initialized

    def forward(self, x: Tensor) -> Tensor:
        y = self.project_in(x)
        if self.mode == "tracked":
            y = self.tracked(y)
        elif self.mode == "gated":
            y = self.cheap_dynamic(y)
        elif self.mode == "predicted":
            y = self._predicted(y)
        return self.project_out(leaky(y))

    def _predicted(self, y: Tensor) -> Tensor:
        """Convolve each image with its own kernels, as a sum of nine shifted products."""
        kernels, h, w = self.kernel_generator(y), y.shape[2], y.shape[3]
        padded = F.pad(y, (1, 1, 1, 1))
        shifted = (
            padded[:, :, tap // 3 : tap // 3 + h, tap % 3 : tap % 3 + w]
            * kernels[:, :, tap : tap + 1][:, :, :, None]
            for tap in range(9)
        )
        return reduce(operator.add, shifted)


class ChannelGate(nn.Module):
    """Multiply channels by gains in (0, 1) that are computed from their means."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.net = squeeze_gate(channels, inner)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.net(x)


class StaticMixer(nn.Module):
    """Convolutions, optional attention and an optional channel gate (v4 and later)."""

    def __init__(self, hp: Hyperparameters) -> None:
        super().__init__()
        h = hp.hidden
        self.project_in = convolution(hp.features, h, 1)
        self.dw_mixer = nn.Sequential(depthwise(h, 3), nn.LeakyReLU(SLOPE), convolution(h, h, 1))
        self.channel_mod = ChannelGate(h, hp.squeeze) if hp.squeeze else nn.Identity()
        attention = ATTENTIONS[hp.attention] if hp.attention else None
        self.attention = attention(h, hp.queries) if attention else nn.Identity()
        self.project_out = convolution(h, hp.features, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.attention(self.dw_mixer(self.project_in(x)))
        return self.project_out(self.channel_mod(y))


MIXERS = {
    "gated": GatedMixer, "dynamic": DynamicMixer, "tracked": TrackedMixer, "static": StaticMixer,
}  # fmt: skip
"""Classes by ``Traits.mixer``."""
