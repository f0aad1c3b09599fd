"""Graphs that are wrong only at some sizes, batches or images fail the default judgment."""

from __future__ import annotations

from pathlib import Path

import pytest

from paragon_export.parity.candidates import read_artifact
from paragon_export.parity.check import judge
from paragon_export.specs.types import Precision
from paragon_export.testing.sabotage.case import Break, Case
from paragon_export.testing.sabotage.rare import (
    IMAGES,
    LARGE_AT,
    MIDDLE,
    SIZES,
    after_frames,
    untouched,
)
from paragon_export.testing.sabotage.suite import Sabotage, written

pytestmark = pytest.mark.usefixtures("foreign_files_here")


def passes(case: Case, make: Break, path: Path, precision: Precision = Precision.FP32) -> bool:
    file = written(Sabotage("", "", make, precision=precision), case, path / "wrong.onnx")
    return judge(case.reference, [read_artifact(file)]).passed


@pytest.mark.all_sizes
@pytest.mark.parametrize("make", SIZES.values(), ids=SIZES)
def test_wrong_sizes_fail(make: Break, still: Case, tmp_path: Path) -> None:
    assert not passes(still, make, tmp_path)


@pytest.mark.parametrize("make", MIDDLE.values(), ids=MIDDLE)
def test_wrong_middle_sizes_fail(
    make: Break, still: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong at no small size and not at the large one."""
    monkeypatch.setattr("paragon_export.parity.candidates.LARGE", LARGE_AT)
    monkeypatch.setattr("paragon_export.parity.check.choose_probes", lambda *_, **__: [])
    file = written(Sabotage("", "", make), still, tmp_path / "wrong.onnx")
    sizes = {row.size for row in judge(still.reference, [read_artifact(file)]).rows if row.failure}
    assert sizes
    assert LARGE_AT not in sizes


@pytest.mark.parametrize("make", IMAGES.values(), ids=IMAGES)
def test_wrong_images_fail(make: Break, still: Case, tmp_path: Path) -> None:
    assert not passes(still, make, tmp_path)


@pytest.mark.all_sizes
@pytest.mark.parametrize("name", ["height mod 16 is 8", "batch above 16"])
def test_wrong_sizes_of_video_fail(name: str, video: Case, tmp_path: Path) -> None:
    assert not passes(video, SIZES[name], tmp_path)


@pytest.mark.parametrize("name", ["black", "above the range"])
def test_wrong_images_of_video_fail(name: str, video: Case, tmp_path: Path) -> None:
    assert not passes(video, IMAGES[name], tmp_path)


def test_wrong_after_frames_fails(video: Case, tmp_path: Path) -> None:
    assert not passes(video, after_frames(12), tmp_path)
    assert passes(video, after_frames(99), tmp_path), "counting alone is within the tolerance"


@pytest.mark.all_sizes
@pytest.mark.parametrize(
    "precision",
    [Precision.FP32, Precision.FP16, pytest.param(Precision.BF16, marks=pytest.mark.slow)],
)
def test_right_ones_pass(still: Case, video: Case, precision: Precision, tmp_path: Path) -> None:
    """Stills in half precision are judged at the same sizes in ``test_compare.py``."""
    assert precision.is_half or passes(still, untouched, tmp_path, precision)
    assert passes(video, untouched, tmp_path, precision)
