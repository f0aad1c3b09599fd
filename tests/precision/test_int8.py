"""INT8 files mean the same on every processor: no kernel's 16-bit sums can saturate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from onnx import TensorProto, helper, numpy_helper

from paragon_export.precision import int8 as quantising
from paragon_export.precision.int8 import quantize_model, weight_scales
from tests.int8 import (
    HIGHEST,
    KERNELS,
    in_exact_integers,
    largest_pair,
    saturating_sums,
    session,
    weight_rows,
)

CONVOLUTIONS = {
    "3x3": ((8, 16, 3, 3), {}),
    "1x1": ((8, 64, 1, 1), {}),
    "grouped": ((8, 16, 3, 3), {"group": 2}),
    "depthwise": ((16, 1, 3, 3), {"group": 16}),
}

PRODUCTS = {
    "Gemm": ("Gemm", (64, 8), {}),
    "Gemm transposed": ("Gemm", (8, 64), {"transB": 1}),
    "MatMul": ("MatMul", (64, 8), {}),
}

INTEGER_KERNELS = {"Conv": "QLinearConv", "Gemm": "QGemm", "MatMul": "QLinearMatMul"}


def extreme_weights(shape: tuple[int, ...], channel_axis: int) -> np.ndarray:
    """Return channels that saturate at once, on either side, and others that hardly can."""
    count, rest = shape[channel_axis], np.prod(shape) // shape[channel_axis]
    rng = np.random.default_rng(0)
    rows = rng.choice([-1.0, 1.0], (count, rest))
    rows[0], rows[1] = 1, -1
    rows[2] = np.where(np.arange(rest) < rest // 2, 1, -1)
    rows[3] = 0.01 * rng.standard_normal(rest)
    rows[3, rest // 2] = 1
    rows[4] = 0
    rows[5] = rng.standard_normal(rest)
    rows *= rng.uniform(0.1, 3, (count, 1))
    rows[6] *= 1e-20
    others = [n for i, n in enumerate(shape) if i != channel_axis]
    return np.moveaxis(rows.reshape(count, *others), 0, channel_axis).astype(np.float32)


def model_of(op: str, shape: tuple[int, ...], attributes: dict[str, Any]) -> tuple[ir.Model, int]:
    """Return a model of one product with extreme weights, and its input channels."""
    axis = 0 if op == "Conv" or attributes.get("transB") else 1
    weights = extreme_weights(shape, axis)
    channels = shape[1] * attributes.get("group", 1) if op == "Conv" else shape[1 - axis]
    constants = {"weight": weights}
    if op != "MatMul":
        constants["bias"] = np.linspace(-1, 1, shape[axis], dtype=np.float32)
    dims = ["n", channels, "h", "w"] if op == "Conv" else ["n", channels]
    graph = helper.make_graph(
        [helper.make_node(op, ["input", *constants], ["output"], name="product", **attributes)],
        "one product",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [None] * len(dims))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return ir.from_proto(made), channels


def extreme_inputs(channels: int, is_picture: bool, low: float) -> np.ndarray:
    """Return the largest activations alone, the smallest alone, and both in all disorder."""
    shape = (6, channels, 9, 9) if is_picture else (6, channels)
    inputs = np.random.default_rng(1).choice([low, 1.0], shape)
    inputs[0], inputs[1] = 1.0, low
    return inputs.astype(np.float32)


CASES = [
    *(pytest.param("Conv", *case, id=name) for name, case in CONVOLUTIONS.items()),
    *(pytest.param(*case, id=name) for name, case in PRODUCTS.items()),
]


@pytest.mark.parametrize("low", [0.0, -1.0], ids=["from 0", "from -1"])
@pytest.mark.parametrize(("op", "shape", "attributes"), CASES)
def test_every_kernel_gives_the_exact_integers(
    op: str, shape: tuple[int, ...], attributes: dict[str, Any], low: float, tmp_path: Path
) -> None:
    """Extreme weights and activations: all sessions are within one rounding of int64 sums."""
    model, channels = model_of(op, shape, attributes)
    inputs = extreme_inputs(channels, op == "Conv", low)
    file = ir.to_proto(quantize_model(model, [{"input": inputs}]))
    expected, step = in_exact_integers(file, inputs)
    assert np.ptp(expected) > 200 * step  # the whole range of the output is used
    for kernels in KERNELS:
        runs = session(file.SerializeToString(), kernels, tmp_path / f"{kernels}.onnx")
        (found,) = runs.run(None, {"input": inputs})
        assert np.abs(found - expected).max() <= 1.001 * step, kernels
    ran = {node.op_type for node in onnx.load(tmp_path / "default.onnx").graph.node}
    assert INTEGER_KERNELS[op] in ran


def saturates(file: onnx.ModelProto) -> bool:
    """Tell whether 16-bit pairs change a sum of a file, for the activations that are worst."""
    for rows in weight_rows(file):
        rows = np.sort(np.pad(rows, ((0, 0), (0, rows.shape[1] % 2))), axis=1)
        for worst in (HIGHEST * (rows > 0), HIGHEST * (rows < 0)):
            if not np.array_equal(saturating_sums(worst, rows), (worst * rows).sum(axis=1)):
                return True
    return False


@pytest.mark.parametrize(("op", "shape", "attributes"), CASES)
def test_no_pair_of_weights_can_saturate(
    op: str, shape: tuple[int, ...], attributes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What x86 without VNNI computes, emulated: exact with these weights, wrong with full 8 bits."""
    model, channels = model_of(op, shape, attributes)
    feeds = [{"input": extreme_inputs(channels, op == "Conv", 0.0)}]
    file = ir.to_proto(quantize_model(model, feeds))
    assert max(map(largest_pair, weight_rows(file))) <= 2**15 - 1
    assert not saturates(file)

    monkeypatch.setattr(
        quantising, "weight_scales", lambda rows: np.abs(rows).max(axis=1).clip(1e-6) / 127
    )
    full = ir.to_proto(quantize_model(model, feeds))
    assert max(map(largest_pair, weight_rows(full))) > 2**15 - 1
    assert saturates(full)


