"""Excerpts: the corners, edges and the center of a large picture, joined to a smaller one.

The reference is too slow and too large for float64 at the sizes that people ship. A network whose
output pixels depend on a bounded neighborhood computes the same on an excerpt, except near the
places where the parts were joined. Only blocks that are far enough from these places are compared.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np

from paragon_export.inputs.probes import Probe
from paragon_export.specs.types import Size

BLOCK_PX = 24
"""Side of a block that is compared, in pixels of the input."""


@dataclass(frozen=True)
class Axis:
    """What is kept of one axis of a picture."""

    kept: np.ndarray
    """Indices of the rows or columns that are kept, in ascending order."""
    blocks: tuple[int, ...]
    """Where the blocks begin in the picture: at both ends and in the middle."""
    block: int
    """Extent of a block in pixels."""

    def places(self, *, kept: bool) -> list[int]:
        """Return where the blocks begin in the excerpt if ``kept``, else in the picture."""
        return [int(np.searchsorted(self.kept, b)) if kept else b for b in self.blocks]


def axis(extent: int, margin: int, step: int, place: int | None = None) -> Axis:
    """Choose what to keep of an axis.

    Every part begins at a multiple of ``step`` and all but the last have a multiple of it as their
    length, so that attention windows and paddings lie as they do in the picture. The ends of the
    picture stay ends of the excerpt.

    Args:
        extent: Rows or columns of the picture.
        margin: Least distance in pixels of a block from a place where parts were joined.
        step: Pixels after which windows repeat.
        place: A row or column that the block between the ends covers, in place of the middle.

    Returns:
        The axis. Around the middle it keeps everything if that is hardly more.
    """
    block = min(BLOCK_PX, extent)
    first = -(-(margin + block) // step) * step
    last = (extent - margin - block) // step * step
    if place is None:
        length = -(-(2 * margin + block) // step) * step
        middle = (extent - length) // 2 // step * step + margin
    else:
        middle = min(max(place - block // 2, 0), extent - block)
    begin = (middle - margin) // step * step
    end = begin - (begin - middle - block - margin) // step * step
    parts = [(0, first), (begin, end), (last, extent)]
    is_short = any(low < high for (_, high), (low, _) in itertools.pairwise(parts))
    if is_short and place is None:
        parts, middle = [(0, extent)], (extent - block) // 2
    is_kept = np.zeros(extent, bool)
    for low, high in parts:
        is_kept[max(low, 0) : high] = True
    blocks = sorted({0, middle, extent - block})
    return Axis(kept=np.flatnonzero(is_kept), blocks=tuple(blocks), block=block)


@dataclass(frozen=True)
class Excerpt:
    """The rows and columns of a large picture that the reference is computed on."""

    rows: Axis
    columns: Axis

    @property
    def size(self) -> Size:
        """Height and width in pixels."""
        return Size(len(self.rows.kept), len(self.columns.kept))

    @property
    def pixels(self) -> int:
        """Height times width."""
        return len(self.rows.kept) * len(self.columns.kept)

    def of(self, probe: Probe) -> Probe:
        """Return a probe with the excerpts of its frames."""
        rows, columns = self.rows.kept[:, None], self.columns.kept
        frames = tuple(np.ascontiguousarray(frame[..., rows, columns]) for frame in probe.frames)
        return replace(probe, size=self.size, frames=frames)

    def blocks(self, output: np.ndarray, scale: int, *, kept: bool) -> np.ndarray:
        """Return the compared blocks of an output.

        Args:
            output: (N, C, s*H, s*W), of the excerpt if ``kept``, else of the whole picture.
            scale: s.
            kept: Which of the two it is.

        Returns:
            (N * blocks, C, s*block, s*block), block by block.
        """
        height, width = scale * self.rows.block, scale * self.columns.block
        found = [
            output[..., scale * top : scale * top + height, scale * left : scale * left + width]
            for top in self.rows.places(kept=kept)
            for left in self.columns.places(kept=kept)
        ]
        return np.concatenate(found)


def excerpt(
    size: Size, margin: int, step: int, row: int | None = None, column: int | None = None
) -> Excerpt:
    """Choose what to keep of a picture; arguments as for ``axis``."""
    return Excerpt(axis(size.height, margin, step, row), axis(size.width, margin, step, column))


@dataclass(frozen=True)
class Strip:
    """Rows of a picture, with the rows around them that they depend on."""

    own: np.ndarray
    """Indices of the rows that are computed, in ascending order."""
    kept: np.ndarray
    """Indices of the rows that the network is fed, in ascending order."""

    def of(self, probe: Probe) -> Probe:
        """Return a probe with the rows of its frames that are fed."""
        frames = tuple(np.ascontiguousarray(frame[..., self.kept, :]) for frame in probe.frames)
        return replace(probe, size=Size(len(self.kept), probe.size.width), frames=frames)

    def put(self, output: np.ndarray, scale: int, whole: np.ndarray) -> None:
        """Copy the own rows of an output (N, C, s*kept, W) to their places in that of the picture."""
        found = output[..., _scaled(np.searchsorted(self.kept, self.own), scale), :]
        whole[..., _scaled(self.own, scale), :] = found


def _scaled(rows: np.ndarray, scale: int) -> np.ndarray:
    """Return the rows of an output that rows of the input become."""
    return (rows[:, None] * scale + np.arange(scale)).ravel()


def strips(height: int, rows: int, margin: int, step: int) -> list[Strip]:
    """Cut a picture into strips of about ``rows`` rows, at least ``2 * margin``.

    A network computes on a strip what it computes on the picture, if its pixels depend on
    ``margin`` rows around them at most and its windows begin at multiples of ``step``. Both ends of
    the picture are one strip, because attention that rolls its windows joins them.
    """
    rows = -(-rows // (2 * step)) * 2 * step
    top, bottom = rows // 2, (height - rows // 2) // step * step
    above, below = -(-margin // step) * step, top + -(-margin // step) * step
    every = np.arange(height)
    if below >= bottom - above:
        return [Strip(own=every, kept=every)]
    found = [
        Strip(
            own=np.r_[:top, bottom:height],
            kept=np.r_[:below, bottom - above : height],
        )
    ]
    for begin in range(top, bottom, rows):
        end = min(begin + rows, bottom)
        found.append(Strip(own=every[begin:end], kept=every[begin - above : end + above]))
    return found
