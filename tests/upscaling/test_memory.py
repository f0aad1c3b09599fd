"""The memory of a run is measured in a new process, whatever ran in this one before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paragon_export.pipeline.export import export_onnx
from paragon_export.specs.plans import NetworkOptions
from paragon_export.specs.types import OnnxBackend, Size
from paragon_export.upscaling.model import Model, open_model
from paragon_export.upscaling.tiles import Tiling

pytestmark = pytest.mark.processes


@pytest.fixture
def model(tiny_realtime: Path, tmp_path: Path) -> Model:
    file = tmp_path / "model.onnx"
    export_onnx(tiny_realtime, file)
    return open_model(file, OnnxBackend.ONNXRUNTIME, NetworkOptions())


def test_earlier_runs_do_not_count(model: Model) -> None:
    """They leave memory in this process that ONNX Runtime takes again."""
    large = np.zeros((1, 3, 512, 512), np.float32)
    model.runner.infer(model.feeds(large))
    here = replace(model, open_apart=None).bytes_per_pixel
    apart = [replace(model).bytes_per_pixel for _ in range(2)]
    assert here is not None
    assert min(apart) > 3 * here
    assert max(apart) < 1.2 * min(apart)
    least = 4 * (3 + 3 * model.scale**2)  # of the input and the output
    assert min(apart) > least


def test_runs_in_one_process_choose_the_same_tiles(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paragon_export.upscaling.tiles.available_memory", lambda: 10**9)
    size, found = Size(1200, 1600), []
    for _ in range(2):
        tile = Tiling(model, "auto").tile_for(size)
        assert tile is not None
        found.append(tile)
        model.runner.infer(model.feeds(np.zeros((1, 3, 700, 700), np.float32)))
    assert found[0] == found[1]
