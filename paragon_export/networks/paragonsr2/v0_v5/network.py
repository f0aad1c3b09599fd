"""The networks ParagonSR and ParagonSR2 v0 to v5.

A trunk of blocks, each with an inception context and a transformer of convolutions, and one of five
tails. The table ``TRAITS`` lists the differences between generations.

Shapes are (N, C, H, W) and dtypes any floating point type. Images are RGB in [0, 1]; the output is
not clamped. Attribute names are the names of tensors in checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.networks.layers import LayerScale, PreV9BaseUpsampler
from paragon_export.networks.paragonsr2.blocks import (
    SLOPE,
    FlatLayerScale,
    GroupNorm,
    InceptionContext,
    Means,
    PreV9RMSNorm,
    Shuffle,
    convolution,
    leaky,
)
from paragon_export.networks.paragonsr2.v0_v5.layout import Hyperparameters
from paragon_export.networks.paragonsr2.v0_v5.mixers import MIXERS


class Block(nn.Module):
    """Inception context and transformer, each with norm, gain and residual connection."""

    def __init__(self, hp: Hyperparameters) -> None:
        super().__init__()
        c, gains = hp.features, FlatLayerScale if hp.flat_gains else LayerScale
        before = hp.traits.norms_before
        self.norm1 = GroupNorm(c, affine=True) if before else nn.Identity()
        self.norm2 = GroupNorm(c, affine=True) if before else nn.Identity()
        self.context, self.ls1 = InceptionContext(c, hp.part, hp.band), gains(c)
        self.transformer, self.ls2 = MIXERS[hp.traits.mixer](hp), gains(c)
        self.norm = norm_after_block(hp)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.context(self.norm1(x)))
        return self.norm(x + self.ls2(self.transformer(self.norm2(x))))


def norm_after_block(hp: Hyperparameters) -> nn.Module:
    """Return the norm that ``hp.norm`` names."""
    if hp.norm == "none":
        return nn.Identity()
    return PreV9RMSNorm(hp.features) if hp.norm == "rms" else GroupNorm(hp.features, affine=False)


class Group(nn.Module):
    """The blocks of one group with a residual connection, optionally densely connected."""

    def __init__(self, hp: Hyperparameters) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(hp) for _ in range(hp.blocks)))
        self.is_dense = hp.dense
        if hp.dense:
            self.dense_proj = convolution((hp.blocks + 1) * hp.features, hp.features, 1)

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_dense:
            return x + self.blocks(x)
        maps = [x]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return x + self.dense_proj(torch.cat(maps, dim=1))


class Trunk(nn.Module):
    """The layers that all networks share. Subclasses add a tail.

    Images (N, C, H, W) are upscaled to (N, C, H * scale, W * scale).
    """

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
        """Return features of the output's size, (N, features, H * scale, W * scale)."""
        raise NotImplementedError


class ShuffleTail(Trunk):
    """Features are enlarged by a convolution and a pixel shuffle."""

    def __init__(self, hp: Hyperparameters) -> None:
        super().__init__(hp)
        c, s = hp.features, hp.scale
        self.upsampler = nn.Sequential(convolution(c, c * s * s), nn.PixelShuffle(s))

    def enlarge(self, f: Tensor) -> Tensor:
        return self.upsampler(f)


class NearestTail(Trunk):
    """Features are enlarged by nearest-neighbor interpolation and convolved."""

    def __init__(self, hp: Hyperparameters) -> None:
        super().__init__(hp)
        self.scale = hp.scale
        self.upsampler = nn.Sequential(nn.Identity(), convolution(hp.features, hp.features))

    def enlarge(self, f: Tensor) -> Tensor:
        return self.upsampler(F.interpolate(f, scale_factor=float(self.scale), mode="nearest"))


class MagicTail(Trunk):
    """Features are enlarged by the fixed base upsampler and convolved."""

    def __init__(self, hp: Hyperparameters) -> None:
        super().__init__(hp)
        conv = convolution(hp.features, hp.features)
        self.magic_upsampler = PreV9BaseUpsampler(hp.features, hp.scale, hp.upsampler_alpha)
        self.upsampler = nn.Sequential(conv) if hp.traits.mixer == "gated" else conv

    def enlarge(self, f: Tensor) -> Tensor:
        return self.upsampler(self.magic_upsampler(f))


class HeadBlock(nn.Module):
    """Two convolutions with a residual connection, at the output's size."""

    def __init__(self, hp: Hyperparameters) -> None:
        super().__init__()
        c = hp.features
        self.conv1, self.conv2 = convolution(c, c), convolution(c, c)
        self.norm = GroupNorm(c, affine=False) if hp.head_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.norm(leaky(self.conv1(self.norm(x)))))


class HeadTail(Trunk):
    """Features are enlarged by the fixed base upsampler and processed by a head of blocks."""

    def __init__(self, hp: Hyperparameters) -> None:
        super().__init__(hp)
        self.magic_upsampler = PreV9BaseUpsampler(hp.features, hp.scale, hp.upsampler_alpha)
        self.hr_conv_in = convolution(hp.features, hp.features)
        self.hr_head = nn.Sequential(*(HeadBlock(hp) for _ in range(hp.head_blocks)))

    def enlarge(self, f: Tensor) -> Tensor:
        return self.hr_head(self.hr_conv_in(self.magic_upsampler(f)))


class ContentProcessor(nn.Module):
    """Compute the weight of the detail of each image, in [0.05, 0.2], as (N, 1, 1, 1)."""

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


class ImageTail(Trunk):
    """``output = base(x) + detail(x)``, the detail optionally weighted by content."""

    def __init__(self, hp: Hyperparameters) -> None:
        super().__init__(hp)
        self.magic_upsampler = PreV9BaseUpsampler(hp.in_channels, hp.scale, hp.upsampler_alpha)
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
"""Networks by ``Traits.tail``."""
