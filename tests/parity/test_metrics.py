"""Metrics: known answers, and no way to hide a broken pixel or picture."""

from __future__ import annotations

import math

import numpy as np
import pytest

from paragon_export.parity.metrics import difference, luma, psnr_db

RNG = np.random.default_rng(0)

PICTURE = RNG.random((2, 3, 20, 24)) * 0.5


@pytest.mark.parametrize("levels", [1, 16, 32, 64, 128, 255])
def test_an_offset_of_grey_levels_has_the_textbook_psnr(levels: int) -> None:
    """A constant offset of n of 255 levels is 20 log10(255 / n) dB: 16 levels are 24.05 dB."""
    found = difference(PICTURE + levels / 255, PICTURE, border=0)

    assert found.psnr_db == pytest.approx(20 * math.log10(255 / levels))
    assert found.max_abs == pytest.approx(levels / 255)
    if levels == 16:
        assert found.psnr_db == pytest.approx(24.05, abs=0.005)


def test_equal_pictures_are_infinitely_good() -> None:
    """No error at all is infinite dB and error 0 everywhere."""
    found = difference(PICTURE.copy(), PICTURE, border=4)

    assert found.psnr_db == math.inf
    assert (found.max_abs, found.border_max_abs, found.interior_max_abs) == (0, 0, 0)
    assert found.is_finite
    assert not found.is_constant


def test_the_peak_is_full_range_and_not_the_data() -> None:
    """A dark picture does not make its own error look larger or smaller."""
    dark = PICTURE * 0.01

    assert difference(dark + 0.1, dark, 0).psnr_db == pytest.approx(20)


def test_one_bad_picture_of_a_batch_decides() -> None:
    """The PSNR is the worst picture's, not the batch's average."""
    candidate = np.repeat(PICTURE, 8, axis=0)
    truth = candidate.copy()
    candidate[5] += 0.1

    found = difference(candidate, truth, border=0)

    assert found.psnr_db == pytest.approx(20)
    assert psnr_db(candidate - truth) > 30


def test_one_bad_pixel_is_the_largest_error() -> None:
    """Every pixel of every channel counts, corners included."""
    for index in ((0, 0, 0, 0), (1, 2, 19, 23), (0, 1, 10, 12)):
        candidate = PICTURE.copy()
        candidate[index] -= 0.25

        assert difference(candidate, PICTURE, border=3).max_abs == pytest.approx(0.25)


@pytest.mark.parametrize("border", [1, 3, 9])
def test_errors_are_attributed_to_border_and_interior(border: int) -> None:
    """A pixel at the inner edge of the band is border, the next one is interior."""
    last = border - 1
    places = {
        "border": [(0, 0), (last, 12), (10, last), (19 - last, 12), (10, 23 - last), (19, 23)],
        "interior": [(border, border), (19 - border, 23 - border), (10, 12)],
    }
    for where, pixels in places.items():
        for row, column in pixels:
            candidate = PICTURE.copy()
            candidate[1, 2, row, column] += 0.5

            found = difference(candidate, PICTURE, border)

            expected = (0.5, 0.0) if where == "border" else (0.0, 0.5)
            assert (found.border_max_abs, found.interior_max_abs) == pytest.approx(expected)
            assert found.max_abs == pytest.approx(0.5)


def test_without_a_border_all_is_interior() -> None:
    """A band of width 0 holds no pixel."""
    candidate = PICTURE.copy()
    candidate[0, 0, 0, 0] += 0.5

    found = difference(candidate, PICTURE, border=0)

    assert found.interior_max_abs == pytest.approx(0.5)
    assert found.border_max_abs == 0


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (1, 3, 8, 40), (1, 3, 40, 8), (1, 3, 7, 7)])
def test_a_picture_without_an_interior_is_all_border(shape: tuple[int, ...]) -> None:
    """Where the band covers everything, every error is the border's."""
    truth = np.zeros(shape)
    candidate = truth + 0.125

    found = difference(candidate, truth, border=4)

    assert (found.border_max_abs, found.interior_max_abs) == (0.125, 0.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("index", [(0, 0, 0, 0), (1, 1, 10, 12)])
def test_one_value_that_is_not_finite_is_a_named_failure(
    value: float, index: tuple[int, ...]
) -> None:
    """NaN and infinity are worse than any error and never slip through a comparison."""
    candidate = PICTURE.copy()
    candidate[index] = value

    found = difference(candidate, PICTURE, border=2)

    assert not found.is_finite
    assert found.max_abs == math.inf
    assert found.psnr_db == -math.inf


def test_a_reference_that_is_not_finite_is_no_agreement() -> None:
    """A broken reference never makes a finite candidate look right."""
    truth = PICTURE.copy()
    truth[0, 0, 3, 3] = math.nan

    found = difference(PICTURE, truth, border=2)

    assert not found.max_abs <= 1e9
    assert not found.psnr_db >= -1e9


def test_a_flat_candidate_of_a_lively_reference_is_constant() -> None:
    """One colour everywhere is named, however small the error; a flat reference is no fault."""
    lively = 0.5 + 1e-7 * PICTURE
    flat = np.full_like(PICTURE, 0.5)

    assert difference(flat, lively, 2).is_constant
    assert not difference(flat, flat, 2).is_constant
    assert not difference(lively, flat, 2).is_constant


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_errors_are_taken_in_double(dtype: type) -> None:
    """A half-precision candidate is widened before it is subtracted, not the truth narrowed."""
    truth = np.full((1, 1, 4, 4), 0.1)
    candidate = truth.astype(dtype)

    found = difference(candidate, truth, border=0)

    assert found.max_abs == abs(float(dtype(0.1)) - 0.1)
    assert found.max_abs > 0


def test_whole_numbers_do_not_wrap() -> None:
    """8-bit pictures are subtracted as numbers: an offset of 16 levels is no agreement."""
    truth = np.zeros((1, 1, 4, 4))
    candidate = np.full((1, 1, 4, 4), 16, np.uint8)

    assert difference(candidate, truth, border=0).max_abs == 16


@pytest.mark.parametrize(
    ("candidate", "reference"),
    [
        ((1, 3, 4, 4), (1, 3, 4, 5)),
        ((1, 3, 4, 4), (2, 3, 4, 4)),
        ((1, 1, 4, 4), (1, 3, 4, 4)),
        ((3, 4, 4), (1, 3, 4, 4)),
        ((0, 3, 4, 4), (0, 3, 4, 4)),
        ((1, 3, 0, 4), (1, 3, 0, 4)),
    ],
)
def test_pictures_that_cannot_be_compared_are_refused(
    candidate: tuple[int, ...], reference: tuple[int, ...]
) -> None:
    """Shapes must be equal and hold a pixel; nothing is broadcast."""
    with pytest.raises(ValueError, match="cannot compare"):
        difference(np.zeros(candidate), np.zeros(reference), border=1)


def test_comparing_changes_neither_picture() -> None:
    """Both arrays are read only."""
    candidate, truth = PICTURE + 0.1, PICTURE.copy()
    before = candidate.copy(), truth.copy()
    candidate.setflags(write=False)
    truth.setflags(write=False)

    difference(candidate, truth, border=3)

    np.testing.assert_array_equal(candidate, before[0])
    np.testing.assert_array_equal(truth, before[1])


def test_luma_has_the_range_of_bt601() -> None:
    """Black is 16, white is 235, and green weighs most."""
    assert luma(np.zeros(3)) == pytest.approx(16)
    assert luma(np.ones(3)) == pytest.approx(235)
    red, green, blue = luma(np.eye(3))
    assert green > red > blue > 16
