"""Trace: a PyTorch module in, an ONNX graph out.

The module is traced symbolically with ``torch.fx``. Sizes are unknown during the trace, so no
size becomes a constant of the graph, and a Python branch on a size is an error instead of a
model that is wrong at every other size. Each traced call is then lowered by the tables in
``graph.lowerings``. Weights keep the names that they have in the module.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import torch
from onnx_ir.passes import common
from torch import fx
from torch.fx.passes.shape_prop import ShapeProp

from paragon_export.errors import TraceError
from paragon_export.graph.emitter import Emitter, Weight
from paragon_export.graph.lowerings.tables import FUNCTIONS, METHODS, MODULES
from paragon_export.networks.float32 import narrow, widen
from paragon_export.rewrite.fx_network import record
from paragon_export.system.progress import step

if TYPE_CHECKING:
    from paragon_export.specs.network import Port


MAX_FOLDED_BYTES = 2**20
"""A value that depends on weights alone is computed here up to this size, or up to the size of
these weights. Larger ones are computed by the graph: for example the bias of every pair of places
in a window, which each block gathers from a small table."""


@step("tracing")
def trace(
    module: torch.nn.Module, inputs: Sequence[Port], outputs: Sequence[Port], opset: int
) -> ir.Model:
    """Lower ``module`` to an ONNX model.

    Args:
        module: In eval mode, float32. Its ``forward`` takes the inputs in order and returns
            the outputs in order; neither it nor its weights are changed.
        inputs: Names and dimensions of the graph's inputs. Where every dimension is a number
            the graph is static: sizes are constants in it.
        outputs: Names and dimensions of the graph's outputs.
        opset: ONNX operator set, 18 or later.

    Returns:
        A float32 model that shares no memory with ``module``.

    Raises:
        TraceError: If the module branches on a size, or a call has no lowering.
    """
    graph = record(module)
    static = all(port.is_static for port in inputs)
    if static:
        with torch.no_grad():
            ShapeProp(fx.GraphModule(module, graph)).propagate(*(_zeros(port) for port in inputs))

    emitter = Emitter(opset)
    lowering = _Lowering(module, emitter, static)
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    for node, port in zip(placeholders, inputs, strict=True):
        lowering.values[node] = emitter.input(port.name, port.dims, port.dtype)
    for node in graph.nodes:
        lowering.lower(node)
    results = lowering.result if isinstance(lowering.result, tuple) else (lowering.result,)
    for value, port in zip(results, outputs, strict=True):
        emitter.output(value, port.name, port.dims)
    model = emitter.model()
    common.RemoveUnusedNodesPass()(model)
    return model


def _zeros(port: Port) -> torch.Tensor:
    return torch.zeros([int(dim) for dim in port.dims], dtype=getattr(torch, port.dtype))


class _Lowering:
    """Lowers the nodes of a traced graph in order.

    ``values`` maps a node to its lowered result, and ``result`` is that of the output node.
    """

    def __init__(self, module: torch.nn.Module, emitter: Emitter, static: bool) -> None:
        self.module = module
        self.emitter = emitter
        self.static = static
        self.values: dict[fx.Node, Any] = {}
        self.float32_nodes: set[fx.Node] = set()
        self.result: Any = None

    def lower(self, node: Any) -> None:
        """Lower one node; those before it must have been lowered."""
        if node.op == "placeholder":
            return
        if node.op == "output":
            self.result = fx.map_arg(node.args[0], self.values.__getitem__)
            return
        if node.op == "get_attr":
            attribute = _attribute(self.module, node.target)
            is_tensor = isinstance(attribute, torch.Tensor)
            self.values[node] = Weight(node.target, attribute.detach()) if is_tensor else attribute
            return
        if node.target is widen or node.target is narrow:
            if node.target is widen:
                self.float32_nodes.add(node)
            self.values[node] = self.values[node.args[0]]
            return
        if any(argument in self.float32_nodes for argument in node.all_input_nodes):
            self.float32_nodes.add(node)
        if self.static and node.target is getattr and node.args[1] == "shape":
            self.values[node] = tuple(node.args[0].meta["tensor_meta"].shape)
            return
        args = fx.map_arg(node.args, self.values.__getitem__)
        kwargs = fx.map_arg(node.kwargs, self.values.__getitem__)
        if _is_constant((args, kwargs)):
            computed = self._compute(node, args, kwargs)
            if computed.nbytes <= MAX_FOLDED_BYTES or computed.nbytes <= _bytes(args):
                self.values[node] = Weight(node.name, computed)
                return
        with self.emitter.scope(node.name, is_float32=node in self.float32_nodes):
            self.values[node] = self._call(node, args, kwargs)

    def _compute(self, node: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        """Evaluate a call whose arguments are weights; its result becomes a weight."""
        tensors = fx.node.map_aggregate(args, lambda a: a.tensor if isinstance(a, Weight) else a)
        with torch.no_grad():
            if node.op == "call_module":
                return self.module.get_submodule(node.target)(*tensors)
            if node.op == "call_method":
                return getattr(tensors[0], node.target)(*tensors[1:], **kwargs)
            return node.target(*tensors, **kwargs)

    def _call(self, node: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Emit a call with the lowering from the tables."""
        if node.op == "call_module":
            module = self.module.get_submodule(node.target)
            lowering = MODULES.get(type(module))
            callee = type(module).__name__
            args = (module, node.target, *args)
        else:
            table: Any = METHODS if node.op == "call_method" else FUNCTIONS
            lowering = table.get(node.target)
            callee = getattr(node.target, "__name__", node.target)
        if lowering is None:
            raise TraceError(
                f"no ONNX lowering for {callee} (at {node.name}); add one in graph/lowerings"
            )
        try:
            inspect.signature(lowering).bind(self.emitter, *args, **kwargs)
        except TypeError as error:
            raise TraceError(
                f"the call of {callee} (at {node.name}) has no ONNX lowering with these arguments: "
                f"{error}"
            ) from error
        return lowering(self.emitter, *args, **kwargs)


def _is_constant(arguments: Any) -> bool:
    """Return whether arguments are weights and plain numbers, at least one of them a weight."""
    leaves = _leaves(arguments)
    return any(isinstance(a, Weight) for a in leaves) and all(
        isinstance(a, (Weight, int, float, str, type(None), type(...))) for a in leaves
    )


def _bytes(arguments: Any) -> int:
    """Return the bytes of the weights among the arguments."""
    return sum(a.tensor.nbytes for a in _leaves(arguments) if isinstance(a, Weight))


def _leaves(arguments: Any) -> list[Any]:
    """Return what stands in tuples, lists, slices and dictionaries."""
    leaves: list[Any] = []
    fx.node.map_aggregate(arguments, leaves.append)
    return leaves


def _attribute(module: torch.nn.Module, name: str) -> Any:
    path, _, leaf = name.rpartition(".")
    return getattr(module.get_submodule(path), leaf)
