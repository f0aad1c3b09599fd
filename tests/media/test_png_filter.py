"""PNG filters: what is written is what other readers undo, and each filter is chosen where it is best."""

from __future__ import annotations

import io
import sys

import imagecodecs
import numpy as np
import pytest

from paragon_export.media import png_filter
from paragon_export.media.png import PngWriter
from paragon_export.media.png_filter import (
    AVERAGE,
    FILTER_ROWS,
    PAETH,
    SUB,
    UP,
    RowFilter,
    average,
    paeth,
)

WIDTH = 40


CHOSEN = (UP, SUB, AVERAGE, PAETH)
"""Filters that are best for ``bands``."""


def bands(dtype: type, channels: int) -> np.ndarray:
    """Return (H, W, channels): rows alike, columns alike, each byte the mean of two, and flat cells."""
    random = np.random.default_rng(0)
    step = channels * np.dtype(dtype).itemsize
    row = random.integers(0, 128, (1, WIDTH, step))
    row[:, ::2] = 0
    columns = random.integers(0, 256, (FILTER_ROWS, 1, step)).repeat(WIDTH, 1)
    cells = random.integers(0, 256, (2, WIDTH // 5, step)).repeat(FILTER_ROWS // 2, 0)
    mean = np.concatenate([columns[-1:], random.integers(0, 256, (FILTER_ROWS, WIDTH, step))])
    for y in range(1, len(mean)):
        for x in range(1, WIDTH):
            mean[y, x] = (mean[y - 1, x] + mean[y, x - 1]) // 2
    parts = [row.repeat(FILTER_ROWS, 0), columns, mean[1:], cells.repeat(5, 1)]
    values = np.concatenate(parts).astype(np.uint8)
    return values.view(np.dtype(dtype).newbyteorder(">")).astype(dtype)


def bytes_of(pixels: np.ndarray) -> np.ndarray:
    """Return (rows, bytes), in the order of PNG."""
    big_endian = pixels.astype(pixels.dtype.newbyteorder(">"))
    return big_endian.view(np.uint8).reshape(len(pixels), -1)


@pytest.mark.parametrize("chunk", [101, png_filter.CHUNK])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_rows_are_less_what_the_standard_says(
    channels: int, dtype: type, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every byte, by the formulas of PNG, 9; also where a chunk ends amid a row."""
    monkeypatch.setattr(png_filter, "CHUNK", chunk)
    pixels = bands(dtype, channels)
    values, step = bytes_of(pixels).astype(int), channels * pixels.itemsize
    rows = RowFilter(values.shape[1], step).filtered(bytes_of(pixels))
    assert list(rows[::FILTER_ROWS, 0]) == list(CHOSEN)

    padded = np.pad(values, ((1, 0), (step, 0)))
    left, up, corner = padded[1:, :-step], padded[:-1, step:], padded[:-1, :-step]
    near = np.stack([left, up, corner])
    nearest = np.abs(left + up - corner - near).argmin(axis=0)
    taken = {
        SUB: left, UP: up, AVERAGE: (left + up) // 2,
        PAETH: np.take_along_axis(near, nearest[None], 0)[0],
    }  # fmt: skip
    for number, row in enumerate(rows):
        wanted = (values[number] - taken[row[0]][number]) % 256
        assert np.array_equal(row[1:], wanted), (number, row[0])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("is_missing", [False, True])
@pytest.mark.parametrize("width", [1, WIDTH])
def test_every_filter_is_undone(
    width: int, dtype: type, is_missing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with zlib alone, and with rows that are given in other blocks than filters are chosen for."""
    if is_missing:
        monkeypatch.setitem(sys.modules, "isal", None)
    pixels = bands(dtype, 3)[:, :width]
    for block in (1, 7, len(pixels)):
        file = io.BytesIO()
        with PngWriter(file, *pixels.shape, pixels.dtype) as writer:
            for top in range(0, len(pixels), block):
                writer.write(pixels[top : top + block])
        assert np.array_equal(imagecodecs.png_decode(file.getvalue()), pixels)


def test_the_mean_is_rounded_down() -> None:
    left, up = (x.ravel().astype(np.uint8) for x in np.mgrid[0:256, 0:256])
    out, zeros = np.empty_like(left), np.zeros_like(left)
    average(zeros, left, up, out, np.empty_like(left))
    assert np.array_equal(-out, ((left.astype(int) + up) // 2).astype(np.uint8))


def test_paeth_chooses_the_first_of_the_nearest() -> None:
    a, b, c = (x.ravel().astype(np.uint8) for x in np.mgrid[0:256:15, 0:256:15, 0:256:15])
    wanted = [
        min((abs(x + y - z - value), index, value) for index, value in enumerate((x, y, z)))[2]
        for x, y, z in zip(a.tolist(), b.tolist(), c.tolist(), strict=True)
    ]
    out = np.empty_like(a)
    paeth(np.zeros_like(a), a, b, c, out, np.empty((4, a.size), np.uint8))
    assert np.array_equal(-out, np.array(wanted, np.uint8))


def test_a_difference_of_255_is_one_of_minus_one() -> None:
    starts = np.random.default_rng(0).integers(0, 256, (FILTER_ROWS, 1))
    values = (starts - np.arange(WIDTH)).astype(np.uint8)
    assert RowFilter(WIDTH, 1).filtered(values)[0, 0] in (
        SUB,
        PAETH,
    )  # alike but in the first pixels


@pytest.mark.parametrize(("factor", "chosen"), [(1.4, PAETH), (1.6, SUB)])
def test_paeth_has_to_be_better_by_a_factor(
    factor: float, chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wave: the sum for the bytes to the left is 1.5 times that for Paeth."""
    y, x = np.mgrid[:FILTER_ROWS, :WIDTH]
    values = (100 + 60 * np.sin(x / 5) + 3 * y).astype(np.uint8)
    monkeypatch.setattr(png_filter, "PAETH_FACTOR", factor)
    assert RowFilter(WIDTH, 1).filtered(values)[0, 0] == chosen
