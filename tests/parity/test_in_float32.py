"""A mixed file has the tolerance of half precision only for what its half weights round."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from paragon_export.inputs.large import large_probe
from paragon_export.parity.acceptance import WRONG_IN_FLOAT32
from paragon_export.parity.candidates import open_candidate, read_artifact
from paragon_export.parity.check import judge
from paragon_export.parity.compare import verify
from paragon_export.parity.report import ParityReport
from paragon_export.precision.half import to_precision
from paragon_export.precision.rounding import unrounded_model
from paragon_export.specs.plans import ParityPlan
from paragon_export.specs.types import Precision, Size
from paragon_export.testing.glyph import small_checkpoint
from paragon_export.testing.sabotage.case import Case, case_of, copied
from paragon_export.testing.sabotage.edits import array_of, with_weight
from paragon_export.testing.tiny import tiny_checkpoint

pytestmark = pytest.mark.usefixtures("foreign_files_here")

FP32, FP16, BF16 = Precision.FP32, Precision.FP16, Precision.BF16

HALF = {FP16: ir.DataType.FLOAT16, BF16: ir.DataType.BFLOAT16}


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    path = tiny_checkpoint(tmp_path_factory.mktemp("net") / "photo.safetensors", "photo")
    return case_of(path, opset=22, upsampler_alpha=0.3)


@pytest.fixture(scope="module")
def glyphs(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return case_of(small_checkpoint(tmp_path_factory.mktemp("glyph") / "phase2.pt"), opset=22)


def judged(case: Case, model: ir.Model, path: Path) -> ParityReport:
    path.write_bytes(ir.to_proto(model).SerializeToString())
    is_logits = case.reference.input_spec.task.is_classifier
    sizes = () if is_logits else (Size(9, 12), Size(21, 18))
    return judge(case.reference, [read_artifact(path)], ParityPlan(sizes=sizes))


def cast(node_input: ir.Value, to: ir.DataType, before: ir.Node) -> ir.Value:
    node = ir.node("Cast", [node_input], {"to": to.value})
    node.outputs[0].name = f"{node_input.name}/{to.name}/{before.name}"
    before.prepend([node])
    return node.outputs[0]


def there_and_back(model: ir.Model, half: ir.DataType, name: str) -> ir.Model:
    """Return a copy in which the inputs of the nodes of one operator pass through a half type."""
    model = copied(model)
    for node in [each for each in model.graph if each.op_type == name]:
        for index, value in enumerate(node.inputs):
            if value is not None and value.const_value is None:
                rounded = cast(cast(value, half, node), ir.DataType.FLOAT, node)
                node.replace_input_with(index, rounded)
    return model


def stored(model: ir.Model, half: ir.DataType, names: Callable[[str], bool] = bool) -> ir.Model:
    """Return a copy whose weights are stored in half and widened before they are used."""
    model = copied(model)
    first = next(iter(model.graph))
    for value in list(model.graph.initializers.values()):
        is_weight = value.dtype == ir.DataType.FLOAT and "scales" not in str(value.name)
        if not (is_weight and names(str(value.name))):
            continue
        tensor = ir.tensor(array_of(value).astype(half.numpy()), name=f"{value.name}/half")
        kind = ir.TensorType(half)
        narrow = ir.Value(name=tensor.name, shape=value.shape, type=kind, const_value=tensor)
        model.graph.register_initializer(narrow)
        value.replace_all_uses_with(cast(narrow, ir.DataType.FLOAT, first))
        del model.graph.initializers[str(value.name)]
    return model


def in_levels(count: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return what rounds each row of a weight to so many levels on each side of zero."""

    def rounded(array: np.ndarray) -> np.ndarray:
        step = np.abs(array).max(axis=tuple(range(1, array.ndim)), keepdims=True) / count
        return np.round(array / step) * step

    return rounded


def coarse(case: Case, count: int = 127) -> ir.Model:
    """Return the float32 graph with one weight in 8 bits."""
    weight = next(n for n in case.model.graph.initializers if n.endswith("conv_mid.weight"))
    return with_weight(case.model, weight, in_levels(count))


@pytest.mark.parametrize("half", [FP16, BF16])
def test_right_mixed_files_pass(half: Precision, case: Case, tmp_path: Path) -> None:
    """Half arithmetic in places, half storage of all weights or of some, and all of it in half."""
    right = {
        "attention": there_and_back(case.model, HALF[half], "MatMul"),
        "convolutions": there_and_back(case.model, HALF[half], "Conv"),
        "storage": stored(case.model, HALF[half]),
        "storage of some": stored(case.model, HALF[half], lambda name: "conv_in" in name),
        "all": to_precision(case.model, half, FP32),
    }
    for name, model in right.items():
        report = judged(case, model, tmp_path / "net.onnx")
        assert report.passed, name
        assert {row.precision for row in report.rows} == {half}
        assert any(row.in_float32 for row in report.rows)
        measured = [row.in_float32 for row in report.rows if row.in_float32]
        has_half_weights = name in ("storage", "storage of some", "all")
        assert any(each.moved_rms > 0 for each in measured) is has_half_weights, name


@pytest.mark.parametrize("operator", ["MatMul", "Conv", "Softmax"])
def test_half_arithmetic_does_not_excuse_float32_weights(
    operator: str, case: Case, tmp_path: Path
) -> None:
    """In bfloat16 they pass without the criterion: all other reasons are absent."""
    mixed = there_and_back(coarse(case), ir.DataType.BFLOAT16, operator)
    report = judged(case, mixed, tmp_path / "net.onnx")
    assert {row.failure for row in report.rows if row.failure} == {WRONG_IN_FLOAT32}
    assert [finding.symptom for finding in report.findings] == ["wrong in float32"]


