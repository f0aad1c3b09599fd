"""The networks ParagonSR2 v55, v6, v7 and v8.

``output = base(x) + gain * detail(x)``, with residual connections around groups and body, and an
optional content map by which the detail is multiplied. The table ``TRAITS`` lists the differences
between generations.

Shapes are (N, C, H, W) and dtypes any floating point type. Images are RGB in [0, 1]; the output is
not clamped.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.networks.layers import (
    LayerScale,
    PreV9BaseUpsampler,
    fused_attention,
    may_attend_fused,
    places_in_picture,
)
from paragon_export.networks.ops import padding_penalty, sized_like
from paragon_export.networks.paragonsr2.blocks import (
    SLOPE,
    InceptionContext,
    PreV9RMSNorm,
    Shuffle,
    convolution,
    depthwise,
    squeeze_gate,
)
from paragon_export.networks.paragonsr2.v55_v8.layout import HEADS, Hyperparameters


class RealtimeBlock(nn.Module):
    """Three convolutions with a residual connection."""

    def __init__(self, hp: Hyperparameters, index: int) -> None:
        super().__init__()
        c, hidden = hp.features, hp.hidden
        layers = convolution(c, hidden, 1), depthwise(hidden, 3), convolution(hidden, c, 1)
        self.net = nn.Sequential(layers[0], nn.Hardswish(), layers[1], nn.Hardswish(), layers[2])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.net(x)


class StreamBlock(nn.Module):
    """A product of two projections of the context, with a residual connection."""

    def __init__(self, hp: Hyperparameters, index: int) -> None:
        super().__init__()
        c = hp.features
        self.context = InceptionContext(c, hp.part, hp.band) if hp.band else depthwise(c, 3)
        self.proj_in = convolution(c, 2 * hp.hidden, 1)
        self.dw_gate = depthwise(2 * hp.hidden, 3)
        self.proj_out = convolution(hp.hidden, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.dw_gate(self.proj_in(self.context(x))).chunk(2, dim=1)
        return x + self.proj_out(a * b)


class PhotoBlock(nn.Module):
    """Inception context, then convolutions with window attention and a channel gate."""

    def __init__(self, hp: Hyperparameters, index: int) -> None:
        super().__init__()
        c, hidden = hp.features, hp.hidden
        self.context, self.ls1 = InceptionContext(c, hp.part, hp.band), LayerScale(c)
        self.norm = PreV9RMSNorm(c)
        self.project_in = convolution(c, hidden, 1)
        self.dw_mixer = nn.Sequential(
            depthwise(hidden, 3), nn.GELU(), convolution(hidden, hidden, 1)
        )
        self.attn = WindowAttention(hp, index) if hp.attention else nn.Identity()
        self.gate = squeeze_gate(hidden, hp.squeeze)
        self.project_out, self.ls2 = convolution(hidden, c, 1), LayerScale(c)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.context(x))
        y = self.attn(self.dw_mixer(self.project_in(self.norm(x))))
        return x + self.ls2(self.project_out(y * self.gate(y)))


class WindowAttention(nn.Module):
    """Attention within windows of a map that is zero-padded and, in odd blocks, rolled.

    In v55 and v6, a map that fits in one window is attended as a whole: a penalty on the scores
    excludes padding, and rolling a single window does not change the result. From v7 on, keys and
    values are computed from a depthwise convolution of the map, a learned bias for each offset
    between two pixels is added to the scores, and padding is attended for maps of any size.
    """

    def __init__(self, hp: Hyperparameters, index: int) -> None:
        super().__init__()
        self.window, self.hidden, self.has_bias = hp.window, hp.hidden, hp.traits.has_bias
        self.shift = hp.window // 2 if hp.traits.shifts and index % 2 else 0
        self.qkv = convolution(hp.hidden, 3 * hp.hidden, 1)
        self.proj = convolution(hp.hidden, hp.hidden, 1)
        if self.has_bias:
            self.rattention_context = depthwise(hp.hidden, 3)
            offsets, tokens = (2 * hp.window - 1) ** 2, hp.window**2
            self.relative_position_bias_table = nn.Parameter(torch.zeros(offsets, HEADS))
            offset_index = torch.zeros((tokens, tokens), dtype=torch.int64)
            self.register_buffer("relative_position_index", offset_index)

    def bake(self) -> None:
        """From v7 on, split ``qkv``, whose parts have different inputs, and compute the offsets."""
        if not self.has_bias:
            return
        h, qkv = self.hidden, self.qkv
        self.q, self.kv = convolution(h, h, 1), convolution(h, 2 * h, 1)
        with torch.no_grad():
            for name, tensor in qkv.state_dict().items():
                self.q.state_dict()[name].copy_(tensor[:h])
                self.kv.state_dict()[name].copy_(tensor[h:])
        del self.qkv
        self.relative_position_index = _offsets(self.window)

    def forward(self, x: Tensor) -> Tensor:
        h, w, size = x.shape[2], x.shape[3], self.window
        rows, columns = (h + size - 1) // size, (w + size - 1) // size
        y = F.pad(x, (0, columns * size - w, 0, rows * size - h))
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (2, 3))
        attend = self._attend_fused if may_attend_fused(y) else self._attend
        y = attend(y, x, rows, columns)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (2, 3))
        return sized_like(y[:, :, :h, :w], x)

    def _attend(self, y: Tensor, x: Tensor, rows: int, columns: int) -> Tensor:
        """Return the attended map.

        Args:
            y: The padded, rolled map, of the shape of the result.
            x: The map before.
            rows: Windows along the height.
            columns: Windows along the width.
        """
        n, size = x.shape[0], self.window
        y = self._project(y).reshape(n, 3, HEADS, -1, rows, size, columns, size)
        y = y.permute(1, 0, 4, 6, 2, 5, 7, 3).reshape(
            3, n, rows * columns, HEADS, size * size, self.hidden // HEADS
        )
        q, k, v = y[0], y[1], y[2]  # (N, windows, heads, tokens, width)
        scores = q @ k.permute(0, 1, 2, 4, 3) * (self.hidden // HEADS) ** -0.5
        y = torch.softmax(scores + self._bias(x, rows, columns), dim=-1) @ v
        y = y.reshape(n, rows, columns, HEADS, size, size, -1).permute(0, 3, 6, 1, 4, 2, 5)
        return self.proj(y.reshape(n, self.hidden, rows * size, columns * size))

    def _attend_fused(self, y: Tensor, x: Tensor, rows: int, columns: int) -> Tensor:
        """Return what :meth:`_attend` returns, with other values for padding.

        The channels of a pixel lie side by side, so that windows are copied in long runs.
        """
        n, size = x.shape[0], self.window
        y = self._projected_pixels(y)
        y = y.reshape(n, rows, size, columns, size, -1).permute(0, 1, 3, 2, 4, 5)
        y = y.reshape(n, rows * columns, size**2, 3, HEADS, self.hidden // HEADS)
        y = fused_attention(
            y,
            (self.hidden // HEADS) ** -0.5,
            places_in_picture(x.shape[2], x.shape[3], size, self.shift),
            bias=self._bias_of if self.has_bias else None,
            padded=self.has_bias or rows * columns > 1,
        )
        y = y.reshape(n, rows, columns, size, size, -1).permute(0, 1, 3, 2, 4, 5)
        y = y.reshape(n, rows * size * columns * size, -1)
        result = y.new_empty(n, self.hidden, rows * size, columns * size)
        _project_pixels(self.proj, y.transpose(1, 2), result.flatten(2).transpose(1, 2))
        return result

    def _projected_pixels(self, x: Tensor) -> Tensor:
        """Return what :meth:`_project` returns as (N, H * W, 3 * hidden)."""
        h = self.hidden
        result = x.new_empty(len(x), x.shape[2] * x.shape[3], 3 * h)
        if not self.has_bias:
            _project_pixels(self.qkv, x.flatten(2), result)
        else:
            _project_pixels(self.q, x.flatten(2), result[..., :h])
            context = self.rattention_context(x)
            _project_pixels(self.kv, context.flatten(2), result[..., h:])
        return result

    def _project(self, x: Tensor) -> Tensor:
        """Return queries, keys and values, (N, 3 * hidden, H, W)."""
        if not self.has_bias:
            return self.qkv(x)
        return torch.cat((self.q(x), self.kv(self.rattention_context(x))), dim=1)

    def _bias_of(self, queries: Tensor) -> Tensor:
        """Return what is added to the scores of some queries (see ``layers.Bias``).

        It depends on the offset to the key. With the offsets in reverse order, the biases of a query
        for all keys are a square of the table, ``window`` pixels wide.
        """
        side, offsets = self.window, 2 * self.window - 1
        table = self.relative_position_bias_table.flip(0).t().contiguous()
        starts = offsets * (side - 1) + side
        squares = table.as_strided((HEADS, starts, side, side), (offsets**2, 1, offsets, 1))
        row, column = queries // side, queries % side
        return squares[:, offsets * (side - 1 - row) + side - 1 - column].flatten(2)

    def _bias(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """Return what is added to the scores (N, windows, heads, tokens, tokens)."""
        size = self.window
        if self.has_bias:
            flat = self.relative_position_index.reshape(-1)
            bias = torch.index_select(self.relative_position_bias_table, 0, flat)
            return bias.reshape(1, size**2, size**2, HEADS).permute(0, 3, 1, 2)
        penalty = padding_penalty(x, size)
        if self.shift:
            penalty = torch.roll(penalty, (-self.shift, -self.shift), (2, 3))
        penalty = penalty.reshape(rows, size, columns, size).permute(0, 2, 1, 3)
        return penalty.reshape(1, rows * columns, 1, 1, size * size)


def _project_pixels(conv: nn.Conv2d, x: Tensor, result: Tensor) -> None:
    """Write the result of a 1x1 convolution of pixels (N, C, pixels), (N, pixels, channels)."""
    assert conv.bias is not None
    weight = conv.weight[:, :, 0, 0].t()
    for image, pixels in zip(x, result, strict=True):
        torch.addmm(conv.bias, image.t(), weight, out=pixels)


@cache
def _offsets(window: int) -> Tensor:
    """Return the index of the offset between each two pixels of a window, (tokens, tokens).

    The index is ``(row difference + w - 1) * (2 w - 1) + column difference + w - 1`` with the side
    w of the window, as int64.
    """
    place = torch.arange(window**2)
    row, column = place // window, place % window
    down = row[:, None] - row[None, :] + window - 1
    return down * (2 * window - 1) + column[:, None] - column[None, :] + window - 1


BLOCKS = {"realtime": RealtimeBlock, "stream": StreamBlock, "photo": PhotoBlock, "pro": PhotoBlock}
"""Classes by variant."""


class MultiScaleFusion(nn.Module):
    """Multiply a map by a gate that is computed from 1x1, 3x3 and 5x5 convolutions of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels
        self.p1, self.p3, self.p5 = convolution(c, c, 1), depthwise(c, 3), depthwise(c, 5)
        self.attn = nn.Sequential(
            convolution(3 * c, c, 1), nn.ReLU(), convolution(c, c, 1), nn.Sigmoid()
        )
        self.proj = convolution(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        scales = torch.cat((self.p1(x), self.p3(x), self.p5(x)), dim=1)
        return self.proj(x * self.attn(scales))


class Group(nn.Module):
    """The blocks of one group with a residual connection."""

    def __init__(self, hp: Hyperparameters, group: int) -> None:
        super().__init__()
        block = BLOCKS[hp.variant]
        self.blocks = nn.Sequential(*(block(hp, group * hp.blocks + i) for i in range(hp.blocks)))
        self.fuses = hp.traits.fuses
        if self.fuses:
            self.mid_conv = convolution(hp.features, hp.features)
            self.mscf = MultiScaleFusion(hp.features)

    def forward(self, x: Tensor) -> Tensor:
        y = self.blocks(x)
        return x + (self.mscf(self.mid_conv(y)) if self.fuses else y)


class Content(nn.Module):
    """Compute the content map (N, 1, H, W), in (0, 2), by which the detail is multiplied."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.analyzer = nn.Sequential(
            convolution(channels, width), nn.LeakyReLU(SLOPE), depthwise(width, 5),
            convolution(width, width, 1), nn.LeakyReLU(SLOPE), convolution(width, 1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.analyzer(x)


class Stages(nn.Module):
    """Enlarge by several pixel shuffles of factor 2, with convolutions between them."""

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [Shuffle(channels, 2)]
        for _ in range(scale.bit_length() - 2):
            layers += [convolution(channels, channels), nn.LeakyReLU(SLOPE), Shuffle(channels, 2)]
        self.stages = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(x)


class ParagonSR2V55(nn.Module):
    """v55 to v8: upscale images (N, C, H, W) to (N, C, H * scale, W * scale)."""

    def __init__(self, hp: Hyperparameters) -> None:
        super().__init__()
        c, i, s = hp.features, hp.in_channels, hp.scale
        self.scale, self.gates_picture = s, hp.traits.gates_picture
        self.base_upsampler = PreV9BaseUpsampler(i, s, hp.upsampler_alpha)
        self.conv_in = convolution(i, c)
        self.body = nn.Sequential(*(Group(hp, g) for g in range(hp.groups)))
        self.conv_fuse = convolution(c, c)
        self.detail_upsampler = Stages(c, s) if hp.staged else Shuffle(c, s)
        self.conv_out = convolution(c, i)
        self.has_gain = hp.traits.has_gain
        if self.has_gain:
            self.global_detail_gain = nn.Parameter(torch.tensor(0.1))
        self.has_content = hp.content > 0
        if self.has_content:
            self.content_processor = Content(i if self.gates_picture else c, hp.content)

    def forward(self, x: Tensor) -> Tensor:
        f = self.body(self.conv_in(x))
        f = self.conv_fuse(f) + f
        if self.has_content and not self.gates_picture:
            f = f * self.content_processor(f)
        detail = self.conv_out(self.detail_upsampler(f))
        if self.has_content and self.gates_picture:
            gate = F.interpolate(
                self.content_processor(x), scale_factor=float(self.scale), mode="bilinear"
            )
            detail = detail * gate
        if self.has_gain:
            detail = self.global_detail_gain * detail
        return self.base_upsampler(x) + detail
