"""Network: a traced copy of a PyTorch module that rewrite rules edit.

It is a list of calls (nodes of ``torch.fx``) in the order of execution.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import fx, nn

from paragon_export.errors import TraceError
from paragon_export.networks.float32 import narrow, widen
from paragon_export.networks.layers import (
    ChannelAttention,
    LayerScale,
    RMSNorm,
    TokenAttention,
    WindowAttention,
)
from paragon_export.networks.ops import PRIMITIVES
from paragon_export.networks.spandrel.norms import RowwiseGroupNorm
from paragon_export.networks.spandrel.swin import CosineWindows, ShiftedWindows, WiderWindows
from paragon_export.networks.windowed_attention import MaskedAttention
from paragon_export.rewrite.in_place import RecordingProxy, functionalize

LEAVES = (
    LayerScale, RMSNorm, WindowAttention, ChannelAttention, TokenAttention, MaskedAttention,
    RowwiseGroupNorm, ShiftedWindows, CosineWindows, WiderWindows,
)  # fmt: skip
"""Layers that appear as one call, because rules match them. Others appear as what they call."""

LEAF_FUNCTIONS = (widen, narrow, *PRIMITIVES)
"""Functions that appear as one call."""

Layer = TypeVar("Layer", bound=nn.Module)


class _Tracer(fx.Tracer):
    def __init__(self, leaves: tuple[type[nn.Module], ...]) -> None:
        super().__init__(autowrap_functions=LEAF_FUNCTIONS)
        self.leaves = leaves

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self.leaves) or super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return RecordingProxy(node, self)


def record(module: nn.Module, leaves: tuple[type[nn.Module], ...] = ()) -> fx.Graph:
    """Trace a module symbolically: return its calls in order. Sizes are unknown during the trace.

    Args:
        module: Its code runs once, with proxies for its inputs.
        leaves: Layers to record as one call, besides those of PyTorch.

    Raises:
        TraceError: If the code branches on a size or a value, or what it does cannot be recorded.
    """
    before = [(part, dict(vars(part))) for part in module.modules()]
    try:
        graph = _Tracer(leaves).trace(module)
    except (fx.proxy.TraceError, TypeError) as error:  # range(size) raises TypeError
        raise TraceError(
            f"the network branches on a value known only at run time: {error}; express the branch "
            "with tensor operations such as torch.where"
        ) from error
    except Exception as error:  # code of others meets proxies that it was not written for
        raise TraceError(
            f"the network cannot be traced symbolically: {type(error).__name__}: {error}"
        ) from error
    finally:
        for part, attributes in before:
            for name, value in list(vars(part).items()):
                if isinstance(value, fx.Proxy):  # SPAN keeps one
                    del vars(part)[name]
                    vars(part).update({name: attributes[name]} if name in attributes else {})
    functionalize(graph, module)
    return graph


class Network:
    """A float64 copy of a network that can be edited.

    Nodes are nodes of a ``torch.fx`` graph. Layers may be changed in place, since they belong to
    the copy. ``module`` is the copy as a ``torch.fx.GraphModule``.
    """

    def __init__(self, module: nn.Module) -> None:
        root = copy.deepcopy(module).double()
        self.module = fx.GraphModule(root, record(root, LEAVES))
        self._calls = Counter(n.target for n in self.nodes if n.op == "call_module")

    @property
    def nodes(self) -> Iterator[Any]:
        """The calls in order. Calls removed or added during the iteration are left out."""
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
        """Return the layer that ``node`` calls, if it is of ``kind``.

        Other calls may use it too, so it must not be changed.
        """
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
        """Return the tensor that ``node`` reads from the network; None for other nodes."""
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
        """Insert a call of a new layer before a node; the layer is named after that node."""
        name = self._free_name(before.name)
        self.module.add_submodule(name, layer)
        self._calls[name] = 1
        with self.module.graph.inserting_before(before):
            return self.module.graph.call_module(name, args)

    def swap(self, node: Any, layer: nn.Module, *more_args: Any) -> None:
        """Let ``node`` call another layer at the same path, with more arguments."""
        self.module.set_submodule(str(node.target), layer)
        node.args = (*node.args, *more_args)

    def apply(self, before: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Insert a call of a function, or of a method where ``function`` is its name."""
        with self.module.graph.inserting_before(before):
            if isinstance(function, str):
                return self.module.graph.call_method(function, args, kwargs)
            return self.module.graph.call_function(function, args, kwargs)

    def replace(self, old: Any, new: Any) -> None:
        """Replace ``old`` by ``new`` in every use; remove ``old`` and all that only it used."""
        old.replace_all_uses_with(new)
        unused = [old]
        while unused:
            node = unused.pop()
            if not node.users and not node._erased and node.op != "placeholder":
                unused += node.all_input_nodes
                self.module.graph.erase_node(node)

    def finish(self) -> nn.Module:
        """Return the edited network in float32, eval mode. Weights are rounded here only."""
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
    """Return whether ``node`` calls one of these functions, or one of these methods by name."""
    return (
        isinstance(node, fx.Node)
        and node.op in ("call_function", "call_method")
        and node.target in functions
    )


def feeds_only(node: Any, user: Any) -> bool:
    """Return whether ``user`` alone uses the result of ``node``."""
    return set(node.users) == {user}
