"""Exports to ncnn: written if ncnn itself computes right, and not otherwise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paragon_export.errors import InexactTilesError, PlanError, RunError
from paragon_export.ncnn import convert as converting
from paragon_export.ncnn import export as exporting
from paragon_export.ncnn.convert import NcnnFiles, convert, renamed
from paragon_export.ncnn.export import WINOGRAD, WINOGRAD_LIMIT, NcnnResult, export_ncnn
from paragon_export.ncnn.runner import NcnnRunner
from paragon_export.networks.describe import load_network
from paragon_export.parity.acceptance import AtMost
from paragon_export.parity.metrics import Measured, difference
from paragon_export.parity.reference import build_reference
from tests.conftest import RunHere


def test_what_is_written_runs_in_ncnn(tiny_realtime: Path, tmp_path: Path) -> None:
    """Both files, under the names of blobs that Upscayl looks for; right at a size of its own."""
    network = load_network(tiny_realtime)
    result = export_ncnn(network, tmp_path / "net.param", at=())

    assert result.passed
    assert {path.name for path in tmp_path.iterdir()} == {"net.param", "net.bin"}
    files = NcnnFiles(
        param=(tmp_path / "net.param").read_text(), weights=(tmp_path / "net.bin").read_bytes()
    )
    assert " data\n" in files.param.replace(" 0 1 data", " data")
    image = {"input": np.random.default_rng(3).random((2, 3, 21, 34), dtype=np.float32)}
    expected = build_reference(network).runner("float64").infer(image)["output"]
    assert np.abs(NcnnRunner(files).infer(image)["output"] - expected).max() < 1e-5
    check_rows(result)


def check_rows(result: NcnnResult) -> None:
    """Both ways to convolve are judged, Winograd's by a limit of its own; half storage errs more."""
    names = {row.candidate for row in result.parity.rows}
    assert names == {"ncnn", WINOGRAD}
    assert all(r.limit >= WINOGRAD_LIMIT for r in result.parity.rows if r.candidate == WINOGRAD)
    assert all(r.limit < WINOGRAD_LIMIT for r in result.parity.rows if r.candidate == "ncnn")
    plain, winograd = (
        max(row.found.max_abs for row in result.parity.rows if row.candidate == name)
        for name in ("ncnn", WINOGRAD)
    )
    assert plain < winograd < 1e-5 < result.half_storage.max_abs < 0.05


def test_a_wrong_weight_is_seen_and_nothing_is_written(
    tiny_realtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One weight of the files that pnnx wrote, off by a thousandth: ncnn judges the files."""

    def off(*args: Any, **options: Any) -> NcnnFiles:
        files = convert(*args, **options)
        weights = np.frombuffer(files.weights, np.float32).copy()
        weights[40] += 1e-3
        return replace(files, weights=weights.tobytes())

    monkeypatch.setattr(exporting, "convert", off)
    result = export_ncnn(load_network(tiny_realtime), tmp_path / "net", at=())

    assert not result.passed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("variant", ["photo", "pro"])
def test_networks_that_ncnn_computes_wrongly_are_refused(
    variant: str, tiny_checkpoints: dict[str, Path], run_here: RunHere, tmp_path: Path
) -> None:
    """In one line that names operators, and nothing is written."""
    done = run_here("ncnn", tiny_checkpoints[variant], "-o", tmp_path / "net")

    assert (done.code, done.stdout, len(done.stderr.splitlines())) == (3, "", 1)
    assert "ReduceMean" in done.stderr or "MatMul" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_it_wrote(
    tiny_realtime: Path, run_here: RunHere, tmp_path: Path
) -> None:
    """And replaces files that were there only where the user named them."""
    done = run_here("ncnn", tiny_realtime, "--at", "8x9", "--json")
    document = json.loads(done.stdout)
    assert (done.code, document["passed"], document["written"]) == (0, True, True)
    assert document["artifacts"] == ["realtime.param", "realtime.bin"]
    assert document["half_storage"]["max_abs"] > 0
    assert document["reach_px"] == 6
    again = run_here("ncnn", tiny_realtime)
    assert (again.code, "realtime.param exists" in again.stderr) == (3, True)


def test_how_far_pixels_reach_is_shown(
    tiny_realtime: Path, run_here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs cut pictures into tiles with an overlap of their own."""
    done = run_here("ncnn", tiny_realtime, "--at", "8x9", "-o", tmp_path / "net")
    assert "up to 6 px away" in done.stdout

    def everything(file: Any) -> None:
        raise InexactTilesError("it sees the whole picture")

    monkeypatch.setattr(exporting, "field_of_file", everything)
    done = run_here("ncnn", tiny_realtime, "--at", "8x9", "-o", tmp_path / "net")
    assert "do not cut pictures into tiles" in done.stdout


def test_an_exit_code_of_0_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that writes nothing, writes something else, or never ends."""
    program = tmp_path / "pnnx"
    monkeypatch.setattr(converting, "pnnx_program", lambda: program)
    for script, reason in (
        ("echo no such operator >&2", "wrote no files, with exit code 0: no such operator"),
        ("echo hello > model.ncnn.param; : > model.ncnn.bin", "is none"),
        ("exec sleep 30", "did not run"),
    ):
        monkeypatch.setattr(converting, "LONGEST_RUN_S", 0.1 if "sleep" in script else 60)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        with pytest.raises(RunError, match=reason):
            convert(b"", 3)


PARAM = """7767517
3 3
Input in0 0 1 in0
ReLU relu 1 1 in0 1
{} last 1 1 1 out0 0=1
"""


def test_blobs_get_the_names_that_programs_look_for() -> None:
    """Names of layers and parameters stay."""
    lines = renamed(PARAM.format("ReLU")).splitlines()
    assert lines[2:] == ["Input in0 0 1 data", "ReLU relu 1 1 data 1", "ReLU last 1 1 1 output 0=1"]
    with pytest.raises(RunError, match=r"ncnn has no torch\.flip"):
        renamed(PARAM.format("torch.flip"))
    with pytest.raises(RunError, match="one input and one output"):
        renamed(PARAM.format("ReLU").replace("out0", "2"))
    with pytest.raises(RunError, match="is none"):
        renamed(PARAM.format("ReLU").replace("7767517", "1"))


def test_damaged_files_do_not_load(tiny_realtime: Path) -> None:
    with pytest.raises(RunError, match=r"\.param"):
        NcnnRunner(NcnnFiles(param="7767517\n", weights=b""))


def test_the_limit_with_winograd_grows_with_the_output() -> None:
    """A share of full range, or of the peak beyond it; an error above it fails."""
    zeros = np.zeros((1, 1, 4, 4))
    for error, peak, failure in ((0.9e-4, 1, ""), (1.1e-4, 1, "error"), (1.1e-4, 2, "")):
        found = difference(zeros + error, zeros, 0)
        assert AtMost(1e-4).check(Measured(found=found, reference_peak=peak)) == failure


def test_only_pictures_go_to_ncnn(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="has no name"):
        exporting.paths_of(tmp_path / ".param")
