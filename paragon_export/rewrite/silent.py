"""Rules that remove what contributes nothing: channels, heads, gates, tokens and whole branches.

A weight contributes nothing if it is smaller than ``TINY``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.networks.float32 import narrow, widen
from paragon_export.networks.layers import (
    ChannelAttention,
    LayerScale,
    RMSNorm,
    TokenAttention,
    WindowAttention,
)
from paragon_export.rewrite.attention.windows import size_sources
from paragon_export.rewrite.fx_network import Network, feeds_only, is_call
from paragon_export.rewrite.linear import is_pointwise, like

TINY = float(torch.finfo(torch.float32).tiny)
"""Smallest normal float32 number, 1.2e-38. Runtimes may flush smaller ones to zero."""

UNDERFLOW = -90.0
"""A score so far below another one has no weight: the exponential of it is less than ``TINY``."""


def drop_branches(network: Network) -> int:
    """``x + g * f(x) = x`` where ``g``, or the last layer of ``f``, is zero.

    Not applied unless ``x`` certainly has the size and the channels of ``f(x)``: a sum may broadcast.
    """
    fired = 0
    sources = size_sources(network)
    for node in network.nodes:
        if not is_call(node, operator.add):
            continue
        for x, branch in (node.args, node.args[::-1]):
            if sources.get(x) != sources.get(branch) or branch not in sources:
                continue
            if _channels_if_zero(network, branch) in _channels_read(network, x):
                network.replace(node, x)
                fired += 1
                break
    return fired


def _channels_if_zero(network: Network, node: Any) -> int | None:
    """Return the channels of a map that is zero everywhere; None if it is not, or not certainly."""
    scale = network.shared(node, LayerScale)
    if scale is not None:
        return (
            scale.gamma.numel()
            if _is_zero(scale.gamma)
            else _channels_if_zero(network, node.args[0])
        )
    conv, attention = network.shared(node, nn.Conv2d), network.shared(node, WindowAttention)
    layer = conv if conv is not None else attention.proj if attention is not None else None
    if layer is None or not _is_zero(layer.weight):
        return None
    return len(layer.weight) if layer.bias is None or _is_zero(layer.bias) else None


def _channels_read(network: Network, node: Any) -> set[int]:
    """Return the channels of a map, as the layers that read it tell."""
    found = set()
    for user in getattr(node, "users", ()):
        if (conv := network.shared(user, nn.Conv2d)) is not None:
            found.add(conv.in_channels)
        if (norm := network.shared(user, RMSNorm)) is not None:
            found.add(norm.scale.numel())
        if (attention := network.shared(user, WindowAttention)) is not None:
            found.add(attention.channels)
    return found


def _is_zero(weight: Tensor) -> bool:
    return bool((weight.abs() < TINY).all())


def drop_channels(network: Network) -> int:
    """Remove channels between two dense convolutions that are constant, or that nothing reads.

    A channel is constant where the first convolution, or a depthwise one after it, has no weights for
    it. ``W [a; c] = W_a a + W_c c``: the constant moves into the bias of the second convolution, if
    that pads nothing or the constant is 0. In between may lie depthwise convolutions, activations, and
    the product of the two halves of a map. Not applied where another call uses a map in between, nor
    to the last channel.
    """
    fired = 0
    for node, conv in network.calls(nn.Conv2d):
        if conv.groups != 1:
            continue
        way = _way(network, node.args[0], node)
        if way is None:
            continue
        unread = (conv.weight.abs() < TINY).all(dim=3).all(dim=2).all(dim=0)
        constant = way.constant.nan_to_num()
        folds = is_pointwise(conv) and conv.bias is not None
        silent = unread | (~way.constant.isnan() & (folds | (constant == 0)))
        if silent.all():
            silent[0] = False
        if not silent.any():
            continue
        if conv.bias is not None:
            gone = torch.where(silent & ~unread, constant, 0.0)
            conv.bias.data += conv.weight.sum(dim=(2, 3)) @ gone
        keep = torch.nonzero(~silent).flatten()
        _set(network, node, like(conv, conv.weight[:, keep], conv.bias))
        for rows_of, above, inner in way.layers:
            rows = rows_of(keep)
            bias = None if inner.bias is None else inner.bias[rows]
            _set(network, above, like(inner, inner.weight[rows], bias))
        fired += int(silent.sum())
    return fired


def _set(network: Network, node: Any, layer: nn.Module) -> None:
    network.module.set_submodule(str(node.target), layer)


RowsOf = Callable[[Tensor], Tensor]
"""Returns the rows of a convolution for channels of the map at the end of the way."""


@dataclass
class _Way:
    """What lies between a dense convolution and the map that another one reads."""

    constant: Tensor
    """The value of each channel of the map, NaN for those that vary."""
    layers: list[tuple[RowsOf, Any, nn.Conv2d]]
    """Convolutions on the way, the last one first, with their rows."""


ACTIVATIONS = (F.gelu, F.relu, F.silu, F.mish, torch.sigmoid, torch.tanh, "clamp")


def _way(network: Network, node: Any, user: Any) -> _Way | None:
    """Follow a map up to the dense convolution that it comes from; None if it does not."""
    conv = network.layer(node, nn.Conv2d)
    if not hasattr(node, "users") or not feeds_only(node, user):
        return None
    if conv is not None:
        return _from_convolution(network, node, conv)
    if is_call(node, operator.mul) and len(node.all_input_nodes) == 2:
        return _from_halves(network, node)
    if is_call(node, widen, narrow, *ACTIVATIONS):
        way = _way(network, node.args[0], node)
        if way is not None and is_call(node, "clamp"):
            way.constant = way.constant.clamp(*node.args[1:], **node.kwargs)
        elif way is not None and is_call(node, *ACTIVATIONS):
            way.constant = node.target(way.constant, *node.args[1:], **node.kwargs)
        return way
    return None


def _from_convolution(network: Network, node: Any, conv: nn.Conv2d) -> _Way | None:
    silent = (conv.weight.abs() < TINY).flatten(1).all(dim=1)
    bias = torch.zeros(len(conv.weight)).double() if conv.bias is None else conv.bias.detach()
    if conv.groups == 1:
        return _Way(torch.where(silent, bias, torch.nan), [(lambda keep: keep, node, conv)])
    if not conv.groups == conv.in_channels == conv.out_channels:
        return None
    way = _way(network, node.args[0], node)
    if way is None:
        return None
    # A constant other than 0 is not one after the convolution: at the border it meets zeros.
    silent = silent | (way.constant == 0)
    return _Way(
        torch.where(silent, bias, torch.nan), [(lambda keep: keep, node, conv), *way.layers]
    )


def _from_halves(network: Network, product: Any) -> _Way | None:
    """Follow the two factors of a product to the map whose halves they are."""
    parts = []
    for factor in product.args:
        user = product
        while is_call(factor, widen) and feeds_only(factor, user):
            user, factor = factor, factor.args[0]
        if not is_call(factor, operator.getitem) or not feeds_only(factor, user):
            return None
        parts.append(factor)
    cut = parts[0].args[0]
    indices = [part.args[1] for part in parts]
    if parts[1].args[0] is not cut or indices not in ([0, 1], [1, 0]) or len(cut.users) != 2:
        return None
    if not is_call(cut, "chunk") or cut.args[1:] != (2,) or cut.kwargs != {"dim": 1}:
        return None
    above = _way(network, cut.args[0], cut)
    if above is None or len(above.constant) % 2:
        return None
    a, b = above.constant.chunk(2)
    constant = torch.where((a == 0) | (b == 0), 0.0, a * b)
    layers = [(_in_both(rows_of, len(a)), node, conv) for rows_of, node, conv in above.layers]
    return _Way(constant, layers)


def _in_both(rows_of: RowsOf, half: int) -> RowsOf:
    """Return what gives the rows of both halves for channels of the product."""
    return lambda keep: rows_of(torch.cat((keep, keep + half)))


def drop_heads(network: Network) -> int:
    """Remove heads of window attention whose values are constant, or that the projection ignores.

    The weights of a query sum to 1, so a head whose values are all ``b`` gives ``b``, which moves
    into the bias of the projection. Not applied to the last head.
    """
    fired = 0
    for _, attention in network.calls(WindowAttention):
        heads, width = attention.heads, attention.width
        value = attention.qkv.weight.reshape(3, heads, width, -1)[2]
        columns = attention.proj.weight.reshape(-1, heads, width)
        unread = (columns.abs() < TINY).all(dim=2).all(dim=0)
        silent = unread | (value.abs() < TINY).flatten(1).all(dim=1)
        if silent.all():
            silent[0] = False
        if not silent.any():
            continue
        bias = attention.qkv.bias.reshape(3, heads, width)
        attention.proj.bias.data += torch.einsum("chw,hw->c", columns[:, silent], bias[2, silent])
        attention.qkv = _linear(
            attention.qkv.weight.reshape(3, heads, width, -1)[:, ~silent].flatten(0, 2),
            bias[:, ~silent].flatten(),
        )
        attention.proj = _linear(columns[:, ~silent].flatten(1), attention.proj.bias)
        attention.heads = int((~silent).sum())
        attention.inner = attention.heads * width
        fired += int(silent.sum())
    return fired


def drop_gates(network: Network) -> int:
    """Remove hidden values of channel attention that are zero, or that nothing reads.

    ``gelu(0) = 0``. Not applied to the last one.
    """
    fired = 0
    for _, attention in network.calls(ChannelAttention):
        first, last = attention.fc[0], attention.fc[2]
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        silent = (first.weight.abs() < TINY).all(dim=1) | (last.weight.abs() < TINY).all(dim=0)
        if silent.all():
            silent[0] = False
        if silent.any():
            attention.fc[0] = _linear(first.weight[~silent], None)
            attention.fc[2] = _linear(last.weight[:, ~silent], None)
            fired += int(silent.sum())
    return fired


def drop_tokens(network: Network) -> int:
    """Remove tokens of a dictionary that no pixel can attend to.

    Behind an RMS norm, a query is ``q = W (g * u + c) + b`` with ``|u| <= sqrt(channels)``. With
    ``d`` the difference of two keys, the scores differ by ``d q``, which is at most
    ``d (W c + b) + sqrt(channels) |g * W'd|``. Where that is below ``UNDERFLOW``, the softmax gives
    the first token no weight. Not applied behind anything else than a norm.
    """
    fired = 0
    for node, attention in network.calls(TokenAttention):
        norm = network.shared(node.args[0], RMSNorm)
        if norm is None:
            continue
        gain, offset = norm.scale.flatten(), norm.bias.flatten()
        keys = attention.k_proj(attention.token_dict)[0] * attention.temperature
        fixed = keys @ (attention.q_proj.weight @ offset + attention.q_proj.bias)
        varied = keys @ attention.q_proj.weight * gain
        reach = torch.cdist(varied, varied) * len(gain) ** 0.5
        # The score of the row's token less that of the column's token, at most.
        highest = fixed[:, None] - fixed + reach
        silent = (highest < UNDERFLOW).any(dim=1)
        if silent.any():
            attention.token_dict = nn.Parameter(attention.token_dict[:, ~silent])
            fired += int(silent.sum())
    return fired


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer
