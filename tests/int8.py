"""INT8 files for tests: sessions with different kernels, exact integers, pairs that saturate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.lib.stride_tricks import sliding_window_view
from onnx import numpy_helper

HIGHEST = 255
"""Of an 8-bit activation."""

KERNELS = ("default", "precise", "float")
"""What ONNX Runtime does by itself, what it does if told not to saturate on x86 (the same where
it cannot), and float arithmetic between the quantization steps, the same on every processor."""


def session(
    model: Path | bytes, kernels: str, optimized: Path | None = None
) -> ort.InferenceSession:
    """Return a session with one of ``KERNELS``; the graph that it runs is kept in ``optimized``."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if kernels == "precise":
        options.add_session_config_entry("session.x64quantprecision", "1")
    if kernels == "float":
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def weight_rows(model: onnx.ModelProto) -> Iterator[np.ndarray]:
    """Yield the 8-bit weights of every product: (outputs, weights that are summed), int64."""
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    dequantized = {n.output[0]: n.input[0] for n in model.graph.node
                   if n.op_type == "DequantizeLinear"}  # fmt: skip
    for node in model.graph.node:
        for index, name in enumerate(node.input[:2]):
            weights = constants.get(dequantized.get(name, ""))
            if node.op_type not in ("Conv", "Gemm", "MatMul") or weights is None:
                continue
            assert weights.dtype == np.int8
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            if node.op_type != "Conv" and index == 1 and not transposed:
                weights = weights.swapaxes(-1, -2)
            sums = weights.shape[1:] if node.op_type == "Conv" else weights.shape[-1:]
            yield weights.reshape(-1, int(np.prod(sums))).astype(np.int64)


def largest_pair(rows: np.ndarray) -> int:
    """Return the largest sum of two products, whichever weights and activations meet."""
    signs = [np.sort(np.maximum(w, 0), axis=1)[:, -2:].sum(axis=1).max() for w in (rows, -rows)]
    return HIGHEST * int(max(signs))


def saturating_sums(activations: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return ``rows * activations`` summed as x86 does without VNNI: pairs saturate 16 bits.

    Args:
        activations: As ``rows``, in [0, 255].
        rows: Weights (channels, an even number), in [-128, 127].
    """
    products = (activations * rows).reshape(len(rows), -1, 2)
    return products.sum(axis=2).clip(-(2**15), 2**15 - 1).sum(axis=1)


def in_exact_integers(model: onnx.ModelProto, x: np.ndarray) -> tuple[np.ndarray, float]:
    """Return what a file of one quantized product gives, summed in int64, and its output's step."""
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    by_output = {name: node for node in model.graph.node for name in node.output}
    (product,) = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    (after,) = [n for n in model.graph.node if n.input[0] == product.output[0]]
    before = by_output[by_output[product.input[0]].input[0]]
    assert (before.op_type, after.op_type) == ("QuantizeLinear", "QuantizeLinear")
    step, zero = (constants[name] for name in before.input[1:])
    weights, weight_step, weight_zero = (constants[n] for n in by_output[product.input[1]].input)
    assert not weight_zero.any()
    taken = np.clip(np.round(x / step) + int(zero), 0, HIGHEST).astype(np.int64) - int(zero)
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in product.attribute}
    weights = weights.astype(np.int64)
    if product.op_type == "Conv":
        sums = _convolved(taken, weights, attributes.get("group", 1))
        weight_step = weight_step.reshape(-1, 1, 1)
    else:
        sums = taken @ (weights.T if attributes.get("transB") else weights)
    if len(product.input) > 2:
        bias = constants[by_output[product.input[2]].input[0]].astype(np.int64)
        sums = sums + bias.reshape(-1, *[1] * (weight_step.ndim - 1))
    out_step, out_zero = (constants[name] for name in after.input[1:])
    real = sums * (step.astype(np.float64) * weight_step)
    rounded = np.clip(np.round(real / out_step) + int(out_zero), 0, HIGHEST) - int(out_zero)
    return rounded * float(out_step), float(out_step)


def _convolved(x: np.ndarray, weights: np.ndarray, groups: int) -> np.ndarray:
    """Convolve (N, C, H, W) without padding, int64."""
    windows = sliding_window_view(x, weights.shape[2:], axis=(2, 3))
    inputs, filters = np.split(windows, groups, axis=1), np.split(weights, groups)
    parts = [np.einsum("nchwij,ocij->nohw", i, f) for i, f in zip(inputs, filters, strict=True)]
    return np.concatenate(parts, axis=1)
