"""Attribution: which tensors' rounding causes the error of a half-precision model.

Rounding errors are nearly independent, so their effects on the output add up in energy (mean
square). One graph, in which each rounding can be enabled at run time, gives the energy of any group
of them. The group with the most energy is halved until single tensors are left.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from paragon_export.graph.inspection import port_names
from paragon_export.inputs.play import play
from paragon_export.inputs.probes import Probe
from paragon_export.precision.rounding import round_after, widened
from paragon_export.precision.typed_graph import (
    FLOAT,
    constant,
    forget_axis_names,
    origin_of,
    typed_copy,
    values_of,
)
from paragon_export.runtimes.base import Arrays, Runner
from paragon_export.runtimes.isolated import open_runner
from paragon_export.runtimes.named import with_standard_names
from paragon_export.specs.network import Port
from paragon_export.system.progress import step

ENABLED_INPUT = "roundings"
"""Input that enables the roundings of a model of :func:`selective_model`."""

MAX_SHARES = 5
"""Tensors that are reported."""

MAX_RUNS = 96
"""Runs of the model. An error that is spread over hundreds of tensors would need many more."""


@dataclass
class _Selective:
    """A runner of a model of :func:`selective_model` with some of its roundings enabled."""

    runner: Runner
    enabled: np.ndarray
    name: str = "selective"

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        return self.runner.infer({**feeds, ENABLED_INPUT: self.enabled})


@step("finding what the error comes from")
def error_shares(
    half: ir.Model, exact: ir.Model, inputs: Sequence[Port], probe: Probe, *, is_own: bool = True
) -> dict[str, float]:
    """Return the tensors whose rounding causes the largest errors, largest first.

    Args:
        half: The result of ``to_precision``.
        exact: The float32 model that it was converted from.
        inputs: Ports of both.
        probe: A small photograph; up to ``MAX_RUNS`` runs are made on it.
        is_own: Whether this process created the models. Any other model runs in a child process.

    Returns:
        Names of at most ``MAX_SHARES`` tensors of ``exact``, to their shares (0 to 1) of the energy
        of the total error of ``output``. Empty if nothing is rounded or the error is not finite.
    """
    model, names = selective_model(half, exact)
    opened = open_runner(ir.to_proto(model).SerializeToString(), is_own=is_own)
    runner = with_standard_names(opened, port_names(exact, "the model"))

    def output(chosen: slice) -> np.ndarray:
        enabled = np.zeros(len(names), np.float32)
        enabled[chosen] = 1
        return play(_Selective(runner, enabled), probe, inputs)["output"].astype(np.float64)

    unrounded = output(slice(0))

    def energy(start: int, stop: int) -> float:
        return float(np.mean(np.square(output(slice(start, stop)) - unrounded)))

    total = energy(0, len(names)) if names else 0.0
    if not 0 < total < np.inf:
        return {}
    found = largest(energy, len(names), MAX_SHARES, MAX_RUNS)
    return {names[index]: share / total for index, share in found}


def largest(
    energy: Callable[[int, int], float], count: int, max_found: int, max_runs: int
) -> list[tuple[int, float]]:
    """Return the largest of ``count`` values of which only sums over ranges can be computed.

    The range with the largest sum is halved next. After ``max_runs`` sums the search ends with the
    values that were found.

    Args:
        energy: Returns the sum of the values from a start index up to a stop index.
        count: Number of values.
        max_found: Number of values to find.
        max_runs: Number of sums that may be computed.

    Returns:
        Indices and values, largest first.
    """
    ranges = [(-np.inf, 0, count)]
    found: list[tuple[int, float]] = []
    runs = 0
    while ranges and len(found) < max_found:
        negative, start, stop = heapq.heappop(ranges)
        if stop - start == 1 and negative > -np.inf:
            found.append((start, -negative))
        elif runs < max_runs:
            middle = (start + stop) // 2
            for part in {(start, middle), (middle, stop)} - {(start, start)}:
                heapq.heappush(ranges, (-energy(*part), *part))
                runs += 1
    return found


def selective_model(half: ir.Model, exact: ir.Model) -> tuple[ir.Model, tuple[str, ...]]:
    """Return a float32 model that simulates a half one, with roundings enabled one by one.

    Args:
        half: The result of ``to_precision``.
        exact: The float32 model that it was converted from.

    Returns:
        The model, with the additional input ``ENABLED_INPUT``, (roundings,) float32, 1 to round and
        0 not to. And the names of the tensors of ``exact`` that are rounded, in the same order.
    """
    copy = typed_copy(half)
    originals = {str(value.name): value for value in values_of(typed_copy(exact))}
    places = list(widened(copy))
    enabled = ir.Value(name=ENABLED_INPUT, shape=ir.Shape([len(places)]), type=ir.TensorType(FLOAT))
    cast = ir.node("Cast", [enabled], {"to": ir.DataType.BOOL.value}, name=f"{ENABLED_INPUT}/cast")
    next(iter(copy.graph)).prepend(cast)
    copy.graph.inputs.append(enabled)
    names: list[str] = []
    for node, value, dtype in places:
        origin = originals[origin_of(value)]
        if value.const_value is not None and origin.const_value is not None:
            value.const_value = ir.tensor(origin.const_value.numpy(), name=value.name)
        index = constant(copy.graph, f"{ENABLED_INPUT}/{len(names)}", np.array(len(names)))
        one = ir.node("Gather", [cast.outputs[0], index], name=f"{ENABLED_INPUT}/of_{len(names)}")
        cast.append(one)
        round_after(copy.graph, node, value, dtype, one.outputs[0])
        names.append(str(origin.name))
    return forget_axis_names(copy), tuple(names)
