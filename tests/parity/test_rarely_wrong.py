"""Graphs that are wrong only at some sizes, batches or pictures fail the default judgment."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

from paragon_export.parity.candidates import read_artifact
from paragon_export.parity.check import judge
from paragon_export.specs.types import Precision
from paragon_export.testing.sabotage.case import Break, Case
from paragon_export.testing.sabotage.pieces import before, behind, real, whole
from paragon_export.testing.sabotage.suite import Sabotage, written

pytestmark = pytest.mark.usefixtures("foreign_files_here")

EXTENTS = whole(axis_n=[0], axis_h=[2], axis_w=[3], one=[1], two=[2], sixteen=[16]) + (
    "shape = Shape(y) n = Gather(shape, axis_n) h = Gather(shape, axis_h) w = Gather(shape, axis_w) "
)  # fmt: skip
"""The batch, height and width of ``y``, and some numbers."""

ADDED = (
    "there = Cast<to = 1>(wrong) little = Constant<value_float = 0.01>() "
    "error = Mul(there, little) output = Add(y, error)"
)
"""An error of 0.01 everywhere, where ``wrong`` is true."""

SCALE = 2


def where(condition: str) -> Break:
    """Return a sabotage that adds an error where a condition on the output's extents holds."""
    return behind(EXTENTS + condition + " " + ADDED)


def residue(extent: str, modulus: int, value: int) -> Break:
    """Wrong where an extent of the input has a residue."""
    numbers = whole(modulus=[modulus * SCALE], value=[value * SCALE])
    return where(f"{numbers} rest = Mod({extent}, modulus) wrong = Equal(rest, value)")


SIZES: dict[str, Break] = {
    "height mod 16 is 8": residue("h", 16, 8),
    "width mod 8 is 4": residue("w", 8, 4),
    "height mod 32 is 23": residue("h", 32, 23),
    "width mod 32 is 30": residue("w", 32, 30),
    "odd height and even width": where(
        whole(modulus=[2 * SCALE], none=[0], odd=[SCALE])
        + "rest_h = Mod(h, modulus) rest_w = Mod(w, modulus) is_odd = Equal(rest_h, odd) "
        "is_even = Equal(rest_w, none) wrong = And(is_odd, is_even)"
    ),
    "wider than three heights": where("three = Add(one, two) most = Mul(h, three) wrong = Greater(w, most)"),
    "higher than seven widths": where(
        whole(seven=[7]) + "most = Mul(w, seven) wrong = Greater(h, most)"
    ),
    "batch above 16": where("wrong = Greater(n, sixteen)"),
    "batch of 3": where("three = Add(one, two) wrong = Equal(n, three)"),
}  # fmt: skip


def item_wrong(condition: str) -> Break:
    """NaN in the items of a batch on which a condition holds; ``low`` and ``high`` are theirs."""
    return before(
        whole(axes=[1, 2, 3])
        + real(zero=0, one=1, half=0.5, nan=float("nan"), above=1.05, below=-0.05)
        + "high = ReduceMax(input, axes) low = ReduceMin(input, axes) "
        + condition
        + " added = Where(wrong, nan, zero) x = Add(input, added)"
    )


PICTURES: dict[str, Break] = {
    "black": item_wrong("wrong = Equal(high, zero)"),
    "white": item_wrong("wrong = Equal(low, one)"),
    "flat": item_wrong("wrong = Equal(high, low)"),
    "grey": item_wrong("is_low = Equal(low, half) is_high = Equal(high, half) wrong = And(is_low, is_high)"),
    "above the range": item_wrong("wrong = Greater(high, above)"),
    "below the range": item_wrong("wrong = Less(low, below)"),
}  # fmt: skip

BARS = (
    whole(none=[0], all=[1, 2, 3])
    + real(zero=0, nan=float("nan"))
    + "row = Gather<axis = 2>(input, none) top = ReduceMax(row, all) whole = ReduceMax(input, all) "
    "is_bar = Equal(top, zero) is_seen = Greater(whole, zero) wrong = And(is_bar, is_seen) "
    "added = Where(wrong, nan, zero) x = Add(input, added)"
)
PICTURES["letterbox"] = before(BARS)


def passes(case: Case, make: Break, path: Path, precision: Precision = Precision.FP32) -> bool:
    file = written(Sabotage("", "", make, precision=precision), case, path / "wrong.onnx")
    return judge(case.reference, [read_artifact(file)]).passed


@pytest.mark.all_sizes
@pytest.mark.parametrize("make", SIZES.values(), ids=SIZES)
def test_wrong_sizes_fail(make: Break, still: Case, tmp_path: Path) -> None:
    assert not passes(still, make, tmp_path)


@pytest.mark.parametrize("make", PICTURES.values(), ids=PICTURES)
def test_wrong_pictures_fail(make: Break, still: Case, tmp_path: Path) -> None:
    assert not passes(still, make, tmp_path)


@pytest.mark.all_sizes
@pytest.mark.parametrize("name", ["height mod 16 is 8", "batch above 16"])
def test_wrong_sizes_of_video_fail(name: str, video: Case, tmp_path: Path) -> None:
    assert not passes(video, SIZES[name], tmp_path)


@pytest.mark.parametrize("name", ["black", "above the range"])
def test_wrong_pictures_of_video_fail(name: str, video: Case, tmp_path: Path) -> None:
    assert not passes(video, PICTURES[name], tmp_path)


@pytest.mark.all_sizes
@pytest.mark.parametrize("precision", list(Precision))
def test_right_ones_pass(still: Case, video: Case, precision: Precision, tmp_path: Path) -> None:
    """Stills in half precision are judged at the same sizes in ``test_compare.py``."""

    def untouched(case: Case) -> ir.Model:
        return case.model

    assert precision.is_half or passes(still, untouched, tmp_path, precision)
    assert passes(video, untouched, tmp_path, precision)
