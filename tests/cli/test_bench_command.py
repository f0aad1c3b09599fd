"""``bench``: video models are timed, worthless figures are named, and nothing measured is code 1."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paragon_export.bench import doubts
from paragon_export.bench.doubts import doubt
from paragon_export.bench.measure import benchmark
from paragon_export.bench.report import BenchReport, BenchRow
from paragon_export.pipeline.export import export
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.types import Size
from paragon_export.testing.tiny import tiny_checkpoint
from tests.conftest import RunHere

pytestmark = pytest.mark.usefixtures("foreign_files_here")

SIZE = Size(16, 24)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory, tiny_realtime: Path) -> Path:
    path = tmp_path_factory.mktemp("video") / "video.onnx"
    export(ExportPlan(checkpoint=tiny_realtime, output=path, video=True))
    return path


@pytest.mark.processes  # torch.compile starts a C++ compiler
def test_video_models_are_timed(video: Path, tmp_path: Path) -> None:
    """ONNX files record that they are video models; for checkpoints `--video` says so."""
    one_block = tiny_checkpoint(tmp_path / "one.safetensors", blocks=1, features=4)
    report = benchmark([video, one_block], sizes=[SIZE], video=True)

    by_backend = {row.backend.split(" (")[0]: row for row in report.rows}
    for backend in ("ONNX Runtime CPU", "PyTorch eager"):
        assert by_backend[backend].samples_ms, by_backend[backend].reason


def test_nothing_measured_is_exit_code_1(
    tmp_path: Path, tiny_realtime: Path, run_here: RunHere
) -> None:
    """The reasons are rows, as before."""
    export(ExportPlan(checkpoint=tiny_realtime, output=tmp_path / "s.onnx", static=Size(8, 8)))

    assert run_here("bench", "s.onnx", "--size", "8x8", "--markdown", "b.md").code == 0
    assert "most throughput: `s.onnx` in " in (tmp_path / "b.md").read_text("utf-8")
    done = run_here("bench", "s.onnx", "--size", "8x9", "--json", "--html", "b.html")

    assert done.code == 1
    assert "nothing could be measured" in (tmp_path / "b.html").read_text("utf-8")
    assert all("reason" in row for row in json.loads(done.stdout)["rows"])


def report_of(*samples_ms: float) -> BenchReport:
    row = BenchRow(artifact="m.onnx", backend="ONNX Runtime CPU", size=SIZE, samples_ms=samples_ms)
    broken = BenchRow(artifact="m.onnx", backend="CUDA", size=SIZE, reason="no GPU")
    return BenchReport(rows=(row, broken), environment={})


def test_a_busy_machine_is_named() -> None:
    steady = report_of(10, 10, 11, 10, 10)
    assert doubt(steady, load=1.9, cores=4) == []
    assert doubt(steady, load=None, cores=4) == []
    nothing = BenchReport(rows=steady.rows[1:], environment={})
    assert doubt(nothing, load=9.0, cores=4) == []
    (note,) = doubt(steady, load=2.1, cores=4)
    assert "load average was 2.1 on 4 cores" in note
    assert "scatter" not in note


def test_scattered_samples_are_named() -> None:
    (note,) = doubt(report_of(10, 10, 10, 10, 30), load=0.0, cores=4)
    assert "ONNX Runtime CPU on m.onnx scatter: the 95th percentile is 2.6 times" in note
    (both,) = doubt(report_of(10, 10, 10, 10, 30), load=9.0, cores=4)
    assert "load average" in both
    assert "scatter" in both


def test_the_note_is_on_stderr_alone(
    video: Path, run_here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doubts, "load_average", lambda: 1e3)

    done = run_here("bench", video, "--size", "8x8", "--json")

    assert "these figures are worthless: the load average was 1000.0" in done.stderr
    assert set(json.loads(done.stdout)) == {"rows", "environment"}
