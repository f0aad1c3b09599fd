"""Glyph probes: the grids of IDs and the cells that a glyph classifier is judged on.

The same for every run. Every kind of content is fed in batches of another size, and what real
input looks like in two of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from paragon_export.inputs.probes import Probe
from paragon_export.specs.network import Port
from paragon_export.specs.types import Size

GLYPHS = 32
"""Items of a probe: the largest rounding error of a few is a matter of luck."""


def glyph_probes(port: Port, largest_batch: int = GLYPHS) -> list[Probe]:
    """Return the probes: batches of 1, 2, 3 and 32 (the last batch of three is smaller).

    Args:
        port: The input of a glyph classifier, with its span: a grid (batch, rows, columns) of
            IDs, or cells (batch, 1, rows, columns) of pixels in [0, 1].
        largest_batch: That the candidate accepts.
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
    """Return ``count`` glyph-like grids or cells as ``port`` takes them, to time a network on."""
    typical = ("glyph-like IDs", "strokes")
    items = next(p.frames[0] for p in glyph_probes(port) if p.label in typical)
    return np.resize(items, (count, *items.shape[1:]))


Make = Callable[[np.random.Generator, tuple[int, int, int], int], np.ndarray]


def _uniform(rng: np.random.Generator, shape: tuple[int, int, int], high: int) -> np.ndarray:
    ids = rng.integers(0, high + 1, shape)
    ids[:, 0, 0], ids[:, -1, -1] = 0, high
    return ids


def _glyph_like(rng: np.random.Generator, shape: tuple[int, int, int], high: int) -> np.ndarray:
    """Two thirds or more empty, as in real grids: a filled box somewhere, with holes."""
    ids = np.zeros(shape, np.int64)
    for grid in ids:
        top, left = rng.integers(0, 8, 2)
        height, width = rng.integers(4, 9, 2)
        box = rng.integers(0, high + 1, (height, width)) * rng.integers(0, 2, (height, width))
        grid[top : top + height, left : left + width] = box
        grid[top, left] = high
    return ids


def _stripes(rng: np.random.Generator, shape: tuple[int, int, int], high: int) -> np.ndarray:
    """Columns, and rows in every second grid: a swap of the two axes shows."""
    count, rows, columns = shape
    upright = np.broadcast_to(rng.integers(0, high + 1, (count, 1, columns)), shape).copy()
    upright[1::2] = rng.integers(0, high + 1, (len(upright[1::2]), rows, 1))
    upright[:, 0, 0], upright[:, 0, 1] = 0, high
    return upright


def _flat(rng: np.random.Generator, shape: tuple[int, int, int], high: int) -> np.ndarray:
    """One ID all over, 0 and the last one among them, but for a patch off the centre."""
    first, second = rng.integers(0, high + 1, (2, shape[0], 1, 1))
    first[:2, 0, 0] = 0, high
    ids = np.broadcast_to(first, shape).copy()
    ids[:, 3:7, 9:14] = second
    return ids


def _binary(rng: np.random.Generator, shape: tuple[int, int, int], high: int) -> np.ndarray:
    return rng.integers(0, 2, shape)


def _grey(rng: np.random.Generator, shape: tuple[int, int, int], high: int) -> np.ndarray:
    return rng.random(shape)


def _strokes(rng: np.random.Generator, shape: tuple[int, int, int], high: int) -> np.ndarray:
    """A straight edge at any angle, ink on one side, as glyphs have it; one cell is empty."""
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
"""Name, batch and content."""

CELLS: Sequence[tuple[str, int, Make]] = (
    ("strokes", 32, _strokes),
    ("strokes", 1, _strokes),
    ("binary noise", 2, _binary),
    ("grey noise", 3, _grey),
    ("binary noise", 32, _binary),
)


def _rng(label: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(label.encode()))
