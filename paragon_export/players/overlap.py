"""Overlap: how far tiles of vs-mlrt must overlap, each of which is computed for itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from paragon_export.errors import PlanError
from paragon_export.graph.onnx_io import OnnxFile, serialized
from paragon_export.runtimes.base import Runner
from paragon_export.runtimes.isolated import open_runner
from paragon_export.runtimes.named import with_standard_names
from paragon_export.specs.types import Size
from paragon_export.tiling.field import poisoned
from paragon_export.tiling.nan_graph import nan_graph
from paragon_export.tiling.open import field_of_file


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """What tiles need so that they give the picture that the whole gives."""

    pixels: int | None = None
    """How far around a pixel the model looks, in pixels of its input; None if there are no tiles."""
    scale: int = 1
    """Pixels of the output for one of the input."""
    obstacle: str = ""
    """Why there are no tiles, in words."""


def overlap_of(file: OnnxFile) -> Overlap:
    """Return the overlap of tiles of a model.

    Networks with attention windows have none: tiles of vs-mlrt do not keep the grid of the windows,
    nor the two ends of a picture together, which windows that shift in a circle see as one.

    Raises:
        RunError: If the model does not run.
    """
    if file.metadata.window > 1:
        return Overlap(obstacle="its attention windows lie on a grid, which vs-mlrt does not keep")
    if file.static:
        return _measured_at(file, file.static)
    try:
        field = field_of_file(file)
    except PlanError as error:
        return Overlap(obstacle=str(error))
    if field.step > 1:
        return Overlap(
            obstacle=f"it computes blocks of {field.step} pixels, which vs-mlrt does not keep"
        )
    least = max(1, file.metadata.smallest)
    (picture,) = (
        _opened(file).infer(poisoned(file.ports[0], Size(least, least), 2, slice(0))).values()
    )
    return Overlap(pixels=field.margin, scale=picture.shape[2] // least)


def _measured_at(file: OnnxFile, size: Size) -> Overlap:
    """Return the overlap of a model of one size: a row, then a column, in its middle is NaN."""
    blind, reach, scale = _opened(serialized(nan_graph(file.model), file.path)), 0, 1
    for axis, extent in ((2, size.height), (3, size.width)):
        middle = extent // 2
        feeds = poisoned(file.ports[0], size, axis, slice(middle, middle + 1))
        (picture,) = blind.infer(feeds).values()
        scale = picture.shape[axis] // extent
        others = tuple(other for other in range(4) if other != axis)
        seen = np.flatnonzero(np.isnan(picture).any(axis=others)) // scale
        if not 0 < seen[0] <= seen[-1] < extent - 1:
            return Overlap(obstacle=f"at its size {size} all pixels depend on those in the middle")
        reach = max(reach, middle - int(seen[0]), int(seen[-1]) - middle)
    return Overlap(pixels=reach, scale=scale)


def _opened(file: OnnxFile) -> Runner:
    runner = open_runner(file.data, is_own=False, title=str(file.path))
    return with_standard_names(runner, file.names)
