"""Audit: does half precision hold what a network computes, and where must float32 help?

Ranges are measured in float32 at true shapes: reductions beside every tensor give its largest
magnitude and how much of it underflows, so no tensor leaves the runtime. What half cannot hold
becomes a float32 island: the nodes that make such a tensor and those that read it, and no others.
A rounding model, which overflows where the target would, then has to be finite everywhere.

What the audit cannot see: the inside of an operator. A convolution, product, norm, softmax or
fused attention may hold partial sums in half (TensorRT and ONNX Runtime on a GPU accumulate in
float32 or half, as the chosen kernel does), and a compiler may fuse nodes and keep what lies
between them wider than the graph says. Nor does it see pictures that it was not given: ranges
that grow with the picture, such as sums over it, are those of the sizes audited.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from paragon_export.errors import PlanError
from paragon_export.graph.metadata import FLOAT32_MARK
from paragon_export.graph.onnx_io import OnnxFile
from paragon_export.inputs.glyph_probes import glyph_probes
from paragon_export.inputs.probes import Probe, audit_probes
from paragon_export.precision.attribution import error_shares
from paragon_export.precision.half import FLOAT32_INPUTS, check_convertible, to_precision
from paragon_export.precision.instrument import Measured, Subject, measure
from paragon_export.precision.range_report import (
    HIGHEST,
    INFINITE_FROM,
    MIN_NORMAL,
    Island,
    RangeAudit,
    TensorRange,
)
from paragon_export.precision.rounding import rounding_model
from paragon_export.precision.typed_graph import FLOAT, is_float32, origin_of, typed_copy, values_of
from paragon_export.specs.network import InputSpec, Port, Task
from paragon_export.specs.tolerance import DIVERGED
from paragon_export.specs.types import Precision, Size

DOUBTFUL = 1.02
"""An overflow by less than this factor may be none once the tensors before it are rounded."""


def subject_of(
    spec: InputSpec,
    inputs: Sequence[Port],
    *,
    static: Size | None = None,
    images: Path | None = None,
) -> Subject:
    """Return what a network with these inputs is audited on; the rest is as for ``audit_probes``.

    Raises:
        PlanError: If ``images`` are given for a network that takes no images of any size.
    """
    ports = tuple(inputs)
    if spec.task.is_classifier:
        if images:
            raise PlanError("--images is for networks that take pictures; leave it out")
        return Subject(inputs=ports, probes=tuple(glyph_probes(ports[0])), task=spec.task)
    probes = audit_probes(spec, static=static, video=len(ports) > 1, images=images)
    return Subject(inputs=ports, probes=tuple(probes), task=spec.task)


def subject_of_file(file: OnnxFile, images: Path | None = None) -> Subject:
    """Return what suits an ONNX file, from its ports and metadata.

    Raises:
        PlanError: If its ports are not those of a supported network.
    """
    inputs, outputs = file.ports
    names = [port.name for port in inputs], [port.name for port in outputs]
    if names[0][:1] != ["input"] or "output" not in names[1]:
        raise PlanError(
            f"{file.path}: ports are {names[0]} and {names[1]}; expected input and output"
        )
    subject = subject_of(file.input_spec, inputs, static=file.static, images=images)
    return replace(subject, is_own=file.is_own)


def audit(
    model: ir.Model, precision: Precision, io: Precision, subject: Subject, *, shares: bool = False
) -> tuple[ir.Model, RangeAudit]:
    """Measure what half precision has to hold, and mend what it cannot.

    Args:
        model: Float32; not changed.
        precision: Half, of the arithmetic.
        io: Of the image inputs and outputs.
        subject: What it is measured on.
        shares: Also find the tensors that most of the error comes from: some dozens of runs.

    Returns:
        A copy of the model in which the float32 islands are marked that it needs (the model
        itself where it needs none), and the audit.

    Raises:
        PlanError: If the model cannot be converted at all.
        RunError: If it cannot run.
    """
    graph = typed_copy(model)
    check_convertible(graph, precision)
    found = measure(graph, subject, MIN_NORMAL[precision])
    counts = _counts(found, subject)
    judged = replace(subject, probes=tuple(itertools.compress(subject.probes, counts)))
    peaks = {**_weights(graph), **found.peak_of(counts)}
    islands, fault = _Mender(graph, precision, io, judged, peaks).mend()
    mended = with_islands(graph, [island.node for island in islands]) if islands else graph
    rows = _rows(typed_copy(mended) if islands else graph, precision, io, found, counts, peaks)
    if shares and not fault:
        half = to_precision(mended, precision, io)
        largest = error_shares(
            half, mended, subject.inputs, judged.probes[0], is_own=subject.is_own
        )
        rows = _with_shares(rows, largest)
    labels = _labels(found.probes)
    result = RangeAudit(
        precision=precision,
        tensors=tuple(rows),
        pictures=tuple(itertools.compress(labels, counts)),
        diverged=tuple(itertools.compress(labels, ~counts)),
        islands=tuple(islands),
        fault=fault,
    )
    return (mended if islands else model), result


def _counts(found: Measured, subject: Subject) -> np.ndarray:
    """Return for each probe whether it counts: not where the network itself diverges."""
    column = found.names.index("output")
    return np.array(
        [
            not (subject.task is not Task.MAP and probe.is_stress and not peak <= DIVERGED)
            for probe, peak in zip(subject.probes, found.peaks[:, column], strict=True)
        ]
    )


def _weights(graph: ir.Model) -> dict[str, float]:
    """Return the largest magnitude of every float weight that is used other than as float32."""
    return {
        str(value.name): float(np.abs(value.const_value.numpy()).max(initial=0.0))
        for value in graph.graph.initializers.values()
        if value.dtype == FLOAT and value.const_value is not None and _readers(value)
    }


def _readers(value: ir.Value) -> list[ir.Node]:
    """Return the nodes that read a tensor in their own precision."""
    return [
        node for node, index in value.uses() if index not in FLOAT32_INPUTS.get(node.op_type, ())
    ]


# --- mending -------------------------------------------------------------------------------


def with_islands(model: ir.Model, nodes: Sequence[str]) -> ir.Model:
    """Return a copy in which the nodes of these names are marked as float32 islands."""
    copy = ir.from_proto(ir.to_proto(model))
    for node in copy.graph:
        if _name(node) in nodes:
            node.metadata_props[FLOAT32_MARK] = "float32"
    return copy


def _name(node: ir.Node) -> str:
    """Nodes of foreign files may have no name; what they give has one."""
    return node.name or str(node.outputs[0].name)


class _Mender:
    """Finds the smallest set of nodes that have to be computed in float32.

    A tensor beyond half's range must be made in float32 and read in float32: each of the nodes
    that touch it is needed, and together they suffice. Rounding may move a tensor at the very
    edge of the range to its other side, so the rounding model has the last word on these.
    """

    def __init__(
        self,
        model: ir.Model,
        precision: Precision,
        io: Precision,
        judged: Subject,
        peaks: Mapping[str, float],
    ) -> None:
        self.model, self.precision, self.io, self.judged = model, precision, io, judged
        self.peaks = peaks
        self.values = {str(value.name): value for value in values_of(model)}
        self.infinite_from = INFINITE_FROM[precision]

    def mend(self) -> tuple[list[Island], str]:
        """Return the islands, and why they do not suffice; empty if they do."""
        beyond = [n for n, p in self.peaks.items() if self.infinite_from <= p < math.inf]
        islands = self._touching(beyond)
        if not islands and not self._is_close():
            return [], ""
        while name := self._first_overflow(islands):
            more = self._touching([name], islands)
            if len(more) == len(islands):
                return list(islands.values()), (
                    f"{self.precision.value} cannot hold {name}, which reaches "
                    f"{self.peaks[name]:.3g}, and no float32 island mends it: it is a port in "
                    "half precision; leave --io out"
                )
            islands = more
        return self._needed(islands), ""

    def _is_close(self) -> bool:
        """Whether rounding may take a computed tensor over the edge that does not overflow yet."""
        computed = (v for v in self.values.values() if v.const_value is None and _sides(v))
        peaks = (self.peaks.get(str(value.name), 0.0) for value in computed)
        return any(self.infinite_from / DOUBTFUL <= peak < math.inf for peak in peaks)

    def _touching(
        self, names: Sequence[str], known: Mapping[str, Island] | None = None
    ) -> dict[str, Island]:
        """Return an island for every half node that makes or reads one of these tensors."""
        islands = dict(known or {})
        for name in sorted(names, key=lambda name: -self.peaks[name]):
            for node in _sides(self.values[name]):
                island = Island(
                    node=_name(node), op_type=node.op_type, because=name, peak=self.peaks[name]
                )
                islands.setdefault(island.node, island)
        order = [_name(node) for node in self.model.graph]
        return dict(sorted(islands.items(), key=lambda item: order.index(item[0])))

    def _first_overflow(self, islands: Mapping[str, Island]) -> str | None:
        """Return the first tensor that is not finite when rounded, though it is in float32."""
        marked = with_islands(self.model, list(islands))
        rounded = rounding_model(to_precision(marked, self.precision, self.io))
        found = measure(rounded, self.judged, 0.0)
        everywhere = np.ones(len(self.judged.probes), bool)
        for name, peak in found.peak_of(everywhere).items():
            origin = origin_of(name, self.peaks)
            if not math.isfinite(peak) and math.isfinite(self.peaks[origin]):
                return origin
        return None

    def _needed(self, islands: dict[str, Island]) -> list[Island]:
        """Leave out what was only added for a tensor at the edge, if all stays finite."""
        for name, island in list(islands.items()):
            if island.peak < self.infinite_from * DOUBTFUL:
                fewer = {other: i for other, i in islands.items() if other != name}
                islands = islands if self._first_overflow(fewer) else fewer
        return list(islands.values())


def _sides(value: ir.Value) -> list[ir.Node]:
    """Return the nodes that make or read a tensor in half precision."""
    maker = value.producer()
    return [node for node in (maker, *_readers(value)) if node is not None and not is_float32(node)]


# --- telling -------------------------------------------------------------------------------


def _rows(
    mended: ir.Model,
    precision: Precision,
    io: Precision,
    found: Measured,
    counts: np.ndarray,
    peaks: Mapping[str, float],
) -> list[TensorRange]:
    """Return one row for each tensor, in the order of the graph."""
    highest = HIGHEST[precision]
    underflow = found.underflow_of(counts)
    columns = {name: index for index, name in enumerate(found.names)}
    labels = _labels(found.probes)
    rows = []
    for value in values_of(mended):
        name, maker, picture, diverged = str(value.name), value.producer(), "", 0.0
        if name not in peaks:
            continue
        if value.const_value is not None:
            small = _underflow(value.const_value.numpy(), MIN_NORMAL[precision])
        else:
            seen = found.peaks[:, columns[name]]
            picture = labels[int(np.where(counts, seen, -1.0).argmax())]
            diverged = float(np.where(counts, 0.0, seen).max())
            small = underflow[name]
        source = "weight" if value.const_value is not None else "input"
        rows.append(
            TensorRange(
                name=name,
                op_type=maker.op_type if maker is not None else source,
                peak=peaks[name],
                picture=picture,
                underflow=small,
                is_half=bool(_sides(value)) or (io.is_half and _is_map_at_port(value)),
                headroom=highest / peaks[name] if peaks[name] else math.inf,
                peak_diverged=diverged,
            )
        )
    return rows


def _labels(probes: Sequence[Probe]) -> list[str]:
    return [f"{probe.label} {probe.size}" for probe in probes]


def _is_map_at_port(value: ir.Value) -> bool:
    """Whether a tensor is an input or output that has the type asked for; scalars do not."""
    is_input = value.producer() is None and value.const_value is None
    return value.is_graph_output() or (is_input and bool(value.shape))


def _underflow(weight: np.ndarray, smallest_normal: float) -> float:
    return float(np.mean((weight != 0) & (np.abs(weight) < smallest_normal))) if weight.size else 0


def _with_shares(rows: list[TensorRange], shares: Mapping[str, float]) -> list[TensorRange]:
    return [replace(row, error_share=shares.get(row.name)) for row in rows]
