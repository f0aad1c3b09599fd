"""Rules on attention inside windows: the same softmax in fewer and cheaper steps."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.networks.layers import (
    ChannelAttention,
    LayerScale,
    RMSNorm,
    TokenAttention,
    WindowAttention,
)
from paragon_export.networks.ops import (
    PENALTY,
    multi_head_attention,
    numbers,
    single_head_attention,
)
from paragon_export.networks.windowed_attention import MaskedAttention
from paragon_export.rewrite.fx_network import Network, is_call

MAX_PADDING_VALUE = 64.0
"""Largest magnitude that a padded place may hold. Larger values would lose precision in half."""


def gather_windows(network: Network) -> int:
    """Replace padding, rolling and cropping in window attention by one gather of pixels.

    Padding, rolling and cutting into windows only permute pixels, and the permutation is the
    same in all blocks of equal shift. It is computed once, on a map of pixel indices
    (:class:`WindowOrder`). Every block gathers its pixels with these indices.

    Inside, with ``q = Wq x + bq`` and likewise for k and v:

    - the factor ``1 / sqrt(width)`` moves into ``Wq`` and ``bq``;
    - ``bk`` is dropped: ``q . bk`` adds the same to all scores of a query, which softmax
      ignores;
    - ``bv`` moves into the projection, ``P (A v + bv) + bp = P A v + (P bv + bp)``, since the
      weights of a query sum to 1.
    """
    fired = 0
    orders: dict[tuple[Any, int, int], list[Any]] = {}
    sources = size_sources(network)
    for node, attention in network.calls(WindowAttention):
        source = sources[node]
        key = source, attention.window, attention.shift
        if key not in orders:
            first = network.after(source)
            order = network.call(first, WindowOrder(attention.window, attention.shift), source)
            orders[key] = [network.apply(first, operator.getitem, order, i) for i in range(3)]
        network.swap(node, GatheredAttention(attention), *orders[key])
        fired += 1
    return fired


def size_sources(network: Network) -> dict[Any, Any]:
    """Return for every call the earliest map that certainly has its result's height and width."""
    size_keeping = (LayerScale, RMSNorm, WindowAttention, ChannelAttention, TokenAttention)
    sources: dict[Any, Any] = {}
    for call in network.nodes:
        sources[call] = call
        conv = network.shared(call, nn.Conv2d)
        keeps_size = any(network.shared(call, kind) is not None for kind in size_keeping)
        if keeps_size or (conv is not None and _keeps_size(conv)) or is_call(call, F.gelu):
            sources[call] = sources[call.args[0]]
        elif is_call(call, operator.add):
            # A sum may broadcast, so both of its terms have to agree.
            terms = {sources.get(term) for term in call.args}
            if len(terms) == 1 and None not in terms:
                sources[call] = terms.pop()
    return sources


def _keeps_size(conv: nn.Conv2d) -> bool:
    if isinstance(conv.padding, str):
        return conv.padding == "same"
    needed = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    return conv.stride == (1, 1) and [2 * int(p) for p in conv.padding] == needed


class WindowOrder(nn.Module):
    """The indices that cut a map into windows, and those that put the windows together again.

    The map is padded at the bottom and right to whole windows and rolled by ``shift``.
    """

    def __init__(self, window: int, shift: int) -> None:
        super().__init__()
        self.window = window
        self.shift = shift

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[int, int, int]]:
        """Compute the indices from the size of ``x``; its values are not used.

        Args:
            x: (N, C, H, W).

        Returns:
            Three values. First, int64 (windows * size^2): for every place in the windows, the
            index of its pixel counted from 1, or 0 for padding. Windows and the places inside
            them are in reading order. Second, int64 (H * W): for every pixel the index of its
            place, counted from 0. Third, N, H and W.
        """
        n, h, w = x.shape[0], x.shape[2], x.shape[3]
        size, shift = self.window, self.shift
        rows, columns = (h + size - 1) // size, (w + size - 1) // size
        pixels = numbers(1, h * w).reshape(1, 1, h, w)
        pixels = F.pad(pixels, (0, columns * size - w, 0, rows * size - h))
        if shift:
            pixels = torch.roll(pixels, (-shift, -shift), (2, 3))
        pixels = pixels.reshape(rows, size, columns, size).permute(0, 2, 1, 3).reshape(-1)
        places = numbers(0, rows * columns * (size * size))
        places = places.reshape(rows, columns, size, size).permute(0, 2, 1, 3)
        places = places.reshape(1, 1, rows * size, columns * size)
        if shift:
            places = torch.roll(places, (shift, shift), (2, 3))
        return pixels, places[:, :, :h, :w].reshape(-1), (n, h, w)


