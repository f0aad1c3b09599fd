"""Rules on sums and concatenations: forms that TensorRT computes in the kernels of convolutions."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from paragon_export.rewrite.fx_network import Network, feeds_only, is_call
from paragon_export.rewrite.linear import like

ELEMENTWISE = (
    operator.add, operator.sub, operator.mul, operator.truediv, torch.sigmoid, torch.tanh,
    F.silu, F.mish, F.gelu, F.relu, F.leaky_relu, "sigmoid", "clamp",
)  # fmt: skip
"""Calls that compute each value of a map from the values in its place."""

ACTIVATIONS = (nn.SiLU, nn.Mish, nn.GELU, nn.ReLU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.PReLU)
"""Layers that do."""


def constants_last(network: Network) -> int:
    """``a + (b + c) = (a + b) + c`` for a number ``c``, which is not an integer, and maps ``a``, ``b``.

    TensorRT adds ``a`` and ``b`` in the kernel that computes ``a``, and the number with them. Alone,
    ``b + c`` is a kernel that reads and writes the whole map. Not applied where another call uses it.
    """
    fired = 0
    for node in network.nodes:
        if not is_call(node, operator.add):
            continue
        for a, shifted in (node.args, node.args[::-1]):
            if not isinstance(a, fx.Node) or not is_call(shifted, operator.add, operator.sub):
                continue
            b, c = shifted.args
            if isinstance(b, fx.Node) and isinstance(c, float) and feeds_only(shifted, node):
                total = network.apply(node, operator.add, a, b)
                network.replace(node, network.apply(node, shifted.target, total, c))
                fired += 1
                break
    return fired


def separate_part(network: Network) -> int:
    """``W [a; b; c] = W_a a + W_bc [b; c]``, where ``b`` is computed from ``a`` in its place.

    TensorRT lets kernels write their results into the concatenated map, without a copy. A kernel
    that would read one part of it and write another is cut into two there, and what lies between
    is written and read.

    Applied to convolutions of one group that alone use the concatenated map, to the first such
    part, and if the sum that is written in between is smaller than what is saved: two maps of as
    many channels as ``b``.
    """
    channels = known_channels(network)
    fired = 0
    for node, conv in network.calls(nn.Conv2d):
        concat = node.args[0]
        if conv.groups != 1 or not is_concat(concat) or not feeds_only(concat, node):
            continue
        parts = list(concat.args[0])
        counts = [channels.get(part, 0) for part in parts]
        index = _read_by_another(network, parts)
        if index is None or not all(counts) or conv.out_channels >= 2 * counts[index]:
            continue
        weights = torch.split(conv.weight, counts, dim=1)
        alone = network.call(node, like(conv, weights[index], None), parts.pop(index))
        others = torch.cat([w for i, w in enumerate(weights) if i != index], dim=1)
        rest = parts[0] if len(parts) == 1 else network.apply(node, torch.cat, parts, 1)
        product = network.call(node, like(conv, others, conv.bias), rest)
        network.replace(node, network.apply(node, operator.add, product, alone))
        fired += 1
    return fired


def cut_gates(network: Network) -> int:
    """``f(g) [a; b] = [f(g_a) a; f(g_b) b]``, where ``g`` and other parts are cut from ``W x``.

    ``W`` becomes one convolution for each part, and for each part of ``g``. TensorRT computes the
    activation ``f`` and the products in the kernels of convolutions. As trained, it cuts ``W x`` in one
    kernel, and joins and multiplies the parts in another.

    Applied to convolutions of one group, where nothing else uses ``W x``, the gate ``g`` or the
    concatenated map.
    """
    channels = known_channels(network)
    fired = 0
    for node in network.nodes:
        found = _gated_concat(network, node)
        if found is None:
            continue
        activation, split, concat = found
        gate, sizes = activation.args[0], list(split.args[1])
        known = {item: sizes[item.args[1]] for item in split.users}
        parts = list(concat.args[0])
        counts = [known.get(part, channels.get(part, 0)) for part in parts]
        if sum(counts) != known[gate]:  # a part of unknown channels counts as 0
            continue
        pieces = _convolve_apart(network, split, gate, counts)
        products = [
            network.apply(node, operator.mul, _activated(network, node, activation, piece), part)
            for piece, part in zip(pieces, concat.args[0], strict=True)
        ]
        network.replace(node, network.apply(node, torch.cat, products, 1))
        fired += 1
    return fired


def _gated_concat(network: Network, node: Any) -> tuple[Any, Any, Any] | None:
    """Return activation, split and concatenation if ``node`` multiplies a gate and parts; else None."""
    if not is_call(node, operator.mul):
        return None
    for activation, concat in (node.args, node.args[::-1]):
        if not is_concat(concat) or not _is_activation(network, activation):
            continue
        gate = activation.args[0]
        if not is_call(gate, operator.getitem) or not is_call(gate.args[0], torch.split):
            continue
        split = gate.args[0]
        conv = network.layer(split.args[0], nn.Conv2d)
        if conv is None or conv.groups != 1 or split.kwargs.get("dim", split.args[-1]) != 1:
            continue
        chain = (split.args[0], split), (gate, activation), (activation, node), (concat, node)
        are_items = all(is_call(user, operator.getitem) for user in split.users)
        if (
            are_items
            and isinstance(split.args[1], (list, tuple))
            and all(feeds_only(*c) for c in chain)
        ):
            return activation, split, concat
    return None


def _is_activation(network: Network, node: Any) -> bool:
    """Return whether ``node`` computes each value of one map from the value in its place alone."""
    if not isinstance(node, fx.Node) or len(node.all_input_nodes) != 1:
        return False
    return _is_elementwise(network, node) and network.shared(node, nn.PReLU) is None


def _activated(network: Network, before: Any, activation: Any, x: Any) -> Any:
    """Insert the call ``activation`` again, of another map."""
    if activation.op == "call_module":
        layer = network.module.get_submodule(str(activation.target))
        return network.call(before, copy.deepcopy(layer), x)
    return network.apply(before, activation.target, x, *activation.args[1:], **activation.kwargs)


def _convolve_apart(network: Network, split: Any, gate: Any, counts: Sequence[int]) -> list[Any]:
    """Replace the parts of a split convolution by convolutions; return those of the parts of ``gate``."""
    source, conv = split.args[0].args[0], network.layer(split.args[0], nn.Conv2d)
    assert conv is not None
    sizes = list(split.args[1])
    weights = torch.split(conv.weight, sizes)
    biases = [None] * len(sizes) if conv.bias is None else torch.split(conv.bias, sizes)
    pieces = []
    for item in list(split.users):
        weight, bias = weights[item.args[1]], biases[item.args[1]]
        if item is not gate:
            network.replace(item, network.call(item, like(conv, weight, bias), source))
            continue
        rows = [None] * len(counts) if bias is None else torch.split(bias, list(counts))
        for taps, row in zip(torch.split(weight, list(counts)), rows, strict=True):
            pieces.append(network.call(item, like(conv, taps, row), source))
    return pieces


def is_concat(node: Any) -> bool:
    """Return whether ``node`` concatenates channels."""
    if not is_call(node, torch.cat):
        return False
    return bool(node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0) == 1)


def known_channels(network: Network) -> Mapping[Any, int]:
    """Return the number of channels of convolutions' results, and of what is computed in place."""
    channels: dict[Any, int] = {}
    for node in network.nodes:
        conv = network.shared(node, nn.Conv2d)
        if conv is not None:
            channels[node] = conv.out_channels
        elif _is_elementwise(network, node):
            counts = {channels.get(operand, 0) for operand in node.all_input_nodes}
            if len(counts) == 1:  # else an operand is broadcast
                channels[node] = counts.pop()
    return channels


def _is_elementwise(network: Network, node: Any) -> bool:
    is_layer = any(network.shared(node, kind) is not None for kind in ACTIVATIONS)
    return is_layer or is_call(node, *ELEMENTWISE)


def _read_by_another(network: Network, parts: list[Any]) -> int | None:
    """Return the index of the first part from which another is computed in its place."""
    for other in parts:
        above, seen = [other], set()
        while above:
            node = above.pop()
            if node in seen or not _is_elementwise(network, node):
                continue
            seen.add(node)
            for operand in node.all_input_nodes:
                if operand in parts:
                    return parts.index(operand)
                above.append(operand)
    return None
