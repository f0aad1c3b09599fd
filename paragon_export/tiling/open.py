"""Open: the field of a network or of an ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from paragon_export.errors import InexactTilesError
from paragon_export.graph.onnx_io import OnnxFile, serialized
from paragon_export.runtimes.base import Arrays, Runner
from paragon_export.runtimes.isolated import open_runner
from paragon_export.runtimes.named import with_standard_names
from paragon_export.specs.network import InputSpec, Port
from paragon_export.specs.types import Precision, Size
from paragon_export.system.progress import step as progress_step
from paragon_export.tiling.field import (
    STEPS,
    Field,
    maps_of,
    measure_field,
    measure_fixed_field,
)
from paragon_export.tiling.means import measure_field_and_means
from paragon_export.tiling.nan_graph import nan_graph
from paragon_export.tiling.plan import least_tile
from paragon_export.tiling.run import TiledRunner

DIFFERENCE = {Precision.FP32: 1e-4, Precision.FP16: 2e-2, Precision.BF16: 1e-1}
"""Largest difference of tiles to the whole, in shares of the output's range, that rounding explains."""


def field_of_network(runner: Runner, inputs: Sequence[Port], spec: InputSpec) -> Field:
    """Return the field of a PyTorch network.

    Args:
        runner: The network in float32.
        inputs: Its inputs.
        spec: What it is fed. Its ``excerpt_step`` is the step, unless tiles give the whole picture
            with the smaller side of its windows, too.

    Raises:
        InexactTilesError: If it sees the whole picture, and not by means alone.
    """
    if spec.excerpt_step == 0:
        raise InexactTilesError(
            "every pixel of the output depends on the whole picture; it cannot be computed in tiles"
        )
    if spec.window < spec.excerpt_step:
        with suppress(InexactTilesError):
            field = measure_field_and_means(
                runner, inputs, step=spec.window, smallest=spec.smallest
            )
            if tile_difference(runner, inputs, field, spec) <= DIFFERENCE[Precision.FP32]:
                return field
    return measure_field_and_means(runner, inputs, step=spec.excerpt_step, smallest=spec.smallest)


def field_of_file(file: OnnxFile) -> Field:
    """Return the field of an ONNX file, on the CPU.

    A file need not say at which multiples its windows lie. So steps are tried, and tiles are compared
    on noise: with the whole, or with each other if the file takes one size.

    Raises:
        InexactTilesError: If it sees the whole picture, its size is too small for tiles, or tiles never give
            what the whole gives.
        RunError: If it cannot run.
    """
    runner, spec = _opened(file), file.input_spec
    blind = _opened(serialized(nan_graph(file.model), file.path), is_own=file.is_own)
    inputs = file.ports[0]
    for step in (spec.window, *(step for step in STEPS if step > spec.window)):
        if file.static:
            field = _fixed_field(blind, inputs, file.static, step, str(file.path))
            difference = shift_difference(runner, inputs, field, file.static)
        else:
            field = measure_field(blind, inputs, step=step, smallest=spec.smallest)
            difference = tile_difference(runner, inputs, field, spec)
        if difference <= DIFFERENCE[file.precision]:
            return field
    raise InexactTilesError(
        f"tiles of {file.path} do not give what the whole picture gives; use --tile none"
    )


def _fixed_field(blind: Runner, inputs: Sequence[Port], size: Size, step: int, name: str) -> Field:
    """Return the field of a file that takes one size.

    Raises:
        InexactTilesError: If a tile of that size would be all margin.
    """
    try:
        field = measure_fixed_field(blind, inputs, size, step=step)
    except InexactTilesError as error:
        raise InexactTilesError(f"{name} takes {size} alone: {error}") from error
    if (least := least_tile(field)) > min(size.height, size.width):
        raise InexactTilesError(
            f"{name} takes {size} alone, and its tiles need {least}x{least} pixels or more; give a file "
            "of that size or of dynamic size"
        )
    return field


def _opened(file: OnnxFile, *, is_own: bool | None = None) -> Runner:
    is_own = file.is_own if is_own is None else is_own
    runner = open_runner(file.data, is_own=is_own, title=str(file.path))
    return with_standard_names(runner, file.names)


@progress_step("comparing tiles with the whole")
def tile_difference(runner: Runner, inputs: Sequence[Port], field: Field, spec: InputSpec) -> float:
    """Return the largest difference between tiles and the whole on two strips of noise.

    Args:
        runner: The network.
        inputs: Its inputs.
        field: Its field.
        spec: What it is fed.

    Returns:
        The difference over the output's largest absolute value, of all outputs.
    """
    tile = least_tile(field)
    short = -(-max(16, spec.smallest) // field.step) * field.step
    return max(
        _difference(runner, maps_of(inputs, size, np.random.default_rng(0)), field, tile)
        for size in (Size(2 * tile + 5, short), Size(short, 2 * tile + 5))
    )


@progress_step("comparing tiles with each other")
def shift_difference(runner: Runner, inputs: Sequence[Port], field: Field, size: Size) -> float:
    """Return the largest difference between tiles of noise that overlap, moved by a step.

    Args:
        runner: A network that takes one size.
        inputs: Its inputs.
        field: Its field.
        size: The size.

    Returns:
        As for ``tile_difference``, of what both tiles compute.
    """
    larger = Size(size.height + field.step, size.width + field.step)
    noise = maps_of(inputs, larger, np.random.default_rng(0))
    outputs = [
        runner.infer({name: _cut(array, size, start) for name, array in noise.items()})
        for start in (0, field.step)
    ]
    return max(
        _shifted(array, outputs[1][name], field, array.shape[2] // size.height)
        for name, array in outputs[0].items()
        if array.ndim == 4
    )


def _cut(array: np.ndarray, size: Size, start: int) -> np.ndarray:
    if array.ndim != 4:
        return array
    return array[:, :, start : start + size.height, start : start + size.width]


def _shifted(first: np.ndarray, second: np.ndarray, field: Field, scale: int) -> float:
    """Return the largest difference between outputs of two tiles, ``step`` pixels apart."""
    margin, step = -(-field.margin // field.step) * field.step * scale, field.step * scale
    height, width = (extent - margin for extent in first.shape[2:])
    a = first[:, :, margin + step : height, margin + step : width]
    b = second[:, :, margin : height - step, margin : width - step]
    return float(np.abs(a - b).max() / np.abs(first).max())


def _difference(runner: Runner, feeds: Arrays, field: Field, tile: int) -> float:
    whole = runner.infer(feeds)
    tiled = TiledRunner(runner, field, Size(tile, tile)).infer(feeds)
    return max(
        float(np.abs(tiled[name] - array).max() / np.abs(array).max())
        for name, array in whole.items()
    )
