"""Quantise: a float32 ONNX model in, one with 8-bit convolutions and products out.

By ONNX Runtime after training, as QDQ: unsigned activations with ranges from real inputs; signed
weights with zero point 0 and one scale for each output channel.

x86 processors without VNNI add two products of an activation and a weight into 16 bits, which
saturate at 32767: 255 * 127 + 255 * 127 does not fit. So the scale of a channel is at least so
large that no two of its weights can saturate, whichever two a kernel pairs. Above that limit it
is the scale with the least squared error of the weights. README gives what this and the other
ways cost.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir

from paragon_export.errors import RunError
from paragon_export.system.atomic_write import scratch
from paragon_export.system.progress import step

QUANTIZED = ("Conv", "Gemm", "MatMul")
"""The rest stays float: tables, norms, means and activations hold little and lose much."""

MAX_STEPS = 127
"""Sum of the two largest weights of a sign, in steps of the scale. Each is rounded by half a step
at most, so the two are 128 steps or less, and 255 * 128 = 32640 fits 16 bits."""

SCALE_FACTORS = np.linspace(1.0, 1.25, 101)
"""Multiples of the smallest scale that are tried."""


class _Reader:
    """Feeds inputs to ONNX Runtime's calibration, one set at a time."""

    def __init__(self, feeds: Sequence[Mapping[str, np.ndarray]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        feeds = next(self._feeds, None)
        return None if feeds is None else dict(feeds)


@step("calibrating")
def quantize(model: ir.Model, feeds: Sequence[Mapping[str, np.ndarray]]) -> ir.Model:
    """Return an INT8 copy of a float32 model, with the ranges that real inputs give.

    Args:
        model: Float32 inputs, outputs and arithmetic.
        feeds: Arrays by input name, one set for each run of the model.

    Raises:
        RunError: If ONNX Runtime cannot quantise it.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with scratch() as folder, _without_advice():
        made = folder / "int8.onnx"
        try:
            quantize_static(
                ir.to_proto(model),
                made,
                _Reader(feeds),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTIZED),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={"TensorQuantOverrides": _weight_ranges(model)},
            )
        except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
            reason = " ".join(str(error).split())[:400]
            raise RunError(f"ONNX Runtime cannot quantise the model: {reason}") from error
        return ir.from_proto(onnx.load(made))


def weight_scales(rows: np.ndarray) -> np.ndarray:
    """Return the scale of each output channel: the most exact that cannot saturate 16 bits.

    Args:
        rows: Weights (channels, weights of a channel), floating.

    Returns:
        (channels,) float64, above 0. Weights are rounded to multiples of it.
    """
    pairs = [np.sort(np.maximum(w, 0), axis=1)[:, -2:].sum(axis=1) for w in (rows, -rows)]
    smallest = np.maximum(*pairs) / MAX_STEPS
    # Weights of a channel that float32 cannot scale become zeros, at another channel's scale.
    scalable = smallest >= np.finfo(np.float32).tiny
    smallest = np.where(scalable, smallest, smallest.max() if scalable.any() else 1.0)
    scales = smallest * SCALE_FACTORS[:, None]
    errors = [
        np.square(np.round(rows / s[:, None]) * s[:, None] - rows).sum(axis=1) for s in scales
    ]
    return np.take_along_axis(scales, np.argmin(errors, axis=0)[None], axis=0)[0]


def _weight_ranges(model: ir.Model) -> dict[str, list[dict[str, Any]]]:
    """Return the ranges of all weights as ONNX Runtime takes them: a dict for each channel."""
    ranges = {}
    for node in model.graph:
        if node.op_type not in QUANTIZED:
            continue
        for index, value in enumerate(node.inputs[:2]):
            is_weight = index == 1 or node.op_type == "MatMul"
            if is_weight and value is not None and value.const_value is not None:
                rows, axis = _channels(node, index, value.const_value.numpy().astype(np.float64))
                tops = (MAX_STEPS * weight_scales(rows)).astype(np.float32)
                ranges[value.name or ""] = [{"rmin": -top, "rmax": top, **axis} for top in tops]
    return ranges


def _channels(node: ir.Node, index: int, weights: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
    """Return an input's weights (channels, weights of a channel), and the axis of the channels.

    A vector is one channel and has no axis.
    """
    if weights.ndim == 1:
        return weights[None], {}
    is_transposed = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
    is_first = node.op_type == "Conv" or is_transposed
    axis = 0 if is_first else weights.ndim - (1 if index else 2)
    return np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1), {"axis": axis}


@contextmanager
def _without_advice() -> Iterator[None]:
    """Keep ONNX Runtime from telling to fold batch norms first: they are folded."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
