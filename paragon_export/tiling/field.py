"""Field: how far the pixels of an input reach in the output of a network.

It is found by running the network. A block of the input is NaN, and so is every output pixel that
is computed from it, whatever the weights are: a sum or a product with NaN is NaN, also 0 x NaN.
So the field holds all that is read, also what hardly matters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from paragon_export.errors import InexactTilesError
from paragon_export.runtimes.base import Arrays, Runner
from paragon_export.specs.network import Port
from paragon_export.specs.types import Size
from paragon_export.system.progress import step as progress_step

FIRST_REACH_PX = 64
"""Reach that is tried first. It is doubled until it is enough."""

MAX_REACH_PX = 1024
"""A network whose pixels reach this far is taken for one that sees the whole picture."""

SHORT_SIDE_PX = 16
"""Least extent of the other axis while one is measured."""

FILLING = 0.5
"""Value of all other pixels."""

STEPS = (64, 192)
"""Steps that are tried for a file if the side of its windows is not the step: 192 is a multiple of the sides
in use, as 8, 12, 16, 24, 32, 48 and 64."""


@dataclass(frozen=True)
class Field:
    """What of the input a pixel of the output is computed from."""

    margin: int
    """Pixels of the input. A block of ``step`` rows (columns) of the output, seen in pixels of the
    input, depends on nothing farther than this from it."""
    step: int = 1
    """Blocks begin at multiples of this many pixels: the side of attention windows, or what sizes
    are padded to."""
    means: tuple[Fraction, ...] = ()
    """Of each mean over the picture that the network takes, in order: rows of its map for one row of the
    input. Tiles are given these means, which are computed first (see ``with_means``)."""


@progress_step("measuring how far pixels reach")
def measure_field(
    runner: Runner, inputs: Sequence[Port], *, step: int = 1, smallest: int = 1
) -> Field:
    """Measure the field of a network, along both axes.

    Args:
        runner: The network. NaN must pass through all of its operators; see ``nan_graph``.
        inputs: Its inputs. Those of four dimensions are images and feature maps of one size.
        step: As for ``Field``.
        smallest: Least height and width at which the network is defined.

    Returns:
        The field; its margin is the larger one of the two axes and of all inputs and outputs.

    Raises:
        InexactTilesError: If pixels reach farther than ``MAX_REACH_PX``, as where a mean over the picture
            is taken.
        RunError: If the network cannot run.
    """
    reach = FIRST_REACH_PX
    while reach <= MAX_REACH_PX:
        far = -(-reach // step) * step
        found = [_reached(runner, inputs, axis, far, step, smallest) for axis in (2, 3)]
        if all(px < far for px in found):
            return Field(margin=max(found), step=step)
        reach *= 2
    raise InexactTilesError(
        f"pixels of the output depend on pixels more than {MAX_REACH_PX} away, as where a network "
        "takes a mean over the whole picture or attends to all of it; it cannot be computed in tiles"
    )


def measure_fixed_field(runner: Runner, inputs: Sequence[Port], size: Size, *, step: int) -> Field:
    """Measure the field of a network that takes one size.

    Args:
        runner: As for ``measure_field``.
        inputs: Its inputs.
        size: The size.
        step: As for ``Field``.

    Raises:
        InexactTilesError: If pixels reach from the middle to an edge.
        RunError: If the network cannot run.
    """
    found = []
    for axis, extent in ((2, size.height), (3, size.width)):
        begin = extent // 2 // step * step
        outputs = runner.infer(poisoned(inputs, size, axis, slice(begin, begin + step)))
        found.append(max(_distance(one, axis, begin, step, extent) for one in _maps(outputs)))
        if found[-1] >= min(begin, extent - begin - step):
            raise InexactTilesError(
                f"pixels of the output depend on pixels as far away as the edges of {size}; tiles of "
                "that size cannot be computed"
            )
    return Field(margin=max(found), step=step)


def _reached(
    runner: Runner, inputs: Sequence[Port], axis: int, far: int, step: int, smallest: int
) -> int:
    """Return how far a block in the middle of ``axis`` reaches, at most ``far``."""
    extent = 2 * far + step
    short = -(-max(SHORT_SIDE_PX, smallest) // step) * step
    size = Size(extent, short) if axis == 2 else Size(short, extent)
    outputs = runner.infer(poisoned(inputs, size, axis, slice(far, far + step)))
    return max(_distance(found, axis, far, step, extent) for found in _maps(outputs))


def poisoned(inputs: Sequence[Port], size: Size, axis: int, where: slice) -> Arrays:
    """Return inputs in which the rows or columns ``where`` of all maps are NaN.

    Args:
        inputs: As for ``maps_of``.
        size: Of the maps.
        axis: 2 for rows, 3 for columns.
        where: Which of them.
    """
    feeds = maps_of(inputs, size)
    for array in feeds.values():
        if array.ndim == 4:
            array[(slice(None),) * axis + (where,)] = np.nan
    return feeds


def maps_of(inputs: Sequence[Port], size: Size, noise: np.random.Generator | None = None) -> Arrays:
    """Return inputs of batch 1: images and feature maps of one size, and numbers.

    Args:
        inputs: The inputs. Those without four dimensions are numbers, ``FILLING``.
        size: Of the maps.
        noise: Fills the maps with values in [0, 1). None: with ``FILLING``.
    """
    feeds: Arrays = {}
    for port in inputs:
        shape = (1, int(port.dims[1]), size.height, size.width) if len(port.dims) == 4 else ()
        feeds[port.name] = np.full(shape, FILLING, np.float32)
        if noise is not None and shape:
            feeds[port.name] = noise.random(shape, np.float32)
    return feeds


def _maps(outputs: Mapping[str, np.ndarray]) -> Iterator[np.ndarray]:
    return (array for array in outputs.values() if array.ndim == 4)


def _distance(output: np.ndarray, axis: int, begin: int, step: int, extent: int) -> int:
    """Return how far NaN has come from a block in one output, in pixels of the input."""
    scale = output.shape[axis] // extent
    others = tuple(a for a in range(4) if a != axis)
    hit = np.isnan(output).any(axis=others).reshape(extent, scale).any(axis=1)
    seen = np.flatnonzero(hit)
    if not hit[begin : begin + step].all():
        raise InexactTilesError(
            "how far pixels reach cannot be measured: an operator of the network hides NaN"
        )
    return max(begin - int(seen[0]), int(seen[-1]) + 1 - (begin + step))
