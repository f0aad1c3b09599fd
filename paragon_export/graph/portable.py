"""Check that a graph holds only operators that OpenCV and ncnn compute right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paragon_export.checkpoints.load import listing
from paragon_export.errors import PlanError

if TYPE_CHECKING:
    import onnx_ir as ir

PORTABLE_OPERATORS = frozenset({
    "Add", "Clip", "Concat", "Conv", "DepthToSpace", "Erf", "Gelu", "HardSwish", "LeakyRelu", "Mul",
    "Relu", "Resize", "Sigmoid", "Slice", "Split", "Sub",
})  # fmt: skip
"""Operators with which networks of every generation from v0 to v11 were right in OpenCV 4.8.1, 4.14.0 and
5.0.0 and in ncnn 1.0.20261020 by pnnx 20261020, at operator set 18; v11 at 18 to 23. With others
(ReduceMean, Sqrt, Div, MatMul, Transpose and more) one of them refused the file, or gave another
picture without an error."""

CHANNEL_OPERATORS = ("Concat", "Slice", "Split")
"""Only along the channels: cutting rows or columns from the end gives another size in ncnn."""


def check_portable(model: ir.Model, network: str) -> None:
    """Check that OpenCV and ncnn compute a graph right.

    Args:
        model: The final graph.
        network: What it computes, for the error message.

    Raises:
        PlanError: Naming the operators that are not portable.
    """
    wrong = {name for node in model.graph.all_nodes() if (name := _not_portable(node))}
    if wrong:
        raise PlanError(
            f"--for portable: the {network} network needs {listing(sorted(wrong), 6)}, which OpenCV "
            "or ncnn is not known to compute right; export without --for, for other programs"
        )


def _not_portable(node: ir.Node) -> str:
    """Return the name of an operator that is not portable; an empty text if it is."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in PORTABLE_OPERATORS:
        return node.op_type
    if node.op_type in CHANNEL_OPERATORS and _axes(node) != [1]:
        return f"{node.op_type} of rows or columns"
    return ""


def _axes(node: ir.Node) -> list[int]:
    """Return the axes that a node joins or cuts; an empty list if they are not constant."""
    if node.op_type != "Slice":
        return [node.attributes.get_int("axis", 0)]
    value = node.inputs[3] if len(node.inputs) > 3 else None
    constant = None if value is None else value.const_value
    return [] if constant is None else constant.numpy().tolist()
