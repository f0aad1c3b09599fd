"""Blended tiles: they cover a picture smoothly, and their difference to the whole is measured."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from paragon_export.errors import PlanError
from paragon_export.runtimes.torch_runner import TorchRunner
from paragon_export.specs.types import Size
from paragon_export.tiling import blend
from paragon_export.tiling.blend import BlendedRunner, blend_difference, faded, least_blended


class Enlarged(nn.Module):
    """Each pixel twice, times the mean of the picture if ``sees_all``."""

    def __init__(self, *, sees_all: bool) -> None:
        super().__init__()
        self.sees_all = sees_all

    def forward(self, x: Tensor) -> Tensor:
        factor = x.mean() if self.sees_all else 1
        return torch.repeat_interleave(torch.repeat_interleave(x, 2, 2), 2, 3) * factor


def runner(*, sees_all: bool = False) -> TorchRunner:
    return TorchRunner(Enlarged(sees_all=sees_all), ["input"], ["output"], "float64")


def noise(height: int, width: int) -> dict[str, np.ndarray]:
    return {"input": np.random.default_rng(0).random((1, 3, height, width))}


@given(extent=st.integers(1, 700), step=st.sampled_from([1, 8, 16]), more=st.integers(0, 200))
def test_weights_add_up_to_one_and_rise_slowly(extent: int, step: int, more: int) -> None:
    tile = least_blended(step) + more
    tiles = faded(extent, tile, step)
    total, seen = np.zeros(extent), np.zeros(extent)
    for one in tiles:
        assert one.begin % step == 0
        assert one.end - one.begin < tile + step
        assert (one.weights > 0).all()
        assert np.abs(np.diff(one.weights)).max(initial=0) <= 2 / min(64, tile // 4)
        total[one.begin : one.end] += one.weights
        seen[one.begin : one.end] += 1
    assert np.allclose(total, 1, rtol=0, atol=1e-12)
    assert all(a.begin < b.begin and a.end <= b.end for a, b in pairwise(tiles))
    assert len(tiles) == 1 or seen.max() > 1


def test_small_tiles_are_refused() -> None:
    with pytest.raises(PlanError, match="use at least 32"):
        faded(100, 31, 16)


@pytest.mark.parametrize("size", [Size(77, 20), Size(20, 90), Size(71, 99)])
@pytest.mark.parametrize("callers", [1, 2])
def test_what_tiles_compute_alike_is_kept(size: Size, callers: int) -> None:
    """A network without context gives the whole, and strips come from top to bottom."""
    network, feeds = runner(), noise(size.height, size.width)
    tiles = BlendedRunner(network, Size(32, 40), step=8, callers=callers)
    found, wanted = (r.infer(feeds)["output"] for r in (tiles, network))
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 1e-12
    strips = list(tiles.strips(feeds))
    assert [s.top for s in strips] == [0, *np.cumsum([s.rows.shape[2] for s in strips])[:-1]]


def test_the_difference_is_that_of_the_part() -> None:
    feeds = noise(100, 90)
    feeds["input"][:, :, :50] *= 0.5
    tiles = BlendedRunner(runner(sees_all=True), Size(32, 32))
    found = blend_difference(tiles, feeds, Size(64, 60))
    part = {"input": feeds["input"][:, :, 18:82, 15:75]}
    error = np.abs(tiles.infer(part)["output"] - tiles.runner.infer(part)["output"])
    assert found.largest == pytest.approx(error.max())
    assert found.psnr_db == pytest.approx(-10 * np.log10((error**2).mean()))
    assert found.largest > 0.05
    assert (found.tile, found.size) == (Size(32, 32), Size(64, 60))


def test_no_difference_and_clipped_values() -> None:
    """Values above white are seen as white."""
    tiles = BlendedRunner(runner(), Size(32, 32))
    assert blend_difference(tiles, noise(50, 50), Size(50, 50)).largest < 1e-12
    bright = {"input": noise(50, 50)["input"] + 1}
    bright_tiles = BlendedRunner(runner(sees_all=True), Size(32, 32))
    found = blend_difference(bright_tiles, bright, Size(50, 50))
    assert (found.largest, found.psnr_db) == (0, None)


def test_a_part_of_one_tile_is_refused() -> None:
    with pytest.raises(PlanError, match="cannot be compared"):
        blend_difference(BlendedRunner(runner(), Size(32, 32)), noise(50, 50), Size(32, 32))


def test_seams_are_softer_than_those_of_tiles_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights that do not fade, rows at a seam jump."""
    ramp = np.broadcast_to(np.linspace(0.2, 0.8, 120)[:, None], (1, 3, 120, 30))
    network = runner(sees_all=True)

    def jump() -> float:
        output = BlendedRunner(network, Size(64, 64)).infer({"input": ramp})["output"]
        return float(np.abs(np.diff(output, axis=2)).max())

    faded_jump = jump()
    monkeypatch.setattr(blend, "OVERLAP_SHARE", 1 / 64)
    assert jump() > 3 * faded_jump
