"""Trace: a PyTorch module in, an ONNX graph out.

The module is traced symbolically (``torch.fx``): sizes are unknown while it runs, so nothing
about a size can be baked into the graph, and a Python branch on one is an error instead of a
wrong model at every other size. Each traced call is then lowered by the table in
``operators``. The graph keeps the network's own names for its weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import torch
from onnx_ir.passes import common
from torch import fx
from torch.fx.passes.shape_prop import ShapeProp

from paragon_export.errors import TraceError
from paragon_export.graph.emitter import Emitter, Weight
from paragon_export.graph.lowerings import FUNCTIONS, METHODS, MODULES
from paragon_export.networks.float32 import narrow, widen
from paragon_export.networks.ops import PRIMITIVES
from paragon_export.system.progress import step

if TYPE_CHECKING:
    from paragon_export.specs.network import Port


MAX_FOLDED_VALUES = 2**20
"""Bytes up to which what follows from weights alone is computed here even if it is larger than
they are. Beyond, the graph computes it: a bias for every pair of places of a window is gathered
from a small table, in every block."""


class _Tracer(fx.Tracer):
    def __init__(self) -> None:
        super().__init__(autowrap_functions=(widen, narrow, *PRIMITIVES))


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
        TraceError: If the module branches on a size or calls what has no lowering.
    """
    try:
        graph = _Tracer().trace(module)
    except (fx.proxy.TraceError, TypeError) as error:  # the latter from range(size)
        raise TraceError(
            f"the network branches on a value known only at run time: {error}"
        ) from error
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
    """Walks a traced graph and lets the operator table emit each call."""

    def __init__(self, module: torch.nn.Module, emitter: Emitter, static: bool) -> None:
        self.module = module
        self.emitter = emitter
        self.static = static
        self.values: dict[fx.Node, Any] = {}
        self.wide: set[fx.Node] = set()
        self.result: Any = None

    def lower(self, node: Any) -> None:
        if node.op == "placeholder":
            return
        if node.op == "output":
            self.result = fx.map_arg(node.args[0], self.values.__getitem__)
            return
        if node.op == "get_attr":
            attribute = _attribute(self.module, node.target)
            tensor = isinstance(attribute, torch.Tensor)
            self.values[node] = Weight(node.target, attribute.detach()) if tensor else attribute
            return
        if node.target is widen or node.target is narrow:
            if node.target is widen:
                self.wide.add(node)
            self.values[node] = self.values[node.args[0]]
            return
        if any(argument in self.wide for argument in node.all_input_nodes):
            self.wide.add(node)
        if self.static and node.target is getattr and node.args[1] == "shape":
            self.values[node] = tuple(node.args[0].meta["tensor_meta"].shape)
            return
        args = fx.map_arg(node.args, self.values.__getitem__)
        kwargs = fx.map_arg(node.kwargs, self.values.__getitem__)
        if _is_constant(args):
            computed = self._compute(node, args, kwargs)
            if computed.nbytes <= MAX_FOLDED_VALUES or computed.nbytes <= _bytes(args):
                self.values[node] = Weight(node.name, computed)
                return
        with self.emitter.scope(node.name, wide=node in self.wide):
            self.values[node] = self._call(node, args, kwargs)

    def _compute(self, node: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        """Call on weights alone: the result is a weight of the exported network."""
        tensors = [a.tensor if isinstance(a, Weight) else a for a in args]
        with torch.no_grad():
            if node.op == "call_module":
                return self.module.get_submodule(node.target)(*tensors)
            if node.op == "call_method":
                return getattr(tensors[0], node.target)(*tensors[1:], **kwargs)
            return node.target(*tensors, **kwargs)

    def _call(self, node: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if node.op == "call_module":
            module = self.module.get_submodule(node.target)
            lowering = MODULES.get(type(module))
            described = type(module).__name__
            args = (module, node.target, *args)
        else:
            table: Any = METHODS if node.op == "call_method" else FUNCTIONS
            lowering = table.get(node.target)
            described = getattr(node.target, "__name__", node.target)
        if lowering is None:
            raise TraceError(f"no ONNX lowering for {described} (at {node.name}); see operators.py")
        return lowering(self.emitter, *args, **kwargs)


def _is_constant(args: tuple[Any, ...]) -> bool:
    weights = [isinstance(a, Weight) for a in args]
    return any(weights) and all(
        w or isinstance(a, (int, float)) for w, a in zip(weights, args, strict=True)
    )


def _bytes(args: tuple[Any, ...]) -> int:
    return sum(a.tensor.nbytes for a in args if isinstance(a, Weight))


def _attribute(module: torch.nn.Module, name: str) -> Any:
    path, _, leaf = name.rpartition(".")
    return getattr(module.get_submodule(path), leaf)
