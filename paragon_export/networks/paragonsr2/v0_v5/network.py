"""The networks of ParagonSR and of ParagonSR2 v0 to v5.

A trunk of blocks, each an inception context and a small transformer made of convolutions, and one
of five tails. What differs between generations is in the table ``TRAITS``.

Shapes are (N, C, H, W), floating point of any width, RGB in [0, 1], outputs not clamped.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.networks.layers import FormerBaseUpsampler, LayerScale
from paragon_export.networks.paragonsr2.blocks import (
    SLOPE,
    FlatLayerScale,
    FormerRMSNorm,
    GroupNorm,
    InceptionContext,
    Shuffle,
    convolution,
    depthwise,
    leaky,
    means,
    squeeze_gate,
)
from paragon_export.networks.paragonsr2.v0_v5.attention import ATTENTIONS
from paragon_export.networks.paragonsr2.v0_v5.layout import Hyperparameters

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"mish": F.mish, "leaky": leaky}


class Branches(nn.Module):
    """A depthwise 3x3 convolution stored as the three branches it was trained with."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv3x3 = depthwise(channels, 3)
        self.conv1x1 = depthwise(channels, 1)
        self.dw_conv3x3 = depthwise(channels, 3)

    def bake(self) -> None:
        """Add up the branches: the 1x1 stands in the middle of the 3x3."""
        with torch.no_grad():
            total = depthwise(self.conv3x3.out_channels, 3)
            middle = F.pad(self.conv1x1.weight, (1, 1, 1, 1))
            total.weight.copy_(self.conv3x3.weight + middle + self.dw_conv3x3.weight)
            parts = (self.conv3x3.bias, self.conv1x1.bias, self.dw_conv3x3.bias)
            bias = torch.stack([part for part in parts if part is not None]).sum(dim=0)
            total.load_state_dict({"weight": total.weight, "bias": bias})
        self.total = total
        del self.conv3x3, self.conv1x1, self.dw_conv3x3

    def forward(self, x: Tensor) -> Tensor:
        return self.total(x)


def mixing_convolution(hp: Hyperparameters) -> nn.Module:
    return depthwise(hp.hidden, 3) if hp.is_fused else Branches(hp.hidden)


class GatedMixer(nn.Module):
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
    """Predict a depthwise 3x3 kernel for every channel from the channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.predictor = nn.Sequential(
            nn.Identity(),
            convolution(channels, channels, 1),
            nn.ReLU(),
            convolution(channels, 9 * channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return kernels (N, C, 9), taps in reading order."""
        return self.predictor(means(x)).reshape(x.shape[0], -1, 9)


