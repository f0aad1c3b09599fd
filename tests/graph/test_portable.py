"""Portable files hold plain operators only, and what cannot be expressed in them is refused."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from paragon_export.errors import PlanError
from paragon_export.graph.onnx_io import OnnxFile, metadata_of, read_onnx, read_onnx_file
from paragon_export.graph.portable import PORTABLE_OPERATORS, check_portable
from paragon_export.networks.describe import load_network
from paragon_export.pipeline.export import export_onnx
from paragon_export.pipeline.float32_graph import finish, float32_graph
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.types import Precision, Runtime, Size
from paragon_export.testing.tiny import tiny_checkpoint

DOCUMENT = Path(__file__).parents[2] / "docs" / "how-to" / "other-programs.md"


def exported(variant: str, folder: Path, **options: object) -> OnnxFile:
    """Return an export that was neither checked nor judged."""
    network = load_network(tiny_checkpoint(folder / "net.safetensors", variant))
    plan = ExportPlan(checkpoint=network.checkpoint.path, output=folder / "net.onnx", **options)  # type: ignore[arg-type]
    graph = float32_graph(network, plan)
    return finish(graph, graph.model, plan)


@pytest.mark.parametrize("variant", ["realtime", "stream"])
def test_a_portable_file_has_plain_operators(variant: str, tmp_path: Path) -> None:
    """It passes its verdict, is recorded as portable, and has the oldest operator set."""
    checkpoint = tiny_checkpoint(tmp_path / "net.safetensors", variant)
    output = tmp_path / "net.onnx"

    result = export_onnx(checkpoint, output, runtime="portable")

    assert result.passed
    model = onnx.load(output)
    assert {node.op_type for node in model.graph.node} <= PORTABLE_OPERATORS
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    assert metadata_of(read_onnx(output)).runtime == "portable"
    assert set(result.fired) <= {"fold_gains", "split_concat", "split_halves"}


@pytest.mark.parametrize("variant", ["realtime", "stream"])
def test_the_default_export_is_not_portable(variant: str, tmp_path: Path) -> None:
    """The check would see a rewrite that slipped in."""
    with pytest.raises(PlanError, match=r"ScatterElements|Expand"):
        check_portable(exported(variant, tmp_path).model, variant)


@pytest.mark.parametrize(
    ("variant", "options", "operator"),
    [
        ("photo", {}, "MatMul"),
        ("photo", {"attention_mode": "none"}, "Div, ReduceMean, Sqrt"),
        ("pro", {}, "Gather"),
    ],
)
def test_what_needs_other_operators_is_refused(
    variant: str, options: dict[str, str], operator: str, tmp_path: Path
) -> None:
    """By name, and nothing is written."""
    network = load_network(tiny_checkpoint(tmp_path / "net.safetensors", variant), **options)
    with pytest.raises(PlanError, match=rf"{variant} network needs .*{operator}"):
        export_onnx(network, tmp_path / "net.onnx", runtime="portable", static="24x24")
    assert not (tmp_path / "net.onnx").exists()


def test_the_documentation_lists_the_operators() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert {name for name in PORTABLE_OPERATORS if f"`{name}`" not in text} == set()


def test_video_is_refused(tmp_path: Path) -> None:
    network = load_network(tiny_checkpoint(tmp_path / "net.safetensors"))
    with pytest.raises(PlanError, match="needs Equal, Where"):
        export_onnx(network, tmp_path / "net.onnx", runtime="portable", video=True)


def test_rows_and_columns_are_not_cut(tmp_path: Path) -> None:
    """Channels may be cut and joined."""
    for axis, wrong in ((1, ""), (2, "Slice of rows or columns"), (3, "Slice of rows or columns")):
        integers = [
            helper.make_tensor(name, TensorProto.INT64, [1], [value])
            for name, value in (("start", 0), ("end", 2), ("axis", axis))
        ]
        node = helper.make_node("Slice", ["input", "start", "end", "axis"], ["output"])
        ports = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 4, 4])
            for name in ("input", "output")
        ]
        graph = helper.make_graph([node], "cut", ports[:1], ports[1:], integers)
        path = tmp_path / f"{axis}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
        model = read_onnx_file(path).model
        if wrong:
            with pytest.raises(PlanError, match=wrong):
                check_portable(model, "net")
        else:
            check_portable(model, "net")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"precision": Precision.FP16}, "ncnn cannot load"),
        ({"precision": Precision.BF16}, "ncnn cannot load"),
        ({"static": Size(1, 8)}, "one row or column"),
        ({"static": Size(8, 1)}, "one row or column"),
        ({"rewrite": False}, "--no-rewrite forbids"),
        ({"opset": 17}, "use 18 to 23"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], word: str) -> None:
    with pytest.raises(PlanError, match=word):
        ExportPlan(
            checkpoint=Path("a"), output=Path("a.onnx"), runtime=Runtime.PORTABLE, **options  # type: ignore[arg-type]
        )  # fmt: skip
