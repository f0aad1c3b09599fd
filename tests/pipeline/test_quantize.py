"""INT8 of the glyph classifier: calibrated on what the user gives, judged on what is held back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paragon_export.inputs.glyph_probes import glyph_batch
from paragon_export.runtimes.openvino_runner import OpenVinoRunner
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.specs.network import Port
from paragon_export.testing.glyph import (
    SMALL,
    SMALL_CELLS,
    config_of,
    reference_of,
    save_checkpoint,
    small_checkpoint,
    small_weights,
)
from tests.conftest import RunHere
from tests.int8 import largest_pair, weight_rows

pytestmark = pytest.mark.usefixtures("foreign_files_here")

PORT = Port("input", ("batch", 16, 16), "int64", span=(0, 39))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("int8") / "small.pt")


@pytest.fixture
def grids(tmp_path: Path) -> Path:
    """Return a file of 96 grids as they are stored, all different."""
    ids = glyph_batch(PORT, 96) * np.random.default_rng(0).integers(0, 2, (96, 16, 16))
    np.save(tmp_path / "grids.npy", ids.astype(np.uint16))
    return tmp_path / "grids.npy"


def test_int8_is_smaller_and_says_what_it_costs(
    checkpoint: Path, grids: Path, run_here: RunHere, tmp_path: Path
) -> None:
    """Convolutions and linear layers hold 8 bits; the figures are those of the file itself."""
    import onnx

    args = ("--int8", "--calibrate", grids, "--agreement", "0.7", "-o", "small8.onnx", "--json")
    done = run_here("onnx", checkpoint, *args)
    assert done.code == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)["int8"]
    model = onnx.load(tmp_path / "small8.onnx")
    kinds = {node.op_type for node in model.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    rows = list(weight_rows(model))
    assert rows
    assert max(map(largest_pair, rows)) <= 2**15 - 1
    assert told["bytes_int8"] == (tmp_path / "small8.onnx").stat().st_size
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.INT64

    held = np.load(grids)[3::4]
    truth = reference_of(checkpoint).runner("float64").infer({"input": held})["output"]
    for runner in (OnnxRunner, OpenVinoRunner):
        found = runner(tmp_path / "small8.onnx").infer({"input": held})["output"]
        agreement = float((found.argmax(1) == truth.argmax(1)).mean())
        error = float(np.sqrt(np.mean((found - truth) ** 2) / np.mean(truth**2)))
        assert agreement >= 0.7
        assert error < 0.3
        if runner is OnnxRunner:
            assert agreement == pytest.approx(told["top1_agreement"])
            assert error == pytest.approx(told["relative_logit_error"], rel=1e-3)
    done = run_here("parity", checkpoint, "small8.onnx")
    assert (done.code, "INT8" in done.stderr) == (3, True)


def test_int8_can_fail(grids: Path, run_here: RunHere, tmp_path: Path) -> None:
    """Ranges taken from outliers: exit code 1, nothing written, and the share is told."""
    weights = dict(small_weights())
    weights["embedding.weight"] = weights["embedding.weight"].copy()
    weights["embedding.weight"][39] *= 1000
    checkpoint = save_checkpoint(weights, tmp_path / "loud.pt", config=config_of(SMALL))
    ids = np.load(grids)
    ids[ids == 39] = 38
    ids[0, 0, 0] = 39  # calibrated on it, never judged on it
    np.save(grids, ids)
    done = run_here("onnx", checkpoint, "--int8", "--calibrate", grids, "-o", "n.onnx", "--json")
    report = json.loads(done.stdout)
    assert done.code == 1
    assert not (tmp_path / "n.onnx").exists()
    assert report["rows"][0]["failure"] == "top-1"
    assert report["int8"]["top1_agreement"] < 0.95


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--int8",), "needs --calibrate with real grids"),
        (("--calibrate", "grids.npy"), "need --int8"),
        (("--int8", "--calibrate", "few.npy"), "holds 8 grids; give 64"),
        (("--int8", "--calibrate", "high.npy"), "expected IDs from 0 to 39"),
        (("--int8", "--calibrate", "float.npy"), "expected integers"),
        (("--int8", "--calibrate", "absent.npy"), "absent.npy"),
        (("--int8", "--calibrate", "."), "give --phase-1"),
        (("--int8", "--fp16", "--calibrate", "grids.npy"), "no other precision"),
        (("--int8", "--calibrate", "two.npz"), "expected one named grids"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_is_refused(
    args: tuple[str, ...],
    said: str,
    checkpoint: Path,
    grids: Path,
    run_here: RunHere,
    tmp_path: Path,
) -> None:
    """In one line; never calibrated on anything that the user did not give."""
    ids = np.load(grids)
    np.save(tmp_path / "few.npy", ids[:8])
    np.save(tmp_path / "high.npy", ids + 40)
    np.save(tmp_path / "float.npy", ids.astype(np.float32))
    np.savez(tmp_path / "two.npz", a=ids, b=ids)
    done = run_here("onnx", checkpoint, *args, "-o", "n.onnx")
    assert (done.code, len(done.stderr.splitlines())) == (3, 1)
    assert said in done.stderr
    assert not (tmp_path / "n.onnx").exists()


def test_phase_1_is_not_served(run_here: RunHere, grids: Path, tmp_path: Path) -> None:
    path = small_checkpoint(tmp_path / "cells.pt", SMALL_CELLS)
    done = run_here("onnx", path, "--int8", "--calibrate", grids)
    assert (done.code, "is for image networks and phase 2" in done.stderr) == (3, True)


def test_rasters_calibrate_through_phase_1(
    checkpoint: Path, run_here: RunHere, tmp_path: Path
) -> None:
    """A folder of rasters and a phase-1 checkpoint take the place of stored grids."""
    folder = tmp_path / "rasters"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(64):
        cells = rng.integers(0, 2, (16, 16, 8, 8)) * rng.integers(0, 2, (16, 16, 1, 1)) * 255
        picture = cells.transpose(0, 2, 1, 3).reshape(128, 128).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{index}.png")
    cells_network = small_checkpoint(tmp_path / "cells.pt", SMALL_CELLS)
    args = ("--int8", "--calibrate", folder, "--phase-1", cells_network, "--agreement", "0.1")
    done = run_here("onnx", checkpoint, *args, "--json", "-o", "n.onnx")
    assert done.code == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["int8"]["held_back_grids"] == 16
