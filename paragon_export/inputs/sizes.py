"""The sizes and batches that a candidate of any size is judged at."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterable, Sequence

from paragon_export.errors import PlanError
from paragon_export.specs.types import Size

MODULUS = 32
"""Every residue of height and width modulo this occurs among the default sizes."""

LINE_PX = 31
"""A single row or column is one pixel longer than this."""

DRAWN_PX = 48
"""Number of heights and of widths from which the size of a file is drawn."""

LARGEST_BATCH = 17
"""Images in the largest default batch."""

TINY_BATCHES = (8, 4)
"""Batches that servers use; the sizes of the lowest heights get them, if they are tiny."""

TINY_PX = 128
"""Pixels of a size that is tiny."""


def window_sizes(window: int, smallest: int = 1) -> list[tuple[Size, int]]:
    """Return sizes and batches around a window: below, at, above, odd, portrait.

    The batches are 1, 2, 3 and 17. Arguments as for ``default_sizes``.
    """
    w = max(window if window > 1 else 16, smallest)
    sizes = [
        (Size(1, 1), LARGEST_BATCH),
        (Size(w // 2 + 1, w // 2 + 3), 3),
        (Size(w - 1, 2 * w - 1) if w > 1 else Size(2, 3), 1),
        (Size(w, 2 * w), 1),
        (Size(w + 1, 2 * w + 1), 2),
        (Size(2 * w + 5, 3 * w + 5), 1),
        (Size(3 * w, w + 5), 1),
    ]
    large_enough = [
        (Size(max(size.height, smallest), max(size.width, smallest)), batch)
        for size, batch in sizes
    ]
    return list(dict.fromkeys(large_enough))


def residue_sizes(known: Sequence[Size], smallest: int = 1) -> list[Size]:
    """Return small sizes that have the residues modulo ``MODULUS`` that ``known`` sizes lack.

    Low heights go with large widths and the other way round, so both orientations and narrow
    pictures occur. Neighbors are swapped, so equal and unequal parities occur. The last two sizes
    are one row and one column, or as many as ``smallest`` demands.
    """
    heights = _lacking([size.height for size in known], smallest)
    widths = _lacking([size.width for size in known], smallest)[::-1]
    for index in range(2, len(widths) - 1, 4):
        widths[index : index + 2] = widths[index + 1], widths[index]
    pairs = itertools.zip_longest(heights, widths, fillvalue=max(smallest, MODULUS // 2))
    lines = Size(smallest, smallest + LINE_PX), Size(smallest + LINE_PX, smallest)
    return [*(Size(height, width) for height, width in pairs), *lines]


def _lacking(extents: Iterable[int], smallest: int) -> list[int]:
    """Return the least extent of each residue that ``extents`` lack, in ascending order."""
    present = {extent % MODULUS for extent in extents}
    return [e for e in range(smallest, smallest + MODULUS) if e % MODULUS not in present]


def default_sizes(window: int, smallest: int = 1) -> list[tuple[Size, int]]:
    """Return the default sizes and batches: around a window, and of every residue.

    Args:
        window: Side of the attention windows in pixels; 1 for none.
        smallest: Least extent in pixels at which the network is defined. Smaller extents become
            this one.
    """
    around = window_sizes(window, smallest)
    others = residue_sizes([size for size, _ in around], smallest)
    batches = itertools.chain(TINY_BATCHES, itertools.repeat(1))
    return [
        *around,
        *((s, b if _area(s) <= TINY_PX else 1) for s, b in zip(others, batches, strict=False)),
    ]


def _area(size: Size) -> int:
    return size.height * size.width


def drawn_size(data: bytes, smallest: int = 1) -> Size:
    """Return a size that only the bytes of a file determine, so that no export can expect it."""
    rows, columns = divmod(zlib.crc32(data), 2**16)
    return Size(smallest + rows % DRAWN_PX, smallest + columns % DRAWN_PX)


def check_defined(sizes: Iterable[Size], smallest: int) -> None:
    """Refuse sizes at which a network is not defined.

    Raises:
        PlanError: Naming the first extent below ``smallest``.
    """
    for size in sizes:
        if min(size.height, size.width) < smallest:
            raise PlanError(
                f"size {size} is too small: the network is defined from {smallest}x{smallest} on"
            )
