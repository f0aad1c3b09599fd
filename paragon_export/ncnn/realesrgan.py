"""Fit a network to Real-ESRGAN-ncnn-vulkan and the programs that were made from it, as Upscayl.

These programs are built with few of ncnn's layers: a file with others does not load. On a GPU they convert
the output to 8 bits without a lower bound, so that a value below 0 becomes white on some drivers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from paragon_export.checkpoints.load import listing
from paragon_export.errors import PlanError
from paragon_export.ncnn.convert import BLOBS, UNCLAMPED

if TYPE_CHECKING:
    import onnx_ir as ir

LAYERS = frozenset({
    "BinaryOp", "Concat", "Convolution", "GELU", "Input", "Interp", "PReLU", "PixelShuffle", "ReLU", "Split",
})  # fmt: skip
"""Layers that Real-ESRGAN-ncnn-vulkan is built with, as far as pnnx makes them of portable files."""

MUL, MAX, MIN = 2, 4, 5
"""Operations of ncnn's ``BinaryOp``. Addition is 0."""


def make_dense(model: ir.Model) -> int:
    """Turn grouped convolutions into ordinary ones, in place; return how many there were.

    Output channel k of group g has its weights in the channels of group g, and zeros elsewhere.
    """
    import onnx_ir as ir

    count = 0
    for node in model.graph.all_nodes():
        groups = node.attributes.get_int("group", 1) if node.op_type == "Conv" else 1
        if groups == 1:
            continue
        value = node.inputs[1]
        assert value is not None
        assert value.const_value is not None
        weight = value.const_value.numpy()
        outputs, inputs = weight.shape[:2]
        dense = np.zeros((outputs, inputs * groups, *weight.shape[2:]), weight.dtype)
        for k in range(outputs):
            first = k // (outputs // groups) * inputs
            dense[k, first : first + inputs] = weight[k]
        name = f"{value.name}_dense_{count}"
        new = ir.Value(name=name, const_value=ir.tensor(dense, name=name))
        new.shape, new.type = ir.Shape(dense.shape), value.type
        model.graph.register_initializer(new)
        node.replace_input_with(1, new)
        if not value.uses() and value.name:
            del model.graph.initializers[value.name]
        node.attributes["group"] = ir.AttrInt64("group", 1)
        count += 1
    return count


def fitted(param: str, network: str) -> str:
    """Return a ``.param`` of the layers that the programs have, whose output is at least 0.

    ``Clip`` and ``HardSwish`` become ``BinaryOp``, with the same values. The output before the bound is the
    blob ``UNCLAMPED``.

    Args:
        param: With the blobs ``data`` and ``output``.
        network: What it computes, for the error message.

    Raises:
        PlanError: Naming the layers that the programs do not have.
    """
    magic, _, *lines = param.splitlines()
    output = BLOBS["out0"]
    layers = [
        new
        for line in lines
        for new in _replaced([UNCLAMPED if name == output else name for name in line.split()])
    ]
    layers += _scalars("clamp", [(MAX, 0.0)], UNCLAMPED, output)
    wrong = sorted({layer[0] for layer in layers} - LAYERS)
    if wrong:
        raise PlanError(
            f"--for realesrgan: the {network} network needs {listing(wrong, 6)}, which these programs do "
            "not have; export without --for, for other programs with ncnn"
        )
    blobs = sum(int(layer[3]) for layer in layers)
    return "\n".join([magic, f"{len(layers)} {blobs}", *map(" ".join, layers)]) + "\n"


def _replaced(layer: Sequence[str]) -> list[list[str]]:
    """Return the layers that compute what one layer does."""
    kind, name, _, _, *rest = layer
    if kind not in ("Clip", "HardSwish"):
        return [list(layer)]
    x, y, *parameters = rest
    values = dict(p.split("=") for p in parameters)
    if kind == "Clip":
        least, most = float(values.get("0", -3.4e38)), float(values.get("1", 3.4e38))
        return _scalars(name, [(MAX, least), (MIN, most)], x, y)
    alpha, beta = float(values.get("0", 0.2)), float(values.get("1", 0.5))
    for_gate, for_product, gate = (f"{name}_{part}" for part in ("x", "x2", "gate"))
    return [
        ["Split", f"{name}_split", "1", "2", x, for_gate, for_product],
        *_scalars(f"{name}_gate", [(MUL, alpha), (0, beta), (MAX, 0.0), (MIN, 1.0)], for_gate, gate),
        ["BinaryOp", name, "2", "1", for_product, gate, y, f"0={MUL}"],
    ]  # fmt: skip


def _scalars(
    name: str, steps: Sequence[tuple[int, float]], source: str, result: str
) -> list[list[str]]:
    """Return layers that combine a blob with one number after the other.

    The numbers have an exponent: older versions of ncnn read others as integers.
    """
    names = [source, *(f"{name}_{number}" for number in range(1, len(steps))), result]
    return [
        ["BinaryOp", f"{name}_op{number}", "1", "1", names[number], names[number + 1],
         f"0={operation}", "1=1", f"2={value:.8e}"]
        for number, (operation, value) in enumerate(steps)
    ]  # fmt: skip
