"""INT8: a float32 ONNX model in, a model with 8-bit convolutions and products out.

ONNX Runtime quantizes the model after training, in QDQ form: unsigned activations with ranges
calibrated on real inputs; signed weights with zero point 0 and one scale for each output channel.

x86 processors without VNNI add two products of an activation and a weight in 16 bits, which saturate
at 32767: 255 * 127 + 255 * 127 overflows. The scale of a channel is therefore large enough that no
two of its weights can saturate, whichever two a kernel pairs. Among these scales it is the one with
the least squared error of the weights. README compares this with other methods.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir

from paragon_export.errors import RunError
from paragon_export.system.optional import import_without_telemetry
from paragon_export.system.private_folder import scratch
from paragon_export.system.progress import step

QUANTIZED = ("Conv", "Gemm", "MatMul")
"""Operators that are quantized. Tables, norms, means and activations stay float: they need little time
and lose accuracy."""

MAX_PAIR_STEPS = 127
"""Sum of the two largest weights of one sign, in steps of the scale. Each is rounded by at most half
a step, so their sum is at most 128 steps, and 255 * 128 = 32640 fits 16 bits."""

SCALE_FACTORS = np.linspace(1.0, 1.25, 101)
"""Multiples of the smallest allowed scale that are tried."""


class _Reader:
    """Feeds inputs to ONNX Runtime's calibration, the inputs of one run at a time."""

    def __init__(self, feeds: Sequence[Mapping[str, np.ndarray]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the inputs of the next run; None at the end."""
        feeds = next(self._feeds, None)
        return None if feeds is None else dict(feeds)


@step("calibrating")
def quantize_model(model: ir.Model, feeds: Sequence[Mapping[str, np.ndarray]]) -> ir.Model:
    """Return an INT8 copy of a float32 model, with ranges calibrated on inputs.

    Args:
        model: A model with float32 inputs, outputs and arithmetic.
        feeds: Input name to array, for each run of the calibration.

    Raises:
        RunError: If ONNX Runtime cannot quantize the model.
    """
    import onnx

    quantization = import_without_telemetry("onnxruntime.quantization")
    with scratch() as folder, _without_warnings():
        quantized = folder / "int8.onnx"
        try:
            quantization.quantize_static(
                ir.to_proto(model),
                quantized,
                _Reader(feeds),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTIZED),
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                extra_options={"TensorQuantOverrides": _weight_ranges(model)},
            )
        except Exception as error:  # ONNX Runtime raises unrelated classes
            reason = " ".join(str(error).split())[:400]
            raise RunError(
                f"ONNX Runtime cannot quantize the model: {reason}; export it in "
                "half precision instead"
            ) from error
        return ir.from_proto(onnx.load(quantized))


def weight_scales(rows: np.ndarray) -> np.ndarray:
    """Return the scale of each output channel: the most accurate that cannot saturate 16 bits.

    Args:
        rows: Floating weights, (channels, weights of a channel).

    Returns:
        (channels,) float64, positive. Weights are rounded to multiples of it.
    """
    pairs = [np.sort(np.maximum(w, 0), axis=1)[:, -2:].sum(axis=1) for w in (rows, -rows)]
    smallest = np.maximum(*pairs) / MAX_PAIR_STEPS
    # A channel whose scale float32 cannot hold gets the scale of another: its weights become 0.
    scalable = smallest >= np.finfo(np.float32).tiny
    smallest = np.where(scalable, smallest, smallest.max() if scalable.any() else 1.0)
    scales = smallest * SCALE_FACTORS[:, None]
    errors = [
        np.square(np.round(rows / s[:, None]) * s[:, None] - rows).sum(axis=1) for s in scales
    ]
    return np.take_along_axis(scales, np.argmin(errors, axis=0)[None], axis=0)[0]


def _weight_ranges(model: ir.Model) -> dict[str, list[dict[str, Any]]]:
    """Return the range of each channel of all weights, in the form that ONNX Runtime takes."""
    ranges = {}
    for node in model.graph:
        if node.op_type not in QUANTIZED:
            continue
        for index, value in enumerate(node.inputs[:2]):
            is_weight = index == 1 or node.op_type == "MatMul"
            if is_weight and value is not None and value.const_value is not None:
                rows, axis = _channels(node, index, value.const_value.numpy().astype(np.float64))
                limits = (MAX_PAIR_STEPS * weight_scales(rows)).astype(np.float32)
                ranges[value.name or ""] = [{"rmin": -r, "rmax": r, **axis} for r in limits]
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
def _without_warnings() -> Iterator[None]:
    """Raise the level of the root logger in the body.

    ONNX Runtime logs there that batch norms should be folded first, which they are.
    """
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
