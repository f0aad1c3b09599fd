"""The verdict on logits can fail: every wrong variant of the classifier turns it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

from paragon_export.engines.manifest import Manifest
from paragon_export.engines.open import classifier_ports
from paragon_export.errors import PlanError
from paragon_export.inputs.glyph_probes import GLYPHS, glyph_batch, glyph_probes
from paragon_export.networks.glyph.network import ConvUnit, GlyphClassifier, ResidualBlock
from paragon_export.parity.candidates import Candidate
from paragon_export.parity.compare import verify
from paragon_export.parity.metrics import wrong_top1
from paragon_export.parity.reference import TorchReference
from paragon_export.parity.report import ParityReport
from paragon_export.runtimes.base import Arrays, Runner
from paragon_export.runtimes.openvino_runner import OpenVinoRunner
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.runtimes.torch_runner import TorchRunner
from paragon_export.specs.network import Port
from paragon_export.specs.plans import EnginePlan
from paragon_export.specs.ports import FixedExtents
from paragon_export.specs.profiles import BatchProfile, Profile
from paragon_export.specs.types import Precision, Size
from paragon_export.system.atomic_write import sha256_of
from paragon_export.testing.glyph import SMALL, SMALL_CELLS, reference_of, small_checkpoint
from tests.conftest import RunHere
from tests.networks.test_glyph import to_onnx

pytestmark = pytest.mark.usefixtures("foreign_files_here")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("verdict")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    return small_checkpoint(folder / "small.pt")


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> TorchReference:
    return reference_of(checkpoint)


@pytest.fixture(scope="module")
def exported(reference: TorchReference) -> bytes:
    return to_onnx(reference)


def judged(
    reference: TorchReference, runner: Runner, precision: Precision = Precision.FP32
) -> ParityReport:
    """Judge on all probes but the slow one, which is fed one glyph at a time."""
    candidate = Candidate(name="candidate", runner=runner, precision=precision)
    probes = [probe for probe in glyph_probes(reference.inputs[0]) if probe.batch > 1]
    return verify(reference, [candidate], probes)


# --- sabotage -----------------------------------------------------------------------------


class SwappedAxes(GlyphClassifier):
    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids.transpose(1, 2))


class OffByOne(GlyphClassifier):
    def forward(self, ids: Tensor) -> Tensor:
        return super().forward((ids - 1).clamp_min(0))


class ActivationAfterAddition(ResidualBlock):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv2.act(x + self.conv2.bn(self.conv2.conv(self.conv1(x))))


class NoActivationAfterConv2(ResidualBlock):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2.bn(self.conv2.conv(self.conv1(x)))


def become(kind: type[nn.Module]) -> Callable[[nn.Module], None]:
    """Let every module whose base ``kind`` extends compute as ``kind`` does."""

    def change(network: nn.Module) -> None:
        for module in network.modules():
            if type(module) is kind.__base__:
                module.__class__ = kind

    return change


def tanh_gelu(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.GELU):
            module.approximate = "tanh"


def epsilon(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3


def layer_norm_epsilon(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6


def masked_zero(network: nn.Module) -> None:
    network.get_parameter("embedding.weight")[0] = 0


def swapped_classes(network: nn.Module) -> None:
    for name in ("classifier.4.weight", "classifier.4.bias"):
        tensor = network.get_parameter(name)
        tensor[[3, 4]] = tensor[[4, 3]]


def asymmetric_padding(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, ConvUnit) and module.conv.stride == (2, 2):
            module.conv.padding = (0, 0)
            module.conv = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), module.conv)  # type: ignore[assignment]


SABOTAGE: dict[str, Callable[[nn.Module], None]] = {
    "rows and columns swapped": become(SwappedAxes),
    "IDs off by one": become(OffByOne),
    "tanh GELU": tanh_gelu,
    "bn_eps 1e-3": epsilon,
    "layer norm eps 1e-6": layer_norm_epsilon,
    "ID 0 masked": masked_zero,
    "no activation after conv2": become(NoActivationAfterConv2),
    "activation after the addition": become(ActivationAfterAddition),
    "two classes swapped": swapped_classes,
    "asymmetric padding": asymmetric_padding,
}


@pytest.mark.parametrize("sabotage", SABOTAGE.values(), ids=SABOTAGE)
def test_a_wrong_network_fails(
    sabotage: Callable[[nn.Module], None], reference: TorchReference
) -> None:
    """No wrong variant passes."""
    network = copy.deepcopy(reference.module)
    sabotage(network)

    report = judged(reference, TorchRunner(network, ["input"], ["output"]))

    assert not report.passed
    assert report.worst is not None
    assert report.worst.failure == "error"


def test_the_right_network_passes(reference: TorchReference, exported: bytes) -> None:
    """An untouched copy passes the very verdict that wrong ones fail, and so do both runtimes."""
    network = copy.deepcopy(reference.module)
    for runner in (
        TorchRunner(network, ["input"], ["output"]),
        OnnxRunner(exported),
        OpenVinoRunner(exported),
    ):
        assert judged(reference, runner).passed


class Spoilt:
    """A runner whose output is spoilt."""

    def __init__(self, runner: Runner, spoil: Callable[[np.ndarray], Arrays]) -> None:
        self.name, self.runner, self.spoil = "spoilt", runner, spoil

    def infer(self, feeds: Any) -> Arrays:
        return self.spoil(self.runner.infer(feeds)["output"])


@pytest.mark.parametrize(
    ("spoil", "failure"),
    [
        (lambda y: {"output": y * np.nan}, "non-finite"),
        (lambda y: {"output": np.where(y == y.max(), np.inf, y)}, "non-finite"),
        (lambda y: {"output": np.zeros_like(y)}, "constant"),
        (lambda y: {"output": y[:, :-1]}, "wrong shape"),
        (lambda y: {"output": y[:1]}, "wrong shape"),
        (lambda y: {"other": y}, "output missing"),
        (lambda y: {"output": y + 1e-4}, "error"),
        (lambda y: {"output": np.exp(y) / np.exp(y).sum(1, keepdims=True)}, "error"),
    ],
)
def test_spoilt_output_fails_by_name(
    spoil: Callable[[np.ndarray], Arrays], failure: str, reference: TorchReference, exported: bytes
) -> None:
    """Not a number, one value for all, another shape, no output, and softmax left in the graph."""
    report = judged(reference, Spoilt(OnnxRunner(exported), spoil))
    failures = {row.failure for row in report.rows}

    assert not report.passed
    assert any(told.startswith(failure) for told in failures), failures


def test_a_best_class_that_differs_fails(reference: TorchReference) -> None:
    """Where the error allows it but the gap does not: named apart, and only beyond the gap."""
    truth = np.array([[0.0, 1.0, 0.9], [0.0, 0.50001, 0.5]])
    found = np.array([[0.0, 0.8, 0.95], [0.0, 0.5, 0.50001]])
    assert wrong_top1(found, truth, allowed=0.05) == 1
    assert wrong_top1(found, truth, allowed=0.2) == 0
    assert wrong_top1(found, truth, allowed=0.0) == 2
    report = judged(reference, reference.runner("float32"))
    assert report.passed
    row = replace(report.rows[0], wrong_top1=1)
    assert row.failure == "top-1"
    assert not replace(report, rows=(row,)).passed
    assert row.to_json()["wrong_top1"] == 1


def test_half_precision_is_judged_by_what_pytorch_errs(reference: TorchReference) -> None:
    """PyTorch's own half passes as half and fails as float32; overflow is no excuse."""
    half = reference.runner("float16")
    assert judged(reference, half, Precision.FP16).passed
    assert not judged(reference, half, Precision.FP32).passed
    assert not judged(reference, reference.runner("bfloat16"), Precision.FP16).passed
    row = judged(reference, half, Precision.FP16).rows[0]
    assert replace(row, reference_max_abs=np.inf).limit == 0.05


