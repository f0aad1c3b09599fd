"""Tiles: which size of tile a picture is computed in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from threading import Lock

import numpy as np

from paragon_export.errors import PlanError
from paragon_export.runtimes.base import Runner
from paragon_export.specs.types import Size
from paragon_export.system.limits import available_memory, peak_memory_bytes, reset_peak_memory
from paragon_export.system.progress import step
from paragon_export.tiling.plan import least_tile
from paragon_export.tiling.run import TiledRunner
from paragon_export.upscaling.model import Limited, Model, OnIntegers

SURELY_FITS_PX = 2**18
"""Pixels of a picture that is computed at once without measuring memory: 512x512."""

TRIALS = (Size(128, 128), Size(256, 256))
"""Sizes whose runs tell the memory for a pixel."""

SHARE = 0.5
"""Of the memory that is available, what one process may take."""

BLOCK_ROWS = 64
"""Rows of the output that are clipped, rounded and written at a time."""

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
    """Memory for one pixel of the input; None: not measured."""
    several: bool = False
    """Whether several threads ask for strips, each for those of one picture. ``none`` computes one picture at
    a time all the same, with the memory of one."""
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        """Let several threads wait for one another."""
        self._whole = Limited(self.model.runner, 1)

    @property
    def at_once(self) -> int:
        """Pictures that are computed at a time."""
        return self.model.callers if self.several and self.asked != "none" else 1

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
        if isinstance(runner, TiledRunner):
            outputs: Iterable[np.ndarray] = map(attrgetter("rows"), runner.strips(feeds))
        else:
            outputs = [runner.infer(feeds)["output"]]
        for output in outputs:
            for top in range(0, output.shape[2], BLOCK_ROWS):
                yield np.clip(output[0, :, top : top + BLOCK_ROWS], 0, 1)
            del output  # before the next strip needs memory

    def runner_for(self, pixels: np.ndarray, largest: int) -> Runner:
        """Return what computes a picture (see ``strips``): a ``TiledRunner`` where it is cut.

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
            return TiledRunner(
                OnIntegers(model, model.shared, largest), model.field, tile,
                fixed=model.fixed is not None, callers=callers,
            )  # fmt: skip

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

    def _largest_that_fits(self, pixels: int) -> Size | None:
        if self.bytes_per_pixel is None:
            self.bytes_per_pixel = measured_bytes_per_pixel(self.model)
        available = available_memory()
        if not self.bytes_per_pixel or available is None:
            most = SURELY_FITS_PX
        else:
            most = int(self.share * available / self.bytes_per_pixel)
        if pixels <= most // self.at_once:
            return None
        side = min(int((most // self.model.callers) ** 0.5), MAX_TILE_PX)
        least = least_tile(self.model.field)
        if side < least:
            raise PlanError(
                f"a tile of {self.model.name} needs {least}x{least} pixels and the memory that is "
                f"free is enough for {side}x{side}; close other programs, or give --tile"
            )
        step_px = self.model.field.step
        return Size(side // step_px * step_px, side // step_px * step_px)


def check_tile(model: Model, tile: str | Size) -> None:
    """Check before anything is read that a tile is not all margin.

    Raises:
        PlanError: If it is.
    """
    if not isinstance(tile, Size):
        return
    least = least_tile(model.field)
    if least > min(tile.height, tile.width):
        raise PlanError(
            f"--tile {tile} is too small for {model.name}; use at least {least}x{least}"
        )


@step("measuring memory")
def measured_bytes_per_pixel(model: Model) -> float | None:
    """Return the memory of a run for one pixel of its input in bytes; None where it is not known.

    It is the difference of two runs, over the difference of their pixels. On a system other than
    Linux nothing tells the memory of a run.
    """
    before, peaks = reset_peak_memory(), []
    for size in TRIALS:
        black = np.zeros((1, model.channels, size.height, size.width), np.float32)
        model.runner.infer(model.feeds(black))
        peaks.append(peak_memory_bytes(before))
    low, high = peaks
    if low is None or high is None:
        return None
    pixels = [size.height * size.width for size in TRIALS]
    return max(0, high - low) / (pixels[1] - pixels[0])
