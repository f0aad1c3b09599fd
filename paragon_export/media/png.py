"""PNG: write a picture row by row, so that it need not fit into memory (W3C PNG, third edition)."""

from __future__ import annotations

import struct
import zlib
from types import TracebackType
from typing import IO, Protocol, Self

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"

COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""Channels to the color type: gray, gray with alpha, RGB, RGB with alpha."""

FILTERS = SUB, UP, PAETH = 1, 2, 4
"""Filters that are tried: a byte less the one to its left, above, or the nearest of both and the one
above left."""

FILTER_ROWS, TRIED_ROWS = 16, 2
"""Rows that get one filter, which stay in the processor's cache; and those of them that it is chosen by."""

ISAL_LEVEL, ZLIB_LEVEL = 2, 1
"""Of ISA-L, which takes a third of the time of zlib at level 1 for smaller files; and of zlib, where it is
missing."""

INCH_M = 0.0254


class Compressor(Protocol):
    """Compresses to one stream of zlib's format (RFC 1950)."""

    def compress(self, data: bytes, /) -> bytes:
        """Take data, and return what of the stream is complete."""

    def flush(self) -> bytes:
        """Return the end of the stream."""


def _compressor() -> Compressor:
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.compressobj(ZLIB_LEVEL)
    return isal_zlib.compressobj(ISAL_LEVEL)


class PngWriter:
    """Writes one PNG file from top to bottom."""

    def __init__(
        self,
        file: IO[bytes],
        height: int,
        width: int,
        channels: int,
        dtype: np.dtype,
        *,
        icc: bytes | None = None,
        dpi: tuple[float, float] | None = None,
    ) -> None:
        """Write what precedes the rows.

        Args:
            file: Where to write.
            height: Rows of the picture.
            width: Columns of the picture.
            channels: 1 gray, 2 gray with alpha, 3 RGB, 4 RGB with alpha.
            dtype: uint8 or uint16.
            icc: Color profile.
            dpi: Pixels to an inch, horizontally and vertically.
        """
        self.file, self.bytes_per_pixel = file, channels * dtype.itemsize
        self.above = np.zeros(width * self.bytes_per_pixel, np.uint8)
        self.compressor = _compressor()
        file.write(SIGNATURE)
        depth, color = 8 * dtype.itemsize, COLOR_TYPES[channels]
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
        if icc:
            self._chunk(b"iCCP", b"icc\0\0" + zlib.compress(icc))
        if dpi:
            x, y = (round(each / INCH_M) for each in dpi)
            self._chunk(b"pHYs", struct.pack(">IIB", x, y, 1))

    def write(self, rows: np.ndarray) -> None:
        """Write the next rows.

        Args:
            rows: (rows, W, channels), of the dtype of the picture.
        """
        big_endian = rows.astype(rows.dtype.newbyteorder(">"), copy=False)
        values = np.ascontiguousarray(big_endian).view(np.uint8).reshape(len(rows), -1)
        filtered = _filtered(values, self.above, self.bytes_per_pixel)
        if data := self.compressor.compress(filtered.tobytes()):
            self._chunk(b"IDAT", data)
        self.above = values[-1].copy()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._chunk(b"IDAT", self.compressor.flush())
            self._chunk(b"IEND", b"")

    def _chunk(self, name: bytes, data: bytes) -> None:
        checked = name + data
        self.file.write(struct.pack(">I", len(data)) + checked)
        self.file.write(struct.pack(">I", zlib.crc32(checked)))


def _filtered(values: np.ndarray, above: np.ndarray, step: int) -> np.ndarray:
    """Return the rows, each with the filter whose bytes have the least sum, as libpng chooses.

    A filter is chosen for ``FILTER_ROWS`` rows by the first ``TRIED_ROWS`` of them.

    Args:
        values: (rows, bytes), uint8.
        above: The row before the first.
        step: Bytes of a pixel.

    Returns:
        (rows, 1 + bytes), uint8: the number of the filter before each row.
    """
    count, width = values.shape
    padded = np.zeros((count + 1, step + width), np.uint8)
    padded[0, step:], padded[1:, step:] = above, values
    rows = np.empty((count, 1 + width), np.uint8)
    for top in range(0, count, FILTER_ROWS):
        block = padded[top : top + FILTER_ROWS + 1]
        tried = block[: TRIED_ROWS + 1]
        best = min(FILTERS, key=lambda kind: _sum(_differences(tried, step, kind)))
        rows[top : top + FILTER_ROWS, 0] = best
        rows[top : top + FILTER_ROWS, 1:] = _differences(block, step, best)
    return rows


def _differences(block: np.ndarray, step: int, kind: int) -> np.ndarray:
    """Return rows after a filter.

    Args:
        block: (1 + rows, step + bytes): the row above them first, a pixel of zeros before each.
        step: Bytes of a pixel.
        kind: One of ``FILTERS``.
    """
    values, left, up = block[1:, step:], block[1:, :-step], block[:-1, step:]
    if kind == SUB:
        return values - left
    return values - (up if kind == UP else _nearest(left, up, block[:-1, :-step]))


def _sum(differences: np.ndarray) -> int:
    """Return the sum of absolute values, of bytes as signed numbers."""
    return int(np.abs(differences.view(np.int8)).view(np.uint8).sum(dtype=np.uint32))


def _nearest(left: np.ndarray, up: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """Return the one of three that is nearest to left + up - corner (PNG, 9.4: Paeth).

    With low and high for the lesser and the greater of left and up: it is high where the corner is at most
    a third of the way from low to high, low where it is at least two thirds, and else the corner. All
    arithmetic is in bytes.
    """
    low, high = np.minimum(left, up), np.maximum(left, up)
    nearest = np.minimum(np.maximum(corner, low), high)
    to_low, to_high = nearest - low, high - nearest
    is_high, is_low = to_low <= to_high >> 1, to_high <= to_low >> 1
    nearest += to_high * is_high.view(np.uint8)
    nearest -= to_low * is_low.view(np.uint8)
    return nearest