def test_a_few_half_weights_do_not_excuse_the_others(case: Case, tmp_path: Path) -> None:
    mixed = stored(coarse(case), ir.DataType.BFLOAT16, lambda name: name.endswith("out.bias"))
    report = judged(case, mixed, tmp_path / "net.onnx")
    assert {row.failure for row in report.rows if row.failure} == {WRONG_IN_FLOAT32}


@pytest.mark.parametrize("factor", [1.0, 255.0])
def test_constants_that_are_exact_excuse_nothing(factor: float, case: Case, tmp_path: Path) -> None:
    """A half factor that no rounding has changed."""
    model = coarse(case)
    node = next(n for n in model.graph if n.op_type == "Conv")
    one = np.array(factor, ml_dtypes.bfloat16)
    weight = node.inputs[1]
    assert weight is not None
    for name, array in (("half", one), ("again", np.array(factor, np.float32))):
        tensor = ir.tensor(array, name=name)
        kind = ir.TensorType(tensor.dtype)
        value = ir.Value(name=name, shape=ir.Shape([]), type=kind, const_value=tensor)
        model.graph.register_initializer(value)
    wide = cast(model.graph.initializers["half"], ir.DataType.FLOAT, node)
    up = ir.node("Mul", [weight, wide], name="up")
    down = ir.node("Div", [up.outputs[0], model.graph.initializers["again"]], name="down")
    up.outputs[0].name, down.outputs[0].name = "up", "down"
    node.prepend([up, down])
    node.replace_input_with(1, down.outputs[0])
    report = judged(case, model, tmp_path / "net.onnx")
    assert WRONG_IN_FLOAT32 in {row.failure for row in report.rows}


@pytest.mark.parametrize("half", [FP16, BF16])
def test_logits_too(half: Precision, glyphs: Case, tmp_path: Path) -> None:
    """A classifier with a weight in few bits fails beside a half node; in half it passes."""
    path = tmp_path / "net.onnx"
    report = judged(glyphs, to_precision(glyphs.model, half, FP32), path)
    assert report.passed
    row = max(report.rows, key=lambda row: row.reference_peak)
    assert row.reference_peak > 1
    assert row.in_float32 is not None
    assert 0 < row.in_float32.found.max_abs < row.found.max_abs  # in the same unit
    operator = next(
        n.op_type for n in glyphs.model.graph if n.op_type in ("Conv", "MatMul", "Gemm")
    )
    assert judged(glyphs, there_and_back(glyphs.model, HALF[half], operator), path).passed
    largest = max(
        (v for v in glyphs.model.graph.initializers.values() if v.dtype == ir.DataType.FLOAT),
        key=lambda value: array_of(value).size,
    )
    count = 500 if half is BF16 else 4000
    wrong = with_weight(glyphs.model, str(largest.name), in_levels(count))
    report = judged(glyphs, there_and_back(wrong, HALF[half], operator), path)
    assert {row.failure for row in report.rows if row.failure} == {WRONG_IN_FLOAT32}


def test_weights_move_by_half_a_step() -> None:
    """Every one, except for those that nothing was rounded to; draws differ and repeat."""
    for kind in (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)):
        values = [0.3, -0.3, 1000.5, 1.8e-7, 300.0, 1.0, 0.5, 255.0, 0.0, np.inf]
        weights = np.array(values, np.float32).astype(kind)
        moved = [array_of(_only_weight(weights, draw)) for draw in (0, 1, 1, 2)]
        wide = weights.astype(np.float32)
        np.testing.assert_array_equal(moved[0], wide)
        np.testing.assert_array_equal(moved[1], moved[2])
        assert (moved[1] != moved[3]).any()
        steps = np.abs(moved[1][:5] - wide[:5])
        nearest = np.nextafter(weights[:5], np.array(np.inf, kind)).astype(np.float32)
        np.testing.assert_allclose(steps, np.abs(nearest - wide[:5]) / 2, rtol=1e-6)
        np.testing.assert_array_equal(moved[1][5:], wide[5:])


def _only_weight(weights: np.ndarray, draw: int) -> ir.Value:
    tensor = ir.tensor(weights, name="weight")
    kind = ir.TensorType(tensor.dtype)
    given, weight = (
        ir.Value(name=name, shape=ir.Shape(weights.shape), type=kind) for name in ("x", "weight")
    )
    weight.const_value = tensor
    node = ir.node("Add", [given, weight], name="add")
    node.outputs[0].name, node.outputs[0].type = "y", kind
    graph = ir.Graph(
        [given], node.outputs, nodes=[node], initializers=[weight], opset_imports={"": 20}
    )
    return unrounded_model(ir.Model(graph, ir_version=9), draw).graph.initializers["weight"]


def test_a_file_of_large_pictures_alone_is_measured_on_one(tmp_path: Path) -> None:
    """On an excerpt of a large photograph, as the verdict itself is."""
    case = case_of(tiny_checkpoint(tmp_path / "net.safetensors", "realtime"), upsampler_alpha=0.0)
    probes = [large_probe(3, Size(*size)) for size in ((264, 272), (272, 264))]
    for model, passes in ((case.model, True), (coarse(case, 31), False)):
        path = tmp_path / "net.onnx"
        mixed = there_and_back(model, ir.DataType.BFLOAT16, "Gelu")
        path.write_bytes(ir.to_proto(mixed).SerializeToString())
        reference = case.reference
        candidate = open_candidate(
            read_artifact(path), reference.inputs, reference.outputs
        ).candidate
        rows = verify(reference, [candidate], probes).rows
        assert all(row.is_large for row in rows)
        assert [row.in_float32 is None for row in rows] == [False, True]
        failures = {row.failure for row in rows if row.failure}
        assert failures == (set() if passes else {WRONG_IN_FLOAT32})
