"""Sizes, positions and indices: half tensors cannot hold them, and conversions keep them whole."""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from paragon_export.errors import PlanError
from paragon_export.precision.counts import check_counts
from paragon_export.precision.half import to_precision
from paragon_export.precision.rounding import rounding_model
from paragon_export.specs.types import Precision

make = helper.make_node
FLOAT, HALF, WHOLE = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64


def model_of(nodes: Sequence[onnx.NodeProto]) -> ir.Model:
    """Return a graph from ``input`` (1, 3, H, W) to ``output``, with its constants."""
    ports = [
        helper.make_tensor_value_info("input", FLOAT, (1, 3, "height", "width")),
        helper.make_tensor_value_info("output", FLOAT, [None] * 4),
    ]
    constants = {
        "two": np.array(2, np.float32), "half_two": np.array(2, np.float16),
        "zero": np.array(0), "one": np.array(1), "last": np.array([3]), "both": np.array([2, 3]),
        "factors": np.array([1, 1, 2, 2], np.float32), "small": np.array([64]),
        "half_factors": np.array([1, 1, 2, 2], np.float16),
        "table": np.array([0, 1, 2], np.float16), "bias": np.linspace(0, 1, 9000, dtype=np.float16),
        "axes": np.array([0]),
    }  # fmt: skip
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes, "snippet", ports[:1], ports[1:], [w for w in weights if w.name in read]
    )
    opsets = [helper.make_opsetid("", 20)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=9))


def resized(kind: int) -> list[onnx.NodeProto]:
    """Sizes for Resize: H and W times 2, computed in a float type."""
    factors = "factors" if kind == FLOAT else "half_factors"
    return [
        make("Shape", ["input"], ["shape"]),
        make("Cast", ["shape"], ["counts"], to=kind),
        make("Mul", ["counts", factors], ["product"]),
        make("Floor", ["product"], ["floor"]),
        make("Cast", ["floor"], ["sizes"], to=WHOLE),
        make("Resize", ["input", "", "", "sizes"], ["output"], mode="nearest"),
    ]


def tokens(kind: int) -> list[onnx.NodeProto]:
    """The picture divided by the square root of its number of pixels, and times two."""
    two = "two" if kind == FLOAT else "half_two"
    return [
        make("Shape", ["input"], ["shape"]),
        make("Gather", ["shape", "both"], ["extents"]),
        make("ReduceProd", ["extents"], ["pixels"], keepdims=0),
        make("Cast", ["pixels"], ["count"], to=kind),
        make("Sqrt", ["count"], ["root"]),
        make("Mul", ["root", two], ["double"]),
        make("Cast", ["double"], ["wide"], to=FLOAT),
        make("Div", ["input", "wide"], ["output"]),
    ]


def positions(kind: int) -> list[onnx.NodeProto]:
    """The picture gathered at the columns 0 to W - 1, which pass through a float type."""
    return [
        make("Shape", ["input"], ["shape"]),
        make("Gather", ["shape", "last"], ["extent"]),
        make("Squeeze", ["extent"], ["width"]),
        make("Range", ["zero", "width", "one"], ["columns"]),
        make("Cast", ["columns"], ["float"], to=kind),
        make("Cast", ["float"], ["indices"], to=WHOLE),
        make("Gather", ["input", "indices"], ["output"], axis=3),
    ]


def table(kind: int) -> list[onnx.NodeProto]:
    """Channels gathered by a table that is stored as floats."""
    return [
        make("Cast", ["table"], ["cast"], to=kind),
        make("Cast", ["cast"], ["indices"], to=WHOLE),
        make("Gather", ["input", "indices"], ["output"], axis=1),
    ]


COUNTS = {"sizes": resized, "tokens": tokens, "positions": positions}


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("half", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_counts_in_half_are_refused(name: str, half: int) -> None:
    model = model_of(COUNTS[name](FLOAT))
    check_counts(model, "good.onnx")
    wrong = model_of(COUNTS[name](HALF))
    if half == TensorProto.BFLOAT16:
        wrong = to_bfloat16(wrong)
    with pytest.raises(PlanError, match=r"bad\.onnx: the size, position or index .* of Cast"):
        check_counts(wrong, "bad.onnx")


def to_bfloat16(model: ir.Model) -> ir.Model:
    for node in model.graph:
        if node.op_type == "Cast" and node.attributes["to"].as_int() == TensorProto.FLOAT16:
            node.attributes["to"] = ir.AttrInt64("to", TensorProto.BFLOAT16)
    for value in model.graph.initializers.values():
        if value.dtype == ir.DataType.FLOAT16 and value.const_value is not None:
            wide = value.const_value.numpy().astype(ml_dtypes.bfloat16)
            value.const_value = ir.tensor(wide, name=value.name)
            value.dtype = ir.DataType.BFLOAT16
    return model


def test_indices_in_a_half_table_are_refused() -> None:
    with pytest.raises(PlanError, match="table"):
        check_counts(model_of(table(FLOAT)), "bad.onnx")


def test_what_is_no_count_may_be_half() -> None:
    """A bias looked up by position, a count below 64, a share of a count, and a mask."""
    shape = positions(FLOAT)[:4]
    nodes = [
        *shape,
        make("Gather", ["bias", "columns"], ["looked_up"]),
        make("Min", ["extent", "small"], ["few"]),
        make("Cast", ["few"], ["few_half"], to=HALF),
        make("Less", ["columns", "width"], ["inside"]),
        make("Cast", ["inside"], ["mask"], to=HALF),
        make("Cast", ["columns"], ["places"], to=FLOAT),
        make("Cast", ["width"], ["whole"], to=FLOAT),
        make("Div", ["places", "whole"], ["shares"]),
        make("Cast", ["shares"], ["shares_half"], to=HALF),
        make("Sum", ["looked_up", "few_half", "mask", "shares_half"], ["sum"]),
        make("Cast", ["sum"], ["wide"], to=FLOAT),
        make("Mul", ["input", "wide"], ["output"]),
    ]
    check_counts(model_of(nodes), "good.onnx")


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    return np.asarray(session.run(None, {"input": x})[0])


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16])
def test_conversion_keeps_counts(name: str, precision: Precision) -> None:
    """In half, 5x2049 becomes 10x4096, and 257x256 tokens are infinitely many."""
    model = model_of(COUNTS[name](FLOAT))
    model.opset_imports[""] = 22
    half = to_precision(model, precision, Precision.FP32)
    check_counts(half, "converted")
    for size in ((5, 2049), (257, 256)):
        x = np.random.default_rng(0).random((1, 3, *size), np.float32)
        found, exact = run(rounding_model(half), x), run(model, x)
        assert found.shape == exact.shape
        assert np.abs(found - exact).max() <= 2**-7 * np.abs(exact).max()
