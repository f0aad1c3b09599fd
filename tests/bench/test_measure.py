"""Bench: every backend has its figures or its reason, measured in turn and at the very size."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paragon_export.bench.contenders import _compiled
from paragon_export.bench.measure import MAX_SAMPLES, MIN_SAMPLES, bench_runners, benchmark
from paragon_export.bench.report import BenchReport, BenchRow
from paragon_export.cli.show.bench import bench_markdown
from paragon_export.engines.kernels.estimate import Estimate
from paragon_export.engines.manifest import Manifest, manifest_path
from paragon_export.errors import OutOfMemoryError, ParagonExportError, PlanError, RunError
from paragon_export.networks.describe import load_network
from paragon_export.parity.reference import build_reference
from paragon_export.pipeline.export import export
from paragon_export.runtimes.base import Arrays, Runner
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.types import Size
from paragon_export.system.environment import cuda_gpu
from paragon_export.testing.tiny import tiny_checkpoint

pytestmark = pytest.mark.usefixtures("foreign_files_here")

SIZE = Size(16, 16)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_realtime: Path) -> Path:
    file = tmp_path_factory.mktemp("bench") / "model.onnx"
    export(ExportPlan(checkpoint=tiny_realtime, output=file))
    return file


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a network of one block, which is sooner compiled."""
    return tiny_checkpoint(tmp_path_factory.mktemp("one") / "one.safetensors", blocks=1, features=4)


@pytest.fixture(scope="module")
def measured(checkpoint: Path, model: Path) -> BenchReport:
    """Return a measurement of a checkpoint and an ONNX file; compiling takes a while.

    The file is first run in a process of its own, as for users.
    """
    return benchmark([checkpoint, model], sizes=[SIZE])


def row_of(report: BenchReport, artifact: str, backend: str) -> BenchRow:
    (row,) = [r for r in report.rows if r.artifact == artifact and r.backend.startswith(backend)]
    return row


def strict(text: str) -> Any:
    """Parse JSON as the standard has it: no NaN, no Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


# --- real backends -------------------------------------------------------------------------


@pytest.mark.processes
def test_every_backend_has_a_row(measured: BenchReport, checkpoint: Path, model: Path) -> None:
    """PyTorch, torch.compile and ONNX Runtime on CPU and CUDA are listed, whether they run or not."""
    backends = [(row.artifact, row.backend.split(" (")[0]) for row in measured.rows]
    assert backends == [
        (checkpoint.name, "PyTorch eager"),
        (checkpoint.name, "torch.compile"),
        (model.name, "ONNX Runtime CPU"),
        (model.name, "ONNX Runtime CUDA"),
    ]
    assert {row.size for row in measured.rows} == {SIZE}


@pytest.mark.processes
def test_every_row_has_samples_or_a_reason(measured: BenchReport) -> None:
    """A row holds between the fewest and the most samples, or says why it has none."""
    for row in measured.rows:
        assert bool(row.samples_ms) != bool(row.reason), row
        if row.samples_ms:
            assert MIN_SAMPLES <= len(row.samples_ms) <= MAX_SAMPLES
            assert min(row.samples_ms) > 0


@pytest.mark.parametrize("backend", ["PyTorch eager", "ONNX Runtime CPU"])
@pytest.mark.processes
def test_backends_that_run_anywhere(measured: BenchReport, backend: str) -> None:
    """PyTorch and ONNX Runtime run on any machine, and their figures agree with each other."""
    (row,) = [row for row in measured.rows if row.backend.startswith(backend)]
    assert row.reason == ""
    entry = row.to_json()
    assert entry["fps"] == pytest.approx(1000 / entry["median_ms"])
    assert 0 < entry["median_ms"] <= entry["p95_ms"]
    assert entry["samples"] == len(row.samples_ms)
    assert entry["peak_memory_mib"] is None or entry["peak_memory_mib"] >= 0


@pytest.mark.processes
def test_compiled_network(measured: BenchReport, checkpoint: Path) -> None:
    """torch.compile runs, or the reason names what the machine lacks."""
    row = row_of(measured, checkpoint.name, "torch.compile")
    assert row.samples_ms or len(row.reason) > 10
    assert "\n" not in row.reason


@pytest.mark.processes
def test_cuda_without_a_gpu(measured: BenchReport, model: Path) -> None:
    """Without CUDA the row says what to install; with it there are figures or its reason."""
    row = row_of(measured, model.name, "ONNX Runtime CUDA")
    if cuda_gpu() is None:
        assert not row.samples_ms
        assert "CUDA" in row.reason


def test_compiling_leaves_the_network_as_it_is(tiny_realtime: Path) -> None:
    """A float32 runner has the network itself, which other backends run as well."""
    reference = build_reference(load_network(tiny_realtime))
    runner = reference.runner("float32")
    assert runner.module is reference.module

    compiled = _compiled(runner)

    assert compiled.module._compiled_call_impl is not None
    assert reference.module._compiled_call_impl is None


def test_a_session_that_fell_back_is_no_cuda(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime that knows CUDA but lacks its libraries runs on the CPU, and is not timed."""
    import onnxruntime

    monkeypatch.setattr(
        onnxruntime, "get_available_providers",
        lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )  # fmt: skip
    monkeypatch.setattr(
        onnxruntime.InferenceSession, "get_providers", lambda _: ["CPUExecutionProvider"]
    )
    report = benchmark([model], sizes=[SIZE])
    assert row_of(report, model.name, "ONNX Runtime CPU").samples_ms
    row = row_of(report, model.name, "ONNX Runtime CUDA")
    assert not row.samples_ms
    assert "no working CUDA here" in row.reason
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]'" in row.reason


