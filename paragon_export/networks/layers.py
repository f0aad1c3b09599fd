"""Layers that several generations share, some of which rewrites match by class.

Shapes are (N, C, H, W) and dtypes any floating point type, unless noted. Attribute names are the
names of tensors in checkpoints. All convolutions are zero-padded.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import _get_current_dispatch_mode

from paragon_export.networks.float32 import narrow, widen
from paragon_export.networks.ops import picture_mean, sized_like


class SeparableFilter(nn.Module):
    """A frozen, separable depthwise filter: along the width, then along the height."""

    def __init__(self, channels: int, taps: int, names: tuple[str, str] = ("h", "v")) -> None:
        super().__init__()
        pad = taps // 2
        self.names = names
        for name, kernel in zip(names, ((1, taps), (taps, 1)), strict=True):
            padding = (0, pad) if kernel[0] == 1 else (pad, 0)
            conv = nn.Conv2d(
                channels, channels, kernel, padding=padding, groups=channels, bias=False
            )
            self.add_module(name, conv)

    def forward(self, x: Tensor) -> Tensor:
        for name in self.names:
            x = getattr(self, name)(x)
        return x


class BaseUpsampler(nn.Module):
    """Fixed upsampler of an image: sharpen by ``alpha``, repeat pixels, blur.

    ``blur(nearest(x + alpha * (sharp(x) - x)))`` with separable filters of 7 and 5 taps; (N, C, H,
    W) to (N, C, H * scale, W * scale).
    """

    def __init__(self, channels: int, scale: int, alpha: float) -> None:
        super().__init__()
        self.scale = scale
        self.alpha = alpha
        self.sharp = SeparableFilter(channels, 7)
        self.blur = SeparableFilter(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        return _upsample(x, self.scale, self.alpha, self.sharp, self.blur)


class PreV9BaseUpsampler(nn.Module):
    """:class:`BaseUpsampler` with the tensor names of generations before v9."""

    def __init__(self, channels: int, scale: int, alpha: float) -> None:
        super().__init__()
        self.scale = scale
        self.alpha = alpha
        self.sharpen = SeparableFilter(channels, 7, ("conv_h", "conv_v"))
        self.resample_conv = SeparableFilter(channels, 5, ("conv_h", "conv_v"))

    def forward(self, x: Tensor) -> Tensor:
        return _upsample(x, self.scale, self.alpha, self.sharpen, self.resample_conv)


def _upsample(x: Tensor, scale: int, alpha: float, sharp: nn.Module, blur: nn.Module) -> Tensor:
    if alpha > 0:
        x = x + alpha * (sharp(x) - x)
    return blur(F.interpolate(x, scale_factor=float(scale), mode="nearest"))


class LayerScale(nn.Module):
    """Multiply by a learned gain for each channel, stored as (1, C, 1, 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((1, channels, 1, 1), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class RMSNorm(nn.Module):
    """``scale * x / sqrt(mean over channels of x^2 + 1e-6) + bias``.

    A float32 island: in float16, the squares overflow from ``|x| = 256`` on.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        wide = widen(x)
        rms = torch.sqrt(wide.square().mean(dim=1, keepdim=True) + 1e-6)
        return self.scale * narrow(wide / rms, x) + self.bias


def may_attend_fused(x: Tensor) -> bool:
    """Return whether to compute attention by :func:`fused_attention`: on a CPU and without gradients.

    Traces and dispatch modes look at each operator, so they get attention as one expression.
    """
    is_seen = not isinstance(x, Tensor) or torch.is_grad_enabled() or _get_current_dispatch_mode()
    return not is_seen and x.device.type == "cpu"


def places_in_picture(height: int, width: int, window: int, shift: int) -> Tensor:
    """Return which places of the windows of a padded, rolled map hold pixels of the picture.

    Args:
        height: Of the map before it is padded to a multiple of ``window``.
        width: The same.
        window: Side of the square windows in pixels.
        shift: Pixels by which the padded map is rolled up and to the left.

    Returns:
        Booleans (windows, tokens).
    """
    counts = -(-height // window), -(-width // window)
    rows, columns = (
        ((torch.arange(n * window) + shift) % (n * window) < extent).reshape(n, window)
        for n, extent in zip(counts, (height, width), strict=True)
    )
    return (rows[:, None, :, None] & columns[None, :, None, :]).reshape(-1, window**2)


Bias = Callable[[Tensor], Tensor]
"""Takes the indices of some queries, (queries), and returns what is added to their products with all
keys: (heads, queries, tokens), contiguous."""


def fused_attention(
    qkv: Tensor, factor: float, inside: Tensor, *, bias: Bias | None = None, padded: bool = True
) -> Tensor:
    """Return ``softmax(factor * q k' + bias) v`` for the queries that are pixels of the picture.

    PyTorch's fused attention holds no scores of a whole window in memory. Padding asks nothing: no
    pixel of the picture depends on its queries. Windows with their padding at the same places are
    computed together.

    Args:
        qkv: Queries, keys and values, (N, windows, tokens, 3, heads, width).
        factor: What the products are multiplied by.
        inside: Which tokens are pixels of the picture, booleans (windows, tokens).
        bias: What is added to the products.
        padded: Whether the keys of padding are attended.

    Returns:
        (N, windows, tokens, heads, width); 0 for padding.
    """
    n = len(qkv)
    q, k, v = qkv.unbind(3)
    result = torch.zeros_like(q)
    patterns, pattern_of = torch.unique(inside, dim=0, return_inverse=True)
    for index, pattern in enumerate(patterns):
        windows, asking = (pattern_of == index).nonzero()[:, 0], pattern.nonzero()[:, 0]
        asked = slice(None) if padded else asking
        query, key, value = (
            x[:, windows][:, :, places].flatten(0, 1).transpose(1, 2)
            for x, places in ((q, asking), (k, asked), (v, asked))
        )
        # With four axes: else PyTorch holds all scores in memory.
        some_bias = None if bias is None else bias(asking)[None, :, :, asked]
        y = F.scaled_dot_product_attention(query, key, value, some_bias, scale=factor)
        result[:, windows[:, None], asking] = y.transpose(1, 2).reshape(
            n, len(windows), len(asking), *q.shape[3:]
        )
    return result


class WindowAttention(nn.Module):
    """Multi-head self-attention within square windows.

    The map is zero-padded at the bottom and at the right to a multiple of ``window``. If ``shift``
    is not 0, it is rolled by ``shift`` pixels, without a mask. Padded pixels are keys as well.
    """

    def __init__(
        self, channels: int, window: int, shift: int, heads: int, width: int | None = None
    ) -> None:
        """Take the sides in pixels; ``width`` is that of a head, ``channels / heads`` by default."""
        super().__init__()
        self.channels = channels
        self.window = window
        self.shift = shift
        self.heads = heads
        self.width = channels // heads if width is None else width
        self.inner = self.width * heads
        self.qkv = nn.Linear(channels, 3 * self.inner)
        self.proj = nn.Linear(self.inner, channels)

    def forward(self, features: Tensor) -> Tensor:
        extents = self._extents(features)
        x = self.proj(self._attended(features, *extents))
        return self._joined(x, features, self.channels, *extents)

    def attended(self, features: Tensor) -> Tensor:
        """Return the map before the projection, (N, inner, H, W), of a map (N, C, H, W)."""
        extents = self._extents(features)
        return self._joined(self._attended(features, *extents), features, self.inner, *extents)

    def _extents(self, features: Tensor) -> tuple[int, int, int, int, int]:
        """Return N, H, W, and the rows and columns of windows."""
        n, _, h, w = features.shape
        size = self.window
        return n, h, w, (h + size - 1) // size, (w + size - 1) // size

    def _attended(
        self, features: Tensor, n: int, h: int, w: int, rows: int, columns: int
    ) -> Tensor:
        """Return the attended values, (windows, tokens, inner)."""
        c, size, width = self.channels, self.window, self.width
        # Without a branch on the size, which a trace would fix to one of its cases.
        padding = (0, 0, 0, columns * size - w, 0, rows * size - h)
        x = F.pad(features.permute(0, 2, 3, 1), padding)
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        x = x.reshape(n, rows, size, columns, size, c).permute(0, 1, 3, 2, 4, 5)
        qkv = self.qkv(x.reshape(-1, size * size, c))
        if may_attend_fused(qkv):
            inside = places_in_picture(h, w, size, self.shift)
            qkv = qkv.reshape(n, -1, size * size, 3, self.heads, width)
            x = fused_attention(qkv, width**-0.5, inside)
        else:
            qkv = qkv.reshape(-1, size * size, 3, self.heads, width).permute(2, 0, 3, 1, 4)
            q, k, v = qkv[0], qkv[1], qkv[2]  # (windows, heads, tokens, width)
            x = torch.softmax(q @ k.permute(0, 1, 3, 2) * width**-0.5, dim=-1) @ v
            x = x.permute(0, 2, 1, 3)
        return x.reshape(-1, size * size, self.inner)

    def _joined(
        self, x: Tensor, features: Tensor, c: int, n: int, h: int, w: int, rows: int, columns: int
    ) -> Tensor:
        """Return windows (windows, tokens, c) as a map of the size of ``features``."""
        size = self.window
        x = x.reshape(n, rows, columns, size, size, c).permute(0, 1, 3, 2, 4, 5)
        x = x.reshape(n, rows * size, columns * size, c)
        if self.shift:
            x = torch.roll(x, (self.shift, self.shift), (1, 2))
        return sized_like(x[:, :h, :w].permute(0, 3, 1, 2), features)


class ChannelAttention(nn.Module):
    """Multiply channels by gains in (0, 1) that a two-layer perceptron computes from their means."""

    def __init__(self, channels: int, squeeze: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, squeeze, bias=False),
            nn.GELU(),
            nn.Linear(squeeze, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        gains = self.fc(picture_mean(x, x.shape[2], x.shape[3]))
        return sized_like(x * gains[:, :, None, None], x)


class TokenAttention(nn.Module):
    """Cross-attention with one head: each pixel is a query, keys and values are learned tokens."""

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
        return sized_like(self.out_proj(weights @ value).permute(0, 3, 1, 2), x)
