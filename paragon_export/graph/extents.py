"""Extents: which earlier tensor of a graph has the same extent along an axis, by construction.

Sizes are read from the earliest such tensor, so that all layers that work on maps of one size
share what follows from it: window indices, padding, counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

POINTWISE = frozenset(
    {"Cast", "Clip", "Erf", "Gelu", "HardSwish", "Identity", "LeakyRelu", "Log", "Mish", "Neg"}
    | {"Relu", "Sigmoid", "Softmax", "Softplus", "Sqrt", "Tanh", "ScatterElements"}
)
"""Operators whose result has the shape of their first operand."""

BROADCASTING = frozenset({"Add", "Div", "Mul", "Pow", "Sub"})

RANK_OF_MAPS = 4

GIVES_MAPS = frozenset({"Conv", "ConvTranspose", "DepthToSpace", "Resize"})


class Extents:
    """The extents of one graph's tensors. Found out once each: a graph grows and never changes."""

    def __init__(self) -> None:
        self._known: dict[tuple[ir.Value, int], tuple[ir.Value, int]] = {}

    def source(self, value: ir.Value, axis: int) -> tuple[ir.Value, int]:
        """Return the earliest tensor and its axis whose extent that of ``value`` is known to be.

        Args:
            value: Any tensor of the graph.
            axis: Not negative.
        """
        key = value, axis
        if key not in self._known:
            earlier = self._before(value, axis)
            self._known[key] = self.source(*earlier) if earlier else key
        return self._known[key]

    def fixed(self, value: ir.Value, axis: int) -> int | None:
        """Return an extent that is the same whatever is fed, where that is known."""
        value, axis = self.source(value, axis)
        node = value.producer()
        if node is not None and node.op_type == "Conv" and axis == 1:
            weight = node.inputs[1]
            dim = weight.shape[0] if weight is not None and weight.shape is not None else None
        else:
            dim = None if value.shape is None else value.shape[axis]
        return dim if isinstance(dim, int) else None

    def declare(self, value: ir.Value, like: ir.Value) -> None:
        """Take it that one map has the batch, height and width of another."""
        for axis in (0, 2, 3):
            self._known[value, axis] = self.source(like, axis)

    def _before(self, value: ir.Value, axis: int) -> tuple[ir.Value, int] | None:
        node = value.producer()
        if node is None or node.domain or not node.inputs or node.inputs[0] is None:
            return None
        first = node.inputs[0]
        if node.op_type in POINTWISE:
            return first, axis
        if node.op_type == "Transpose":
            return first, node.attributes["perm"].as_ints()[axis]
        if node.op_type in ("Concat", "Split"):
            along = node.attributes["axis"].as_int()
            return None if along < 0 or along == axis else (first, axis)
        if node.op_type == "ReduceMean" and node.attributes["keepdims"].as_int():
            return None if _may_name(node.inputs[1], axis) else (first, axis)
        if node.op_type == "Slice":
            return None if _may_name(node.inputs[3], axis) else (first, axis)
        if node.op_type == "Conv":
            kept = axis == 0 or (axis > 1 and _keeps_size(node, axis - 2))
            return (first, axis) if kept else None
        if node.op_type in BROADCASTING:
            return self._of_sum([term for term in node.inputs if term is not None], axis)
        return None

    def _of_sum(self, terms: Sequence[ir.Value], axis: int) -> tuple[ir.Value, int] | None:
        """A sum has the extent of its terms, if they agree or all but one have extent 1."""
        maps = [self.source(t, axis) for t in terms if t.const_value is None]
        if not all(_rank(earliest) == RANK_OF_MAPS for earliest, _ in maps):
            return None
        for term in terms:
            dims = () if term.const_value is None else term.const_value.shape.numpy()
            aligned = axis - RANK_OF_MAPS + len(dims)
            if aligned >= 0 and dims and dims[aligned] != 1:
                return None
        found = {extent for extent in maps if not self._is_one(*extent)} or set(maps[:1])
        return found.pop() if len(found) == 1 else None

    def _is_one(self, value: ir.Value, axis: int) -> bool:
        """Tell whether a map is a mean that keeps an axis it was taken over."""
        node = value.producer()
        if node is None or node.op_type != "ReduceMean":
            return False
        axes = node.inputs[1]
        if axes is None or axes.const_value is None or not node.attributes["keepdims"].as_int():
            return False
        return axis in axes.const_value.numpy()


def _rank(value: ir.Value) -> int | None:
    """Return the rank of a tensor where it is known; what ``source`` steps over keeps it."""
    node = value.producer()
    if node is None:
        return None if value.shape is None else len(value.shape)
    if node.op_type in GIVES_MAPS:
        return RANK_OF_MAPS
    first = node.inputs[0] if node.inputs else None
    if first is None or node.op_type not in {
        "Concat",
        "Slice",
        "Split",
        "ReduceMean",
        *BROADCASTING,
    }:
        return None
    return _rank(first)


def _may_name(axes: ir.Value | None, axis: int) -> bool:
    """Tell whether a list of axes holds one, or is not known; negative ones count from the end."""
    if axes is None or axes.const_value is None:
        return True
    return any(named < 0 or named == axis for named in axes.const_value.numpy())


def _keeps_size(conv: ir.Node, side: int) -> bool:
    """Tell whether a convolution of maps keeps their height (``side`` 0) or width (1)."""
    kernel, stride, dilation = (
        conv.attributes[name].as_ints()[side] for name in ("kernel_shape", "strides", "dilations")
    )
    pads = conv.attributes["pads"].as_ints()
    return stride == 1 and pads[side] + pads[side + 2] == dilation * (kernel - 1)
