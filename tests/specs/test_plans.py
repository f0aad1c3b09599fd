"""Plans: what is impossible is refused before any work is done."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from paragon_export.errors import PlanError
from paragon_export.specs.plans import EnginePlan, ExportPlan
from paragon_export.specs.profiles import DEFAULT_PROFILE, Profile, read_recipe
from paragon_export.specs.profiles import RECIPES as SHIPPED
from paragon_export.specs.tolerance import Tolerance
from paragon_export.specs.types import MAX_EXTENT_PX, TARGETS, Backend, Precision, Size

RECIPES = sorted(SHIPPED.glob("*.toml"))


def export_plan(**given: Any) -> ExportPlan:
    return ExportPlan(checkpoint=Path("c.pth"), output=Path("o.onnx"), **given)


def engine_plan(**given: Any) -> EnginePlan:
    return EnginePlan(source=Path("c.pth"), output=Path("o.engine"), **given)


# --- sizes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "height", "width"),
    [
        ("720x1280", 720, 1280),
        ("1x1", 1, 1),
        ("1080X1920", 1080, 1920),
        (" 8 x 16 ", 8, 16),
        ("0064x0032", 64, 32),
        (f"{MAX_EXTENT_PX}x{MAX_EXTENT_PX}", MAX_EXTENT_PX, MAX_EXTENT_PX),
    ],
)
def test_sizes_are_height_by_width(text: str, height: int, width: int) -> None:
    """A size reads height first, and prints as it is read."""
    size = Size.parse(text)

    assert (size.height, size.width) == (height, width)
    assert Size.parse(str(size)) == size


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "720", "720x", "x720", "720x1280x3", "720*1280", "720,1280", "-1x5", "5x-1",
        "0x5", "5x0", "1.5x2", "1e3x2", "axb", "720 1280", "720\u00d71280", f"1x{MAX_EXTENT_PX + 1}",
        "9999999x1", "1x1\n2x2", "0x10",
    ],
)  # fmt: skip
def test_bad_sizes_are_refused(text: str) -> None:
    """Anything else is refused in one line that shows what was given."""
    with pytest.raises(PlanError) as caught:
        Size.parse(text)

    assert "size" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


# --- profiles ------------------------------------------------------------------------------


def test_a_profile_rises_in_both_axes() -> None:
    """Equal sizes are a profile of one size; the three sizes come back in order."""
    profile = Profile(smallest=Size(1, 1), optimal=Size(5, 7), largest=Size(5, 9), batch=2)

    assert profile.sizes == (Size(1, 1), Size(5, 7), Size(5, 9))
    Profile(smallest=Size(4, 4), optimal=Size(4, 4), largest=Size(4, 4))


@pytest.mark.parametrize(
    ("smallest", "optimal", "largest", "word"),
    [
        ((10, 1), (5, 5), (20, 20), "height"),
        ((1, 10), (5, 5), (20, 20), "width"),
        ((1, 1), (30, 5), (20, 20), "height"),
        ((1, 1), (5, 30), (20, 20), "width"),
        ((20, 20), (20, 20), (1, 1), "height"),
    ],
)
def test_a_profile_that_falls_is_refused(
    smallest: tuple[int, int], optimal: tuple[int, int], largest: tuple[int, int], word: str
) -> None:
    """Each axis must rise by itself; the message names the axis."""
    with pytest.raises(PlanError, match=f"impossible profile: {word}"):
        Profile(smallest=Size(*smallest), optimal=Size(*optimal), largest=Size(*largest))


@pytest.mark.parametrize("batch", [0, -1])
def test_a_profile_without_pictures_is_refused(batch: int) -> None:
    """A batch holds at least one picture."""
    with pytest.raises(PlanError, match="batch"):
        Profile(smallest=Size(1, 1), optimal=Size(1, 1), largest=Size(1, 1), batch=batch)


def test_the_default_profile_holds_every_size_up_to_1080p() -> None:
    """Without a profile an engine accepts from one pixel to 1080x1920."""
    assert DEFAULT_PROFILE.sizes == (Size(1, 1), Size(720, 1280), Size(1080, 1920))


# --- export plans --------------------------------------------------------------------------


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("io", Precision)
def test_inputs_and_outputs_are_float32_or_of_the_model(
    precision: Precision, io: Precision
) -> None:
    """Ports may be float32 or what the model computes in, and nothing else."""
    if io in (Precision.FP32, precision):
        assert export_plan(precision=precision, io=io).io is io
    else:
        with pytest.raises(PlanError, match=f"--io {io.value} with a {precision.value} model"):
            export_plan(precision=precision, io=io)


@pytest.mark.parametrize(
    ("precision", "expected"),
    [(Precision.FP32, 20), (Precision.FP16, 20), (Precision.BF16, 22)],
)
def test_the_operator_set_is_the_oldest_that_serves(precision: Precision, expected: int) -> None:
    """Without a wish the oldest set is taken that holds every operator in that precision."""
    assert export_plan(precision=precision).operator_set == expected


@pytest.mark.parametrize(
    ("precision", "opset", "possible"),
    [
        *((Precision.FP32, opset, 18 <= opset <= 23) for opset in (1, 17, 18, 19, 23, 24, 99)),
        *((Precision.FP16, opset, 18 <= opset <= 23) for opset in (17, 18, 23, 24)),
        *((Precision.BF16, opset, 22 <= opset <= 23) for opset in (18, 21, 22, 23, 24)),
        (Precision.FP32, 0, False),
        (Precision.FP32, -1, False),
    ],
)
def test_operator_sets_out_of_range_are_refused(
    precision: Precision, opset: int, possible: bool
) -> None:
    """A set that cannot hold the model is refused with the range that can."""
    if possible:
        assert export_plan(precision=precision, opset=opset).operator_set == opset
    else:
        with pytest.raises(PlanError, match=f"--opset {opset}"):
            export_plan(precision=precision, opset=opset)


# --- engine plans --------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["sm99", "sm8", "SM86", "86", "ada", "", "sm86 ", "sm90"])
def test_unknown_targets_are_refused(target: str) -> None:
    """A target that TensorRT-RTX does not compile for is refused with the list of those it does."""
    with pytest.raises(PlanError) as caught:
        engine_plan(targets=("sm86", target))

    assert repr(target) in str(caught.value)
    assert all(known in str(caught.value) for known in TARGETS)


@pytest.mark.parametrize("target", ["sm75", "sm80", "sm86", "sm89", "sm120"])
def test_promised_targets_are_known(target: str) -> None:
    """The targets that the command line promises are accepted, alone and together."""
    assert engine_plan(targets=(target,)).targets == (target,)
    assert engine_plan(targets=("sm75", target)).targets == ("sm75", target)


def test_targets_are_for_rtx_alone() -> None:
    """Full TensorRT builds for the GPU at hand and cannot aim elsewhere."""
    with pytest.raises(PlanError, match="--target is for --backend rtx"):
        engine_plan(backend=Backend.TENSORRT, targets=("sm86",))
    assert engine_plan(backend=Backend.TENSORRT).targets == ()


# --- tolerances ----------------------------------------------------------------------------


def test_the_bar_is_what_was_promised() -> None:
    """FP32: 1e-5, and 4 times PyTorch or 1e-6. FP16: 4 times PyTorch, twice its RMS, and 50 dB."""
    single = Tolerance.for_precision(Precision.FP32)
    assert single.max_abs == 1e-5
    assert single.times_reference == 4
    assert single.times_beyond == 3
    assert single.times_reference * single.reference_floor == pytest.approx(1e-6)
    assert single.min_psnr_db == -math.inf

    half = Tolerance.for_precision(Precision.FP16)
    assert half.max_abs == 0.05
    assert half.times_reference == half.times_beyond == 4
    assert (half.times_rms, half.times_high, half.times_overall) == (2, 2.5, 1.25)
    assert half.reference_floor == 2.0**-14
    assert half.min_psnr_db == 50


# --- recipes -------------------------------------------------------------------------------


def recipe(folder: Path, text: str | bytes) -> Path:
    path = folder / "recipe.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_recipe_is_a_profile(tmp_path: Path) -> None:
    """Sizes and batch come back as written; the batch may be left out."""
    text = '[profile]\nmin = "1x1"\nopt = "720x1280"\nmax = "1080x1920"\n'

    assert read_recipe(recipe(tmp_path, text)) == DEFAULT_PROFILE
    assert read_recipe(recipe(tmp_path, text + "batch = 4\n")).batch == 4


GOOD = '[profile]\nmin = "1x1"\nopt = "2x2"\nmax = "3x3"\n'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "profile = 3",
        "[profile",
        "[profile]\n",
        '[profile]\nmin = "1x1"\nopt = "2x2"\n',
        GOOD + "extra = 1\n",
        GOOD + 'batch = "two"\n',
        GOOD + "batch = 1.5\n",
        GOOD + "batch = true\n",
        GOOD + "batch = 0\n",
        GOOD + "batch = []\n",
        GOOD.replace("2x2", "4x4"),
        GOOD.replace('"2x2"', "2"),
        GOOD.replace('"2x2"', "[2, 2]"),
        GOOD.replace("2x2", "2x"),
        "[[profile]]\nmin = 1\n",
        b"\xff\xfe",
        b"[profile]\nmin = '\xff'",
    ],
)
def test_bad_recipes_are_refused(text: str | bytes, tmp_path: Path) -> None:
    """A recipe that is not one possible profile is refused in one line that names the file."""
    path = recipe(tmp_path, text)

    with pytest.raises(PlanError) as caught:
        read_recipe(path)

    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_recipe_is_refused(tmp_path: Path) -> None:
    """A recipe that is not there, or is a folder, cannot be read."""
    for path in (tmp_path / "absent.toml", tmp_path):
        with pytest.raises(PlanError, match="cannot read recipe"):
            read_recipe(path)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_readable(path: Path) -> None:
    """Shipped recipes are read by the code that reads users' recipes."""
    assert read_recipe(path).batch >= 1


def test_recipes_are_shipped_for_every_variant_at_720p_and_1080p() -> None:
    """Four variants at two sizes each have a recipe, tuned for that size."""
    optimal = {path.stem: read_recipe(path).optimal for path in RECIPES}
    assert len(optimal) >= 8
    for variant in ("realtime", "stream", "photo", "pro"):
        tuned = {size for stem, size in optimal.items() if variant in stem}
        assert {Size(720, 1280), Size(1080, 1920)} <= tuned
