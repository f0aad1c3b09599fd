"""Rules on attention: the same softmax in fewer and cheaper steps."""

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
from paragon_export.rewrite.fx_network import Network, feeds_only, is_call

STEEPEST_PADDING = 64.0
"""Largest value that may stand in for padding; beyond, half precision would suffer."""


def gather_windows(network: Network) -> int:
    """Window attention without padding, rolling and cropping the map: pixels move once.

    Padding, rolling and cutting into windows only decide which pixel stands where, and that is
    the same in all blocks of equal shift. It is worked out once, on a map of pixel numbers
    (:class:`WindowOrder`), and every block gathers its pixels by it.

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
    """Return for every call the earliest map proven to have its result's height and width."""
    keeping = (LayerScale, RMSNorm, WindowAttention, ChannelAttention, TokenAttention)
    sources: dict[Any, Any] = {}
    for call in network.nodes:
        sources[call] = call
        conv = network.shared(call, nn.Conv2d)
        alike = any(network.shared(call, kind) is not None for kind in keeping)
        if alike or (conv is not None and _keeps_size(conv)) or is_call(call, F.gelu):
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
    reach = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    return conv.stride == (1, 1) and [2 * int(p) for p in conv.padding] == reach


class WindowOrder(nn.Module):
    """Which pixel stands where when a map is cut into windows, and back.

    The map is padded at the bottom and right to whole windows and rolled by ``shift``.
    """

    def __init__(self, window: int, shift: int) -> None:
        super().__init__()
        self.window = window
        self.shift = shift

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[int, int, int]]:
        """Look at the size of ``x`` (N, C, H, W) alone.

        Returns:
            For every place in the windows, in reading order of windows and of places inside,
            the number of its pixel from 1, or 0 for padding; for every pixel its place, from 0;
            and N, H and W.
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
    """Multi-head attention inside windows (windows, tokens, C), with one product for q, k and v."""

    def __init__(self, attention: WindowAttention) -> None:
        super().__init__()
        c = attention.channels
        factor = (c // attention.heads) ** -0.5
        self.tokens = attention.window**2
        self.heads = attention.heads
        self.qkv = nn.Linear(c, 3 * c, dtype=torch.float64)
        with torch.no_grad():
            self.qkv.weight.copy_(attention.qkv.weight)
            self.qkv.weight[:c] *= factor
            self.qkv.bias.zero_()
            self.qkv.bias[:c] = attention.qkv.bias[:c] * factor

    def forward(self, windows: Tensor) -> Tensor:
        qkv = self.qkv(windows).reshape(-1, self.tokens, 3, self.heads, self.qkv.in_features // self.heads)  # fmt: skip
        qkv = qkv.permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]  # (windows, heads, tokens, width)
        weights = torch.softmax(q @ k.permute(0, 1, 3, 2), dim=-1)
        return (weights @ v).permute(0, 2, 1, 3)


class GatheredAttention(nn.Module):
    """Attention inside windows whose pixels are gathered by number, and a projection."""

    def __init__(self, attention: WindowAttention) -> None:
        super().__init__()
        c = attention.channels
        self.channels = c
        self.tokens = attention.window**2
        self.channels_last = False
        self.attend: JointHeads | FusedHeads = JointHeads(attention)
        self.proj = nn.Linear(c, c, dtype=torch.float64)
        self.padding = nn.Parameter(torch.zeros(1, 1, c, dtype=torch.float64))
        """What stands in a padded place."""
        with torch.no_grad():
            self.proj.weight.copy_(attention.proj.weight)
            v_bias = attention.qkv.bias[2 * c :]
            self.proj.bias.copy_(attention.proj.bias + attention.proj.weight @ v_bias)

    def accepts_norm(self, norm: RMSNorm) -> bool:
        """Tell whether padding can be put in terms of the normalised map."""
        gain, bias = norm.scale.flatten(), norm.bias.flatten()
        possible = (gain != 0) & (bias.abs() <= STEEPEST_PADDING * gain.abs())
        return isinstance(self.attend, JointHeads) and bool(possible.all())

    def fold_norm(self, gain: Tensor, bias: Tensor) -> None:
        """Take over ``gain * u + bias`` of the norm before.

        Padding is zero behind the norm, which is ``u = -bias / gain`` before it. ``W bias`` joins
        the bias of q; in k and v it is the same for all places, padded ones included, and so
        goes where their biases went.
        """
        c, joint = self.channels, self.attend
        assert isinstance(joint, JointHeads)  # accepts_norm() said so
        qkv = joint.qkv
        with torch.no_grad():
            shift = qkv.weight @ bias
            qkv.bias[:c] += shift[:c]
            self.proj.bias.add_(self.proj.weight @ shift[2 * c :])
            qkv.weight.mul_(gain)
            self.padding.copy_((-bias / gain).reshape(1, 1, c))

    def forward(
        self, x: Tensor, pixels: Tensor, places: Tensor, sizes: tuple[int, int, int]
    ) -> Tensor:
        """Attend.

        Args:
            x: (N, C, H, W), or (N, H, W, C) where ``channels_last``.
            pixels: Of :class:`WindowOrder`, as is the rest.
            places: From which every pixel is fetched back.
            sizes: N, H and W.
        """
        if not self.channels_last:
            x = x.permute(0, 2, 3, 1)
        (n, h, w), c = sizes, self.channels
        padded = torch.cat((self.padding.expand(n, 1, c), x.reshape(n, -1, c)), dim=1)
        windows = torch.index_select(padded, 1, pixels).reshape(-1, self.tokens, c)
        attended = self.attend(windows).reshape(n, -1, c)
        y = self.proj(torch.index_select(attended, 1, places)).reshape(n, h, w, c)
        return y if self.channels_last else y.permute(0, 3, 1, 2)


def fuse_heads(network: Network) -> int:
    """Two products and a softmax in one operator, ONNX Runtime's own ``MultiHeadAttention``.

    It computes a tile of scores at a time and carries the softmax's maximum and sum along:
    ``sum of exp(s_i - m) v_i`` over keys so far is multiplied by ``exp(m - m')`` when a later
    tile raises the maximum to ``m'``. Scores never leave the cache. OpenVINO knows the operator
    too; exports for everywhere keep to standard ones.
    """
    fired = 0
    for _, attention in network.calls(GatheredAttention):
        if isinstance(attention.attend, JointHeads):
            attention.attend = FusedHeads(attention.attend)
            fired += 1
    return fired


class FusedHeads(nn.Module):
    """What :class:`JointHeads` computes; q, k and v come as the operator wants them."""

    def __init__(self, joint: JointHeads) -> None:
        super().__init__()
        c = joint.qkv.in_features
        self.heads = joint.heads
        self.q, self.k, self.v = (
            nn.Linear(c, c, bias=False, dtype=torch.float64) for _ in range(3)
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
    """Attention with keys left out, in the one operator of :func:`fuse_heads`.

    It takes no mask without giving up its tiles, so the mask becomes a channel: queries get a 1 and
    keys a 0 or, where a place is no key, a large negative number, ``[q, 1] [k, m]' = q k' + m``.
    Memory no longer grows with windows times the square of their places.
    """
    fired = 0
    for node, _ in network.calls(MaskedAttention):
        network.swap(node, MaskInChannel())
        fired += 1
    return fired


class MaskInChannel(nn.Module):
    """What :class:`MaskedAttention` computes."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, inside: Tensor) -> Tensor:
        n, windows, tokens = q.shape[0], q.shape[1], q.shape[2]
        ones = q[:, :, :, :1] * 0 + 1
        barred = (ones * inside - 1) * -PENALTY
        q, k = torch.cat((q, ones), dim=-1), torch.cat((k, barred), dim=-1)
        y = single_head_attention(*(x.reshape(-1, tokens, x.shape[3]) for x in (q, k, v)))
        return y.reshape(n, windows, tokens, v.shape[3])


def tabulate_tokens(network: Network) -> int:
    """Attention to a learned dictionary is two matrices of constants around a softmax.

    Keys ``K`` and values ``V`` are constants, so ``softmax((Wq x + bq) K' t) V`` has the logits
    ``(t K Wq) x + t K bq``, and with the output projection ``Wo softmax(.) V + bo`` needs only
    the product ``V Wo'``.
    """
    fired = 0
    for node, attention in network.calls(TokenAttention):
        network.swap(node, DictionaryAttention(attention))
        fired += 1
    return fired


class DictionaryAttention(nn.Module):
    """``proj(softmax(logits(x)))`` for every pixel by itself."""

    def __init__(self, attention: TokenAttention) -> None:
        super().__init__()
        with torch.no_grad():
            keys = attention.k_proj(attention.token_dict)[0] * attention.temperature
            values = attention.v_proj(attention.token_dict)[0]
            tokens, c = values.shape
            self.logits = nn.Linear(c, tokens, dtype=values.dtype)
            self.proj = nn.Linear(tokens, c, dtype=values.dtype)
            self.logits.weight.copy_(keys @ attention.q_proj.weight)
            self.logits.bias.copy_(keys @ attention.q_proj.bias)
            self.proj.weight.copy_((values @ attention.out_proj.weight.T).T)
            self.proj.bias.copy_(attention.out_proj.bias)
        self.channels_last = False

    def accepts_norm(self, norm: RMSNorm) -> bool:
        """Nothing is padded here, so any norm will do."""
        return True

    def fold_norm(self, gain: Tensor, bias: Tensor) -> None:
        """Take over ``gain * u + bias`` of the norm before."""
        with torch.no_grad():
            self.logits.bias.add_(self.logits.weight @ bias)
            self.logits.weight.mul_(gain)

    def forward(self, x: Tensor) -> Tensor:
        if not self.channels_last:
            x = x.permute(0, 2, 3, 1)
        y = self.proj(torch.softmax(self.logits(x), dim=-1))
        return y if self.channels_last else y.permute(0, 3, 1, 2)


def gate_channels(network: Network) -> int:
    """``x + g * (x * s(x)) = x * (1 + g * s(x))``: one pass over the map instead of three.

    ``s(x)`` is one number per channel, ``g`` the gain of a :class:`LayerScale`. Not applied
    where the attended map is needed by itself.
    """
    fired = 0
    for node in network.nodes:
        if not is_call(node, operator.add):
            continue
        for x, scaled in (node.args, node.args[::-1]):
            scale = network.shared(scaled, LayerScale)
            if scale is None:
                continue
            attended = scaled.args[0]
            attention = network.layer(attended, ChannelAttention)
            if attention is None or attended.args[0] is not x:
                continue
            if feeds_only(scaled, node) and feeds_only(attended, scaled):
                gate = ChannelGate(attention, scale.gamma)
                network.replace(node, network.call(node, gate, x))
                fired += 1
                break
    return fired


class ChannelGate(nn.Module):
    """``x * (1 + gain * perceptron(mean of x))``."""

    def __init__(self, attention: ChannelAttention, gain: Tensor) -> None:
        super().__init__()
        self.fc = attention.fc
        self.gain = nn.Parameter(gain.detach().flatten().clone())
        self.channels_last = False

    def forward(self, x: Tensor) -> Tensor:
        dims = (1, 2) if self.channels_last else (2, 3)
        gate = self.fc(x.mean(dim=dims)) * self.gain + 1
        return x * (gate[:, None, None, :] if self.channels_last else gate[:, :, None, None])
