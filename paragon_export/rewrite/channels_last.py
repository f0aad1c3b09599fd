"""Rule on layout: where pixels attend, their channels lie side by side."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx, nn

from paragon_export.rewrite.attention import ChannelGate, DictionaryAttention, GatheredAttention
from paragon_export.rewrite.fx_network import Network, is_call
from paragon_export.rewrite.normalize import Normalize

TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)

ATTENDS = (GatheredAttention, DictionaryAttention)
"""Work on channels-last maps; given others they would transpose them for themselves."""

EITHER = (Normalize, ChannelGate)
"""Work on both layouts alike."""


def channels_last(network: Network) -> int:
    """Transposes move through sums and norms until they meet and cancel.

    ``T`` commutes with everything that treats pixels alike: ``T x + y = T (x + T' y)`` and
    ``norm(T x) = T norm'(x)``, and ``T' T x = x``. What is left is one pair of transposes
    around the convolutions of a block. Fires once for every layer or sum that changes layout;
    networks without attention are left alone.
    """
    fired = sum(_open(network, node) for node in network.nodes)
    while fired:
        moved = sum(_sink(network, node) or _lift(network, node) for node in network.nodes)
        cancelled = sum(_cancel(network, node) for node in network.nodes)
        if not moved and not cancelled:
            break
        fired += moved
    _share(network)
    return fired


def _transposes(node: Any, order: tuple[int, ...]) -> bool:
    return is_call(node, "permute") and tuple(node.args[1:]) == order


def _transpose(network: Network, before: Any, x: Any, order: tuple[int, ...]) -> Any:
    return network.apply(before, "permute", x, *order)


def _either(network: Network, node: Any, kinds: tuple[type[nn.Module], ...]) -> Any:
    layers = (network.layer(node, kind) for kind in kinds)
    return next((layer for layer in layers if layer is not None), None)


def _turn(network: Network, node: Any, layer: Any, x: Any) -> None:
    """Let ``layer`` work channels last on ``x``, and transpose its result back."""
    layer.channels_last = True
    node.args = (x, *node.args[1:])
    back = _transpose(network, node.next, node, TO_FIRST)
    node.replace_all_uses_with(back)
    back.args = (node, *TO_FIRST)


def _open(network: Network, node: Any) -> int:
    """Take the transposes out of a layer that attends."""
    layer = _either(network, node, ATTENDS)
    if layer is None or layer.channels_last:
        return 0
    _turn(network, node, layer, _transpose(network, node, node.args[0], TO_LAST))
    return 1


def _sink(network: Network, node: Any) -> int:
    """``f(T x) = T f'(x)``."""
    layer = _either(network, node, EITHER)
    if layer is not None and not layer.channels_last and _transposes(node.args[0], TO_FIRST):
        _turn(network, node, layer, node.args[0].args[0])
        return 1
    terms_are_maps = all(isinstance(a, fx.Node) and a.op != "get_attr" for a in node.args)
    if (
        is_call(node, operator.add)
        and terms_are_maps
        and any(_transposes(a, TO_FIRST) for a in node.args)
    ):
        parts = [
            a.args[0] if _transposes(a, TO_FIRST) else _transpose(network, node, a, TO_LAST)
            for a in node.args
        ]
        total = network.apply(node, operator.add, *parts)
        network.replace(node, _transpose(network, node, total, TO_FIRST))
        return 1
    return 0


def _lift(network: Network, node: Any) -> int:
    """``T' f(x) = f'(T' x)`` where nothing else needs ``f(x)``."""
    if not _transposes(node, TO_LAST) or len(node.args[0].users) > 1:
        return 0
    inner = node.args[0]
    layer = _either(network, inner, EITHER)
    if layer is None or layer.channels_last:
        return 0
    _turn(network, inner, layer, _transpose(network, inner, inner.args[0], TO_LAST))
    return 1


def _cancel(network: Network, node: Any) -> int:
    """``T' T x = x``."""
    if _transposes(node, TO_LAST) and _transposes(node.args[0], TO_FIRST):
        network.replace(node, node.args[0].args[0])
        return 1
    return 0


def _share(network: Network) -> None:
    """Transpose a map once, however many need it; the first call stands before all others."""
    first: dict[tuple[Any, ...], Any] = {}
    for node in network.nodes:
        if is_call(node, "permute") and first.setdefault(node.args, node) is not node:
            network.replace(node, first[node.args])
