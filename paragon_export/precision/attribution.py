"""Shares: which roundings a half-precision model's error comes from.

Roundings are nearly independent of each other, so what they do to the output adds up in energy
(mean square). One graph with a switch for every rounding tells the energy of any group of them,
and the group that holds the most is halved until single tensors are left.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from paragon_export.inputs.play import play
from paragon_export.inputs.probes import Probe
from paragon_export.precision.rounding import round_behind, widened
from paragon_export.precision.typed_graph import FLOAT, constant, origin_of, typed_copy, values_of
from paragon_export.runtimes.base import Arrays, Runner
from paragon_export.runtimes.isolated import open_runner
from paragon_export.specs.network import Port
from paragon_export.system.progress import step

SWITCHES = "roundings"

WANTED = 5

MAX_RUNS = 96
"""Where the error is spread evenly over hundreds of tensors, halving would go on and on."""


@dataclass
class _Switched:
    """A runner of a switchable model with some of its roundings on."""

    runner: Runner
    options: np.ndarray
    name: str = "switched"

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        return self.runner.infer({**feeds, SWITCHES: self.options})


@step("finding what the error comes from")
def error_shares(
    half: ir.Model, exact: ir.Model, inputs: Sequence[Port], probe: Probe, *, is_own: bool = True
) -> dict[str, float]:
    """Return the tensors whose rounding costs most, largest first.

    Args:
        half: Strongly typed, as ``to_precision`` makes it.
        exact: The float32 model that it was made from.
        inputs: Ports of both.
        probe: A photograph, small: it is run some dozens of times.
        is_own: Whether this tool made the models; if not, they run in a process of their own.

    Returns:
        Names of tensors of ``exact`` to shares of the energy of the whole error of ``output``,
        ``WANTED`` of them. Empty where nothing is rounded or the half model is not finite.
    """
    model, names = switchable_model(half, exact)
    runner = open_runner(ir.to_proto(model).SerializeToString(), is_own=is_own)

    def output(chosen: slice) -> np.ndarray:
        options = np.zeros(len(names), np.float32)
        options[chosen] = 1
        return play(_Switched(runner, options), probe, inputs)["output"].astype(np.float64)

    truth = output(slice(0))

    def energy(start: int, stop: int) -> float:
        return float(np.mean(np.square(output(slice(start, stop)) - truth)))

    whole = energy(0, len(names)) if names else 0.0
    if not 0 < whole < np.inf:
        return {}
    found = largest(energy, len(names), WANTED, MAX_RUNS)
    return {names[index]: share / whole for index, share in found}


def largest(
    energy: Callable[[int, int], float], count: int, wanted: int, most_runs: int
) -> list[tuple[int, float]]:
    """Find the largest of ``count`` figures of which only sums over ranges can be had.

    Best first: the range with the largest sum is halved next. Once ``most_runs`` sums were asked
    for, the figures known by then are all there are.
    """
    ranges = [(-np.inf, 0, count)]
    found: list[tuple[int, float]] = []
    runs = 0
    while ranges and len(found) < wanted:
        negative, start, stop = heapq.heappop(ranges)
        if stop - start == 1 and negative > -np.inf:
            found.append((start, -negative))
        elif runs < most_runs:
            middle = (start + stop) // 2
            for part in {(start, middle), (middle, stop)} - {(start, start)}:
                heapq.heappush(ranges, (-energy(*part), *part))
                runs += 1
    return found


def switchable_model(half: ir.Model, exact: ir.Model) -> tuple[ir.Model, tuple[str, ...]]:
    """Return a float32 model with all roundings of a half one, to be switched one by one.

    Returns:
        The model, with one input more: ``SWITCHES``, (roundings,) float32, 1 for on and 0 for
        off. And the tensors of ``exact`` that are rounded, in the order of the switches.
    """
    copy = typed_copy(half)
    known = {str(value.name): value for value in values_of(typed_copy(exact))}
    places = list(widened(copy))
    options = ir.Value(name=SWITCHES, shape=ir.Shape([len(places)]), type=ir.TensorType(FLOAT))
    cast = ir.node("Cast", [options], {"to": ir.DataType.BOOL.value}, name=f"{SWITCHES}/cast")
    next(iter(copy.graph)).prepend(cast)
    copy.graph.inputs.append(options)
    names: list[str] = []
    for near, value, dtype in places:
        origin = known[origin_of(str(value.name), known)]
        if value.const_value is not None and origin.const_value is not None:
            value.const_value = ir.tensor(origin.const_value.numpy(), name=value.name)
        index = constant(copy.graph, f"{SWITCHES}/{len(names)}", np.array(len(names)))
        switch = ir.node("Gather", [cast.outputs[0], index], name=f"{SWITCHES}/of_{len(names)}")
        cast.append(switch)
        round_behind(copy.graph, near, value, dtype, switch.outputs[0])
        names.append(str(origin.name))
    return copy, tuple(names)
