"""Means: tiles of networks that see the whole picture by means of maps alone, as channel gates and group norms.

The means are computed one after the other. A pass over all tiles adds up the map of the first mean; the next
one takes that mean as known and adds up the map of the second. With all means known, pixels reach as far as in
any other network. Sums are in float64, so tiles give the picture that the whole gives.

The pass of a mean ends at its map. So all passes together take about half as often the time of the tiles as
there are means, and no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from paragon_export.errors import InexactTilesError
from paragon_export.runtimes.base import Arrays, Runner
from paragon_export.specs.network import Port
from paragon_export.system.progress import advance
from paragon_export.system.progress import step as progress_step
from paragon_export.tiling.field import Field, measure_field
from paragon_export.tiling.plan import Part, TilePlan, tile_of

if TYPE_CHECKING:
    from torch import Tensor

ASSUMED = 0.5
"""What means are while the reach of pixels is measured."""

Given = Callable[["Tensor", tuple[int, ...]], "Tensor"]
"""As for ``GivenMeans``."""


def measure_field_and_means(
    runner: Runner, inputs: Sequence[Port], *, step: int = 1, smallest: int = 1
) -> Field:
    """Measure the field of a PyTorch network whose means over the picture are given.

    How far pixels reach in the maps of these means is measured, too: a map may serve its mean alone.

    Args:
        runner: The network.
        inputs: As for ``measure_field``, like all arguments.
        step: As for ``Field``.
        smallest: Least height and width.

    Raises:
        InexactTilesError: As for ``measure_field``, or if the size of a map is no multiple or fraction of the
            picture's.
        RunError: If the network cannot run.
    """
    assuming = _Assuming(runner, step)
    field = measure_field(assuming, inputs, step=step, smallest=smallest)
    return replace(field, means=assuming.ratios or ())


def with_means(
    runner: Runner, field: Field, plan: TilePlan, feeds: Mapping[str, np.ndarray]
) -> Runner:
    """Return a network that knows its means over one picture, which are computed in tiles.

    Args:
        runner: The network; a PyTorch network, if it takes means.
        field: Its field.
        plan: The tiles of the picture.
        feeds: The picture.

    Raises:
        InexactTilesError: If a map does not have the size that it had before.
        RunError: If the network cannot run.
    """
    if not field.means:
        return runner
    known: list[Tensor] = []
    with progress_step("computing means over the picture", len(field.means), "means"):
        for _ in field.means:
            known.append(_mean(_Knowing(runner, known, field, plan), feeds))
            advance()
    return _Knowing(runner, known, field, plan)


def _mean(runner: _Knowing, feeds: Mapping[str, np.ndarray]) -> Tensor:
    """Return the first mean that is not known, (N, C), from all tiles."""
    plan = runner.plan
    sums = [
        runner.sums(tile_of(feeds, row, column), row, column)
        for row, column in product(plan.rows, plan.columns)
    ]
    total = sum(found.total for found in sums)
    return total / sum(found.count for found in sums)  # type: ignore[return-value]


class _Assuming:
    """A network whose means are assumed, and whose maps are outputs; a :class:`Runner`."""

    def __init__(self, runner: Runner, step: int) -> None:
        self.name, self._runner, self._step = runner.name, runner, step
        self.ratios: tuple[Fraction, ...] | None = None
        """Those of ``Field.means``; None: it has not run."""

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        maps: list[np.ndarray] = []

        def given(found: Tensor, powers: tuple[int, ...]) -> Tensor:
            maps.append(found.sum(dim=1, keepdim=True).float().cpu().numpy())
            shape = len(found), len(powers) * found.shape[1]
            return found.new_full(shape, ASSUMED).double()

        outputs = _infer(self._runner, feeds, given)
        shape = _shape_of(feeds)
        ratios = tuple(_ratio(found.shape, shape, self._step) for found in maps)
        if self.ratios is not None and ratios != self.ratios:
            raise InexactTilesError(
                "a network takes means over maps whose sizes do not follow that of the picture; it cannot be "
                "computed in tiles"
            )
        self.ratios = ratios
        return outputs | {f"map {index}": _as_large(map_, shape) for index, map_ in enumerate(maps)}


class _Sums(BaseException):
    """Ends a run at a mean; what a tile adds to it."""

    def __init__(self, total: Tensor, count: int) -> None:
        self.total, self.count = total, count


class _Knowing:
    """A network whose first means are known, (N, C) each; a :class:`Runner`."""

    def __init__(
        self, runner: Runner, known: Sequence[Tensor], field: Field, plan: TilePlan
    ) -> None:
        self.name, self._runner = runner.name, runner
        self._known, self._field, self.plan = tuple(known), field, plan

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Run the network once, all of whose means are known (see ``Runner.infer``)."""
        known = iter(self._known)

        def given(found: Tensor, powers: tuple[int, ...]) -> Tensor:
            mean = next(known, None)
            if mean is None:
                raise InexactTilesError("a network takes more means of a tile than before")
            return mean

        return _infer(self._runner, feeds, given)

    def sums(self, feeds: Mapping[str, np.ndarray], row: Part, column: Part) -> _Sums:
        """Run the network on a tile up to the first mean that is not known."""
        known = iter(self._known)

        def given(found: Tensor, powers: tuple[int, ...]) -> Tensor:
            mean = next(known, None)
            if mean is None:
                raise self._sums(found, powers, row, column)
            return mean

        try:
            _infer(self._runner, feeds, given)
        except _Sums as sums:
            return sums
        raise InexactTilesError("a network takes fewer means of a tile than before")

    def _sums(self, found: Tensor, powers: tuple[int, ...], row: Part, column: Part) -> _Sums:
        """Return the sums of what a tile computes right of a map."""
        import torch

        ratio, step, size = self._field.means[len(self._known)], self._field.step, self.plan.size
        rows = list(_places(row, size.height, found.shape[2], ratio, step))
        columns = list(_places(column, size.width, found.shape[3], ratio, step))
        total, count = torch.zeros((), dtype=torch.float64, device=found.device), 0
        for one, other in product(rows, columns):
            right = found[:, :, one, other].double()
            total = total + torch.cat([(right**power).sum(dim=(2, 3)) for power in powers], dim=1)
            count += right.shape[2] * right.shape[3]
        return _Sums(total, count)


