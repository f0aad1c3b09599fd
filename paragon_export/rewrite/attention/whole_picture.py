"""Rules on attention without windows: to a learned dictionary, and over channels."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, nn

from paragon_export.networks.float32 import narrow, widen
from paragon_export.networks.layers import (
    ChannelAttention,
    LayerScale,
    RMSNorm,
    TokenAttention,
)
from paragon_export.networks.ops import (
    floating,
    numbers,
    picture_mean,
    positions,
    sized_like,
)
from paragon_export.rewrite.fx_network import Network, feeds_only, is_call
from paragon_export.rewrite.normalize import Normalize

BLOCK = 32
"""Values that :class:`BlockedMeans` adds one after the other."""


def tabulate_tokens(network: Network) -> int:
    """Compute attention to a learned dictionary as two constant matrices around a softmax.

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
    """``proj(softmax(logits(x)))`` for every pixel alone.

    Takes and returns (N, C, H, W), or (N, H, W, C) where ``channels_last``.
    """

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
        """Return True: nothing is padded here, so any norm can be absorbed."""
        return True

    def fold_norm(self, gain: Tensor, bias: Tensor) -> None:
        """Absorb ``gain * u + bias`` of the norm before, where ``u`` is the normalized map."""
        with torch.no_grad():
            self.logits.bias.add_(self.logits.weight @ bias)
            self.logits.weight.mul_(gain)

    def forward(self, x: Tensor) -> Tensor:
        if not self.channels_last:
            x = x.permute(0, 2, 3, 1)
        y = self.proj(torch.softmax(self.logits(x), dim=-1))
        return y if self.channels_last else y.permute(0, 3, 1, 2)


def fuse_tokens(network: Network) -> int:
    """Compute :class:`DictionaryAttention` in a form that TensorRT fuses to one kernel.

    With the logits ``x A + b`` and the products ``V`` of the dictionary, ``softmax(x A + b) V`` is
    attention with one head, the keys ``A'`` and the values ``V``. TensorRT has a kernel for that,
    which writes neither logits nor weights, if keys and values are no constants. A zero that
    depends on the size of the map is added to both. A norm directly before is taken into the
    layer, so that it works on the same layout as the attention.
    """
    fired = 0
    for node, attention in network.calls(DictionaryAttention):
        before = node.args[0]
        norm = network.layer(before, Normalize)
        is_before = norm is not None and feeds_only(before, node)
        network.swap(node, FusedTokens(attention, norm if is_before else None))
        if is_before:
            network.replace(before, before.args[0])
        fired += 1
    return fired


class FusedTokens(nn.Module):
    """An optional norm and ``softmax(x A + b) V + c`` for every pixel, as attention."""

    def __init__(self, attention: DictionaryAttention, norm: Normalize | None) -> None:
        super().__init__()
        self.channels = attention.proj.out_features
        self.normalize = norm and Normalize(norm.channels, channels_last=True)
        self.keys = nn.Parameter(attention.logits.weight.detach().clone()[None, None])
        self.values = nn.Parameter(attention.proj.weight.detach().T.clone()[None, None])
        self.logits = nn.Parameter(attention.logits.bias.detach().clone())
        self.bias = nn.Parameter(attention.proj.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Take and return (N, C, H, W)."""
        n, h, w, c = x.shape[0], x.shape[2], x.shape[3], self.channels
        query = x.permute(0, 2, 3, 1).reshape(1, 1, -1, c)
        if self.normalize is not None:
            query = self.normalize(query)
        zero = floating(positions(x, 2)[:1].clamp(0, 1), x)
        scores = query @ (self.keys + zero).permute(0, 1, 3, 2) + self.logits
        y = torch.softmax(scores, dim=-1) @ (self.values + zero) + self.bias
        return sized_like(y.reshape(n, h, w, c).permute(0, 3, 1, 2), x)


def gate_channels(network: Network) -> int:
    """``x + g * (x * s(x)) = x * (1 + g * s(x))``: one pass over the map instead of three.

    ``s(x)`` is one number per channel, ``g`` the gain of a :class:`LayerScale`. Not applied
    where another call uses the attended map.
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


def transpose_for_means(network: Network) -> int:
    """Take the means of a :class:`ChannelGate` over the transposed map, ``mean(T x) = mean(x)``.

    TensorRT stores maps with the channels last, so the transpose moves nothing. The mean cuts
    each row into blocks; with the channels first, TensorRT copies the map for that. The last block
    is filled by index (:class:`BlockedMeans`), so that TensorRT plans no memory for padding.
    """
    fired = 0
    for _, gate in network.calls(ChannelGate):
        if not gate.channels_last:
            gate.means = BlockedMeans()
            fired += 1
    return fired


class BlockedMeans(nn.Module):
    """The means of channels over height and width, in float32, from (N, C, H, W) to (N, C).

    As :func:`~paragon_export.networks.ops.picture_mean`, short blocks are added, so that the error
    does not grow with the map.
    """

    def forward(self, x: Tensor) -> Tensor:
        total, count = self._along(widen(x.permute(0, 2, 3, 1)), 2)
        total, rows = self._along(total, 1)
        return narrow(total / (count * rows), x)

    def _along(self, x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """Return the sum of ``x`` along a dimension, which is removed, and of ones, over 32."""
        extent = x.shape[dim]
        blocks = (extent + BLOCK - 1) // BLOCK
        # A sum with a position is int64 in a trace as well.
        place = positions(x, dim)[:1] + numbers(0, blocks * BLOCK)
        inside = floating((extent - place).clamp(0, 1), x)
        taken = torch.index_select(x, dim, place.clamp(max=extent - 1))
        c = x.shape[-1]
        if dim == 2:
            taken = taken * inside[:, None]
            taken = taken.reshape(x.shape[0], x.shape[1], blocks, BLOCK, c)
        else:
            taken = (taken * inside[:, None]).reshape(x.shape[0], blocks, BLOCK, c)
        ones = inside.reshape(-1, BLOCK).mean(dim=1).sum(dim=0)
        return taken.mean(dim=dim + 1).sum(dim=dim), ones


class ChannelGate(nn.Module):
    """``x * (1 + gain * perceptron(mean of x))``, the mean over height and width.

    Takes and returns (N, C, H, W), or (N, H, W, C) where ``channels_last``.
    """

    def __init__(self, attention: ChannelAttention, gain: Tensor) -> None:
        super().__init__()
        self.fc = attention.fc
        self.gain = nn.Parameter(gain.detach().flatten().clone())
        self.channels_last = False
        self.means: nn.Module | None = None
        """Computes the means; None for :func:`picture_mean`."""

    def forward(self, x: Tensor) -> Tensor:
        top = 1 if self.channels_last else 2
        if self.means is not None:
            means = self.means(x)
        else:
            means = picture_mean(x, x.shape[top], x.shape[top + 1], self.channels_last)
        gate = self.fc(means) * self.gain + 1
        return x * (gate[:, None, None, :] if self.channels_last else gate[:, :, None, None])