def test_probes_are_those_wanted() -> None:
    """The same every time; 0 and the last ID occur; batches of 1, 2, 3 and 32."""
    port = Port("input", ("batch", 16, 16), "int64", span=(0, 299))
    probes = glyph_probes(port)
    for one, other in zip(probes, glyph_probes(port), strict=True):
        assert all((a == b).all() for a, b in zip(one.frames, other.frames, strict=True))
        whole = np.concatenate(one.frames)
        assert (whole.min(), whole.max(), whole.dtype) == (0, 299, np.dtype(np.int64))
        assert len(whole) == GLYPHS
    assert {probe.batch for probe in probes} == {1, 2, 3, 32}
    empty = np.concatenate([np.concatenate(p.frames) for p in probes if "glyph" in p.label]) == 0
    assert empty.mean() > 0.6
    assert glyph_batch(port, 70).shape == (70, 16, 16)
    cells = glyph_probes(Port("input", ("batch", 1, 8, 8), span=(0, 1)))
    assert {probe.batch for probe in cells} == {1, 2, 3, 32}


# --- what may be fed ----------------------------------------------------------------------

BAD = {
    "negative": (np.full((1, 16, 16), -1), "IDs from -1 to -1; expected IDs from 0 to 39"),
    "too large": (np.full((1, 16, 16), 40), "to 40; expected IDs from 0 to 39"),
    "float": (np.zeros((1, 16, 16)), "holds float64; expected integers"),
    "bool": (np.zeros((1, 16, 16), bool), "holds bool"),
    "unbatched": (np.zeros((16, 16), np.int64), "expected batch x 16 x 16"),
    "another grid": (np.zeros((1, 8, 8), np.int64), "expected batch x 16 x 16"),
}


