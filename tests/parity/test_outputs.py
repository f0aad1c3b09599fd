"""Outputs of a candidate are checked first: number, names, types and shapes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from paragon_export.inputs.probes import Probe
from paragon_export.networks.describe import read_network
from paragon_export.parity.candidates import Candidate
from paragon_export.parity.compare import verify
from paragon_export.parity.metrics import Difference
from paragon_export.parity.reference import build_reference
from paragon_export.parity.report import ParityReport, ParityRow
from paragon_export.pipeline.export import export
from paragon_export.runtimes.base import Arrays
from paragon_export.specs.plans import ExportPlan, NetworkOptions
from paragon_export.specs.types import Precision, Runtime, Size
from tests.conftest import RunHere

pytestmark = pytest.mark.usefixtures("foreign_files_here")

SMALL = ("--sizes", "9x12", "--upsampler-alpha", "0")


@pytest.fixture(scope="module")
def good(tiny_realtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = ExportPlan(
        checkpoint=tiny_realtime,
        output=tmp_path_factory.mktemp("good") / "good.onnx",
        options=NetworkOptions(flags={"upsampler_alpha": 0.0}),
    )
    assert export(plan).passed
    return plan.output


def add(model: onnx.ModelProto, node: onnx.NodeProto, name: str, kind: int, dims: Any) -> None:
    model.graph.node.append(node)
    model.graph.output.append(helper.make_tensor_value_info(name, kind, dims))


def rename_output(model: onnx.ModelProto) -> None:
    """Let the node that makes the output give ``picture`` instead."""
    for node in model.graph.node:
        node.output[:] = ["picture" if name == "output" else name for name in node.output]
    del model.graph.output[:]


PICTURE = ["batch", 3, "2*height", "2*width"]


def extra_scalar(model: onnx.ModelProto) -> None:
    node = helper.make_node("ReduceMax", ["output"], ["most"], keepdims=0)
    add(model, node, "most", TensorProto.FLOAT, [])


def extra_picture(model: onnx.ModelProto) -> None:
    add(model, helper.make_node("Relu", ["output"], ["again"]), "again", TensorProto.FLOAT, PICTURE)


def the_same_twice(model: onnx.ModelProto) -> None:
    model.graph.output.append(model.graph.output[0])


def extra_text(model: onnx.ModelProto) -> None:
    node = helper.make_node("Cast", ["output"], ["words"], to=TensorProto.STRING)
    add(model, node, "words", TensorProto.STRING, PICTURE)


def double(model: onnx.ModelProto) -> None:
    rename_output(model)
    node = helper.make_node("Cast", ["picture"], ["output"], to=TensorProto.DOUBLE)
    add(model, node, "output", TensorProto.DOUBLE, PICTURE)


def text(model: onnx.ModelProto) -> None:
    rename_output(model)
    node = helper.make_node("Cast", ["picture"], ["output"], to=TensorProto.STRING)
    add(model, node, "output", TensorProto.STRING, PICTURE)


def scalar(model: onnx.ModelProto) -> None:
    rename_output(model)
    node = helper.make_node("ReduceMax", ["picture"], ["output"], keepdims=0)
    add(model, node, "output", TensorProto.FLOAT, [])


def without_a_batch(model: onnx.ModelProto) -> None:
    rename_output(model)
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1]), "all"))
    node = helper.make_node("Reshape", ["picture", "all"], ["output"])
    add(model, node, "output", TensorProto.FLOAT, ["all"])


WRONG: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "extra scalar": (extra_scalar, "wrong outputs ['output', 'most'], expected ['output']"),
    "extra picture": (extra_picture, "wrong outputs ['output', 'again'], expected ['output']"),
    "extra text": (extra_text, "wrong outputs ['output', 'words'], expected ['output']"),
    "double": (double, "wrong type of output: double, expected float32 or half"),
    "text": (text, "wrong type of output: string, expected float32 or half"),
    "scalar": (scalar, "wrong shape of output: 0 dimensions, expected 4"),
    "no batch": (without_a_batch, "wrong shape of output: 1 dimensions, expected 4"),
}


@pytest.mark.parametrize(("change", "reason"), WRONG.values(), ids=WRONG.keys())
def test_wrong_outputs_fail_with_a_reason(
    change: Callable[[onnx.ModelProto], None],
    reason: str,
    good: Path,
    tiny_realtime: Path,
    tmp_path: Path,
    run_here: RunHere,
) -> None:
    """The verdict fails with exit code 1, in words, and without running the file."""
    assert run_here("parity", tiny_realtime, good, *SMALL).code == 0
    model = onnx.load(good)
    change(model)
    onnx.save(model, tmp_path / "bad.onnx")
    done = run_here("parity", tiny_realtime, "bad.onnx", *SMALL, "--json")
    assert done.code == 1, done.stderr
    told = json.loads(done.stdout)
    assert {row["failure"] for row in told["rows"]} == {reason}
    (finding,) = told["looks_like"]
    assert finding["symptom"] == " ".join(reason.split()[:2])


def test_one_output_twice_is_refused(
    good: Path, tiny_realtime: Path, tmp_path: Path, run_here: RunHere
) -> None:
    model = onnx.load(good)
    the_same_twice(model)
    onnx.save(model, tmp_path / "bad.onnx")
    assert run_here("parity", tiny_realtime, "bad.onnx", *SMALL).code in (1, 3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda found: {**found, "more": found["output"] * 2}, "wrong outputs"),
        (lambda found: {"output": found["output"].astype(np.float64)}, "wrong type float64"),
        (lambda found: {"output": np.float32(1)}, "expected batches of one shape"),
        (lambda found: {"output": found["output"][0]}, "wrong shape"),
        (lambda found: {}, "output missing"),
    ],
    ids=["extra", "double", "scalar", "no batch", "none"],
)
def test_what_an_engine_gives_is_checked_as_it_comes(
    change: Callable[[Arrays], Arrays], reason: str, tiny_realtime: Path
) -> None:
    """An engine's outputs are known only when it has run."""
    reference = build_reference(read_network(tiny_realtime, NetworkOptions()))

    class Engine:
        name = "engine"

        def infer(self, feeds: Arrays) -> Arrays:
            return change(reference.runner("float32").infer(feeds))

    picture = np.random.default_rng(0).random((1, 3, 9, 12), dtype=np.float32)
    probe = Probe(label="noise", size=Size(9, 12), frames=(picture, picture))
    candidate = Candidate(name="engine", runner=Engine(), precision=Precision.FP32)
    report = verify(reference, [candidate], [probe])
    assert not report.passed
    assert reason in report.rows[0].fault


