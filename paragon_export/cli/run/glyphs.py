"""``glyphs``: name the glyphs on rasters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paragon_export.cli.options import Config, Json, More, options_of
from paragon_export.specs.types import OnnxBackend


def glyphs(
    phase_1: Annotated[Path, typer.Argument(help="Checkpoint or ONNX file of phase 1.")],
    phase_2: Annotated[Path, typer.Argument(help="Same for phase 2; the order does not matter.")],
    rasters: Annotated[
        list[Path],
        typer.Argument(help="8-bit gray images of 128x128 pixels, light ink on a black ground."),
    ],
    label_map: Annotated[
        Path | None, typer.Option(help="JSON file {label: class}; default: the checkpoint's own.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes to name for each glyph.")] = 5,
    backend: Annotated[
        OnnxBackend, typer.Option(help="Runtime of both phases.")
    ] = OnnxBackend.ONNXRUNTIME,
    config: Config = None,
    more: More = None,
    json: Json = False,
) -> None:
    """Name the glyphs on rasters. Both phases of the glyph classifier are run."""
    import numpy as np

    from paragon_export.cli.run.show_glyphs import glyphs as document_of
    from paragon_export.cli.run.show_glyphs import glyphs_table
    from paragon_export.cli.show.console import show
    from paragon_export.pipeline.glyph_chain import name_glyphs, open_chain, read_raster

    images = np.stack([read_raster(path) for path in rasters])
    chain = open_chain((phase_1, phase_2), options_of(config=config, more=more), label_map, backend)
    grids, named = name_glyphs(chain, images, top)
    document = document_of(rasters, grids, named, backend.value, chain.notes)
    show(json, document, glyphs_table, rasters, named)
