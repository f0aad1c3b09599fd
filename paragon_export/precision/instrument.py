"""Instrument: measure the range of every tensor of a graph, by reductions added to the graph.

Only scalars leave the runtime, so the memory is that of an ordinary run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from paragon_export.graph.inspection import port_names
from paragon_export.inputs.play import play
from paragon_export.inputs.probes import Probe
from paragon_export.precision.typed_graph import (
    FLOAT,
    constant,
    forget_axis_names,
    typed_copy,
    values_of,
)
from paragon_export.runtimes.isolated import open_runner
from paragon_export.runtimes.named import with_standard_names
from paragon_export.specs.network import Port, Task
from paragon_export.system.progress import counted

SAME_VALUES = frozenset(
    {"DepthToSpace", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose"}
    | {"Unsqueeze"}
)
"""Operators whose result has the range of their input, which is measured only."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The probes that a graph is measured on, and how it is run."""

    inputs: tuple[Port, ...]
    probes: tuple[Probe, ...]
    task: Task = Task.IMAGE
    """An image beyond its range is a sign that the network diverges; a map has no range."""
    is_own: bool = True
    """Whether this process created the graph. Any other graph runs in a child process."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The range of every input and computed tensor of a graph, on every probe."""

    names: tuple[str, ...]
    """Names of the tensors."""
    probes: tuple[Probe, ...]
    peaks: np.ndarray
    """(probes, tensors) largest magnitude; infinite if a value is not a number."""
    underflow: np.ndarray
    """(probes, tensors) share of values, 0 to 1, that are not zero and smaller than the floor."""

    def peak_of(self, selected: np.ndarray) -> dict[str, float]:
        """Return the largest magnitude of every tensor on the selected probes, (probes,) bool."""
        return dict(zip(self.names, map(float, self.peaks[selected].max(axis=0)), strict=True))

    def underflow_of(self, selected: np.ndarray) -> dict[str, float]:
        """Return the share of underflow on the selected probes, weighted by their pixels."""
        pixels = [len(p.frames) * p.batch * p.size.height * p.size.width for p in self.probes]
        shares = np.average(self.underflow[selected], axis=0, weights=np.array(pixels)[selected])
        return dict(zip(self.names, map(float, shares), strict=True))


def measure(model: ir.Model, subject: Subject, floor: float) -> Measured:
    """Measure the tensors of a float32 model on every frame of the probes.

    Args:
        model: It is not changed.
        subject: The probes.
        floor: Values between 0 and this magnitude count as underflow.

    Raises:
        RunError: If the model cannot run.
    """
    instrumented, sources = _instrumented(model, floor)
    measured = {name: index for index, name in enumerate(dict.fromkeys(sources.values()))}
    columns = [measured[source] for source in sources.values()]
    # In graph order each tensor is measured and freed before the next one is computed.
    data = ir.to_proto(instrumented).SerializeToString()
    opened = open_runner(data, is_own=subject.is_own, in_order=True)
    runner = with_standard_names(opened, port_names(model, "the model"))
    results = [
        play(runner, probe, subject.inputs)
        for probe in counted("measuring ranges on image", subject.probes)
    ]
    peaks = np.array([outputs[PEAKS].max(axis=0)[columns] for outputs in results])
    return Measured(
        names=tuple(sources),
        probes=subject.probes,
        peaks=np.where(np.isnan(peaks), math.inf, peaks),
        underflow=np.array([outputs[SHARES].mean(axis=0)[columns] for outputs in results]),
    )


PEAKS, SHARES = "audit/peaks", "audit/shares"
"""Additional outputs of an instrumented graph, (1, tensors) each."""


def _instrumented(model: ir.Model, floor: float) -> tuple[ir.Model, dict[str, str]]:
    """Return a copy with the outputs above, and for every tensor the one measured for it."""
    copy = typed_copy(model)
    row = constant(copy.graph, "audit/row", np.array([1, -1], np.int64))
    limit = constant(copy.graph, "audit/floor", np.array(floor, np.float32))
    sources: dict[str, str] = {}
    ends: list[tuple[ir.Node, ir.Node]] = []
    first = next(iter(copy.graph))
    for value in values_of(copy):
        if value.dtype != FLOAT or value.const_value is not None:
            continue
        name, producer = str(value.name), value.producer()
        has_same = producer is not None and producer.op_type in SAME_VALUES
        same = producer.inputs[0] if producer is not None and has_same else None
        sources[name] = sources.get(str(same.name), name) if same is not None else name
        if sources[name] == name:
            nodes, peak, share = _reductions(value, row, limit)
            ends.append((peak, share))
            if producer is None:
                first.prepend(nodes)
            else:
                producer.append(nodes)
    for name, column in zip((PEAKS, SHARES), zip(*ends, strict=True), strict=True):
        joined = _node("Concat", [node.outputs[0] for node in column], name, axis=1)
        joined.outputs[0].name, joined.outputs[0].type = name, ir.TensorType(FLOAT)
        copy.graph.append(joined)
        copy.graph.outputs.append(joined.outputs[0])
    return forget_axis_names(copy), sources


def _reductions(
    value: ir.Value, row: ir.Value, floor: ir.Value
) -> tuple[list[ir.Node], ir.Node, ir.Node]:
    """Return nodes, the one with the peak (1, 1), and the one with the share below ``floor`` (1, 1)."""
    prefix = f"audit/{value.name}"
    flat = _node("Reshape", [value, row], f"{prefix}/flat")
    size = _node("Abs", flat.outputs, f"{prefix}/size")
    peak = _node("ReduceMax", size.outputs, f"{prefix}/peak", keepdims=1)
    below = _node("Less", [size.outputs[0], floor], f"{prefix}/below")
    some = _node("Cast", flat.outputs, f"{prefix}/some", to=ir.DataType.BOOL.value)
    lost = _node("And", [below.outputs[0], some.outputs[0]], f"{prefix}/lost")
    number = _node("Cast", lost.outputs, f"{prefix}/number", to=FLOAT.value)
    share = _node("ReduceMean", number.outputs, f"{prefix}/share", keepdims=1)
    return [flat, size, peak, below, some, lost, number, share], peak, share


def _node(op_type: str, inputs: Sequence[ir.Value], name: str, **attributes: int) -> ir.Node:
    node = ir.node(op_type, inputs, attributes, name=name)
    node.outputs[0].name = f"{name}/result"
    return node
