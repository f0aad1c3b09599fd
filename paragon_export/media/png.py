"""PNG: write a picture row by row, so that it need not fit into memory (W3C PNG, third edition)."""

from __future__ import annotations

import struct
import zlib
from types import TracebackType
from typing import IO, Self

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"

COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""Channels to the color type: gray, gray with alpha, RGB, RGB with alpha."""

SUB, UP, PAETH = 1, 2, 4
"""Filters that are tried for each row: a byte less the one to its left, above, or the nearer of both
and the one above that."""

LEVEL = 4
"""Of zlib: level 6 takes twice the time for 2 % fewer bytes of a photograph."""

INCH_M = 0.0254


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
        self.compressor = zlib.compressobj(LEVEL)
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

    Args:
        values: (rows, bytes), uint8.
        above: The row before the first.
        step: Bytes of a pixel.

    Returns:
        (rows, 1 + bytes), uint8: the number of the filter before each row.
    """
    up = np.concatenate([above[None], values[:-1]])
    left, corner = (np.pad(rows, ((0, 0), (step, 0)))[:, : rows.shape[1]] for rows in (values, up))
    found = {SUB: values - left, UP: values - up, PAETH: values - _nearest(left, up, corner)}
    sums = [np.abs(rows.view(np.int8).astype(np.int16)).sum(axis=1) for rows in found.values()]
    best = np.argmin(sums, axis=0)
    rows = np.choose(best[:, None], list(found.values()))
    return np.column_stack([np.array(list(found), np.uint8)[best], rows])


def _nearest(left: np.ndarray, up: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """Return the one of three that is nearest to left + up - corner (PNG, 9.4: Paeth)."""
    a, b, c = (each.astype(np.int16) for each in (left, up, corner))
    to_a, to_b, to_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    return np.where(
        (to_a <= to_b) & (to_a <= to_c), left, np.where(to_b <= to_c, up, corner)
    ).astype(np.uint8)
