"""Counts: sizes, positions and indices, which no half tensor may hold.

Float16 holds no odd integer above 2048 and nothing above 65504; bfloat16 no odd integer above 256. A
size or index that passes through half is right for small pictures and wrong for large ones.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from paragon_export.errors import PlanError
from paragon_export.graph.metadata import FLOAT32_MARK
from paragon_export.precision.typed_graph import FLOAT, NUMPY_TYPES, typed_copy
from paragon_export.system.text import brief

SOURCES = frozenset({"Shape", "Size"})

MOVES = frozenset(
    {"CumSum", "Expand", "Flatten", "Gather", "Identity", "ReduceMax", "ReduceMin", "ReduceProd"}
    | {"ReduceSum", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
"""Operators whose result is a count if their first operand is one."""

ARITHMETIC = frozenset(
    {
        "Abs",
        "Add",
        "Cast",
        "CastLike",
        "Ceil",
        "Clip",
        "Concat",
        "Div",
        "Floor",
        "Max",
        "Min",
        "Mod",
    }
    | {"Mul", "Neg", "Pow", "Range", "Round", "Sub", "Where"}
)
"""Operators whose result is a count if any operand is one."""

FACTORS = frozenset(
    {"And", "ConstantOfShape", "Equal", "Exp", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}
    | {"Log", "Not", "Or", "Reciprocal", "Sqrt"}
)
"""Operators whose result is no count. A size may still be computed from it, as from a scale."""

COUNT_INPUTS = {
    "ConstantOfShape": (0,), "Expand": (1,), "Gather": (1,), "GatherElements": (1,),
    "GatherND": (1,), "Pad": (1,), "Range": (0, 1, 2), "Reshape": (1,), "Resize": (2, 3),
    "ScatterElements": (1,), "ScatterND": (1,), "Slice": (1, 2, 3, 4), "Split": (1,), "Tile": (1,),
}  # fmt: skip
"""Positions of inputs that are sizes or indices, by operator."""

MAX_EXACT = 256
"""Integers up to this one are exact in both half types."""


class Counts:
    """The values of a typed graph that hold counts, or that counts are computed from."""

    def __init__(self, model: ir.Model) -> None:
        self.known: set[ir.Value] = set()
        """Values that depend on shapes and constants alone, not on a picture."""
        self.values: set[ir.Value] = set()
        for node in model.graph:
            self._follow(node)
        for node in model.graph:
            for index in COUNT_INPUTS.get(node.op_type, ()):
                if index < len(node.inputs):
                    self._trace_back(node.inputs[index])

    def _follow(self, node: ir.Node) -> None:
        """Add the results of a node whose operands are known."""
        operands = [value for value in node.inputs if value is not None]
        is_source = node.op_type in SOURCES
        if is_source or (
            node.op_type in MOVES | ARITHMETIC | FACTORS and all(map(self._is_known, operands))
        ):
            self.known.update(node.outputs)
            if is_source or self._gives_counts(node, operands):
                self.values.update(node.outputs)

    def _gives_counts(self, node: ir.Node, operands: list[ir.Value]) -> bool:
        """Return whether the results of a node are counts that may exceed ``MAX_EXACT``."""
        if node.op_type in FACTORS:
            return False
        if node.op_type in MOVES:
            return operands[0] in self.values
        if node.op_type == "Div" and operands[1] in self.values:
            return False
        if node.op_type in ("Clip", "Min", "Mod") and any(map(_is_small, operands)):
            return False
        return any(value in self.values for value in operands)

    def _is_known(self, value: ir.Value) -> bool:
        return value.const_value is not None or value in self.known

    def _trace_back(self, used: ir.Value | None) -> None:
        """Add a size or index that a node reads, and all that it is computed from."""
        waiting, seen = [used], set[ir.Value]()
        while waiting:
            value = waiting.pop()
            if value is None or value in seen or not self._is_known(value):
                continue
            seen.add(value)
            producer = value.producer()
            if producer is not None:
                waiting.extend(producer.inputs if producer.op_type not in SOURCES else ())
        self.values |= seen


def _is_small(value: ir.Value) -> bool:
    """Return whether a value is a constant whose integers both half types hold."""
    constant = value.const_value
    return constant is not None and bool(np.all(np.abs(constant.numpy()) <= MAX_EXACT))


def keep_counts(model: ir.Model) -> None:
    """Mark the nodes of a typed float32 graph that compute or read counts as float32 islands."""
    counts = Counts(model).values
    for node in model.graph:
        computed = any(value in counts and value.dtype == FLOAT for value in node.outputs)
        # A weight that counts are computed from may be one of a network's as well.
        read = any(
            value in counts and value.dtype == FLOAT and value.const_value is None
            for value in node.inputs
            if value is not None
        )
        if computed or read:
            node.metadata_props[FLOAT32_MARK] = "float32"


def check_counts(model: ir.Model, title: str) -> None:
    """Refuse a model that holds a size, position or index in half precision.

    Args:
        model: Of any precision.
        title: What it is called in the error.

    Raises:
        PlanError: Naming the tensor and the node that computes it.
    """
    refuse_half_counts(typed_copy(model), title)


def refuse_half_counts(model: ir.Model, title: str) -> None:
    """Do what ``check_counts`` does for a typed graph."""
    if found := half_count(model):
        raise PlanError(f"{title}: {found}")


def half_count(model: ir.Model) -> str:
    """Return what holds a count in half precision, in words; '' if nothing does.

    Args:
        model: A typed graph.
    """
    for value in sorted(Counts(model).values, key=lambda value: str(value.name)):
        half = value.dtype
        if half in NUMPY_TYPES and half is not None:
            producer = value.producer()
            where = "" if producer is None else f" of {producer.op_type}"
            if producer is not None and producer.name:
                where += f" {brief(producer.name)}"
            return (
                f"the size, position or index {brief(str(value.name))}{where} is {half.name.lower()}, "
                "which is wrong for large pictures; keep it in int64 or float32"
            )
    return ""