def test_constants_on_either_side_and_vectors() -> None:
    """A constant that is multiplied from the left, or is a vector, cannot saturate either."""
    rng = np.random.default_rng(0)
    left, vector = rng.choice([-1, 1], (8, 64)), np.ones(8)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["left", "input"], ["middle"], name="left product"),
            helper.make_node("Transpose", ["middle"], ["turned"], perm=[1, 0]),
            helper.make_node("MatMul", ["turned", "vector"], ["output"], name="vector product"),
        ],
        "products",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [64, 5])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [5])],
        [
            numpy_helper.from_array(v.astype(np.float32), n)
            for n, v in (("left", left), ("vector", vector))
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    inputs = rng.random((64, 5), dtype=np.float32)
    file = ir.to_proto(quantize_model(ir.from_proto(made), [{"input": inputs}]))
    codes = [
        numpy_helper.to_array(t) for t in file.graph.initializer if t.data_type == TensorProto.INT8
    ]
    assert sorted(code.shape for code in codes if code.size > 8) == [(8, 64)]
    for code in codes:
        assert HIGHEST * 2 * np.abs(code.astype(int)).max() <= 2**15 - 1
    exact = (left @ inputs).T @ vector
    for kernels in KERNELS:
        (found,) = session(file.SerializeToString(), kernels).run(None, {"input": inputs})
        assert np.abs(found - exact).max() < 0.03 * np.abs(exact).max(), kernels


@given(
    st_numpy.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 12)),
        elements=st.floats(-8, 8, width=32) | st.sampled_from([0.0, 1.0, -1.0]),
    )
)
@settings(deadline=None)
def test_scales_of_any_weights(rows: np.ndarray) -> None:
    """A scale is above 0, keeps every pair within 16 bits, and is no worse than the smallest."""
    rows = rows.astype(np.float64)
    scales = weight_scales(rows)[:, None]
    assert scales.shape == (len(rows), 1)
    assert (scales > 0).all()
    codes = np.round(rows / scales.astype(np.float32))
    assert largest_pair(codes) <= 2**15 - 1
    pairs = [np.sort(np.maximum(w, 0), axis=1)[:, -2:].sum(axis=1) for w in (rows, -rows)]
    smallest = np.maximum(np.maximum(*pairs) / 127, 1e-30)[:, None]
    found, limit = (np.square(np.round(rows / s) * s - rows) for s in (scales, smallest))
    assert (found.sum(axis=1) <= limit.sum(axis=1) + 1e-12).all()
