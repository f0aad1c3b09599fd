"""Gauges: the range of every tensor of a graph, by reductions that run beside it.

Only scalars leave the runtime, so memory stays that of an ordinary run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from paragon_export.inputs.play import play
from paragon_export.inputs.probes import Probe
from paragon_export.precision.typed_graph import FLOAT, constant, typed_copy, values_of
from paragon_export.runtimes.isolated import open_runner
from paragon_export.specs.network import Port
from paragon_export.system.progress import counted

SAME_VALUES = frozenset(
    {"DepthToSpace", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose"}
    | {"Unsqueeze"}
)
"""Operators whose result has the range of their input: it is measured once."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a graph is audited on."""

    inputs: tuple[Port, ...]
    probes: tuple[Probe, ...]
    is_picture: bool = True
    """Whether the output is a picture, of which it can be told that it diverges."""
    is_own: bool = True
    """Whether this tool made the graph; if not, it runs in a process of its own."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was seen of every tensor that a graph is fed or computes, on every probe."""

    names: tuple[str, ...]
    probes: tuple[Probe, ...]
    peaks: np.ndarray
    """(probes, tensors): largest magnitude; infinite for what is no number."""
    underflow: np.ndarray
    """(probes, tensors): share of the values that are not zero and yet below the floor."""

    def peak_of(self, counts: np.ndarray) -> dict[str, float]:
        """Return the largest magnitude of every tensor on the probes that count, (probes,)."""
        return dict(zip(self.names, map(float, self.peaks[counts].max(axis=0)), strict=True))

    def underflow_of(self, counts: np.ndarray) -> dict[str, float]:
        """Return the share over the probes that count, a picture's weight being its pixels."""
        pixels = [len(p.frames) * p.batch * p.size.height * p.size.width for p in self.probes]
        shares = np.average(self.underflow[counts], axis=0, weights=np.array(pixels)[counts])
        return dict(zip(self.names, map(float, shares), strict=True))


def measure(model: ir.Model, subject: Subject, floor: float) -> Measured:
    """Run a float32 model once on every frame, with reductions beside its tensors.

    Raises:
        RunError: If it cannot run.
    """
    gauged, sources = _gauged(model, floor)
    measured = {name: index for index, name in enumerate(dict.fromkeys(sources.values()))}
    columns = [measured[source] for source in sources.values()]
    # In the order of the graph every tensor is measured and freed before the next is made.
    data = ir.to_proto(gauged).SerializeToString()
    runner = open_runner(data, is_own=subject.is_own, in_order=True)
    seen = [
        play(runner, probe, subject.inputs)
        for probe in counted("measuring ranges on image", subject.probes)
    ]
    peaks = np.array([outputs[PEAKS].max(axis=0)[columns] for outputs in seen])
    return Measured(
        names=tuple(sources),
        probes=subject.probes,
        peaks=np.where(np.isnan(peaks), math.inf, peaks),
        underflow=np.array([outputs[SHARES].mean(axis=0)[columns] for outputs in seen]),
    )


PEAKS, SHARES = "audit/peaks", "audit/shares"
"""Outputs of a gauged graph, (1, tensors) each."""


def _gauged(model: ir.Model, floor: float) -> tuple[ir.Model, dict[str, str]]:
    """Return a copy with the outputs above, and the measured tensor for every tensor's name."""
    copy = typed_copy(model)
    row = constant(copy.graph, "audit/row", np.array([1, -1], np.int64))
    limit = constant(copy.graph, "audit/floor", np.array(floor, np.float32))
    sources: dict[str, str] = {}
    ends: list[tuple[ir.Node, ir.Node]] = []
    first = next(iter(copy.graph))
    for value in values_of(copy):
        if value.dtype != FLOAT or value.const_value is not None:
            continue
        name, maker = str(value.name), value.producer()
        same = maker.inputs[0] if maker is not None and maker.op_type in SAME_VALUES else None
        sources[name] = sources.get(str(same.name), name) if same is not None else name
        if sources[name] == name:
            nodes, peak, share = _gauges(value, row, limit)
            ends.append((peak, share))
            if maker is None:
                first.prepend(nodes)
            else:
                maker.append(nodes)
    for name, column in zip((PEAKS, SHARES), zip(*ends, strict=True), strict=True):
        joined = _node("Concat", [node.outputs[0] for node in column], name, axis=1)
        joined.outputs[0].name, joined.outputs[0].type = name, ir.TensorType(FLOAT)
        copy.graph.append(joined)
        copy.graph.outputs.append(joined.outputs[0])
    return copy, sources


def _gauges(
    value: ir.Value, row: ir.Value, floor: ir.Value
) -> tuple[list[ir.Node], ir.Node, ir.Node]:
    """Return nodes, and those of them that give the peak and the share below ``floor``, (1, 1)."""
    at = f"audit/{value.name}"
    flat = _node("Reshape", [value, row], f"{at}/flat")
    size = _node("Abs", flat.outputs, f"{at}/size")
    peak = _node("ReduceMax", size.outputs, f"{at}/peak", keepdims=1)
    below = _node("Less", [size.outputs[0], floor], f"{at}/below")
    some = _node("Cast", flat.outputs, f"{at}/some", to=ir.DataType.BOOL.value)
    lost = _node("And", [below.outputs[0], some.outputs[0]], f"{at}/lost")
    number = _node("Cast", lost.outputs, f"{at}/number", to=FLOAT.value)
    share = _node("ReduceMean", number.outputs, f"{at}/share", keepdims=1)
    return [flat, size, peak, below, some, lost, number, share], peak, share


def _node(op_type: str, inputs: Sequence[ir.Value], name: str, **attributes: int) -> ir.Node:
    node = ir.node(op_type, inputs, attributes, name=name)
    node.outputs[0].name = f"{name}/result"
    return node