@pytest.fixture(scope="module")
def runners(reference: TorchReference, exported: bytes) -> dict[str, Runner]:
    return {
        "PyTorch": reference.runner("float32"),
        "ONNX Runtime": OnnxRunner(exported),
        "OpenVINO": OpenVinoRunner(exported),
    }


@pytest.mark.parametrize("backend", ["PyTorch", "ONNX Runtime", "OpenVINO"])
@pytest.mark.parametrize("case", BAD)
def test_bad_grids_are_refused_alike(case: str, backend: str, runners: dict[str, Runner]) -> None:
    """One line, the same from every backend, before any of them sees the grid."""
    ids, said = BAD[case]
    with pytest.raises(PlanError) as error:
        runners[backend].infer({"input": ids})
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "uint64"])
def test_stored_grids_are_converted(dtype: str, runners: dict[str, Runner]) -> None:
    """Grids are stored as uint16; every integer type gives the same logits in every backend."""
    ids = np.random.default_rng(0).integers(0, 40, (3, 16, 16))
    for runner in runners.values():
        wide, stored = (runner.infer({"input": i})["output"] for i in (ids, ids.astype(dtype)))
        assert (wide == stored).all()


def test_cells_are_checked(tmp_path: Path) -> None:
    """Phase 1 takes [0, 1]: scaling is the caller's, and a forgotten one is told."""
    reference = reference_of(small_checkpoint(tmp_path / "cells.pt", SMALL_CELLS))
    data = to_onnx(reference)
    for runner in (reference.runner("float32"), OnnxRunner(data), OpenVinoRunner(data)):
        with pytest.raises(PlanError, match=r"from 0\.0 to 255\.0"):
            runner.infer({"input": np.eye(8, dtype=np.float32)[None, None] * 255})
        with pytest.raises(PlanError, match="expected floating point"):
            runner.infer({"input": np.eye(8, dtype=np.uint8)[None, None]})


# --- the command line ---------------------------------------------------------------------


def test_export_parity_and_both_backends(
    checkpoint: Path, run_here: RunHere, tmp_path: Path
) -> None:
    """Exported, judged in both runtimes, and the file says what may be fed to it."""
    import onnx

    done = run_here("onnx", checkpoint, "-o", "small.onnx", "--json")
    assert done.code == 0, done.stderr
    report = json.loads(done.stdout)
    assert {row["batch"] for row in report["rows"]} == {1, 2, 3, 32}
    facts = {p.key: p.value for p in onnx.load(tmp_path / "small.onnx").metadata_props}
    assert (facts["vocabulary"], facts["classes"], facts["value_range"]) == ("40", "23", "[0, 39]")
    assert "colour_order" not in facts
    both = ("--backend", "onnxruntime", "--backend", "openvino")
    done = run_here("parity", checkpoint, "small.onnx", *both, "--json")
    assert done.code == 0, done.stderr
    names = {row["candidate"] for row in json.loads(done.stdout)["rows"]}
    assert names == {"small.onnx", "small.onnx in OpenVINO"}
    other = small_checkpoint(tmp_path / "other.pt", salt="other")
    judge_it = ("parity", other, "small.onnx", "--backend", "openvino")
    assert run_here(*judge_it).code == 3
    assert run_here(*judge_it, "--other-checkpoint").code == 1
    assert run_here("parity", checkpoint, "small.onnx", "--sizes", "9x9").code == 3


def test_another_kind_of_network_fails_and_is_no_crash(
    checkpoint: Path, tiny_realtime: Path, run_here: RunHere, tmp_path: Path
) -> None:
    """A classifier of fewer IDs or of pictures beside it: a verdict, not a refusal to judge."""
    few = small_checkpoint(tmp_path / "few.pt", replace(SMALL, vocabulary=30))
    for path, name in ((few, "few.onnx"), (tiny_realtime, "pictures.onnx")):
        assert run_here("onnx", path, "-o", name).code == 0
        done = run_here("parity", checkpoint, name, "--other-checkpoint", "--json")
        assert done.code == 1, done.stderr
        report = json.loads(done.stdout)
        wrong = ("cannot run", "wrong shape of output: 4 dimensions, expected 2")
        assert all(row["failure"].startswith(wrong) for row in report["rows"])


