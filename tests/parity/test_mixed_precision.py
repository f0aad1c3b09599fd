"""Half tensors in files that look like float32: they are found, rounded and judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from paragon_export.errors import PlanError
from paragon_export.graph.onnx_io import read_onnx_file
from paragon_export.parity.candidates import open_onnx
from paragon_export.precision.rounding import rounding_model
from paragon_export.specs.network import Port
from paragon_export.specs.types import OnnxBackend, Precision

pytestmark = pytest.mark.usefixtures("foreign_files_here")

make = helper.make_node
FLOAT, HALF, BFLOAT = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
OUTPUTS = (Port("output", ("batch", 3, "height", "width")),)
SHAPE = ["batch", 3, "height", "width"]
WEIGHT = np.float32([[[1.0001]], [[1.0]], [[0.3]]])


def there_and_back(value: str, result: str, kind: int) -> list[onnx.NodeProto]:
    return [
        make("Cast", [value], ["half"], to=kind),
        make("Cast", ["half"], [result], to=FLOAT),
    ]


MIXED: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray]]] = {
    "cast": (
        [make("Mul", ["input", "weight"], ["product"]), *there_and_back("product", "output", HALF)],
        {"weight": WEIGHT},
    ),
    "computed": (
        [
            make("Cast", ["input"], ["half"], to=HALF),
            make("Mul", ["half", "half"], ["square"]),
            make("Cast", ["square"], ["wide"], to=FLOAT),
            make("Mul", ["wide", "weight"], ["output"]),
        ],
        {"weight": WEIGHT},
    ),
    "constant node": (
        [
            make("Cast", ["input"], ["half"], to=HALF),
            make("Constant", [], ["weight"], value=numpy_helper.from_array(np.float16(WEIGHT))),
            make("Mul", ["half", "weight"], ["product"]),
            make("Cast", ["product"], ["output"], to=FLOAT),
        ],
        {},
    ),
    "filled": (
        [
            make("Shape", ["input"], ["shape"]),
            make(
                "ConstantOfShape",
                ["shape"],
                ["thirds"],
                value=numpy_helper.from_array(np.float16([1 / 3])),
            ),
            make("Cast", ["thirds"], ["wide"], to=FLOAT),
            make("Mul", ["input", "wide"], ["output"]),
        ],
        {},
    ),
    "cast like": (
        [
            make("CastLike", ["input", "one"], ["half"]),
            make("Mul", ["half", "one"], ["product"]),
            make("Cast", ["product"], ["output"], to=FLOAT),
        ],
        {"one": np.float16(1.0)},
    ),
}


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    says: str = "",
) -> Path:
    ports = [helper.make_tensor_value_info(name, FLOAT, SHAPE) for name in ("input", "output")]
    initializers = [numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items()]
    graph = helper.make_graph(nodes, "mixed", ports[:1], ports[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    if says:
        helper.set_model_props(model, {"precision": says, "tool": "paragon-export 1.0"})
    onnx.save(model, path)
    return path


def picture() -> np.ndarray:
    return np.random.default_rng(0).random((1, 3, 8, 8), np.float32) * 3


@pytest.mark.parametrize("name", MIXED)
def test_half_tensors_make_a_file_half(name: str, tmp_path: Path) -> None:
    file = read_onnx_file(save(tmp_path / "net.onnx", *MIXED[name]))
    assert file.precision is Precision.FP16
    with pytest.raises(PlanError, match="hide every overflow"):
        open_onnx(file, OUTPUTS, OnnxBackend.OPENVINO)
    candidate = open_onnx(file, OUTPUTS).candidate
    assert candidate.precision is Precision.FP16
    found = candidate.runner.infer({"input": picture()})["output"]
    assert np.abs(found - expected(name, np.float16)).max() <= 1e-6
    assert np.abs(found - expected(name, np.float32)).max() > 1e-5


def expected(name: str, kind: type[np.floating]) -> np.ndarray:
    """Return what a file computes with every result rounded to ``kind``."""
    x, weight = picture(), np.float32(WEIGHT)
    if name == "cast":
        return (x * weight).astype(kind).astype(np.float32)
    if name == "computed":
        return np.square(x.astype(kind)).astype(np.float32) * weight
    if name == "constant node":
        return (x.astype(kind) * np.float16(weight).astype(kind)).astype(np.float32)
    if name == "filled":
        return x * kind(1 / 3).astype(np.float32)
    return x.astype(kind).astype(np.float32)


def test_overflow_in_half_is_seen(tmp_path: Path) -> None:
    """Casts to half and back give infinity beyond 65504."""
    nodes = [
        make("Mul", ["input", "large"], ["product"]),
        *there_and_back("product", "back", HALF),
        make("Div", ["back", "large"], ["output"]),
    ]
    file = read_onnx_file(save(tmp_path / "net.onnx", nodes, {"large": np.float32(1e7)}))
    found = open_onnx(file, OUTPUTS).candidate.runner.infer({"input": picture()})["output"]
    assert np.isinf(found).any()


def test_a_file_that_says_fp32_is_judged_as_fp32(tmp_path: Path) -> None:
    file = read_onnx_file(save(tmp_path / "net.onnx", *MIXED["cast"], says="fp32"))
    candidate = open_onnx(file, OUTPUTS).candidate
    assert candidate.precision is Precision.FP32
    found = candidate.runner.infer({"input": picture()})["output"]
    assert np.abs(found - expected("cast", np.float16)).max() <= 1e-6


@pytest.mark.parametrize("kind", [HALF, BFLOAT])
def test_what_is_unused_does_not_count(kind: int, tmp_path: Path) -> None:
    """An unused weight, and nodes that no output depends on."""
    nodes = [make("Mul", ["input", "weight"], ["output"]), *there_and_back("input", "lost", kind)]
    path = save(tmp_path / "net.onnx", nodes, {"weight": WEIGHT})
    model = onnx.load(path)
    model.graph.initializer.append(helper.make_tensor("unused", kind, [1], [1.0]))
    onnx.save(model, path)
    file = read_onnx_file(path)
    assert file.precision is Precision.FP32
    assert open_onnx(file, OUTPUTS).candidate.precision is Precision.FP32


def test_a_type_that_is_declared_wrong_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "net.onnx", *MIXED["cast"])
    model = onnx.load(path)
    model.graph.value_info.append(helper.make_tensor_value_info("half", FLOAT, SHAPE))
    onnx.save(model, path)
    with pytest.raises(PlanError, match="its rounding is unknown"):
        rounding_model(read_onnx_file(path).model)


def test_sizes_in_half_are_refused(tmp_path: Path) -> None:
    nodes = [
        make("Shape", ["input"], ["shape"]),
        *there_and_back("shape", "wide", HALF),
        make("Cast", ["wide"], ["sizes"], to=TensorProto.INT64),
        make("Resize", ["input", "", "", "sizes"], ["output"], mode="nearest"),
    ]
    file = read_onnx_file(save(tmp_path / "net.onnx", nodes, {}))
    with pytest.raises(
        PlanError, match=r"net\.onnx: the size, position or index 'half' of Cast is"
    ):
        open_onnx(file, OUTPUTS)