class JointHeads(nn.Module):
    """Multi-head attention inside windows, with one matrix product for q, k and v.

    Takes (windows, tokens, C) and returns (windows, tokens, heads, width of a head).
    """

    def __init__(self, attention: WindowAttention) -> None:
        super().__init__()
        inner = attention.inner
        factor = attention.width**-0.5
        self.tokens = attention.window**2
        self.heads, self.width = attention.heads, attention.width
        self.qkv = nn.Linear(attention.channels, 3 * inner, dtype=torch.float64)
        with torch.no_grad():
            self.qkv.weight.copy_(attention.qkv.weight)
            self.qkv.weight[:inner] *= factor
            self.qkv.bias.zero_()
            self.qkv.bias[:inner] = attention.qkv.bias[:inner] * factor

    def forward(self, windows: Tensor) -> Tensor:
        qkv = self.qkv(windows).reshape(-1, self.tokens, 3, self.heads, self.width)
        qkv = qkv.permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]  # (windows, heads, tokens, width)
        weights = torch.softmax(q @ k.permute(0, 1, 3, 2), dim=-1)
        return (weights @ v).permute(0, 2, 1, 3)


class GatheredAttention(nn.Module):
    """Attention inside windows whose pixels are gathered by index, then a projection."""

    def __init__(self, attention: WindowAttention) -> None:
        super().__init__()
        c = attention.channels
        self.channels, self.inner = c, attention.inner
        self.tokens = attention.window**2
        self.channels_last = False
        self.attend: JointHeads | FusedHeads = JointHeads(attention)
        self.proj = nn.Linear(self.inner, c, dtype=torch.float64)
        self.padding = nn.Parameter(torch.zeros(1, 1, c, dtype=torch.float64))
        """Value of a padded place, (1, 1, C)."""
        with torch.no_grad():
            self.proj.weight.copy_(attention.proj.weight)
            v_bias = attention.qkv.bias[2 * self.inner :]
            self.proj.bias.copy_(attention.proj.bias + attention.proj.weight @ v_bias)

    def accepts_norm(self, norm: RMSNorm) -> bool:
        """Return whether a normalized value stands for padding in every channel.

        It is ``-bias / gain`` (see :meth:`fold_norm`), which needs a gain other than 0, and may be
        no larger than ``MAX_PADDING_VALUE``.
        """
        gain, bias = norm.scale.flatten(), norm.bias.flatten()
        possible = (gain != 0) & (bias.abs() <= MAX_PADDING_VALUE * gain.abs())
        return isinstance(self.attend, JointHeads) and bool(possible.all())

    def fold_norm(self, gain: Tensor, bias: Tensor) -> None:
        """Absorb ``gain * u + bias`` of the norm before, where ``u`` is the normalized map.

        Padding is zero after the norm, which is ``u = -bias / gain`` before it. ``W bias`` joins
        the bias of q. In k and v it is the same for all places, padded ones included, so it is
        treated like their biases: dropped for k, and moved into the projection for v.
        """
        inner, joint = self.inner, self.attend
        assert isinstance(joint, JointHeads)  # accepts_norm() checked it
        qkv = joint.qkv
        with torch.no_grad():
            shift = qkv.weight @ bias
            qkv.bias[:inner] += shift[:inner]
            self.proj.bias.add_(self.proj.weight @ shift[2 * inner :])
            qkv.weight.mul_(gain)
            self.padding.copy_((-bias / gain).reshape(1, 1, -1))

    def forward(
        self, x: Tensor, pixels: Tensor, places: Tensor, sizes: tuple[int, int, int]
    ) -> Tensor:
        """Gather the pixels of every window, attend, project, and put the pixels back.

        Args:
            x: (N, C, H, W), or (N, H, W, C) where ``channels_last``.
            pixels: First result of :class:`WindowOrder`.
            places: Its second result.
            sizes: Its third result: N, H and W.

        Returns:
            The layout and shape of ``x``.
        """
        if not self.channels_last:
            x = x.permute(0, 2, 3, 1)
        (n, h, w), c = sizes, self.channels
        padded = torch.cat((self.padding.expand(n, 1, c), x.reshape(n, -1, c)), dim=1)
        windows = torch.index_select(padded, 1, pixels).reshape(-1, self.tokens, c)
        attended = self.attend(windows).reshape(n, -1, self.inner)
        y = self.proj(torch.index_select(attended, 1, places)).reshape(n, h, w, c)
        return y if self.channels_last else y.permute(0, 3, 1, 2)