@pytest.mark.parametrize("flag", ["--fp16", "--bf16"])
def test_half_export(flag: str, checkpoint: Path, run_here: RunHere, tmp_path: Path) -> None:
    """IDs stay int64, logits float32; OpenVINO would hide overflow and may not judge it."""
    import onnx

    done = run_here("onnx", checkpoint, flag, "-o", "half.onnx", "--json")
    assert done.code == 0, done.stdout + done.stderr
    (ids,), (logits,) = (
        [v.type.tensor_type.elem_type for v in values]
        for graph in [onnx.load(tmp_path / "half.onnx").graph]
        for values in (graph.input, graph.output)
    )
    assert (ids, logits) == (onnx.TensorProto.INT64, onnx.TensorProto.FLOAT)
    done = run_here("parity", checkpoint, "half.onnx", "--backend", "openvino")
    assert done.code == 3
    assert "hide every overflow" in done.stderr


@pytest.mark.parametrize(
    "args", [("--static", "16x16"), ("--video",), ("--upsampler-alpha", "0")], ids=" ".join
)
def test_what_is_for_pictures_is_refused(
    args: tuple[str, ...], checkpoint: Path, run_here: RunHere, tmp_path: Path
) -> None:
    done = run_here("onnx", checkpoint, "-o", "n.onnx", *args)
    assert (done.code, len(done.stderr.splitlines())) == (3, 1)
    assert not (tmp_path / "n.onnx").exists()


def test_bench_by_batch(
    checkpoint: Path, exported: bytes, run_here: RunHere, tmp_path: Path
) -> None:
    """Glyphs a second at each batch, of both runtimes; a size of pictures is refused."""
    (tmp_path / "small.onnx").write_bytes(exported)
    args = ("--batch", "1", "--batch", "3", "--backend", "onnxruntime", "--backend", "openvino")
    done = run_here("bench", "small.onnx", *args, "--json", "--report", "r.md")
    rows = [row for row in json.loads(done.stdout)["rows"] if "reason" not in row]
    measured = {(row["backend"], row["batch"]) for row in rows}
    assert measured == {(f"{b} CPU", n) for b in ("ONNX Runtime", "OpenVINO") for n in (1, 3)}
    assert all(row["fps"] == pytest.approx(1000 * row["batch"] / row["median_ms"]) for row in rows)
    assert "16x16 x3" in (tmp_path / "r.md").read_text()
    assert run_here("bench", "small.onnx", "--size", "16x16").code == 3


def test_engine_of_a_range_of_batches(checkpoint: Path, run_here: RunHere, tmp_path: Path) -> None:
    """Built ahead of time for 1 to 256 glyphs unless told otherwise; reused; sizes are refused."""
    done = run_here("trt", checkpoint, "--target", "sm86", "-o", "n.engine", "--json")
    assert done.code == 0, done.stderr
    manifest = json.loads((tmp_path / "n.engine.json").read_text())
    assert manifest["profile"] == {"min": 1, "opt": 32, "max": 256}
    assert manifest["engine_sha256"] == sha256_of(tmp_path / "n.engine")
    assert manifest["kernels"] is None
    assert manifest["parity"]["passed"] is True
    (port,) = classifier_ports(Manifest.from_document(manifest))
    assert (port.dims[1:], port.dtype, port.span) == ((16, 16), "int64", (0, 39))
    again = run_here("trt", checkpoint, "--target", "sm86", "-o", "n.engine", "--json")
    assert json.loads(again.stdout)["cached"] is True
    batches = ("--min", "1", "--opt", "4", "--max", "8")
    other = run_here("trt", checkpoint, "--target", "sm86", "-o", "n.engine", *batches, "--json")
    assert json.loads(other.stdout)["profile"] == {"min": 1, "opt": 4, "max": 8}
    sizes = ("--min", "1x1", "--opt", "4x4", "--max", "8x8")
    done = run_here("trt", checkpoint, "--target", "sm86", "-o", "m.engine", *sizes)
    assert (done.code, "range of batches" in done.stderr) == (3, True)


def test_batches_are_for_classifiers() -> None:
    plan = EnginePlan(source=Path("n.pt"), output=Path("n.engine"), profile=BatchProfile())
    with pytest.raises(PlanError, match="glyph classifiers"):
        plan.profile_for(FixedExtents())
    with pytest.raises(PlanError, match="must rise"):
        BatchProfile(smallest=4, optimal=2)
    size = Size(4, 4)
    sizes = Profile(smallest=size, optimal=size, largest=size)
    with pytest.raises(PlanError, match="has one grid size"):
        replace(plan, profile=sizes).batches()
