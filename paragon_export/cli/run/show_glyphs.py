"""What ``glyphs`` shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from paragon_export.cli.show.console import Document, cell
from paragon_export.pipeline.glyph_chain import Named

if TYPE_CHECKING:
    import numpy as np


def glyphs(
    rasters: Sequence[Path],
    grids: np.ndarray,
    named: Sequence[Sequence[Named]],
    backend: str,
    notes: Sequence[str],
) -> Document:
    """Return the document of named glyphs; ``grids`` is (N, 16, 16)."""
    return {
        "glyphs": [
            {"raster": str(raster), "top": [asdict(name) for name in names], "grid": grid.tolist()}
            for raster, names, grid in zip(rasters, named, grids, strict=True)
        ],
        "backend": backend,
        "notes": list(notes),
    }


def glyphs_table(
    console: Console, rasters: Sequence[Path], named: Sequence[Sequence[Named]]
) -> None:
    table = Table()
    table.add_column("raster", overflow="fold")
    table.add_column("rank")
    table.add_column("class")
    table.add_column("label", overflow="fold")
    table.add_column("probability", justify="right")
    for raster, names in zip(rasters, named, strict=True):
        table.add_section()
        for name in names:
            first = cell(raster) if name.rank == 1 else ""
            figures = str(name.rank), str(name.index), cell(name.label)
            table.add_row(first, *figures, f"{name.probability:.4f}")
    console.print(table)
