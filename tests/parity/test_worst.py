"""Worst pictures: they show the largest error where it is, and cost nothing unless asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paragon_export.inputs.large import large_probe
from paragon_export.inputs.probes import Probe, still_probes
from paragon_export.parity import worst
from paragon_export.parity.candidates import Candidate, read_artifact
from paragon_export.parity.check import judge
from paragon_export.parity.compare import verify
from paragon_export.parity.reference import TorchReference
from paragon_export.parity.report import ParityReport, WorstPicture
from paragon_export.parity.truth import Truths
from paragon_export.parity.worst import MAX_CROP_PX, border_profile, pooled, worst_pictures
from paragon_export.runtimes.base import Arrays
from paragon_export.specs.plans import ParityPlan
from paragon_export.specs.types import Precision, Size
from paragon_export.testing.sabotage.case import Case

pytestmark = pytest.mark.usefixtures("foreign_files_here")

LARGE = Size(150, 140)


class Spoiled:
    """The network in float32, with another value at one place of the output at one size."""

    name = "spoiled"

    def __init__(self, reference: TorchReference, size: Size, place: tuple[int, ...], by: float):
        self.runner, self.shape = reference.runner("float32"), (2 * size.height, 2 * size.width)
        self.place, self.by = place, by
        self.runs = 0

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        self.runs += 1
        outputs = self.runner.infer(feeds)
        output = outputs["output"]
        if output.shape[-2:] == self.shape and len(output) > self.place[0]:
            output[self.place] += self.by
        return outputs


@pytest.fixture(scope="module")
def truths(still: Case) -> Truths:
    return Truths(still.reference)


def spoiled(
    truths: Truths, probes: list[Probe], size: Size, place: tuple[int, ...], by: float = 0.25
) -> tuple[ParityReport, WorstPicture]:
    """Judge a network that is wrong at one place, and return its worst picture."""
    assert isinstance(truths.reference, TorchReference)
    runner = Spoiled(truths.reference, size, place, by)
    candidate = Candidate(name="c", runner=runner, precision=Precision.FP32)
    report = verify(truths.reference, [candidate], probes, truths=truths)
    before = runner.runs
    (picture,) = worst_pictures(truths, candidate, probes, report)
    assert runner.runs == before + 1
    return report, picture


@pytest.mark.parametrize("place", [(0, 1, 3, 2), (0, 2, 299, 279), (0, 0, 140, 20)])
def test_the_crop_shows_the_error_where_it_is(truths: Truths, place: tuple[int, ...]) -> None:
    """Crop, map and border profile have their largest value at the pixel that is wrong."""
    _, row, column = place[1:]
    probes = still_probes(3, [(Size(20, 24), 1), (LARGE, 1)])
    report, shown = spoiled(truths, probes, LARGE, place)
    errors = np.abs(shown.difference).max(axis=0)
    found = np.unravel_index(errors.argmax(), errors.shape)
    at = np.unravel_index(shown.error_map.argmax(), shown.error_map.shape)

    assert shown.row == report.worst
    assert shown.difference.shape == (3, MAX_CROP_PX, MAX_CROP_PX)
    assert (shown.top + found[0], shown.left + found[1]) == (row, column)
    assert errors.max() == pytest.approx(0.25, rel=1e-5)
    np.testing.assert_allclose(shown.found - shown.reference, shown.difference, atol=1e-6)
    assert shown.error_map.shape == (100, 94), "cells of 3x3 pixels"
    assert (int(at[0]), int(at[1])) == (row // 3, column // 3)
    assert int(shown.profile.argmax()) == min(row, column, 299 - row, 279 - column)


def test_an_error_of_rounding_is_not_rounded_away(truths: Truths) -> None:
    """Differences are subtracted in float64: float32 could not tell them from zero."""
    probes = still_probes(3, [(Size(20, 24), 1)])
    report, shown = spoiled(truths, probes, LARGE, (0, 0, 0, 0))

    assert report.passed
    assert 0 < np.abs(shown.difference).max() == pytest.approx(shown.row.found.max_abs)
    assert len(np.unique(shown.difference)) > 100


def test_the_picture_of_a_batch_that_is_wrong_is_shown(truths: Truths) -> None:
    _, shown = spoiled(truths, still_probes(3, [(Size(20, 24), 3)]), Size(20, 24), (2, 0, 5, 5))
    assert (shown.item, shown.items) == (2, 3)


def test_a_large_picture_shows_the_block_that_is_wrong(truths: Truths) -> None:
    """And all of it where any value is not finite, wherever that value is."""
    size = Size(400, 300)
    probes = [large_probe(3, size, video=False)]
    _, shown = spoiled(truths, probes, size, (0, 0, 799, 599))
    assert shown.row.is_excerpt
    assert (shown.item, shown.items) == (8, 9)
    assert shown.difference[0, -1, -1] == pytest.approx(0.25, rel=1e-5)

    _, broken = spoiled(truths, probes, size, (0, 0, 300, 300), np.nan)
    assert np.isinf(broken.error_map).all()
    assert np.isnan(broken.found).all()


def test_larger_inputs_are_preferred_among_equals(truths: Truths) -> None:
    """But a failure at a small size is not hidden by a large size that passes."""
    small, large = Size(3, 5), Size(20, 24)
    probes = still_probes(3, [(small, 1), (large, 1)])
    report, shown = spoiled(truths, probes, small, (0, 0, 0, 0))
    assert report.worst is not None
    assert (report.worst.size, shown.row.size) == (small, small)

    report, shown = spoiled(truths, probes, LARGE, (0, 0, 0, 0))
    assert report.passed
    assert shown.row.size == large


def test_pictures_are_kept_where_they_are_asked_for(still: Case, tmp_path: Path) -> None:
    """A page is asked for; the verdict is the same with and without it."""
    (tmp_path / "net.onnx").write_bytes(ir.to_proto(still.model).SerializeToString())
    file = read_artifact(tmp_path / "net.onnx")
    plain, kept = (
        judge(still.reference, [file], ParityPlan(sizes=(Size(20, 24),), at=(), pictures=pictures))
        for pictures in (False, True)
    )

    assert plain.pictures == ()
    assert len(kept.pictures) == 1
    assert plain.to_json() == kept.to_json()
    assert kept.passed


def test_what_cannot_be_compared_has_no_picture(truths: Truths) -> None:
    class Silent:
        name = "silent"

        def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
            return {}

    probes = still_probes(3, [(Size(20, 24), 1)])
    candidate = Candidate(name="c", runner=Silent(), precision=Precision.FP32)
    report = verify(truths.reference, [candidate], probes, truths=truths)
    assert worst_pictures(truths, candidate, probes, report) == ()


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_maps_and_profiles_keep_every_error(h: int, w: int, cells: int, seed: int) -> None:
    """Each cell and each ring has the largest of its errors: by brute force."""
    error = np.random.default_rng(seed).random((h, w))
    small = pooled(error, cells)
    side = -(-max(h, w) // cells)
    assert small.shape == (-(-h // side), -(-w // side))
    assert max(small.shape) <= cells
    for y in range(small.shape[0]):
        for x in range(small.shape[1]):
            cell = error[y * side : (y + 1) * side, x * side : (x + 1) * side]
            assert small[y, x] == cell.max()
    y, x = np.mgrid[:h, :w]
    distance = np.minimum(np.minimum(y, h - 1 - y), np.minimum(x, w - 1 - x))
    expected = [error[distance == d].max() for d in range(distance.max() + 1)]
    assert border_profile(error).tolist() == expected


def test_what_is_kept_is_bounded(truths: Truths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worst, "MAX_CROP_PX", 16)
    monkeypatch.setattr(worst, "MAX_MAP_CELLS", 10)
    monkeypatch.setattr(worst, "MAX_PROFILE_PX", 5)
    _, shown = spoiled(truths, still_probes(3, [(LARGE, 1)]), LARGE, (0, 0, 150, 150))

    assert shown.reference.shape == shown.found.shape == shown.difference.shape == (3, 16, 16)
    assert shown.error_map.shape == (10, 10)
    assert shown.profile.shape == (5,)
