"""The network as rules see it: a list of calls to layers, in the order of execution."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import fx, nn

from paragon_export.networks.float32 import narrow, widen
from paragon_export.networks.layers import (
    ChannelAttention,
    LayerScale,
    RMSNorm,
    TokenAttention,
    WindowAttention,
)
from paragon_export.networks.ops import PRIMITIVES
from paragon_export.networks.windowed_attention import MaskedAttention

LEAVES = (
    LayerScale, RMSNorm, WindowAttention, ChannelAttention, TokenAttention, MaskedAttention,
)  # fmt: skip
"""Layers that rules know by name; all others are seen as what they call."""

OPAQUE = (widen, narrow, *PRIMITIVES)
"""Functions that are seen as one call."""

Layer = TypeVar("Layer", bound=nn.Module)


class _Tracer(fx.Tracer):
    def __init__(self) -> None:
        super().__init__(autowrap_functions=OPAQUE)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LEAVES) or super().is_leaf_module(m, module_qualified_name)


class Network:
    """A copy of a network in float64, open to edits.

    Nodes are calls of ``torch.fx``. Layers may be changed in place: they are the copy's own.
    """

    def __init__(self, module: nn.Module) -> None:
        root = copy.deepcopy(module).double()
        self.module = fx.GraphModule(root, _Tracer().trace(root))
        self._calls = Counter(n.target for n in self.nodes if n.op == "call_module")

    @property
    def nodes(self) -> Iterator[Any]:
        """The calls in order; those that an edit drops or adds on the way are left out."""
        for node in list(self.module.graph.nodes):
            if not node._erased:
                yield node

    def layer(self, node: Any, kind: type[Layer]) -> Layer | None:
        """Return the layer that ``node`` calls, if it is of ``kind`` and called nowhere else."""
        if not isinstance(node, fx.Node) or node.op != "call_module":
            return None
        layer = self.module.get_submodule(str(node.target))
        return layer if type(layer) is kind and self._calls[node.target] == 1 else None

    def shared(self, node: Any, kind: type[Layer]) -> Layer | None:
        """Return the layer that ``node`` calls, if it is of ``kind``; do not change it."""
        if not isinstance(node, fx.Node) or node.op != "call_module":
            return None
        layer = self.module.get_submodule(str(node.target))
        return layer if type(layer) is kind else None

    def calls(self, kind: type[Layer]) -> Iterator[tuple[Any, Layer]]:
        """Yield the calls of layers of ``kind`` that are called once."""
        for node in self.nodes:
            layer = self.layer(node, kind)
            if layer is not None:
                yield node, layer

    def parameter(self, node: Any) -> torch.Tensor | None:
        """Return the tensor that ``node`` reads from the network, if that is what it does."""
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            return None
        path, _, leaf = str(node.target).rpartition(".")
        value = getattr(self.module.get_submodule(path), leaf)
        return value if isinstance(value, torch.Tensor) else None

    def after(self, node: Any) -> Any:
        """Return the first node after ``node`` before which a call may be inserted."""
        node = node.next
        while node.op == "placeholder":
            node = node.next
        return node

    def call(self, before: Any, layer: nn.Module, *args: Any) -> Any:
        """Insert a call of a new layer; it is named after the node it stands before."""
        name = self._free_name(before.name)
        self.module.add_submodule(name, layer)
        self._calls[name] = 1
        with self.module.graph.inserting_before(before):
            return self.module.graph.call_module(name, args)

    def swap(self, node: Any, layer: nn.Module, *more_args: Any) -> None:
        """Let ``node`` call another layer, with more arguments; its weights keep their path."""
        self.module.set_submodule(str(node.target), layer)
        node.args = (*node.args, *more_args)

    def apply(self, before: Any, function: Any, *args: Any) -> Any:
        """Insert a call of a function, or of a method where ``function`` is its name."""
        with self.module.graph.inserting_before(before):
            if isinstance(function, str):
                return self.module.graph.call_method(function, args)
            return self.module.graph.call_function(function, args)

    def replace(self, old: Any, new: Any) -> None:
        """Let ``new`` stand wherever ``old`` was used; drop ``old`` and what only it needed."""
        old.replace_all_uses_with(new)
        unused = [old]
        while unused:
            node = unused.pop()
            if not node.users and not node._erased and node.op != "placeholder":
                unused += node.all_input_nodes
                self.module.graph.erase_node(node)

    def finish(self) -> nn.Module:
        """Return the edited network in float32: the one place where its weights are rounded."""
        self.module.delete_all_unused_submodules()
        self.module.recompile()
        return self.module.float().requires_grad_(False).eval()

    def _free_name(self, wanted: str) -> str:
        taken = dict(self.module.named_children())
        name = wanted
        while name in taken:
            name += "_"
        return name


def is_call(node: Any, *functions: Any) -> bool:
    """Tell whether ``node`` calls one of these functions, or methods by name."""
    return (
        isinstance(node, fx.Node)
        and node.op in ("call_function", "call_method")
        and node.target in functions
    )


def feeds_only(node: Any, user: Any) -> bool:
    """Tell whether nothing but ``user`` needs the result of ``node``."""
    return set(node.users) == {user}
