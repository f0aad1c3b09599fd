"""PNG: write a picture row by row, so that it need not fit into memory (W3C PNG, third edition)."""

from __future__ import annotations

import struct
import zlib
from types import TracebackType
from typing import IO, Protocol, Self

import numpy as np

from paragon_export.media.png_filter import RowFilter

SIGNATURE = b"\x89PNG\r\n\x1a\n"

COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""Channels to the color type: gray, gray with alpha, RGB, RGB with alpha."""

ISAL_LEVEL, ZLIB_LEVEL = 2, 1
"""Of ISA-L, which takes a third of the time of zlib at level 1 for smaller files; and of zlib, where it is
missing."""

INCH_M = 0.0254


class Compressor(Protocol):
    """Compresses to one stream of zlib's format (RFC 1950)."""

    def compress(self, data: memoryview, /) -> bytes:
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
        pixel = channels * dtype.itemsize
        self.file, self.filter = file, RowFilter(width * pixel, pixel)
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
        if data := self.compressor.compress(self.filter.filtered(values).data):
            self._chunk(b"IDAT", data)

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
        self.file.write(struct.pack(">I", len(data)) + name)
        self.file.write(data)
        self.file.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(name))))
