"""Fourier: how the magnitude of a two-dimensional spectrum is written in ONNX.

As products with matrices of cosines and sines, not as DFT nodes: ONNX Runtime's DFT loses four
digits where an extent is no power of two (0.13 in the logarithm at 360x640), and TensorRT has
none. The matrices are worked out from the extents at run time.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from paragon_export.graph.emitter import Emitter


def lower_spectrum(g: Emitter, x: ir.Value) -> ir.Value:
    """Emit ``|F x| / sqrt(H W)`` of (N, 1, H, W), ``F = (Ch - i Sh) x (Cw - i Sw)``."""
    height, width = (g.op("Shape", x, start=dim, end=dim + 1) for dim in (2, 3))
    (ch, sh), (cw, sw) = _waves(g, height), _waves(g, width)
    along, across = g.op("MatMul", x, cw), g.op("MatMul", x, sw)
    real = g.op("Sub", g.op("MatMul", ch, along), g.op("MatMul", sh, across))
    imaginary = g.op("Add", g.op("MatMul", sh, along), g.op("MatMul", ch, across))
    power = g.op("Add", g.op("Mul", real, real), g.op("Mul", imaginary, imaginary))
    return g.op("Sqrt", g.op("Div", power, _floating(g, g.op("Mul", height, width))))


def _waves(g: Emitter, extent: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Emit ``cos`` and ``sin`` of ``2 pi j k / extent`` for all j, k below ``extent``.

    The angle is brought into the first quarter in whole numbers before it is rounded: in float32
    a full turn has lost a digit that the logarithm of a small magnitude then misses.
    """
    zero, one = (g.op("Squeeze", g.ints([i]), g.ints([0])) for i in (0, 1))
    index = g.op("Range", zero, g.op("Squeeze", extent, g.ints([0])), one)
    product = g.op("Mul", g.op("Unsqueeze", index, g.ints([1])), index)
    turn = g.op("Sub", product, g.op("Mul", g.op("Div", product, extent), extent))
    half = g.op("Min", turn, g.op("Sub", extent, turn))
    twice = g.op("Mul", half, g.ints([2]))
    mirrored = g.op("Sub", extent, twice)
    quarter = _floating(g, g.op("Min", twice, mirrored))
    angle = g.op("Mul", g.op("Div", quarter, _floating(g, extent)), math.pi)
    left = g.op("Where", g.op("Less", mirrored, twice), -1.0, 1.0)
    below = g.op("Where", g.op("Less", half, turn), -1.0, 1.0)
    return g.op("Mul", g.op("Cos", angle), left), g.op("Mul", g.op("Sin", angle), below)


def _floating(g: Emitter, whole: ir.Value) -> ir.Value:
    return g.op("Cast", whole, to=ir.DataType.FLOAT.value)