class DynamicMixer(nn.Module):
    """Used its kernel generator in training only; what runs is a plain depthwise convolution."""

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
    """A depthwise convolution with the mean of the kernels that training predicted.

    A kernel that was tracked counts even without its flag, unless the flag is to be obeyed.

    With ``dynamic_inference`` kernels are predicted for every picture instead, or the channels
    are gated where training was cheap.
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
        self.mixes = "nothing"
        self.project_out = convolution(hp.hidden, hp.features, 1)

    def bake(self) -> None:
        """Choose the kernels for good."""
        if self.is_dynamic:
            kinds = {"kernel_generator": "predicted", "cheap_dynamic": "gated"}
            self.mixes = next((k for n, k in kinds.items() if hasattr(self, n)), "nothing")
        elif bool(self.tracked_initialized if self.obeys_flag else self.tracked_kernel.any()):
            self.mixes = "tracked"
            h = self.hidden
            self.tracked = nn.Conv2d(h, h, 3, padding=1, groups=h, bias=False)
            with torch.no_grad():
                self.tracked.weight.copy_(self.tracked_kernel)
        del self.identity_kernel, self.tracked_kernel, self.tracked_initialized

    def forward(self, x: Tensor) -> Tensor:
        y = self.project_in(x)
        if self.mixes == "tracked":
            y = self.tracked(y)
        elif self.mixes == "gated":
            y = self.cheap_dynamic(y)
        elif self.mixes == "predicted":
            y = self._predicted(y)
        return self.project_out(leaky(y))

    def _predicted(self, y: Tensor) -> Tensor:
        """Convolve every picture with its own kernels: nine shifted products."""
        kernels, h, w = self.kernel_generator(y), y.shape[2], y.shape[3]
        padded = F.pad(y, (1, 1, 1, 1))
        shifted = (
            padded[:, :, tap // 3 : tap // 3 + h, tap % 3 : tap % 3 + w]
            * kernels[:, :, tap : tap + 1][:, :, :, None]
            for tap in range(9)
        )
        return reduce(operator.add, shifted)


class ChannelGate(nn.Module):
    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.net = squeeze_gate(channels, inner)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.net(means(x))


class StaticMixer(nn.Module):
    def __init__(self, hp: Hyperparameters) -> None:
        super().__init__()
        h = hp.hidden
        self.project_in = convolution(hp.features, h, 1)
        self.dw_mixer = nn.Sequential(depthwise(h, 3), nn.LeakyReLU(SLOPE), convolution(h, h, 1))
        self.channel_mod = ChannelGate(h, hp.squeeze) if hp.squeeze else nn.Identity()
        attends = ATTENTIONS[hp.attention] if hp.attention else None
        self.attention = attends(h, hp.queries) if attends else nn.Identity()
        self.project_out = convolution(h, hp.features, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.attention(self.dw_mixer(self.project_in(x)))
        return self.project_out(self.channel_mod(y))


MIXERS = {
    "gated": GatedMixer, "dynamic": DynamicMixer, "tracked": TrackedMixer, "static": StaticMixer,
}  # fmt: skip


class Block(nn.Module):
    def __init__(self, hp: Hyperparameters) -> None:
        super().__init__()
        c, gains = hp.features, FlatLayerScale if hp.flat_gains else LayerScale
        before = hp.traits.norms_before
        self.norm1 = GroupNorm(c, affine=True) if before else nn.Identity()
        self.norm2 = GroupNorm(c, affine=True) if before else nn.Identity()
        self.context, self.ls1 = InceptionContext(c, hp.part, hp.band), gains(c)
        self.transformer, self.ls2 = MIXERS[hp.traits.mixer](hp), gains(c)
        self.norm = after_block(hp)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.context(self.norm1(x)))
        return self.norm(x + self.ls2(self.transformer(self.norm2(x))))


def after_block(hp: Hyperparameters) -> nn.Module:
    if hp.norm == "none":
        return nn.Identity()
    return FormerRMSNorm(hp.features) if hp.norm == "rms" else GroupNorm(hp.features, affine=False)


class Group(nn.Module):
    def __init__(self, hp: Hyperparameters) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(hp) for _ in range(hp.blocks)))
        self.is_dense = hp.dense
        if hp.dense:
            self.dense_proj = convolution((hp.blocks + 1) * hp.features, hp.features, 1)

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_dense:
            return x + self.blocks(x)
        seen = [x]
        for block in self.blocks:
            seen.append(block(seen[-1]))
        return x + self.dense_proj(torch.cat(seen, dim=1))


class Trunk(nn.Module):
    """What all tails stand on. Subclasses are tails: (N, C, H, W) to (N, C, H * s, W * s)."""

    def __init__(self, hp: Hyperparameters) -> None:
        super().__init__()
        c, i = hp.features, hp.in_channels
        self.conv_in = convolution(i, c)
        self.body = nn.Sequential(*(Group(hp) for _ in range(hp.groups)))
        self.conv_fuse = convolution(c, c)
        self.conv_out = convolution(c, i)

    def forward(self, x: Tensor) -> Tensor:
        f = self.conv_in(x)
        return self.conv_out(self.enlarge(self.conv_fuse(self.body(f)) + f))

    def enlarge(self, f: Tensor) -> Tensor:
        """Return features of the large picture."""
        raise NotImplementedError


class ShuffleTail(Trunk):
    def __init__(self, hp: Hyperparameters) -> None:
        super().__init__(hp)
        c, s = hp.features, hp.scale
        self.upsampler = nn.Sequential(convolution(c, c * s * s), nn.PixelShuffle(s))

    def enlarge(self, f: Tensor) -> Tensor:
        return self.upsampler(f)


class NearestTail(Trunk):
    def __init__(self, hp: Hyperparameters) -> None:
        super().__init__(hp)
        self.scale = hp.scale
        self.upsampler = nn.Sequential(nn.Identity(), convolution(hp.features, hp.features))

    def enlarge(self, f: Tensor) -> Tensor:
        return self.upsampler(F.interpolate(f, scale_factor=float(self.scale), mode="nearest"))


class MagicTail(Trunk):
    def __init__(self, hp: Hyperparameters) -> None:
        super().__init__(hp)
        conv = convolution(hp.features, hp.features)
        self.magic_upsampler = FormerBaseUpsampler(hp.features, hp.scale, hp.upsampler_alpha)
        self.upsampler = nn.Sequential(conv) if hp.traits.mixer == "gated" else conv

    def enlarge(self, f: Tensor) -> Tensor:
        return self.upsampler(self.magic_upsampler(f))


class HeadBlock(nn.Module):
    def __init__(self, hp: Hyperparameters) -> None:
        super().__init__()
        c = hp.features
        self.conv1, self.conv2 = convolution(c, c), convolution(c, c)
        self.norm = GroupNorm(c, affine=False) if hp.head_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.norm(leaky(self.conv1(self.norm(x)))))


class HeadTail(Trunk):
    def __init__(self, hp: Hyperparameters) -> None:
        super().__init__(hp)
        self.magic_upsampler = FormerBaseUpsampler(hp.features, hp.scale, hp.upsampler_alpha)
        self.hr_conv_in = convolution(hp.features, hp.features)
        self.hr_head = nn.Sequential(*(HeadBlock(hp) for _ in range(hp.head_blocks)))

    def enlarge(self, f: Tensor) -> Tensor:
        return self.hr_head(self.hr_conv_in(self.magic_upsampler(f)))


class ContentProcessor(nn.Module):
    """How much detail a picture is to get: one number of 0.05 to 0.2 for each."""

    def __init__(self, channels: int, widths: tuple[int, int, int]) -> None:
        super().__init__()
        a, b, c = widths
        self.content_analyzer = nn.Sequential(
            convolution(channels, a), nn.LeakyReLU(SLOPE), convolution(a, b, 5),
            nn.LeakyReLU(SLOPE), convolution(b, c, 7), nn.LeakyReLU(SLOPE), Means(),
            convolution(c, 1, 1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return 0.05 + 0.15 * (1 - self.content_analyzer(x))


class Means(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return means(x)


class ImageTail(Trunk):
    """``output = base(x) + detail(x)``, the detail weighed by content."""

    def __init__(self, hp: Hyperparameters) -> None:
        super().__init__(hp)
        self.magic_upsampler = FormerBaseUpsampler(hp.in_channels, hp.scale, hp.upsampler_alpha)
        self.upsampler_net = Shuffle(hp.features, hp.scale)
        self.has_content = hp.content is not None
        if hp.content is not None:
            self.content_processor = ContentProcessor(hp.in_channels, hp.content)

    def forward(self, x: Tensor) -> Tensor:
        f = self.body(self.conv_in(x))
        detail = self.conv_out(self.upsampler_net(self.conv_fuse(f) + f))
        if self.has_content:
            detail = detail * self.content_processor(x)
        return self.magic_upsampler(x) + detail


TAILS = {
    "shuffle": ShuffleTail, "nearest": NearestTail, "magic": MagicTail, "head": HeadTail,
    "image": ImageTail,
}  # fmt: skip
