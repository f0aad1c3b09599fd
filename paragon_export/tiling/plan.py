"""Plan: the tiles of a picture.

Along each axis a picture is cut into parts. The first part holds both ends of the picture, joined:
some networks shift their attention windows in a circle, so that rows at the top are computed with rows
at the bottom. A part of the middle is read with a margin on both sides. All parts begin at
multiples of the field's step, and what is left out between the two ends is such a multiple, too, so
that windows and padding lie as they do in the whole picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from paragon_export.errors import PlanError
from paragon_export.runtimes.base import Arrays
from paragon_export.specs.types import Size
from paragon_export.tiling.field import Field


@dataclass(frozen=True)
class Core:
    """Rows or columns of the output that a part computes right, in pixels of the input."""

    at: int
    """Where they begin in the picture."""
    inside: int
    """Where they begin in the part."""
    length: int


@dataclass(frozen=True)
class Part:
    """What one tile reads of one axis, and what it computes."""

    spans: tuple[tuple[int, int], ...]
    """First and behind the last of the rows or columns that are read and joined."""
    cores: tuple[Core, ...]

    @property
    def length(self) -> int:
        """Extent of the tile in pixels."""
        return sum(end - begin for begin, end in self.spans)

    def of(self, array: np.ndarray, axis: int) -> np.ndarray:
        """Return what is read of an array; a view where the part is in one piece."""
        pieces = [array[(slice(None),) * axis + (slice(*span),)] for span in self.spans]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=axis)


def tile_of(feeds: Mapping[str, np.ndarray], row: Part, column: Part) -> Arrays:
    """Return what one tile reads of the inputs."""
    return {
        name: np.ascontiguousarray(column.of(row.of(array, 2), 3)) if np.ndim(array) == 4 else array
        for name, array in feeds.items()
    }


def least_tile(field: Field) -> int:
    """Return the least extent of a tile in pixels: with it, each end has two margins."""
    return 4 * _margin(field) + 2 * field.step


def split(extent: int, field: Field, tile: int, *, fixed: bool = False) -> tuple[Part, ...]:
    """Cut one axis of a picture into parts.

    Args:
        extent: Rows or columns of the picture.
        field: The field of the network.
        tile: Largest extent of a part.
        fixed: Every part must have this extent, because the model takes no other.

    Returns:
        The part that holds both ends, then those of the middle from low to high, all but the first
        of one extent. The cores cover the axis. One part if the picture is no larger than a tile.

    Raises:
        PlanError: If the tile is smaller than ``least_tile``, or no parts of a fixed extent compute
            what the whole computes.
    """
    if fixed and (extent < tile or (extent - tile) % field.step):
        multiples = f" or that and a multiple of {field.step}" if field.step > 1 else " or more"
        raise PlanError(
            f"the model takes {tile} pixels alone; a picture of {extent} cannot be cut into such "
            f"tiles without an error; it needs {tile}{multiples}"
        )
    if extent <= tile:
        return (Part(spans=((0, extent),), cores=(Core(0, 0, extent),)),)
    if tile < least_tile(field):
        raise PlanError(
            f"tiles of {tile} pixels are too small: pixels reach {field.margin} pixels far; "
            f"use at least {least_tile(field)}"
        )
    margin, step = _margin(field), field.step
    end = (extent - 2 * margin) // step * step  # the last span begins here
    first = (tile - (extent - end)) // step * step
    low, high = first - margin, end + margin
    ends = Part(
        spans=((0, first), (end, extent)),
        cores=(Core(0, 0, low), Core(high, first + margin, extent - high)),
    )
    length = tile if fixed else min(tile // step * step, high - low + 2 * margin)
    return ends, *_middle(low, high, margin, length)


def _middle(low: int, high: int, margin: int, length: int) -> Iterator[Part]:
    """Yield parts of one extent whose cores cover ``low`` to ``high``, multiples of the step."""
    while low < high:
        start = min(low - margin, high + margin - length)
        stop = min(start + length - margin, high)
        yield Part(spans=((start, start + length),), cores=(Core(low, low - start, stop - low),))
        low = stop


def _margin(field: Field) -> int:
    """Return the margin, rounded up to a multiple of the step."""
    return -(-max(field.margin, 1) // field.step) * field.step


@dataclass(frozen=True)
class TilePlan:
    """The tiles of a picture: every part of the rows with every part of the columns."""

    size: Size
    rows: tuple[Part, ...]
    columns: tuple[Part, ...]

    @property
    def shapes(self) -> set[Size]:
        """Sizes of the tiles: at most four."""
        return {Size(row.length, column.length) for row in self.rows for column in self.columns}

    @property
    def work(self) -> float:
        """Pixels of all tiles over those of the picture: 1 without tiles."""
        tiles = sum(row.length for row in self.rows) * sum(col.length for col in self.columns)
        return tiles / (self.size.height * self.size.width)


def plan_tiles(size: Size, field: Field, tile: Size, *, fixed: bool = False) -> TilePlan:
    """Return the tiles of a picture.

    Args:
        size: Of the picture, in pixels.
        field: The field of the network.
        tile: Largest size of a tile.
        fixed: Every tile must have this size, because the model takes no other.

    Raises:
        PlanError: As for ``split``.
    """
    return TilePlan(
        size=size,
        rows=split(size.height, field, tile.height, fixed=fixed),
        columns=split(size.width, field, tile.width, fixed=fixed),
    )
