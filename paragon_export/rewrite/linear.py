"""Rules on linear maps: constants that a neighbouring convolution can absorb."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, nn

from paragon_export.networks.float32 import narrow, widen
from paragon_export.networks.layers import LayerScale, RMSNorm
from paragon_export.rewrite.attention import DictionaryAttention, GatheredAttention
from paragon_export.rewrite.fx_network import Network, feeds_only, is_call
from paragon_export.rewrite.normalize import Normalize


def fold_gains(network: Network) -> int:
    """``g * (W x + b) = (g W) x + g b``: a constant gain moves into the map before it.

    The gain is a :class:`LayerScale` or a scalar parameter. Not applied where the map's result
    is needed without the gain as well.
    """
    fired = 0
    for node in network.nodes:
        found = _gain_and_operand(network, node)
        if found is None:
            continue
        gain, operand = found
        if feeds_only(operand, node) and _scale_output(network, operand, gain):
            network.replace(node, operand)
            fired += 1
    return fired


def _gain_and_operand(network: Network, node: Any) -> tuple[Tensor, Any] | None:
    scale = network.shared(node, LayerScale)
    if scale is not None:
        return scale.gamma.flatten(), node.args[0]
    if is_call(node, operator.mul):
        for gain, operand in (node.args, node.args[::-1]):
            value = network.parameter(gain)
            if value is not None and value.numel() == 1:
                return value.flatten(), operand
    return None


def _scale_output(network: Network, node: Any, gain: Tensor) -> bool:
    """Scale the result of a linear map, per channel or as a whole; tell whether it is one."""
    conv = network.layer(node, nn.Conv2d)
    attention = network.layer(node, GatheredAttention) or network.layer(node, DictionaryAttention)
    if conv is not None:
        weight, bias = conv.weight, conv.bias
    elif attention is not None:
        weight, bias = attention.proj.weight, attention.proj.bias
    else:
        return False
    with torch.no_grad():
        weight *= gain.reshape(-1, *[1] * (weight.dim() - 1))
        if bias is not None:
            bias *= gain
    return True


def fold_norms(network: Network) -> int:
    """``W (g * u + c) + b = (W g) u + (W c + b)``: gain and bias of a norm move into what follows.

    ``u`` is the normalised map. A 1x1 convolution pads nothing, so both move. Window attention
    pads its input with zeros: see :meth:`GatheredAttention.fold_norm` for what stands in for
    them. Not applied where anything else needs the norm's result.
    """
    fired = 0
    for node, norm in network.calls(RMSNorm):
        followers = [_Follower.of(network, user) for user in node.users]
        if not followers or not all(f and f.accepts(norm) for f in followers):
            continue
        for follower in followers:
            if follower:
                follower.fold(norm)
        network.swap(node, Normalize(norm.scale.shape[0]))
        fired += 1
    return fired


class _Follower:
    """A layer that may absorb the gain and bias of the norm before it."""

    def __init__(self, layer: nn.Conv2d | GatheredAttention | DictionaryAttention) -> None:
        self.layer = layer

    @classmethod
    def of(cls, network: Network, node: Any) -> _Follower | None:
        layer = (
            network.layer(node, nn.Conv2d)
            or network.layer(node, GatheredAttention)
            or network.layer(node, DictionaryAttention)
        )
        return cls(layer) if layer is not None else None

    def accepts(self, norm: RMSNorm) -> bool:
        if isinstance(self.layer, nn.Conv2d):
            return is_pointwise(self.layer) and self.layer.bias is not None
        return self.layer.accepts_norm(norm)

    def fold(self, norm: RMSNorm) -> None:
        # Normalize divides by the norm itself; the root of the count is left to the gain.
        gain = norm.scale.flatten() * norm.scale.shape[0] ** 0.5
        bias = norm.bias.flatten()
        if isinstance(self.layer, nn.Conv2d):
            weight, offset = self.layer.weight, self.layer.bias
            with torch.no_grad():
                if offset is not None:
                    offset += weight[:, :, 0, 0] @ bias
                weight *= gain[:, None, None]
        else:
            self.layer.fold_norm(gain, bias)


def is_pointwise(conv: nn.Conv2d) -> bool:
    """Tell whether a convolution maps every pixel by itself, all channels together."""
    return (
        conv.kernel_size == (1, 1)
        and conv.stride == (1, 1)
        and conv.padding == (0, 0)
        and conv.groups == 1
    )


def split_concat(network: Network) -> int:
    """``W [a; b] = W_a a + W_b b``: a convolution of joined maps needs no joined copy of them.

    Not applied to grouped convolutions, nor where the joined map is needed elsewhere or its
    parts have channels that are not known.
    """
    fired = 0
    for node, conv in network.calls(nn.Conv2d):
        joined = node.args[0]
        if conv.groups != 1 or not is_call(joined, torch.cat) or not feeds_only(joined, node):
            continue
        dim = joined.kwargs.get("dim", joined.args[1] if len(joined.args) > 1 else 0)
        parts = list(joined.args[0])
        channels = [channels_of(network, part) for part in parts]
        if dim != 1 or None in channels:
            continue
        total: Any = None
        weights = torch.split(conv.weight, [c or 0 for c in channels], dim=1)
        for index, (part, weight) in enumerate(zip(parts, weights, strict=True)):
            bias = conv.bias if index == 0 else None
            product = network.call(node, like(conv, weight, bias), part)
            total = product if total is None else network.apply(node, operator.add, total, product)
        network.replace(node, total)
        fired += 1
    return fired


def split_halves(network: Network) -> int:
    """``chunk(W x) = (W_1 x, W_2 x)``: a map that is cut into parts is computed in parts.

    The cut moves up through depthwise convolutions, channel by channel the same, to the dense
    one above them. Not applied where the uncut map is needed, or to other groupings.
    """
    fired = 0
    for cut in network.nodes:
        if not is_call(cut, "chunk") or cut.kwargs.get("dim") != 1:
            continue
        count = cut.args[1]
        chain = _chain_above(network, cut)
        if not chain or any(conv.out_channels % count for _, conv in chain):
            continue
        if any(not is_call(user, operator.getitem) for user in cut.users):
            continue
        source = chain[-1][0].args[0]
        for part in list(cut.users):
            index, value = part.args[1], source
            for _, conv in reversed(chain):
                weight = conv.weight.chunk(count)[index]
                bias = None if conv.bias is None else conv.bias.chunk(count)[index]
                value = network.call(part, like(conv, weight, bias), value)
            network.replace(part, value)
        fired += 1
    return fired


def narrow_products(network: Network) -> int:
    """A clamped product of two half numbers needs no detour through float32.

    The product of two numbers of ``p`` significant bits has ``2 p`` of them: float32 holds it
    whole for float16 and bfloat16, so ``narrow(a * b)`` rounds once, as a half product does. And
    rounding preserves order, so it commutes with a clamp: ``narrow(clamp(.)) = clamp(narrow(.))``,
    infinity included. Applied to products of two widened maps that go nowhere else.
    """
    fired = 0
    for node in network.nodes:
        if not is_call(node, narrow) or not is_call(node.args[0], "clamp"):
            continue
        clamp = node.args[0]
        product = clamp.args[0]
        if not is_call(product, operator.mul) or not all(is_call(a, widen) for a in product.args):
            continue
        if not feeds_only(clamp, node) or not feeds_only(product, clamp):
            continue
        factors = [wide.args[0] for wide in product.args]
        half = network.apply(node, operator.mul, *factors)
        network.replace(node, network.apply(node, "clamp", half, *clamp.args[1:]))
        fired += 1
    return fired


def clamp_in_convolution(network: Network) -> int:
    """``clamp(x) = clamp(1 * x)``, with the 1 as a depthwise convolution of one tap.

    ONNX Runtime keeps maps in blocks of channels between convolutions and leaves that layout
    for a clamp, at the price of two copies, but not for a clamp that ends a convolution. Applied
    to clamped products of two maps whose channels are known; pays on ONNX Runtime alone.
    """
    fired = 0
    for node in network.nodes:
        if not is_call(node, "clamp") or not is_call(node.args[0], operator.mul):
            continue
        product = node.args[0]
        channels = {channels_of(network, factor) for factor in product.args}
        if len(channels) != 1 or None in channels or not feeds_only(product, node):
            continue
        c = channels.pop() or 0
        one = nn.Conv2d(c, c, 1, groups=c, bias=False, dtype=torch.float64)
        nn.init.ones_(one.weight)
        node.args = (network.call(node, one, product), *node.args[1:])
        fired += 1
    return fired


def _chain_above(network: Network, cut: Any) -> list[tuple[Any, nn.Conv2d]]:
    """Return the depthwise convolutions above a cut, last first, down to a dense one."""
    chain: list[tuple[Any, nn.Conv2d]] = []
    user, node = cut, cut.args[0]
    while (conv := network.layer(node, nn.Conv2d)) is not None and feeds_only(node, user):
        chain.append((node, conv))
        if conv.groups == 1:
            return chain
        if not conv.groups == conv.in_channels == conv.out_channels:
            return []
        user, node = node, node.args[0]
    return []


def like(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """Return a convolution of the same geometry with other weights, float64."""
    depthwise = conv.groups > 1
    made = nn.Conv2d(
        weight.shape[0] if depthwise else weight.shape[1],
        weight.shape[0],
        conv.kernel_size,  # type: ignore[arg-type]
        padding=conv.padding,  # type: ignore[arg-type]
        stride=conv.stride,  # type: ignore[arg-type]
        dilation=conv.dilation,  # type: ignore[arg-type]
        groups=weight.shape[0] if depthwise else 1,
        padding_mode=conv.padding_mode,
        bias=bias is not None,
        dtype=weight.dtype,
    )
    with torch.no_grad():
        made.weight.copy_(weight)
        if bias is not None and made.bias is not None:
            made.bias.copy_(bias)
    return made


def channels_of(network: Network, node: Any) -> int | None:
    """Return the channels of a map, where the layer that made it says so."""
    conv = network.shared(node, nn.Conv2d)
    return None if conv is None else conv.out_channels
