"""Blend: tiles that overlap and fade into one another, for networks that see the whole picture.

The result is not that of the whole picture, because each tile is computed as if it were one. How far it is off
is measured on a part of a picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import numpy as np

from paragon_export.errors import PlanError
from paragon_export.media.overlap import in_order
from paragon_export.runtimes.base import Arrays, Runner
from paragon_export.specs.types import Size
from paragon_export.system.progress import step as progress_step
from paragon_export.tiling.plan import Core, Part, tile_of
from paragon_export.tiling.run import Strip, joined, scale_of, size_of

OVERLAP_PX = 64
"""Pixels that neighboring tiles share, at most."""

OVERLAP_SHARE = 0.25
"""Of a tile, that its neighbor shares, at most."""

LEAST_PX = 16
"""Least height and width of a tile."""


@dataclass(frozen=True)
class Faded:
    """One tile along one axis."""

    begin: int
    end: int
    weights: np.ndarray
    """(end - begin,), float64, above 0. Those of all tiles at one pixel add up to 1."""

    @property
    def part(self) -> Part:
        """What is read."""
        length = self.end - self.begin
        return Part(((self.begin, self.end),), (Core(self.begin, 0, length),))


def least_blended(step: int) -> int:
    """Return the least extent of a tile that begins at multiples of ``step``."""
    return max(LEAST_PX, 2 * step)


def faded(extent: int, tile: int, step: int = 1) -> tuple[Faded, ...]:
    """Cut one axis of a picture into tiles that overlap.

    Args:
        extent: Rows or columns of the picture.
        tile: Extent of a tile. The last one may be longer by less than a step.
        step: Tiles begin at multiples of it.

    Raises:
        PlanError: If the tile is smaller than ``least_blended``.
    """
    if extent <= tile:
        return (Faded(0, extent, np.ones(extent)),)
    if tile < least_blended(step):
        raise PlanError(
            f"tiles of {tile} pixels are too small to be blended; use at least {least_blended(step)}"
        )
    overlap = min(OVERLAP_PX, int(OVERLAP_SHARE * tile))
    stride = max((tile - overlap) // step * step, step)
    last = (extent - tile) // step * step
    begins = sorted({*range(0, last, stride), last})
    spans = [(begin, extent if begin == last else begin + tile) for begin in begins]
    ramps = [_ramp(begin, end, extent, overlap) for begin, end in spans]
    total = np.zeros(extent)
    for (begin, end), ramp in zip(spans, ramps, strict=True):
        total[begin:end] += ramp
    return tuple(
        Faded(begin, end, ramp / total[begin:end])
        for (begin, end), ramp in zip(spans, ramps, strict=True)
    )


def _ramp(begin: int, end: int, extent: int, overlap: int) -> np.ndarray:
    """Return weights that rise and fall over the overlap, but not at the ends of the picture."""
    inside = np.arange(end - begin) + 0.5
    flat = np.full(end - begin, float(overlap))
    rise = flat if begin == 0 else inside
    fall = flat if end == extent else inside[::-1]
    return np.minimum(np.minimum(rise, fall), flat)


class BlendedRunner:
    """A network that is run in tiles that are blended; a :class:`~paragon_export.runtimes.base.Runner`."""

    def __init__(self, runner: Runner, tile: Size, *, step: int = 1, callers: int = 1) -> None:
        """Keep what is needed.

        Args:
            runner: The network.
            tile: Size of a tile in pixels of the input.
            step: Tiles begin at multiples of this many pixels.
            callers: Tiles that are computed at a time, by as many threads.
        """
        self.name = f"{runner.name}, blended tiles of {tile}"
        self.runner, self.tile, self.step, self.callers = runner, tile, step, callers

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Run the network once (see ``Runner.infer``).

        Raises:
            PlanError: If the tile is too small.
            RunError: If the network cannot run.
        """
        return joined(self.strips(feeds), size_of(feeds))

    def strips(self, feeds: Mapping[str, np.ndarray]) -> Iterator[Strip]:
        """Run the network once and yield its outputs from top to bottom (see ``TiledRunner.strips``)."""
        size = size_of(feeds)
        rows = faded(size.height, self.tile.height, self.step)
        columns = faded(size.width, self.tile.width, self.step)
        tiles = ((row, column) for row in rows for column in columns)
        computed = in_order(
            lambda tile: self.runner.infer(tile_of(feeds, tile[0].part, tile[1].part)),
            tiles, self.callers,
        )  # fmt: skip
        pending: Arrays = {}
        with closing(computed):
            for index, row in enumerate(rows):
                stop = rows[index + 1].begin if index + 1 < len(rows) else row.end
                for name, strip in _blended(islice(computed, len(columns)), size).items():
                    scale = strip.shape[-1] // size.width
                    strip *= _weights(row, scale, strip.dtype)[:, None]
                    if name in pending:
                        strip[:, :, : pending[name].shape[2]] += pending[name]
                    done = scale * (stop - row.begin)
                    pending[name] = strip[:, :, done:].copy()
                    yield Strip(name, scale * row.begin, strip[:, :, :done])


