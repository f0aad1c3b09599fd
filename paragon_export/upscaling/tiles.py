"""Tiles: which size of tile a picture is computed in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from threading import Lock

import numpy as np

from paragon_export.errors import InexactTilesError, PlanError
from paragon_export.runtimes.base import Runner
from paragon_export.specs.types import Size
from paragon_export.system.limits import available_memory
from paragon_export.tiling.blend import (
    BlendDifference,
    BlendedRunner,
    blend_difference,
    least_blended,
)
from paragon_export.tiling.field import Field
from paragon_export.tiling.plan import least_tile
from paragon_export.tiling.run import TiledRunner
from paragon_export.upscaling.model import Limited, Model, OnIntegers

SURELY_FITS_PX = 2**18
"""Pixels of a picture that is computed at once without measuring memory: 512x512."""

SHARE = 0.5
"""Of the memory that is available, what one process may take."""

BLOCK_ROWS = 64
"""Rows of the output that are clipped, rounded and written at a time."""

COMPARED = 2
"""Height and width of what blended tiles are compared with, in tiles."""

MAX_TILE_PX = 2048
"""Largest side of a tile that is chosen: larger ones hardly save work."""


@dataclass
class Tiling:
    """How the pictures of one run are cut."""

    model: Model
    asked: str | Size
    """``auto``, ``none``, or the size of a tile."""
    share: float = SHARE
    """Of the memory that is available, what a run may take."""
    bytes_per_pixel: float | None = None
    """Memory for one pixel of the input; None: what is measured (see ``Model``)."""
    several: bool = False
    """Whether several threads ask for strips, each for those of one picture. ``none`` computes one picture at
    a time all the same, with the memory of one."""
    blend: bool = False
    """Whether tiles of a network that sees the whole picture are blended."""
    has_cut: bool = False
    """Whether tiles were computed."""
    difference: BlendDifference | None = None
    """How far blended tiles are from the whole, on the first picture that is cut."""
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        """Let several threads wait for one another."""
        self._whole = Limited(self.model.runner, 1)

    @property
    def at_once(self) -> int:
        """Pictures that are computed at a time."""
        return self.model.callers if self.several and self.asked != "none" else 1

    @cached_property
    def field(self) -> Field | None:
        """What the pixels of the output are computed from; None: tiles are blended.

        Raises:
            PlanError: If tiles do not give what the whole gives, and are not to be blended.
        """
        try:
            found = self.model.field
        except InexactTilesError as error:
            if self.model.fixed:
                raise  # it cannot be run on a whole picture to be compared with
            if not self.blend:
                raise InexactTilesError(
                    f"{error}; --blend computes tiles that fade into one another, and measures their difference"
                ) from error
            return None
        return None if self.blend and found.means else found

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of the tiles that were computed."""
        if self.has_cut and self.difference:
            return (_words(self.difference),)
        if self.has_cut and self.field and (count := len(self.field.means)):
            return (
                f"tiles of {self.model.name} are given {count} means over the whole picture; {count} passes compute "
                f"them, in about {count / 2 + 1:g} times the time; --blend is faster and not exact",
            )
        return ()

    def strips(self, pixels: np.ndarray, largest: int) -> Iterator[np.ndarray]:
        """Compute a picture and yield its rows from top to bottom.

        Args:
            pixels: (C, H, W), integers.
            largest: The value of white.

        Yields:
            (C, rows, W), in [0, 1]: values outside are clipped. The arrays may be changed.

        Raises:
            PlanError: If it cannot be cut as asked.
            RunError: If the network cannot run.
        """
        runner, feeds = self.runner_for(pixels, largest), self.model.feeds(pixels[None])
        if isinstance(runner, TiledRunner | BlendedRunner):
            outputs: Iterable[np.ndarray] = map(attrgetter("rows"), runner.strips(feeds))
        else:
            outputs = [runner.infer(feeds)["output"]]
        for output in outputs:
            for top in range(0, output.shape[2], BLOCK_ROWS):
                yield np.clip(output[0, :, top : top + BLOCK_ROWS], 0, 1)
            del output  # before the next strip needs memory

    def runner_for(self, pixels: np.ndarray, largest: int) -> Runner:
        """Return what computes a picture (see ``strips``): a ``TiledRunner`` or ``BlendedRunner`` where it is cut.

        Raises:
            PlanError: If it cannot be cut as asked.
        """
        model = self.model
        with self._lock:  # memory, reach and ``shared`` are found once
            tile = self.tile_for(Size(*pixels.shape[1:]))
            if tile is None:
                return OnIntegers(
                    model, self._whole if self.at_once == 1 else model.shared, largest
                )
            callers = 1 if self.several else model.callers
            network, field = OnIntegers(model, model.shared, largest), self.field
            self.has_cut = True
            if field is None:
                blended = BlendedRunner(network, tile, step=model.step, callers=callers)
                if self.difference is None:
                    self.difference = self._difference(blended, pixels)
                return blended
            fixed = model.fixed is not None
            return TiledRunner(network, field, tile, fixed=fixed, callers=callers)

    def tile_for(self, size: Size) -> Size | None:
        """Return the size of the tiles of a picture; None: it is computed at once.

        Raises:
            PlanError: If it does not fit and cannot be cut.
        """
        if self.model.fixed:
            return None if size == self.model.fixed else self.model.fixed
        if isinstance(self.asked, Size):
            fits = size.height <= self.asked.height and size.width <= self.asked.width
            return None if fits else self.asked
        limit = self.model.largest
        if limit and (size.height > limit.height or size.width > limit.width):
            if self.asked == "none":
                raise PlanError(f"{self.model.name} takes at most {limit}; leave out --tile none")
            return limit
        pixels = size.height * size.width
        if self.asked == "none" or pixels <= SURELY_FITS_PX:
            return None
        return self._largest_that_fits(pixels)

    @property
    def least(self) -> int:
        """Least extent of a tile in pixels."""
        return least_tile(self.field) if self.field else least_blended(self.model.step)

    def _difference(self, blended: BlendedRunner, pixels: np.ndarray) -> BlendDifference:
        """Compare blended tiles of a picture with the whole, on a part that has several of them.

        Raises:
            PlanError: If the model or the memory does not allow the part.
        """
        whole, tile, limit = Size(*pixels.shape[1:]), blended.tile, self.model.largest
        size = Size(
            min(whole.height, COMPARED * tile.height), min(whole.width, COMPARED * tile.width)
        )
        if limit:
            size = Size(min(size.height, limit.height), min(size.width, limit.width))
        count = size.height * size.width
        if count > SURELY_FITS_PX and count > self._most_pixels():
            raise PlanError(
                f"blended tiles of {tile} are compared with {size} pixels at once, and the memory that is free is "
                "not enough; give a smaller --tile"
            )
        return blend_difference(blended, self.model.feeds(pixels[None]), size)

    def _most_pixels(self) -> int:
        """Return the pixels of the largest picture that fits into memory."""
        bytes_per_pixel = self.bytes_per_pixel or self.model.bytes_per_pixel
        available = available_memory()
        if not bytes_per_pixel or available is None:
            return SURELY_FITS_PX
        return int(self.share * available / bytes_per_pixel)

    def _largest_that_fits(self, pixels: int) -> Size | None:
        most = self._most_pixels()
        if pixels <= most // self.at_once:
            return None
        side = min(int((most // self.model.callers) ** 0.5), MAX_TILE_PX)
        least, step_px = self.least, self.field.step if self.field else self.model.step
        if self.field is None:
            side //= COMPARED
        if side < least:
            raise PlanError(
                f"a tile of {self.model.name} needs {least}x{least} pixels and the memory that is "
                f"free is enough for {side}x{side}; close other programs, or give --tile"
            )
        return Size(side // step_px * step_px, side // step_px * step_px)


def check_tile(tiling: Tiling) -> None:
    """Check before anything is read that a tile is not all margin.

    Raises:
        PlanError: If it is.
    """
    tile = tiling.asked
    if isinstance(tile, Size) and tiling.least > min(tile.height, tile.width):
        least, name = tiling.least, tiling.model.name
        raise PlanError(f"--tile {tile} is too small for {name}; use at least {least}x{least}")


def _words(found: BlendDifference) -> str:
    """Return the note on blended tiles: their size and the measured difference."""
    psnr = "PSNR infinite" if found.psnr_db is None else f"PSNR {found.psnr_db:.1f} dB"
    return (
        f"tiles of {found.tile} are blended, and the result is not that of the whole picture: in the middle "
        f"{found.size} of the first one that was cut the largest difference is {255 * found.largest:.2f}/255, "
        f"{psnr}"
    )