def _places(part: Part, extent: int, found: int, ratio: Fraction, step: int) -> Iterator[slice]:
    """Yield where the cores of a part are in a map of ``found`` rows or columns.

    The last core holds what the network pads the picture with.

    Raises:
        InexactTilesError: If the map does not have the size of the part, padded to a multiple of a divisor of the
            step.
    """
    padded = -(-part.length // step) * step
    is_whole = part.length == extent
    if not is_whole and not ratio * part.length <= found <= ratio * padded:
        raise InexactTilesError(
            f"a mean over the picture is taken of a map of {found} pixels for a tile of {part.length}; it cannot "
            "be computed in tiles"
        )
    for core in part.cores:
        begin, end = ratio * core.inside, ratio * (core.inside + core.length)
        is_last = core.at + core.length == extent
        yield slice(int(begin), found if is_last else int(end))


def _infer(runner: Runner, feeds: Mapping[str, np.ndarray], given: Given) -> Arrays:
    from paragon_export.networks.picture_means import GivenMeans

    with GivenMeans(_shape_of(feeds)[0], given):
        return runner.infer(feeds)


def _shape_of(feeds: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    """Return the shape of the first map among the inputs."""
    return next(array.shape for array in feeds.values() if np.ndim(array) == 4)


def _ratio(found: Sequence[int], picture: Sequence[int], step: int) -> Fraction:
    """Return the rows of a map for one row of the picture.

    Raises:
        InexactTilesError: If there are more or less columns for one column, it is no multiple or fraction, or a
            step of the picture is no whole row of the map.
    """
    rows, columns = (Fraction(found[axis], picture[axis]) for axis in (2, 3))
    whole = 1 in (rows.numerator, rows.denominator) and (rows * step).denominator == 1
    if rows != columns or not whole:
        raise InexactTilesError(
            f"a mean over the picture is taken of a map of {found[2]}x{found[3]} for a picture of "
            f"{picture[2]}x{picture[3]}; it cannot be computed in tiles"
        )
    return rows


def _as_large(found: np.ndarray, picture: Sequence[int]) -> np.ndarray:
    """Return a map, repeated to the size of the picture where it is smaller."""
    for axis in (2, 3):
        found = found.repeat(max(1, picture[axis] // found.shape[axis]), axis=axis)
    return found
