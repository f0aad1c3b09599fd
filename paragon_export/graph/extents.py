"""Extents: find the earliest tensor of a graph that certainly has the same extent along an axis.

Sizes are read from that tensor, so that all layers on maps of one size share the nodes that
follow from it: window indices, padding, counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

POINTWISE = frozenset(
    {"Cast", "Clip", "Erf", "Gelu", "HardSwish", "Identity", "LeakyRelu", "Log", "Mish", "Neg"}
    | {"PRelu", "Relu", "Sigmoid", "Softmax", "Softplus", "Sqrt", "Tanh", "ScatterElements"}
)
"""Operators whose result has the shape of their first operand."""

BROADCASTING = frozenset({"Add", "Div", "Mul", "Pow", "Sub"})
"""Operators whose result has the broadcast shape of their operands."""

MAP_RANK = 4
"""Dimensions of a map: batch, channels, height, width."""

MAP_OPERATORS = frozenset({"Conv", "ConvTranspose", "DepthToSpace", "Resize", "SpaceToDepth"})
"""Operators whose result is a map."""


class Extents:
    """The extents of one graph's tensors.

    Each is resolved once: nodes are added to the graph and never changed.
    """

    def __init__(self) -> None:
        self._resolved: dict[tuple[ir.Value, int], tuple[ir.Value, int]] = {}

    def source(self, value: ir.Value, axis: int) -> tuple[ir.Value, int]:
        """Return the earliest tensor, and its axis, with the same extent as ``value`` has.

        Args:
            value: Any tensor of the graph.
            axis: Not negative.
        """
        waiting = [(value, axis)]
        while waiting:  # no recursion: networks are deep
            key = waiting[-1]
            missing = [k for k in self._needed(*key) if k not in self._resolved]
            if key not in self._resolved and missing:
                waiting += missing
                continue
            if key not in self._resolved:
                earlier = self._before(*key)
                self._resolved[key] = self._resolved[earlier] if earlier else key
            waiting.pop()
        return self._resolved[value, axis]

    def fixed(self, value: ir.Value, axis: int) -> int | None:
        """Return an extent that does not depend on the inputs; None if it does, or may."""
        value, axis = self.source(value, axis)
        node = value.producer()
        if node is not None and node.op_type == "Conv" and axis == 1:
            weight = node.inputs[1]
            dim = weight.shape[0] if weight is not None and weight.shape is not None else None
        else:
            dim = None if value.shape is None else value.shape[axis]
        return dim if isinstance(dim, int) else None

    def declare(self, value: ir.Value, like: ir.Value, axes: Sequence[int] = (0, 2, 3)) -> None:
        """Record that one map has the batch, height and width of another; nothing is checked."""
        for axis in axes:
            self._resolved[value, axis] = self.source(like, axis)

    def _before(self, value: ir.Value, axis: int) -> tuple[ir.Value, int] | None:
        """Return an operand, and its axis, of the same extent; None if none is certain.

        The extents that `_needed` returns have been resolved.
        """
        node = value.producer()
        if node is not None and not node.domain and node.op_type in BROADCASTING:
            return self._of_broadcast([term for term in node.inputs if term is not None], axis)
        needed = self._needed(value, axis)
        return needed[0] if needed else None

    def _needed(self, value: ir.Value, axis: int) -> Sequence[tuple[ir.Value, int]]:
        """Return the operands, and their axes, whose extent decides that of ``value``."""
        node = value.producer()
        if node is None or node.domain or not node.inputs or node.inputs[0] is None:
            return ()
        first = node.inputs[0]
        if node.op_type in BROADCASTING:
            return [(t, axis) for t in node.inputs if t is not None and t.const_value is None]
        if node.op_type in POINTWISE:
            return [(first, axis)]
        if node.op_type == "Transpose":
            return [(first, node.attributes["perm"].as_ints()[axis])]
        return [(first, axis)] if _keeps(node, axis) else ()

    def _of_broadcast(self, terms: Sequence[ir.Value], axis: int) -> tuple[ir.Value, int] | None:
        """Return the extent of operands that agree, or of which all but one have extent 1."""
        maps = [self._resolved[t, axis] for t in terms if t.const_value is None]
        if not all(_rank(earliest) == MAP_RANK for earliest, _ in maps):
            return None
        for term in terms:
            dims = () if term.const_value is None else term.const_value.shape.numpy()
            aligned = axis - MAP_RANK + len(dims)
            if aligned >= 0 and dims and dims[aligned] != 1:
                return None
        found = {extent for extent in maps if not self._is_one(*extent)} or set(maps[:1])
        return found.pop() if len(found) == 1 else None

    def _is_one(self, value: ir.Value, axis: int) -> bool:
        """Return whether ``axis`` of a map has extent 1: it was added, or a mean was taken over it."""
        node = value.producer()
        if node is None or node.op_type not in ("ReduceMean", "Unsqueeze"):
            return False
        axes = node.inputs[1]
        if axes is None or axes.const_value is None:
            return False
        keeps_rank = node.op_type == "Unsqueeze" or node.attributes["keepdims"].as_int()
        return bool(keeps_rank) and axis in axes.const_value.numpy()


def _keeps(node: ir.Node, axis: int) -> bool:
    """Return whether a result certainly has the extent of the first operand along ``axis``."""
    if node.op_type in ("Concat", "Split"):
        along = node.attributes["axis"].as_int()
        return along >= 0 and along != axis
    if node.op_type == "ReduceMean" and node.attributes["keepdims"].as_int():
        return not _may_contain(node.inputs[1], axis)
    if node.op_type == "Gather" and _is_vector(node.inputs[1]):
        return node.attributes["axis"].as_int() != axis
    if node.op_type == "Slice":
        return not _may_contain(node.inputs[3], axis)
    if node.op_type == "Conv":
        return axis == 0 or (axis > 1 and _keeps_size(node, axis - 2))
    return False


def _rank(value: ir.Value) -> int | None:
    """Return the rank of a tensor; None if it is unknown.

    The operators that :meth:`Extents.source` steps over keep the rank of their first operand.
    """
    node = value.producer()
    if node is None or value.shape is not None:
        return None if value.shape is None else len(value.shape)
    if node.op_type in MAP_OPERATORS:
        return MAP_RANK
    first = node.inputs[0] if node.inputs else None
    if node.op_type == "Unsqueeze" and first is not None and first.shape is not None:
        axes = node.inputs[1]
        added = None if axes is None or axes.const_value is None else axes.const_value.size
        return None if added is None else len(first.shape) + added
    if first is None or node.op_type not in {
        "Concat",
        "Slice",
        "Split",
        "ReduceMean",
        *BROADCASTING,
    }:
        return None
    return _rank(first)


def _is_vector(index: ir.Value | None) -> bool:
    """Return whether an index is computed by the graph and known to be a vector."""
    return (
        index is not None
        and index.const_value is None
        and index.shape is not None
        and len(index.shape) == 1
    )


def _may_contain(axes: ir.Value | None, axis: int) -> bool:
    """Return whether ``axis`` is in a list of axes, or may be.

    It may be in a list that is no constant, or that holds a negative axis.
    """
    if axes is None or axes.const_value is None:
        return True
    return any(entry < 0 or entry == axis for entry in axes.const_value.numpy())


def _keeps_size(conv: ir.Node, side: int) -> bool:
    """Return whether a convolution of maps keeps their height (``side`` 0) or width (1)."""
    kernel, stride, dilation = (
        conv.attributes[name].as_ints()[side] for name in ("kernel_shape", "strides", "dilations")
    )
    pads = conv.attributes["pads"].as_ints()
    return stride == 1 and pads[side] + pads[side + 2] == dilation * (kernel - 1)
