"""Rule on layout: attention works on maps whose channels are the last axis."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx, nn

from paragon_export.rewrite.attention.whole_picture import ChannelGate, DictionaryAttention
from paragon_export.rewrite.attention.windows import GatheredAttention
from paragon_export.rewrite.fx_network import Network, is_call
from paragon_export.rewrite.normalize import Normalize

TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
"""Permutations between (N, C, H, W) and (N, H, W, C)."""

CHANNELS_LAST_LAYERS = (GatheredAttention, DictionaryAttention)
"""Layers that compute channels last. They transpose a channels-first map themselves."""

ANY_LAYOUT_LAYERS = (Normalize, ChannelGate)
"""Layers that compute in both layouts at the same cost."""


def channels_last(network: Network) -> int:
    """Move transposes through sums and norms until they meet and cancel.

    A transpose ``T`` commutes with every operation that treats all pixels alike:
    ``T x + y = T (x + T' y)`` and ``norm(T x) = T norm'(x)``, and ``T' T x = x``. One pair of
    transposes around the convolutions of a block remains. Fires once for every layer or sum that
    changes layout. Networks without attention are not changed.
    """
    fired = sum(_expose_transposes(network, node) for node in network.nodes)
    while fired:
        moved = sum(_move_down(network, node) or _move_up(network, node) for node in network.nodes)
        cancelled = sum(_cancel(network, node) for node in network.nodes)
        if not moved and not cancelled:
            break
        fired += moved
    _merge_equal(network)
    return fired


def _is_transpose(node: Any, order: tuple[int, ...]) -> bool:
    return is_call(node, "permute") and tuple(node.args[1:]) == order


def _transpose(network: Network, before: Any, x: Any, order: tuple[int, ...]) -> Any:
    return network.apply(before, "permute", x, *order)


def _layer_of(network: Network, node: Any, kinds: tuple[type[nn.Module], ...]) -> Any:
    """Return the layer that ``node`` calls, if it is of one of these kinds; else None."""
    layers = (network.layer(node, kind) for kind in kinds)
    return next((layer for layer in layers if layer is not None), None)


def _make_channels_last(network: Network, node: Any, layer: Any, x: Any) -> None:
    """Let ``layer`` work channels last on ``x``, and transpose its result back."""
    layer.channels_last = True
    node.args = (x, *node.args[1:])
    back = _transpose(network, node.next, node, TO_FIRST)
    node.replace_all_uses_with(back)
    back.args = (node, *TO_FIRST)


def _expose_transposes(network: Network, node: Any) -> int:
    """Take the transposes out of an attention layer, into the graph."""
    layer = _layer_of(network, node, CHANNELS_LAST_LAYERS)
    if layer is None or layer.channels_last:
        return 0
    _make_channels_last(network, node, layer, _transpose(network, node, node.args[0], TO_LAST))
    return 1


def _move_down(network: Network, node: Any) -> int:
    """``f(T x) = T f'(x)``."""
    layer = _layer_of(network, node, ANY_LAYOUT_LAYERS)
    if layer is not None and not layer.channels_last and _is_transpose(node.args[0], TO_FIRST):
        _make_channels_last(network, node, layer, node.args[0].args[0])
        return 1
    terms_are_maps = all(isinstance(a, fx.Node) and a.op != "get_attr" for a in node.args)
    if (
        is_call(node, operator.add)
        and terms_are_maps
        and any(_is_transpose(a, TO_FIRST) for a in node.args)
    ):
        parts = [
            a.args[0] if _is_transpose(a, TO_FIRST) else _transpose(network, node, a, TO_LAST)
            for a in node.args
        ]
        total = network.apply(node, operator.add, *parts)
        network.replace(node, _transpose(network, node, total, TO_FIRST))
        return 1
    return 0


def _move_up(network: Network, node: Any) -> int:
    """``T' f(x) = f'(T' x)`` where nothing else uses ``f(x)``."""
    if not _is_transpose(node, TO_LAST) or len(node.args[0].users) > 1:
        return 0
    inner = node.args[0]
    layer = _layer_of(network, inner, ANY_LAYOUT_LAYERS)
    if layer is None or layer.channels_last:
        return 0
    _make_channels_last(network, inner, layer, _transpose(network, inner, inner.args[0], TO_LAST))
    return 1


def _cancel(network: Network, node: Any) -> int:
    """``T' T x = x``."""
    if _is_transpose(node, TO_LAST) and _is_transpose(node.args[0], TO_FIRST):
        network.replace(node, node.args[0].args[0])
        return 1
    return 0


def _merge_equal(network: Network) -> None:
    """Replace equal transposes of one map by the first of them."""
    first: dict[tuple[Any, ...], Any] = {}
    for node in network.nodes:
        if is_call(node, "permute") and first.setdefault(node.args, node) is not node:
            network.replace(node, first[node.args])
