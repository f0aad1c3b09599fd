"""The chain from rasters to named glyphs, against recorded grids, and what it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from paragon_export.errors import PlanError
from paragon_export.pipeline.glyph_chain import (
    CELLS_AT_A_TIME,
    Chain,
    grids_of,
    logits_of,
    name_glyphs,
    open_chain,
    read_raster,
    scaled,
)
from paragon_export.runtimes.base import Arrays
from paragon_export.specs.plans import NetworkOptions
from paragon_export.specs.types import OnnxBackend
from paragon_export.testing.glyph import (
    SMALL,
    SMALL_CELLS,
    golden_checkpoint,
    recorded,
    reference_of,
    save_checkpoint,
    small_checkpoint,
    small_weights,
)
from tests.conftest import ON_CPU, RunHere

pytestmark = pytest.mark.usefixtures("foreign_files_here")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chain")


@pytest.fixture(scope="module")
def phases(folder: Path) -> tuple[Path, Path]:
    """Return the recorded phase 1 and a small phase 2 that knows its 1024 primitives."""
    from dataclasses import replace

    labels = {f"{1600 + i}_isol": i for i in range(SMALL.classes - 1)}
    second = small_checkpoint(folder / "two.pt", replace(SMALL, vocabulary=1024), label_map=labels)
    return golden_checkpoint("phase1", folder), second


@pytest.fixture(scope="module")
def rasters(folder: Path) -> list[Path]:
    paths = []
    for index, raster in enumerate(recorded("phase1")["rasters"]):
        paths.append(folder / f"{index}.png")
        Image.fromarray(raster).save(paths[-1])
    return paths


class Counting:
    """A runner that counts what it is fed."""

    def __init__(self, runner: Any) -> None:
        self.name, self.runner = "counting", runner
        self.fed: list[int] = []

    def infer(self, feeds: Any) -> Arrays:
        self.fed.append(len(feeds["input"]))
        return self.runner.infer(feeds)


@pytest.mark.parametrize("backend", ON_CPU)
def test_recorded_grids_are_equal(backend: OnnxBackend, phases: tuple[Path, Path]) -> None:
    """Every ID of every recorded raster, in both runtimes; logits as the reference has them."""
    found = recorded("phase1")
    chain = open_chain(phases[::-1], NetworkOptions(), backend=backend)

    grids, named = name_glyphs(chain, found["rasters"], top=3)

    assert (grids == found["grids"]).all()
    truth = reference_of(phases[1]).runner("float64").infer({"input": grids})["output"]
    assert np.abs(logits_of(grids, chain.glyphs) - truth).max() < 5e-5
    chances = np.exp(truth) / np.exp(truth).sum(1, keepdims=True)
    for names, row in zip(named, chances, strict=True):
        assert [n.rank for n in names] == [1, 2, 3]
        assert [n.index for n in names] == np.argsort(-row)[:3].tolist()
        assert [n.probability for n in names] == pytest.approx(np.sort(row)[::-1][:3], rel=1e-4)


def naive_grids(rasters: np.ndarray, phase_1: Any) -> np.ndarray:
    """Section by section as specified: one cell at a time."""
    grids = np.zeros((len(rasters), 16, 16), np.int64)
    for n, r, c in np.ndindex(grids.shape):
        cell = rasters[n, 8 * r : 8 * r + 8, 8 * c : 8 * c + 8].astype(np.float32)
        if cell.max() > 1:
            cell = cell / np.float32(255)
        if cell.any():
            grids[n, r, c] = phase_1.infer({"input": cell[None, None]})["output"][0].argmax()
    return grids


def test_equal_cells_are_seen_once_and_empty_ones_never(tmp_path: Path) -> None:
    """Grids equal those of the cell-by-cell chain; ones, greys and full ink are told apart."""
    runner = reference_of(small_checkpoint(tmp_path / "c.pt", SMALL_CELLS)).runner("float64")
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 2, (6, 8, 8)).astype(np.uint8)
    patterns = np.concatenate([patterns, patterns * 255, patterns * 100, np.zeros_like(patterns)])
    picked = patterns[rng.integers(0, len(patterns), (2, 16, 16))]
    rasters = picked.transpose(0, 1, 3, 2, 4).reshape(2, 128, 128)
    counting = Counting(runner)

    assert (grids_of(rasters, counting) == naive_grids(rasters, runner)).all()
    assert counting.fed == [18]
    assert len(np.unique(scaled(patterns[:, None]).reshape(24, -1), axis=0)) == 13


def test_blank_rasters_and_many_cells(tmp_path: Path) -> None:
    """Nothing is run for blank rasters, and no run is fed more cells than memory likes."""
    counting = Counting(
        reference_of(small_checkpoint(tmp_path / "c.pt", SMALL_CELLS)).runner("float32")
    )
    assert (grids_of(np.zeros((3, 128, 128), np.uint8), counting) == 0).all()
    assert counting.fed == []
    noise = np.random.default_rng(0).integers(0, 256, (17, 128, 128)).astype(np.uint8)
    grids_of(noise, counting)
    assert counting.fed == [CELLS_AT_A_TIME, 17 * 256 - CELLS_AT_A_TIME]
    with pytest.raises(PlanError, match="expected uint8"):
        grids_of(noise.astype(np.float32), counting)


def test_ids_that_phase_2_does_not_know_are_refused(
    phases: tuple[Path, Path], tmp_path: Path
) -> None:
    """Phase 1 of 1024 primitives before a phase 2 of 40: one line, in either runtime."""
    few = small_checkpoint(tmp_path / "few.pt")
    for backend in ON_CPU:
        chain = open_chain((phases[0], few), NetworkOptions(), backend=backend)
        with pytest.raises(PlanError, match="expected IDs from 0 to 39"):
            name_glyphs(chain, recorded("phase1")["rasters"])


def test_command(phases: tuple[Path, Path], rasters: list[Path], run_here: RunHere) -> None:
    """Both orders, both backends, labels of the checkpoint, a placeholder where there is none."""
    answers = []
    for order, backend in ((phases, "onnxruntime"), (phases[::-1], "openvino")):
        done = run_here("glyphs", *order, *rasters, "--top", "23", "--backend", backend, "--json")
        assert done.code == 0, done.stderr
        answers.append(json.loads(done.stdout)["glyphs"])
    for one, other, grid in zip(*answers, recorded("phase1")["grids"], strict=True):
        assert one["grid"] == other["grid"] == grid.tolist()
        assert one["top"][0]["index"] == other["top"][0]["index"]
        labels = {name["index"]: name["label"] for name in one["top"]}
        assert labels[3] == "1603_isol"
        assert labels[22] == "class 22"
        assert sum(name["probability"] for name in one["top"]) == pytest.approx(1)
    assert answers[0][1]["raster"] == str(rasters[1])


def test_exported_files_and_a_label_map(
    phases: tuple[Path, Path], rasters: list[Path], run_here: RunHere, tmp_path: Path
) -> None:
    """ONNX files take the place of checkpoints, and a given label map that of the embedded one."""
    files = []
    for path in phases:
        files.append(tmp_path / f"{path.stem}.onnx")
        assert run_here("onnx", path, "-o", files[-1]).code == 0
    label_map = tmp_path / "labels.json"
    label_map.write_text(json.dumps({f"label {i}": i for i in range(23)}))
    args = (*files, rasters[0], "--label-map", label_map, "--json")
    done = run_here("glyphs", *args)
    assert done.code == 0, done.stderr
    (glyph,) = json.loads(done.stdout)["glyphs"]
    assert [n["label"] for n in glyph["top"]] == [f"label {n['index']}" for n in glyph["top"]]
    shown = run_here("glyphs", *files, rasters[0])
    assert "class " in shown.stdout


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"a": 23}, "has index 23, and the network has 23 classes"),
        ({"a": "1"}, "label: class index"),
        ([1], "label: class index"),
        ({"a": 1, "b": 1}, "several labels"),
    ],
)
def test_label_maps_that_do_not_fit(
    told: Any, said: str, phases: tuple[Path, Path], tmp_path: Path
) -> None:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(told))
    with pytest.raises(PlanError, match=said):
        open_chain(phases, NetworkOptions(), path)


def test_two_of_a_phase_are_refused(phases: tuple[Path, Path]) -> None:
    with pytest.raises(PlanError, match="both of phase 1"):
        open_chain((phases[0], phases[0]), NetworkOptions())


def test_rasters_of_another_kind_are_refused(tmp_path: Path) -> None:
    """Another size, colours, 16 bits, and files that are no pictures."""
    path = tmp_path / "r.png"
    for pixels in (
        np.zeros((64, 64), np.uint8),
        np.zeros((128, 128, 3), np.uint8),
        np.zeros((128, 128), np.uint16),
    ):
        Image.fromarray(pixels).save(path)
        with pytest.raises(PlanError, match="expected 128x128, 8-bit gray"):
            read_raster(path)
    path.write_text("no picture")
    with pytest.raises(PlanError, match="cannot read raster"):
        read_raster(path)
    Image.fromarray(np.eye(128, dtype=bool)).save(path)
    assert read_raster(path).max() == 255


def test_what_is_assumed_is_said(
    phases: tuple[Path, Path], rasters: list[Path], run_here: RunHere, tmp_path: Path
) -> None:
    """Without a config the defaults are named on stderr; a flag settles one of them."""
    bare = save_checkpoint(
        {**small_weights(), "embedding.weight": np.ones((1024, 8), np.float32)}, tmp_path / "b.pt"
    )
    done = run_here("glyphs", phases[0], bare, rasters[0], "--set", "activation=relu", "--json")
    assert "bn_eps = 1e-05: assumed" in done.stderr
    assert "activation" not in done.stderr


def test_openvino_that_is_not_installed_is_named(
    phases: tuple[Path, Path],
    rasters: list[Path],
    run_here: RunHere,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One line that names the extra."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    done = run_here("glyphs", *phases, rasters[0], "--backend", "openvino")
    assert done.code == 3
    assert "pip install 'paragon-export[openvino]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_chain_is_data(phases: tuple[Path, Path]) -> None:
    """The checkpoint's own label map is used where none is given."""
    chain = open_chain(phases, NetworkOptions())
    assert isinstance(chain, Chain)
    assert chain.labels[0] == "1600_isol"
    assert chain.notes == ()