def fuse_heads(network: Network) -> int:
    """Replace two products and a softmax by one operator, ``MultiHeadAttention``.

    The operator belongs to ONNX Runtime. It computes one tile of scores at a time and updates
    the softmax's maximum and sum: ``sum of exp(s_i - m) v_i`` over the keys so far is multiplied
    by ``exp(m - m')`` when a later tile raises the maximum to ``m'``. The scores stay in the
    cache. OpenVINO has the operator too. Exports for any runtime keep to standard operators.
    """
    fired = 0
    for _, attention in network.calls(GatheredAttention):
        if isinstance(attention.attend, JointHeads):
            attention.attend = FusedHeads(attention.attend)
            fired += 1
    return fired


class FusedHeads(nn.Module):
    """Computes the same as :class:`JointHeads`, with q, k and v as separate products.

    Takes (windows, tokens, C). The operator adds the bias of q, k and v itself.
    """

    def __init__(self, joint: JointHeads) -> None:
        super().__init__()
        c, inner = joint.qkv.in_features, joint.qkv.out_features // 3
        self.heads = joint.heads
        self.q, self.k, self.v = (
            nn.Linear(c, inner, bias=False, dtype=torch.float64) for _ in range(3)
        )
        self.bias = nn.Parameter(joint.qkv.bias.detach().clone())
        with torch.no_grad():
            for part, weight in zip(
                (self.q, self.k, self.v), joint.qkv.weight.chunk(3), strict=True
            ):
                part.weight.copy_(weight)

    def forward(self, windows: Tensor) -> Tensor:
        q, k, v = self.q(windows), self.k(windows), self.v(windows)
        return multi_head_attention(q, k, v, self.bias, self.heads)


def fuse_windows(network: Network) -> int:
    """Replace masked attention by the operator of :func:`fuse_heads`.

    With a mask the operator would not work in tiles, so the mask becomes a channel. Queries get a
    1; keys get a 0, or a large negative number ``m`` where a place is masked:
    ``[q, 1] [k, m]' = q k' + m``. Memory no longer grows with the number of windows times the
    square of their places.
    """
    fired = 0
    for node, _ in network.calls(MaskedAttention):
        network.swap(node, MaskInChannel())
        fired += 1
    return fired


class MaskInChannel(nn.Module):
    """Computes the same as :class:`MaskedAttention`, with the mask as a channel of q and k."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, inside: Tensor) -> Tensor:
        n, windows, tokens = q.shape[0], q.shape[1], q.shape[2]
        ones = q[:, :, :, :1] * 0 + 1
        mask = (ones * inside - 1) * -PENALTY
        q, k = torch.cat((q, ones), dim=-1), torch.cat((k, mask), dim=-1)
        y = single_head_attention(*(x.reshape(-1, tokens, x.shape[3]) for x in (q, k, v)))
        return y.reshape(n, windows, tokens, v.shape[3])