def _blended(tiles: Iterator[tuple[tuple[Faded, Faded], Arrays]], size: Size) -> Arrays:
    """Blend the tiles of one row of tiles."""
    strips: Arrays = {}
    for (row, column), outputs in tiles:
        shape = Size(row.end - row.begin, column.end - column.begin)
        for name, output in outputs.items():
            scale = scale_of(name, output, shape)
            whole = (*output.shape[:3], scale * size.width)
            strip = strips.setdefault(name, np.zeros(whole, output.dtype))
            weights = _weights(column, scale, output.dtype)
            strip[..., scale * column.begin : scale * column.end] += weights * output
    return strips


def _weights(axis: Faded, scale: int, dtype: np.dtype) -> np.ndarray:
    return np.repeat(axis.weights, scale).astype(dtype)


@dataclass(frozen=True, kw_only=True)
class BlendDifference:
    """How far blended tiles are from the whole, on a part of a picture."""

    tile: Size
    size: Size
    """Of the part, in the middle of the picture."""
    largest: float
    """Largest difference of two values, in units of full range; values outside are clipped."""
    psnr_db: float | None
    """Of all values, in dB for full range; None: there is no difference."""

    def to_json(self) -> dict[str, object]:
        """Return it as data; sizes are HxW."""
        return {
            "tile": str(self.tile),
            "size": str(self.size),
            "largest": self.largest,
            "psnr_db": self.psnr_db,
        }


@progress_step("comparing blended tiles with the whole")
def blend_difference(
    blended: BlendedRunner, picture: Mapping[str, np.ndarray], size: Size
) -> BlendDifference:
    """Measure how far blended tiles are from the whole.

    Args:
        blended: The network in tiles.
        picture: The inputs.
        size: Of the part in the middle of the picture that is compared, larger than a tile.

    Raises:
        PlanError: If the part is no larger than a tile, or as for ``faded``.
        RunError: If the network cannot run.
    """
    if size.height <= blended.tile.height and size.width <= blended.tile.width:
        raise PlanError(
            f"blended tiles of {blended.tile} cannot be compared with the whole at {size}"
        )
    whole = size_of(picture)
    top, left = (whole.height - size.height) // 2, (whole.width - size.width) // 2
    parts = [
        Part(((begin, begin + length),), (Core(begin, 0, length),))
        for begin, length in ((top, size.height), (left, size.width))
    ]
    part = tile_of(picture, *parts)
    found, wanted = (
        np.clip(runner.infer(part)["output"].astype(np.float64), 0, 1)
        for runner in (blended, blended.runner)
    )
    error = np.abs(found - wanted)
    mean = float((error**2).mean())
    psnr = float(-10 * np.log10(mean)) if mean else None
    return BlendDifference(tile=blended.tile, size=size, largest=float(error.max()), psnr_db=psnr)