@pytest.mark.processes
def test_json_has_provenance(measured: BenchReport) -> None:
    """The JSON is strict and tells machine, versions, GPU and time."""
    document = measured.to_json()
    assert strict(json.dumps(document, allow_nan=False)) == document
    facts = document["environment"]
    assert facts["gpu"] == cuda_gpu()
    assert facts["cores"] > 0
    assert all(facts[name] for name in ("processor", "platform", "time"))
    assert {"torch", "onnxruntime", "paragon-export", "python"} <= set(facts["versions"])


@pytest.mark.processes
def test_markdown_is_a_table(measured: BenchReport) -> None:
    """The Markdown holds one table row for each backend, and where it was measured."""
    lines = bench_markdown(measured).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + len(measured.rows)
    assert {line.count("|") for line in table} == {table[0].count("|")}
    assert set(table[1]) <= set("|-: ")
    for row, line in zip(measured.rows, table[2:], strict=True):
        assert row.backend in line
        assert str(row.size) in line
        if row.samples_ms:
            assert f"{1000 / row.median_ms:.2f}" in line
        else:
            assert row.reason.replace("|", "/") in line
    text = "\n".join(lines)
    assert "onnxruntime" in text
    assert (cuda_gpu() or "none") in text


def test_grey_networks(tmp_path: Path) -> None:
    """A network of one channel is measured as any other."""
    checkpoint = tiny_checkpoint(tmp_path / "grey.safetensors", in_channels=1)
    file = tmp_path / "grey.onnx"
    export(ExportPlan(checkpoint=checkpoint, output=file))
    row = row_of(benchmark([file], sizes=[SIZE]), file.name, "ONNX Runtime CPU")
    assert row.reason == ""
    assert row.samples_ms


def test_size_that_a_model_refuses(tiny_realtime: Path, tmp_path: Path) -> None:
    """A static model at another size is a row with the reason, beside the one that it accepts."""
    file = tmp_path / "static.onnx"
    export(ExportPlan(checkpoint=tiny_realtime, output=file, static=SIZE))
    report = benchmark([file], sizes=[SIZE, Size(16, 17)])
    fits, refused = [row for row in report.rows if row.backend == "ONNX Runtime CPU"]
    assert fits.samples_ms
    assert "fixed to batch 1, height 16, width 16; it does not accept 16x17" in refused.reason


@pytest.mark.parametrize("content", [b"", b"no model"])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    """A file that is none of ours is an error, not a row."""
    file = tmp_path / "broken.onnx"
    file.write_bytes(content)
    with pytest.raises(ParagonExportError):
        benchmark([file], sizes=[SIZE])
    with pytest.raises(ParagonExportError):
        benchmark([tmp_path / "missing.safetensors"], sizes=[SIZE])


# --- the measurement itself ----------------------------------------------------------------


@dataclass
class Recorded:
    """A runner that doubles a picture's pixels and writes down when it is called."""

    name: str
    calls: list[tuple[str, tuple[int, ...]]]
    change: Callable[[np.ndarray], np.ndarray] = lambda picture: picture
    fails_at: int = 0
    error: type[ParagonExportError] = RunError
    count: int = field(default=0)

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        self.count += 1
        if self.count == self.fails_at:
            raise self.error("the device is gone")
        picture = feeds["input"]
        self.calls.append((self.name, picture.shape))
        return {"output": self.change(picture.repeat(2, axis=2).repeat(2, axis=3))}


