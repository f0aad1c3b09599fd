"""Glyph probes: the grids of IDs and the cells that a glyph classifier is compared on.

They are the same in every run. Each kind of content is fed in batches of another size; the kind that
resembles real input is fed in two sizes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from paragon_export.inputs.probes import Probe
from paragon_export.specs.network import Port
from paragon_export.specs.types import Size

GLYPHS = 32
"""Items of a probe. The largest rounding error of fewer items varies too much to be compared."""


def glyph_probes(port: Port, largest_batch: int = GLYPHS) -> list[Probe]:
    """Return the probes: batches of 1, 2, 3 and 32 (the last batch of three is smaller).

    Args:
        port: The input of a glyph classifier, with its span: a grid (batch, rows, columns) of
            IDs, or cells (batch, 1, rows, columns) of pixels in [0, 1].
        largest_batch: The largest batch that the candidate accepts.
    """
    rows, columns = (int(dim) for dim in port.dims[-2:])
    high = int(port.span[1]) if port.span else 0
    kinds = IDS if port.dtype == "int64" else CELLS
    probes = []
    for label, batch, make in kinds:
        items = make(_rng(label), (GLYPHS, rows, columns), high)
        items = items.astype(port.dtype).reshape(GLYPHS, *map(int, port.dims[1:]))
        step = min(batch, largest_batch)
        frames = tuple(items[start : start + step] for start in range(0, GLYPHS, step))
        probes.append(Probe(label=label, size=Size(rows, columns), frames=frames))
    return probes


def glyph_batch(port: Port, count: int) -> np.ndarray:
    """Return ``count`` glyph-like grids or cells of the shape and dtype of ``port``, for timing."""
    typical = ("glyph-like IDs", "strokes")
    items = next(p.frames[0] for p in glyph_probes(port) if p.label in typical)
    return np.resize(items, (count, *items.shape[1:]))


Make = Callable[[np.random.Generator, tuple[int, int, int], int], np.ndarray]
"""Returns contents of a shape (items, rows, columns): IDs up to the last argument, or cells."""


def _uniform(rng: np.random.Generator, shape: tuple[int, int, int], high: int) -> np.ndarray:
    ids = rng.integers(0, high + 1, shape)
    ids[:, 0, 0], ids[:, -1, -1] = 0, high
    return ids


def _glyph_like(rng: np.random.Generator, shape: tuple[int, int, int], high: int) -> np.ndarray:
    """Return grids of which two thirds or more are empty: a filled box with holes, as in real ones."""
    ids = np.zeros(shape, np.int64)
    for grid in ids:
        top, left = rng.integers(0, 8, 2)
        height, width = rng.integers(4, 9, 2)
        box = rng.integers(0, high + 1, (height, width)) * rng.integers(0, 2, (height, width))
        grid[top : top + height, left : left + width] = box
        grid[top, left] = high
    return ids


def _stripes(rng: np.random.Generator, shape: tuple[int, int, int], high: int) -> np.ndarray:
    """Return columns of one ID, and rows in every second grid: a swap of the axes shows."""
    count, rows, columns = shape
    grids = np.broadcast_to(rng.integers(0, high + 1, (count, 1, columns)), shape).copy()
    grids[1::2] = rng.integers(0, high + 1, (len(grids[1::2]), rows, 1))
    grids[:, 0, 0], grids[:, 0, 1] = 0, high
    return grids


def _flat(rng: np.random.Generator, shape: tuple[int, int, int], high: int) -> np.ndarray:
    """Return grids of one ID, 0 and the last one among them, with an off-center patch of another."""
    first, second = rng.integers(0, high + 1, (2, shape[0], 1, 1))
    first[:2, 0, 0] = 0, high
    ids = np.broadcast_to(first, shape).copy()
    ids[:, 3:7, 9:14] = second
    return ids


def _binary(rng: np.random.Generator, shape: tuple[int, int, int], high: int) -> np.ndarray:
    return rng.integers(0, 2, shape)


def _gray(rng: np.random.Generator, shape: tuple[int, int, int], high: int) -> np.ndarray:
    return rng.random(shape)


def _strokes(rng: np.random.Generator, shape: tuple[int, int, int], high: int) -> np.ndarray:
    """Return cells with a straight edge at any angle and ink on one side; the first cell is empty."""
    rows, columns = np.indices(shape[1:]) - 3.5
    angles = rng.uniform(0, 2 * np.pi, shape[0])[:, None, None]
    cells = np.cos(angles) * rows + np.sin(angles) * columns > rng.uniform(-3, 3)
    cells[0] = False
    return cells


IDS: Sequence[tuple[str, int, Make]] = (
    ("glyph-like IDs", 32, _glyph_like),
    ("glyph-like IDs", 1, _glyph_like),
    ("stripes of IDs", 2, _stripes),
    ("flat IDs", 3, _flat),
    ("uniform IDs", 32, _uniform),
)
"""Name, batch and contents of the probes of IDs."""

CELLS: Sequence[tuple[str, int, Make]] = (
    ("strokes", 32, _strokes),
    ("strokes", 1, _strokes),
    ("binary noise", 2, _binary),
    ("grey noise", 3, _gray),
    ("binary noise", 32, _binary),
)
"""Name, batch and contents of the probes of cells."""


def _rng(label: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(label.encode()))
