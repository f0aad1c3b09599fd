"""Rules on attention without windows: to a learned dictionary, and over channels."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, nn

from paragon_export.networks.layers import (
    ChannelAttention,
    LayerScale,
    RMSNorm,
    TokenAttention,
)
from paragon_export.networks.ops import picture_mean
from paragon_export.rewrite.fx_network import Network, feeds_only, is_call


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


class ChannelGate(nn.Module):
    """``x * (1 + gain * perceptron(mean of x))``, the mean over height and width.

    Takes and returns (N, C, H, W), or (N, H, W, C) where ``channels_last``.
    """

    def __init__(self, attention: ChannelAttention, gain: Tensor) -> None:
        super().__init__()
        self.fc = attention.fc
        self.gain = nn.Parameter(gain.detach().flatten().clone())
        self.channels_last = False

    def forward(self, x: Tensor) -> Tensor:
        top = 1 if self.channels_last else 2
        means = picture_mean(x, x.shape[top], x.shape[top + 1], self.channels_last)
        gate = self.fc(means) * self.gain + 1
        return x * (gate[:, None, None, :] if self.channels_last else gate[:, :, None, None])