# --- the export that falls back ------------------------------------------------------------


@pytest.mark.parametrize("runtime", [r for r in Runtime if r is not Runtime.PORTABLE])
def test_as_trained_is_tried_for_every_runtime(
    runtime: Runtime, tiny_realtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where rewriting costs a half export its verdict, the network is exported as trained."""
    from paragon_export.parity import check as judging

    real = judging.judge

    def fail_rewritten(reference: Any, files: Any, plan: Any) -> ParityReport:
        report = real(reference, files, plan)
        if json.loads(files[0].model.metadata_props["rewrites"]):
            worst = Difference(1.0, 0.0, 1.0, 1.0, True, False)
            rows = [_with(row, worst) for row in report.rows]
            return ParityReport(rows=tuple(rows))
        return report

    monkeypatch.setattr(judging, "judge", fail_rewritten)
    plan = ExportPlan(
        checkpoint=tiny_realtime,
        output=tmp_path / "net.onnx",
        precision=Precision.FP16,
        runtime=runtime,
        static=Size(9, 12),
    )
    result = export(plan)
    assert result.passed
    assert result.fired == {}
    assert "exported as trained: rewritten it fails in fp16" in result.remarks[0]


def _with(row: ParityRow, found: Difference) -> ParityRow:
    from dataclasses import replace

    return replace(row, found=found)
