"""Run: a network on a picture, tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import numpy as np

from paragon_export.errors import RunError
from paragon_export.media.overlap import in_order
from paragon_export.runtimes.base import Arrays, Runner
from paragon_export.specs.types import Size
from paragon_export.tiling.field import Field
from paragon_export.tiling.means import with_means
from paragon_export.tiling.plan import Core, Part, TilePlan, plan_tiles, tile_of


@dataclass(frozen=True)
class Strip:
    """Rows of one output, over the whole width."""

    name: str
    """Name of the output."""
    top: int
    """Row of the output at which it begins."""
    rows: np.ndarray
    """(N, C, rows, width of the output)."""


class TiledRunner:
    """A network that is run in tiles; a :class:`~paragon_export.runtimes.base.Runner`.

    The result is that of the whole picture, up to the rounding of the runtime, which may compute
    a tile with other kernels than a picture.
    """

    def __init__(
        self,
        runner: Runner,
        field: Field,
        tile: Size,
        *,
        fixed: bool = False,
        callers: int = 1,
        done: Callable[[float], object] = lambda share: None,
    ) -> None:
        """Keep what is needed.

        Args:
            runner: The network.
            field: Its field (see ``measure_field``).
            tile: Largest size of a tile in pixels of the input.
            fixed: As for ``plan_tiles``.
            callers: Tiles that are computed at a time, by as many threads.
            done: Called after each tile with its share of the picture.
        """
        self.name = f"{runner.name}, tiles of {tile}"
        self.runner, self.field, self.tile = runner, field, tile
        self.fixed, self.callers, self.done = fixed, callers, done

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Run the network once (see ``Runner.infer``).

        Raises:
            PlanError: If the tile is too small for the field.
            RunError: If the network cannot run.
        """
        return joined(self.strips(feeds), size_of(feeds))

    def strips(self, feeds: Mapping[str, np.ndarray]) -> Iterator[Strip]:
        """Run the network once and yield its outputs from top to bottom.

        Only tiles, the strip and the last rows of the picture are in memory at a time. The inputs may be
        memory maps. Their maps may have any dtype of which the runner takes parts.

        Raises:
            PlanError: If the tile is too small for the field.
            RunError: If the network cannot run.
        """
        plan = plan_tiles(size_of(feeds), self.field, self.tile, fixed=self.fixed)
        runner = with_means(self.runner, self.field, plan, feeds)
        last: list[Strip] = []
        tiles = ((row, column) for row in plan.rows for column in plan.columns)
        computed = in_order(lambda tile: runner.infer(tile_of(feeds, *tile)), tiles, self.callers)
        with closing(computed):
            for row in plan.rows:
                strips = self._row(plan, islice(computed, len(plan.columns)))
                last += [strip for core, strip in strips if core is not row.cores[0]]
                here = [strip for core, strip in strips if core is row.cores[0]]
                del strips
                while here:
                    yield here.pop(0)  # and keep it no longer: wide pictures have large strips
        yield from last

    def _row(
        self, plan: TilePlan, tiles: Iterable[tuple[tuple[Part, Part], Arrays]]
    ) -> list[tuple[Core, Strip]]:
        """Join the tiles of one part of the rows."""
        found: dict[tuple[str, Core], np.ndarray] = {}
        whole = plan.size.height * plan.size.width
        for (row, column), outputs in tiles:
            size = Size(row.length, column.length)
            for name, output in outputs.items():
                scale = scale_of(name, output, size)
                for core in row.cores:
                    shape = (*output.shape[:2], scale * core.length, scale * plan.size.width)
                    strip = found.setdefault((name, core), np.empty(shape, output.dtype))
                    for part in column.cores:
                        _paste(strip, output, core, part, scale)
            self.done(_area(row) * _area(column) / whole)
        return [
            (core, Strip(name, core.at * rows.shape[-1] // plan.size.width, rows))
            for (name, core), rows in found.items()
        ]


def joined(strips: Iterable[Strip], size: Size) -> Arrays:
    """Return the outputs for a picture of a size, from their strips."""
    results: Arrays = {}
    for strip in strips:
        scale = strip.rows.shape[-1] // size.width
        if strip.name not in results:
            shape = (*strip.rows.shape[:2], scale * size.height, scale * size.width)
            results[strip.name] = np.empty(shape, strip.rows.dtype)
        bottom = strip.top + strip.rows.shape[2]
        results[strip.name][:, :, strip.top : bottom] = strip.rows
    return results


def size_of(feeds: Mapping[str, np.ndarray]) -> Size:
    """Return height and width of the maps among the inputs.

    Raises:
        RunError: If they differ.
    """
    sizes = {array.shape[2:] for array in feeds.values() if np.ndim(array) == 4}
    if len(sizes) != 1:
        raise RunError(f"tiles need inputs of one size; got {sorted(sizes)}")
    return Size(*sizes.pop())


def scale_of(name: str, output: np.ndarray, size: Size) -> int:
    """Return the pixels of an output for one of the input.

    Raises:
        RunError: If the output is no map of a whole multiple of the tile's size.
    """
    scale = output.shape[2] // size.height if output.ndim == 4 else 0
    if output.ndim != 4 or output.shape[2:] != (scale * size.height, scale * size.width):
        raise RunError(
            f"output {name} has shape {list(output.shape)} for a tile of {size}; it cannot be "
            "computed in tiles"
        )
    return scale


def _paste(strip: np.ndarray, output: np.ndarray, row: Core, column: Core, scale: int) -> None:
    """Copy what a tile computes right."""
    rows = slice(scale * row.inside, scale * (row.inside + row.length))
    columns = slice(scale * column.inside, scale * (column.inside + column.length))
    begin, end = scale * column.at, scale * (column.at + column.length)
    strip[..., begin:end] = output[..., rows, columns]


def _area(part: Part) -> int:
    return sum(core.length for core in part.cores)
