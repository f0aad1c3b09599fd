"""The network MUNet, all versions: a U-Net that rates for each pixel how real the image looks.

Input (N, C, H, W), any floating point dtype, RGB in [0, 1]; output (N, 1, H, W), unbounded logits.
All convolutions are zero-padded. They have no spectral norm here: weights are divided by it when a
checkpoint is loaded. Attribute names are the names of tensors in checkpoints.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.networks.float32 import narrow, widen
from paragon_export.networks.layers import SeparableFilter
from paragon_export.networks.munet.layout import Hyperparameters
from paragon_export.networks.munet.versions import SLOPE, VERSIONS, Traits
from paragon_export.networks.ops import floating, positions, spectrum
from paragon_export.networks.windowed_attention import OverlappingWindows

MAGNITUDE_EPSILON = 1e-8
"""Added to a spectrum before its logarithm is computed."""


class MUNet(nn.Module):
    """A U-Net. From munet2 on, branches at full size are fused with the decoder's output."""

    def __init__(self, hp: Hyperparameters) -> None:
        super().__init__()
        traits, features = VERSIONS[hp.version], hp.features
        widths = (features, *hp.widths)
        self.in_conv = _conv(hp.in_channels, features, bias=True)
        self.down_blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 4, 2, 1, bias=False), nn.LeakyReLU(SLOPE))
            for a, b in pairwise(widths)
        )
        self.mid_conv = _stack(widths[-1], widths[-1], widths[-1])
        self.self_attn = SelfAttention(widths[-1], traits.attention) if traits.attention else None
        self.up_blocks = nn.ModuleList(UpBlock(b, a) for a, b in reversed(list(pairwise(widths))))
        self.centered = traits.centered
        self.gradient = traits.gradient
        self.branches = traits.frequency
        if traits.frequency:
            self._add_branches(traits, hp)
        self.out_conv = _conv(features, 1, bias=True)

    def _add_branches(self, traits: Traits, hp: Hyperparameters) -> None:
        features, half = hp.features, hp.features // 2
        self.freq_luma = StoredLuma() if traits.stored_luma else Luma()
        self.freq_proc = _stack(1, half, features)
        self.patch_reduce = _stack(hp.widths[-1], features, kernel=1, bias=traits.patch_bias)
        self.patch_upsample = _stack(
            *[features] * (1 + traits.patch_convolutions), bias=traits.patch_bias
        )
        if traits.gradient:
            self.grad_luma = Luma()
            self.grad_conv = _stack(2, half, features)
            self.attention_fusion = AttentionFusion(features)
        else:
            self.fusion_conv = _stack(3 * features, features, features)

    def forward(self, x: Tensor) -> Tensor:
        skips = [self.in_conv(x)]
        for block in self.down_blocks:
            skips.append(block(skips[-1]))
        z = self.mid_conv(skips.pop())
        if self.self_attn is not None:
            z = self.self_attn(z)
        d = z
        for block, skip in zip(self.up_blocks, reversed(skips), strict=True):
            d = block(d, skip)
        return self.out_conv(self.fuse(x, z, d) if self.branches else d)

    def fuse(self, x: Tensor, z: Tensor, d: Tensor) -> Tensor:
        """Return the fused decoder output and branches, (N, features, H, W).

        Args:
            x: Image (N, C, H, W).
            z: Bottleneck.
            d: Decoder output (N, features, H, W).
        """
        frequency, patch = self.frequency(x), self.patch(x, z)
        if not self.gradient:
            return self.fusion_conv(torch.cat((d, frequency, patch), dim=1))
        edges = narrow(differences(self.grad_luma(x), self.gradient), x)
        return self.attention_fusion(d, self.grad_conv(edges), frequency, patch)

    def frequency(self, x: Tensor) -> Tensor:
        """Return the frequency branch (N, features, H, W): features of the log spectrum of luma.

        A float32 island: magnitudes may be as small as 1e-8.
        """
        magnitude = spectrum(self.freq_luma(x))
        if self.centered:
            n, _, h, w = x.shape
            # The batch is rolled too: training used fftshift with its default, all dimensions.
            magnitude = torch.roll(magnitude, (n // 2, h // 2, w // 2), (0, 2, 3))
        return self.freq_proc(narrow(torch.log(magnitude + MAGNITUDE_EPSILON), x))

    def patch(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the patch branch (N, features, H, W): the bottleneck, enlarged to full size."""
        size = (x.shape[2], x.shape[3])
        return self.patch_upsample(F.interpolate(self.patch_reduce(z), size=size, mode="nearest"))


class UpBlock(nn.Module):
    """Enlarge a map to the size of the skip connection with frozen filters, and fuse both."""

    def __init__(self, channels: int, skip_channels: int) -> None:
        super().__init__()
        self.magic_upsample = nn.ModuleDict(
            {"sharpen": SeparableFilter(channels, 7), "resample_conv": SeparableFilter(channels, 5)}
        )
        self.post_upsample_conv = _conv(channels, skip_channels)
        self.fusion_conv = _stack(2 * skip_channels, skip_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        size = (skip.shape[2], skip.shape[3])
        x = F.interpolate(self.magic_upsample["sharpen"](x), size=size, mode="nearest")
        x = self.post_upsample_conv(self.magic_upsample["resample_conv"](x))
        return self.fusion_conv(torch.cat((x, skip), dim=1))


class SelfAttention(nn.Module):
    """``z + gamma * softmax(f q k') v`` with one head; ``scaling`` names the factor f.

    See ``Traits.attention`` for its values.
    """

    def __init__(self, channels: int, scaling: str) -> None:
        super().__init__()
        self.width = max(1, channels // 8)
        self.query = nn.Conv2d(channels, self.width, 1)
        self.key = nn.Conv2d(channels, self.width, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))
        self.attend = {
            "one": WholeMap(),
            "tokens": WholeMap(by_tokens=True),
            "width": WholeMap(self.width**-0.5),
            "windows": OverlappingWindows(window=32, overlap=8),
        }[scaling]

    def forward(self, z: Tensor) -> Tensor:
        return z + self.gamma * self.attend(self.query(z), self.key(z), self.value(z))


class WholeMap(nn.Module):
    """``softmax(f q k') v`` over all pixels of a map.

    Queries and keys are (N, R, H, W), values and result (N, C, H, W).
    """

    def __init__(self, factor: float = 1.0, *, by_tokens: bool = False) -> None:
        """Take f. With ``by_tokens`` it is divided by the square root of the number of pixels."""
        super().__init__()
        self.factor = factor
        self.by_tokens = by_tokens

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n, c, h, w = v.shape
        tokens = h * w
        q = self.factor * q
        if self.by_tokens:
            count = floating(positions(q, 2)[:1] + tokens, widen(q))
            q = q / narrow(torch.sqrt(count), q)
        r = q.shape[1]
        scores = q.reshape(n, r, tokens).permute(0, 2, 1) @ k.reshape(n, r, tokens)
        attended = torch.softmax(scores, dim=-1) @ v.reshape(n, c, tokens).permute(0, 2, 1)
        return attended.permute(0, 2, 1).reshape(n, c, h, w)


class AttentionFusion(nn.Module):
    """Fuse four maps (N, features, H, W) by a weighted mean with softmax weights for each pixel."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.attention_conv = nn.Sequential(
            nn.Conv2d(4 * features, features, 1), nn.LeakyReLU(SLOPE), nn.Conv2d(features, 4, 1)
        )
        self.fusion_conv = _stack(features, features, features)

    def forward(self, *maps: Tensor) -> Tensor:
        weights = torch.softmax(self.attention_conv(torch.cat(maps, dim=1)), dim=1)
        mean = weights[:, 0:1] * maps[0]
        for index in (1, 2, 3):
            mean = mean + weights[:, index : index + 1] * maps[index]
        return self.fusion_conv(mean)


class StoredLuma(nn.Module):
    """A frozen 1x1 filter, a float32 island: (N, 3, H, W) to (N, 1, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (widen(self.weight) * widen(x)).sum(dim=1, keepdim=True)


class Luma(nn.Module):
    """Luma as defined in ITU-R BT.601, a float32 island: (N, 3, H, W) to (N, 1, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        x = widen(x)
        return 0.299 * x[:, 0:1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:3]


def differences(x: Tensor, after_last: str) -> Tensor:
    """Return the differences to the next pixel along the width and along the height.

    Args:
        x: (N, 1, H, W), with H and W at least 2.
        after_last: Value for the last pixel of an axis: ``zero``, or ``repeat`` for the difference
            before it.

    Returns:
        (N, 2, H, W).
    """
    across = x[:, :, :, 1:] - x[:, :, :, :-1]
    down = x[:, :, 1:] - x[:, :, :-1]
    if after_last == "zero":
        return torch.cat((F.pad(across, (0, 1, 0, 0)), F.pad(down, (0, 0, 0, 1))), dim=1)
    across = torch.cat((across, across[:, :, :, -1:]), dim=3)
    return torch.cat((across, torch.cat((down, down[:, :, -1:]), dim=2)), dim=1)


def _conv(into: int, out: int, kernel: int = 3, *, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(into, out, kernel, padding=kernel // 2, bias=bias)


def _stack(*widths: int, kernel: int = 3, bias: bool = False) -> nn.Sequential:
    """Return convolutions with these numbers of channels, each followed by a leaky ReLU."""
    layers: list[nn.Module] = []
    for into, out in pairwise(widths):
        layers += [_conv(into, out, kernel, bias=bias), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)
