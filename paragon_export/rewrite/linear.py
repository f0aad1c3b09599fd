"""Rules on linear maps: constants that a neighboring convolution can absorb, and splits."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, nn

from paragon_export.networks.float32 import narrow, widen
from paragon_export.networks.layers import LayerScale, RMSNorm
from paragon_export.rewrite.attention.stacked_windows import StackedAttention
from paragon_export.rewrite.attention.whole_picture import DictionaryAttention
from paragon_export.rewrite.attention.windows import GatheredAttention
from paragon_export.rewrite.fx_network import Network, feeds_only, is_call
from paragon_export.rewrite.normalize import Normalize


def fold_gains(network: Network) -> int:
    """``g * (W x + b) = (g W) x + g b``: a constant gain moves into the map before it.

    The gain is a :class:`LayerScale`, a scalar parameter or a number. Not applied where another call uses
    the map's result without the gain.
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
    """Return the gain that ``node`` applies, flat, and what it applies it to; else None."""
    scale = network.shared(node, LayerScale)
    if scale is not None:
        return scale.gamma.flatten(), node.args[0]
    if is_call(node, operator.mul):
        for gain, operand in (node.args, node.args[::-1]):
            if isinstance(gain, float):
                return torch.tensor([gain], dtype=torch.float64), operand
            value = network.parameter(gain)
            if value is not None and value.numel() == 1:
                return value.flatten(), operand
    return None


def _scale_output(network: Network, node: Any, gain: Tensor) -> bool:
    """Scale the result of a linear map, per channel or as a whole.

    Return whether ``node`` calls a linear map; otherwise nothing is changed.
    """
    conv = network.layer(node, nn.Conv2d)
    attention = (
        network.layer(node, GatheredAttention)
        or network.layer(node, StackedAttention)
        or network.layer(node, DictionaryAttention)
    )
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
    """``W (g * u + c) + b = (W g) u + (W c + b)``: gain and bias of a norm move into the next map.

    ``u`` is the normalized map. A 1x1 convolution pads nothing, so both move. Window attention
    pads its input with zeros: :meth:`GatheredAttention.fold_norm` says what replaces them. Not
    applied where any other layer uses the norm's result.
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
        """Return the layer that ``node`` calls, or None if it cannot absorb a norm."""
        layer = (
            network.layer(node, nn.Conv2d)
            or network.layer(node, GatheredAttention)
            or network.layer(node, DictionaryAttention)
        )
        return cls(layer) if layer is not None else None

    def accepts(self, norm: RMSNorm) -> bool:
        """Return whether the layer can absorb this norm without a change of its results."""
        if isinstance(self.layer, nn.Conv2d):
            return is_pointwise(self.layer) and self.layer.bias is not None
        return self.layer.accepts_norm(norm)

    def fold(self, norm: RMSNorm) -> None:
        """Change the weights of the layer so that it takes the normalized map."""
        # Normalize leaves the factor sqrt(channels) of an RMS norm to the gain.
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
    """Return whether a convolution maps every pixel alone, over all channels."""
    return (
        conv.kernel_size == (1, 1)
        and conv.stride == (1, 1)
        and conv.padding == (0, 0)
        and conv.groups == 1
    )


def split_concat(network: Network) -> int:
    """``W [a; b] = W_a a + W_b b``: convolve concatenated maps without concatenating them.

    Not applied to grouped convolutions, nor where another call uses the concatenated map, nor
    where the number of channels of a part is unknown.
    """
    fired = 0
    for node, conv in network.calls(nn.Conv2d):
        concat = node.args[0]
        if conv.groups != 1 or not is_call(concat, torch.cat) or not feeds_only(concat, node):
            continue
        dim = concat.kwargs.get("dim", concat.args[1] if len(concat.args) > 1 else 0)
        parts = list(concat.args[0])
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
    """``chunk(W x) = (W_1 x, W_2 x)``: compute the parts of a map that is cut into chunks.

    The cut moves up through depthwise convolutions, which treat each channel alone, to the dense
    convolution above them. Not applied where another call uses the uncut map, nor to grouped
    convolutions that are not depthwise.
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
    """Multiply and clamp two half-precision maps without float32 in between.

    The product of two numbers of ``p`` significant bits has ``2 p`` significant bits. Float32
    holds it exactly for float16 and bfloat16, so ``narrow(a * b)`` rounds once, as a half product
    does. Rounding preserves order, so it commutes with a clamp, infinity included:
    ``narrow(clamp(.)) = clamp(narrow(.))``. Applied to products of two widened maps that no
    other call uses.
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

    ONNX Runtime stores maps in blocks of channels between convolutions. For a clamp it changes
    the layout, which costs two copies, unless the clamp directly follows a convolution. Applied
    to clamped products of two maps with known channels. Faster on ONNX Runtime only.
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
        identity = nn.Conv2d(c, c, 1, groups=c, bias=False, dtype=torch.float64)
        nn.init.ones_(identity.weight)
        node.args = (network.call(node, identity, product), *node.args[1:])
        fired += 1
    return fired


def _chain_above(network: Network, cut: Any) -> list[tuple[Any, nn.Conv2d]]:
    """Return the convolutions above a cut, last first: depthwise ones, then one dense one.

    The list is empty where the chain holds any other layer, or another call uses a map of it.
    """
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
    """Return a convolution of the same geometry with other weights, in their dtype."""
    depthwise = conv.groups > 1
    conv_like = nn.Conv2d(
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
        conv_like.weight.copy_(weight)
        if bias is not None and conv_like.bias is not None:
            conv_like.bias.copy_(bias)
    return conv_like


def channels_of(network: Network, node: Any) -> int | None:
    """Return the number of channels of a convolution's result; None for any other map."""
    conv = network.shared(node, nn.Conv2d)
    return None if conv is None else conv.out_channels
