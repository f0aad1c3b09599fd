"""PNG filter: rows as differences from their neighbors, which compress better (PNG, 9)."""

from __future__ import annotations

from functools import partial

import numpy as np

FILTERS = SUB, UP, AVERAGE, PAETH = 1, 2, 3, 4
"""What is taken from a byte: the one to its left, above, the mean of both, or the nearest of both and the
one above left."""

FILTER_ROWS, TRIED_ROWS = 64, 2
"""Rows that get one filter; and those of them that it is chosen by."""

PAETH_FACTOR = 1.2
"""By how much the others may be worse than Paeth, which takes three times their time."""

CHUNK = 2**16
"""Bytes that are filtered at a time: they and what is computed from them stay in the processor's cache."""


class RowFilter:
    """Filters the rows of one picture from top to bottom.

    The bytes of all rows lie in one line, one more before each row. So every filter is a few operations on
    long arrays. The differences in the first pixel of a row, which has none to its left, are set afterwards.
    """

    def __init__(self, width: int, step: int) -> None:
        """Begin before the first row.

        Args:
            width: Bytes of a row.
            step: Bytes of a pixel.
        """
        self._width, self._step = width, step
        self._above = np.zeros(width, np.uint8)
        self._scratch = np.empty((4, CHUNK), np.uint8)

    def filtered(self, values: np.ndarray) -> np.ndarray:
        """Return the next rows, each with the filter whose bytes have the least sum, as libpng chooses.

        A filter is chosen for ``FILTER_ROWS`` rows by the first ``TRIED_ROWS`` of them. The sum of Paeth's bytes
        counts ``PAETH_FACTOR`` times.

        Args:
            values: (rows, bytes), uint8.

        Returns:
            (rows, 1 + bytes), uint8: the number of the filter before each row.
        """
        count, step = len(values), self._step
        line = np.zeros(step + (count + 1) * (1 + self._width), np.uint8)
        padded = line[step:].reshape(count + 1, -1)
        padded[0, 1:], padded[1:, 1:] = self._above, values
        rows = np.empty((count, 1 + self._width), np.uint8)
        for top in range(0, count, FILTER_ROWS):
            group = rows[top : top + FILTER_ROWS]
            best = min(FILTERS, key=partial(self._cost, line, group[:TRIED_ROWS], top))
            self._fill(line, group, top, best)
            pixels = padded[top : top + len(group) + 1, 1 : 1 + step]
            group[:, 1 : 1 + step] = pixels[1:] - _above_first(pixels[:-1], best)
            group[:, 0] = best
        self._above = values[-1].copy()
        return rows

    def _cost(self, line: np.ndarray, rows: np.ndarray, top: int, kind: int) -> float:
        """Fill rows; return the sum of absolute values, of bytes as signed numbers, without the first pixels."""
        self._fill(line, rows, top, kind)
        sizes = np.abs(rows[:, 1 + self._step :].view(np.int8)).view(np.uint8)
        return int(sizes.sum(dtype=np.uint64)) * (PAETH_FACTOR if kind == PAETH else 1)

    def _fill(self, line: np.ndarray, rows: np.ndarray, top: int, kind: int) -> None:
        """Fill rows with the differences of a filter, which are wrong in the first pixel of each row.

        Args:
            line: ``step`` zeros, the row above the first one, and all rows.
            rows: (rows, 1 + bytes).
            top: The first of them in ``line``.
            kind: One of ``FILTERS``.
        """
        flat, step, length = rows.reshape(-1), self._step, 1 + self._width
        for start in range(0, flat.size, CHUNK):
            out = flat[start : start + CHUNK]
            first, count = top * length + start, out.size
            places = (step + length, length, step, 0)  # of the values, left, up and above left
            values, left, up, corner = (line[first + p : first + p + count] for p in places)
            if kind == SUB:
                np.subtract(values, left, out=out)
            elif kind == UP:
                np.subtract(values, up, out=out)
            elif kind == AVERAGE:
                average(values, left, up, out, self._scratch[0, :count])
            else:
                paeth(values, left, up, corner, out, self._scratch[:, :count])


def _above_first(up: np.ndarray, kind: int) -> np.ndarray | int:
    """Return what a filter takes from the first pixels of rows, which have zeros to their left."""
    if kind == SUB:
        return 0
    return up >> 1 if kind == AVERAGE else up


def average(
    values: np.ndarray, left: np.ndarray, up: np.ndarray, out: np.ndarray, scratch: np.ndarray
) -> None:
    """Fill ``out`` with values less the mean of left and up, rounded down (PNG, 9.3).

    Args:
        values: (N,), uint8, as all others.
        left: The bytes of the pixels to the left.
        up: Those above.
        out: Is filled.
        scratch: Is overwritten.
    """
    np.right_shift(np.bitwise_xor(left, up, out=out), 1, out=out)
    np.add(out, np.bitwise_and(left, up, out=scratch), out=out)
    np.subtract(values, out, out=out)


def paeth(
    values: np.ndarray,
    left: np.ndarray,
    up: np.ndarray,
    corner: np.ndarray,
    out: np.ndarray,
    scratch: np.ndarray,
) -> None:
    """Fill ``out`` with values less the one of three that is nearest to left + up - corner (PNG, 9.4).

    With low and high for the lesser and the greater of left and up: it is high where the corner is at most
    a third of the way from low to high, low where it is at least two thirds, and else the corner. All
    arithmetic is in bytes.

    Args:
        values: (N,), uint8, as all others.
        left: The bytes of the pixels to the left.
        up: Those above.
        corner: Those above left.
        out: Is filled.
        scratch: (4, N); is overwritten.
    """
    low, high, half, chosen = scratch
    np.minimum(left, up, out=low)
    np.maximum(left, up, out=high)
    np.minimum(np.maximum(corner, low, out=out), high, out=out)
    to_low, to_high = np.subtract(out, low, out=low), np.subtract(high, out, out=high)
    np.subtract(values, out, out=out)
    for far, near, change in ((to_high, to_low, np.subtract), (to_low, to_high, np.add)):
        np.less_equal(near, np.right_shift(far, 1, out=half), out=chosen.view(bool))
        change(out, np.multiply(far, chosen, out=half), out=out)
