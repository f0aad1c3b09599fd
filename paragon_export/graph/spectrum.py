"""Spectrum: the magnitude of a two-dimensional Fourier transform, written in ONNX.

It is written as products with matrices of cosines and sines, not as DFT nodes: ONNX Runtime's
DFT loses four digits where an extent is no power of two (an error of 0.13 in the logarithm at
360x640), and TensorRT has no DFT. The matrices are computed from the extents at run time.
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
    (ch, sh), (cw, sw) = _cos_sin(g, height), _cos_sin(g, width)
    along, across = g.op("MatMul", x, cw), g.op("MatMul", x, sw)
    real = g.op("Sub", g.op("MatMul", ch, along), g.op("MatMul", sh, across))
    imaginary = g.op("Add", g.op("MatMul", sh, along), g.op("MatMul", ch, across))
    power = g.op("Add", g.op("Mul", real, real), g.op("Mul", imaginary, imaginary))
    return g.op("Sqrt", g.op("Div", power, _to_float32(g, g.op("Mul", height, width))))


def _cos_sin(g: Emitter, extent: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Emit ``cos`` and ``sin`` of ``2 pi j k / extent`` for all j, k below ``extent``.

    The angle is reduced to the first quarter turn in integers, before it is rounded to float32.
    A larger angle would lose a digit, which shows in the logarithm of a small magnitude.
    """
    zero, one = (g.op("Squeeze", g.ints([i]), g.ints([0])) for i in (0, 1))
    index = g.op("Range", zero, g.op("Squeeze", extent, g.ints([0])), one)
    product = g.op("Mul", g.op("Unsqueeze", index, g.ints([1])), index)
    turn = g.op("Sub", product, g.op("Mul", g.op("Div", product, extent), extent))
    half = g.op("Min", turn, g.op("Sub", extent, turn))
    twice = g.op("Mul", half, g.ints([2]))
    mirrored = g.op("Sub", extent, twice)
    quarter = _to_float32(g, g.op("Min", twice, mirrored))
    angle = g.op("Mul", g.op("Div", quarter, _to_float32(g, extent)), math.pi)
    cos_sign = g.op("Where", g.op("Less", mirrored, twice), -1.0, 1.0)
    sin_sign = g.op("Where", g.op("Less", half, turn), -1.0, 1.0)
    return g.op("Mul", g.op("Cos", angle), cos_sign), g.op("Mul", g.op("Sin", angle), sin_sign)


def _to_float32(g: Emitter, integers: ir.Value) -> ir.Value:
    return g.op("Cast", integers, to=ir.DataType.FLOAT.value)