def run(*runners: Recorded, size: Size = SIZE) -> BenchReport:
    opened: dict[str, Callable[[], Runner]] = {r.name: (lambda r=r: r) for r in runners}
    return bench_runners("artifact", opened, size)


def test_backends_take_turns() -> None:
    """After three warm-up runs each, the backends are sampled in turn, all at the same size."""
    calls: list[tuple[str, tuple[int, ...]]] = []
    report = run(Recorded("a", calls), Recorded("b", calls), size=Size(5, 9))
    assert {shape for _, shape in calls} == {(1, 3, 5, 9)}
    names = [name for name, _ in calls]
    assert names[:6] == ["a"] * 3 + ["b"] * 3
    sampled = names[6:]
    assert sampled == ["a", "b"] * (len(sampled) // 2)
    assert [len(row.samples_ms) for row in report.rows] == [len(sampled) // 2] * 2


def nan_in_one_pixel(picture: np.ndarray) -> np.ndarray:
    picture = picture.copy()
    picture[0, 0, -1, -1] = np.nan
    return picture


WRONG = {
    "NaN": nan_in_one_pixel,
    "infinity": lambda picture: picture + np.inf,
    "cropped": lambda picture: picture[:, :, 1:],
    "no whole scale": lambda picture: picture[..., :-3],
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG.keys())
def test_wrong_picture_is_a_reason(change: Callable[[np.ndarray], np.ndarray]) -> None:
    """A backend that gives no picture is not timed: its row says so, the others have figures."""
    good, bad = run(Recorded("good", []), Recorded("bad", [], change)).rows
    assert good.samples_ms
    assert not bad.samples_ms
    assert "wrong image" in bad.reason


def test_backend_that_cannot_be_opened_is_a_reason() -> None:
    """A backend that is missing, or whose driver breaks, is a row with one line."""

    def missing() -> Runner:
        raise PlanError("no such backend here")

    def broken() -> Runner:
        raise OSError("driver\nis broken")

    good = Recorded("good", [])
    report = bench_runners("a", {"x": missing, "y": broken, "good": lambda: good}, SIZE)
    assert [row.reason for row in report.rows] == [
        "no such backend here",
        "OSError: driver is broken",
        "",
    ]
    assert report.rows[2].samples_ms


@pytest.mark.parametrize("error", [RunError, OutOfMemoryError])
def test_backend_that_breaks_while_measured_is_a_reason(error: type[ParagonExportError]) -> None:
    """A backend that fails after its warm-up does not take the others' figures with it."""
    good, bad = run(Recorded("good", []), Recorded("bad", [], fails_at=4, error=error)).rows
    assert good.samples_ms
    assert "the device is gone" in bad.reason
    assert not bad.samples_ms


# --- estimates of engines ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpu", "size", "estimated"),
    [
        ("NVIDIA GeForce RTX 3060", SIZE, 0.25),
        ("NVIDIA GeForce RTX 3060", Size(16, 17), None),
        ("NVIDIA GeForce RTX 3060 Ti", SIZE, None),
        ("NVIDIA GeForce RTX 4090", SIZE, None),
        (None, SIZE, None),
    ],
)
def test_an_estimate_stands_beside_what_was_measured(
    gpu: str | None,
    size: Size,
    estimated: float | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is that of the manifest for this very card and size; without one there is no column."""
    estimate = Estimate(
        size=SIZE, card="RTX 3060", target="sm86", launches=2, streams=1, bytes_read=8,
        bytes_written=8, flops=8, kernels_of_unknown_flops=0,
        estimated_ms_by_group={"convolution": 0.15, "copy": 0.1},
    )  # fmt: skip
    engine = tmp_path / "e.engine"
    engine.write_bytes(b"recorded")
    manifest_path(engine).write_bytes(Manifest(kernels=(estimate,)).seal(b"recorded").to_bytes())
    monkeypatch.setattr("paragon_export.bench.contenders.cuda_gpu", lambda: gpu)
    runner = Recorded("TensorRT", [])
    monkeypatch.setattr("paragon_export.engines.open.open_engine", lambda _: (runner, None, None))
    report = benchmark([engine], sizes=[size])
    (row,) = report.rows

    assert row.samples_ms
    assert row.estimated_ms == row.to_json().get("estimated_ms") == estimated
    text = bench_markdown(report)
    assert ("| estimated ms |" in text) is (estimated is not None)
    assert ("estimated from the compiled kernels, not run" in text) is (estimated is not None)
    if estimated:
        assert f"| {row.p95_ms:.1f} | 0.25 |" in text
