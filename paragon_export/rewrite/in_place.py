"""Changes in place: give calls that overwrite their argument the meaning that a graph needs.

``nn.ReLU(inplace=True)`` changes the tensor that it is given, and whoever reads that tensor later reads
the changed one. In a graph no call changes a value. So later calls must read the result instead.
"""

from __future__ import annotations

import functools
import inspect
import operator
from typing import Any

import torch
from torch import fx, nn

from paragon_export.errors import TraceError
from paragon_export.networks.ops import with_part

VIEWS = {
    "chunk", "contiguous", "detach", "expand", "flatten", "float", "getitem", "narrow", "permute",
    "reshape", "select", "split", "squeeze", "swapaxes", "to", "transpose", "type_as", "unbind",
    "unflatten", "unsqueeze", "view",
}  # fmt: skip
"""Calls whose result may share memory with their argument."""

SHARING_MODULES = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten)
"""Layers that may return their argument."""


AUGMENTED = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}
"""Operators that change their first operand, and those that return a new value."""


EXTENT_CALLS = {
    operator.getitem, operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod,
    operator.neg, torch.sym_max,
}  # fmt: skip
"""Calls that make a number of numbers."""


class RecordingProxy(fx.Proxy):
    """A proxy that records changes in place as calls."""

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", with_part, (self, index, value), {})

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})

    def __isub__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.isub, (self, other), {})

    def __imul__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.imul, (self, other), {})

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.itruediv, (self, other), {})


def functionalize(graph: fx.Graph, module: nn.Module) -> None:
    """Let calls that come after a change in place read its result.

    Raises:
        TraceError: If a tensor that shares memory with the changed one is read later.
    """
    nodes: list[Any] = list(graph.nodes)
    order = {node: place for place, node in enumerate(nodes)}
    for node in nodes:
        if not _changes_argument(node, module):
            continue
        if node.target in AUGMENTED:
            node.target = AUGMENTED[node.target]
        changed = node.args[0]
        if _is_extent(changed):
            continue
        for user in [user for user in changed.users if order[user] > order[node]]:
            user.replace_input_with(changed, node)
        for other in _sharing(changed, module):
            if any(order[user] > order[node] for user in other.users):
                raise TraceError(
                    f"{node.name} changes a tensor in place that {other.name} shares and that is "
                    "read later; use a call that returns a new tensor"
                )


def _is_extent(node: Any) -> bool:
    """Return whether a value is computed from sizes and numbers alone. Numbers never change."""
    if not isinstance(node, fx.Node):
        return isinstance(node, int)
    if node.op == "call_method":
        return node.target == "size"
    if node.op != "call_function":
        return False
    if node.target is getattr:
        return node.args[1] == "shape"
    return node.target in EXTENT_CALLS and all(map(_is_extent, node.args))


def _changes_argument(node: Any, module: nn.Module) -> bool:
    """Return whether a call overwrites its first argument, a result of another call."""
    if not node.args or not isinstance(node.args[0], fx.Node):
        return False
    if node.op == "call_module":
        return bool(getattr(module.get_submodule(node.target), "inplace", False))
    if node.target is with_part or node.target in AUGMENTED:
        return True
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if name.endswith("_") and not name.endswith("__"):
        return True
    parameters = _parameters(node.target) if node.op == "call_function" else ()
    given = {**dict(zip(parameters, node.args, strict=False)), **node.kwargs}
    return bool(given.get("inplace"))


@functools.cache  # parsing the signature of a built-in function takes a millisecond
def _parameters(function: Any) -> tuple[str, ...]:
    """Return the names of a function's parameters; none for functions that do not tell."""
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ()


def _sharing(node: Any, module: nn.Module) -> set[Any]:
    """Return the other values that may share memory with a value."""
    found, waiting = {node}, [node]
    while waiting:
        value = waiting.pop()
        near = [user for user in value.users if _is_view(user, module)]
        if _is_view(value, module):
            near.append(value.args[0])
        for other in near:
            if isinstance(other, fx.Node) and other not in found:
                found.add(other)
                waiting.append(other)
    return found - {node}


def _is_view(node: Any, module: nn.Module) -> bool:
    """Return whether a call may return a part of its first argument."""
    if node.op == "call_module":
        return isinstance(module.get_submodule(node.target), SHARING_MODULES)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if node.target is getattr:
        return node.args[1] in ("data", "T", "mT")
    return node.op in ("call_function", "call_method") and name in VIEWS
