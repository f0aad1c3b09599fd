"""Audit: find the tensors that overflow in half precision, and the nodes that must stay float32.

Ranges are measured in float32 on probes. Reductions added to the graph give the largest magnitude of
every tensor and its share of underflow, so no tensor leaves the runtime. A tensor that overflows
makes float32 islands: the nodes that compute it and those that read it. A model that simulates half
precision (``rounding``), overflow included, must then be finite in every tensor.

The audit does not see the inside of an operator. A convolution, product, norm, softmax or fused
attention may hold partial sums in half: TensorRT, and ONNX Runtime on a GPU, accumulate in float32 or
half, which depends on the kernel. A compiler may also fuse nodes and keep intermediate results in a
wider type than the graph has. Ranges that grow with the image, such as sums over it, are those of the
sizes that were measured.
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
from paragon_export.graph.inspection import copied, port_names
from paragon_export.graph.metadata import FLOAT32_MARK
from paragon_export.graph.onnx_io import OnnxFile
from paragon_export.inputs.fit import fitted
from paragon_export.inputs.glyph_probes import glyph_probes
from paragon_export.inputs.probes import Probe, audit_probes
from paragon_export.precision.attribution import error_shares
from paragon_export.precision.half import FLOAT32_INPUTS, convertible_copy, to_precision
from paragon_export.precision.instrument import Measured, Subject, measure
from paragon_export.precision.range_report import (
    MAX_FINITE,
    MIN_NORMAL,
    MIN_OVERFLOW,
    Island,
    RangeAudit,
    TensorRange,
)
from paragon_export.precision.rounding import rounding_model
from paragon_export.precision.typed_graph import FLOAT, is_float32, origin_of, typed_copy, values_of
from paragon_export.specs.network import InputSpec, Port, Task
from paragon_export.specs.ports import FixedExtents
from paragon_export.specs.tolerance import DIVERGED
from paragon_export.specs.types import Precision

ROUNDING_MARGIN = 1.02
"""Peaks within this factor of ``MIN_OVERFLOW`` are checked again in the rounded model."""


def subject_of(
    spec: InputSpec,
    inputs: Sequence[Port],
    *,
    fixed: FixedExtents | None = None,
    images: Path | None = None,
) -> Subject:
    """Return what a network with these inputs is audited on.

    ``fixed`` are the extents that it fixes, ``images`` a folder of images to add.

    Raises:
        PlanError: If ``images`` are given for a network that takes no images of any size.
    """
    ports = tuple(inputs)
    if spec.task.is_classifier:
        if images:
            raise PlanError("--images is for networks that take pictures; leave it out")
        return Subject(inputs=ports, probes=tuple(glyph_probes(ports[0])), task=spec.task)
    fixed = fixed or FixedExtents()
    probes = audit_probes(spec, static=fixed.size, video=len(ports) > 1, images=images)
    return Subject(inputs=ports, probes=tuple(fitted(probes, fixed)), task=spec.task)


def subject_of_file(file: OnnxFile, images: Path | None = None) -> Subject:
    """Return what suits an ONNX file, from its ports and metadata.

    Raises:
        PlanError: If its ports are not those of a supported network.
    """
    inputs, _ = file.ports
    subject = subject_of(file.input_spec, inputs, fixed=file.fixed, images=images)
    return replace(subject, is_own=file.is_own)


def audit(
    model: ir.Model, precision: Precision, io: Precision, subject: Subject, *, shares: bool = False
) -> tuple[ir.Model, RangeAudit]:
    """Measure the ranges of a model, and mark the float32 islands that half precision needs.

    Args:
        model: A float32 model; it is not changed.
        precision: The half type of the arithmetic.
        io: The type of the image inputs and outputs.
        subject: The probes.
        shares: Whether to find the tensors with the largest shares of the error (dozens of runs).

    Returns:
        A copy of the model with marked islands, or the model if it needs none; and the audit.

    Raises:
        PlanError: If the model cannot be converted.
        RunError: If the model cannot run.
    """
    graph = convertible_copy(model, precision)
    found = measure(graph, subject, MIN_NORMAL[precision])
    converges = _converges(found, subject, port_names(graph, "the model").result)
    selected = replace(subject, probes=tuple(itertools.compress(subject.probes, converges)))
    peaks = {**_weight_peaks(graph), **found.peak_of(converges)}
    islands, fault = _IslandSearch(graph, precision, io, selected, peaks).run()
    marked = with_islands(graph, [island.node for island in islands]) if islands else graph
    rows = _rows(typed_copy(marked) if islands else graph, precision, io, found, converges, peaks)
    if shares and not fault:
        rows = _with_shares(rows, to_precision(marked, precision, io), marked, selected)
    labels = _labels(found.probes)
    result = RangeAudit(
        precision=precision,
        tensors=tuple(rows),
        pictures=tuple(itertools.compress(labels, converges)),
        diverged=tuple(itertools.compress(labels, ~converges)),
        islands=tuple(islands),
        fault=fault,
    )
    return (marked if islands else model), result


def _converges(found: Measured, subject: Subject, output: str) -> np.ndarray:
    """Return (probes,) bool: False for stress probes on which the tensor ``output`` diverges."""
    column = found.names.index(output)
    return np.array(
        [
            not (subject.task is not Task.MAP and probe.is_stress and not peak <= DIVERGED)
            for probe, peak in zip(subject.probes, found.peaks[:, column], strict=True)
        ]
    )


def _weight_peaks(graph: ir.Model) -> dict[str, float]:
    """Return the largest magnitude of every float weight that a node reads in its own precision."""
    return {
        str(value.name): float(np.abs(value.const_value.numpy()).max(initial=0.0))
        for value in graph.graph.initializers.values()
        if value.dtype == FLOAT and value.const_value is not None and _readers(value)
    }


def _readers(value: ir.Value) -> list[ir.Node]:
    """Return the nodes that read a tensor in their own precision, not always in float32."""
    return [
        node for node, index in value.uses() if index not in FLOAT32_INPUTS.get(node.op_type, ())
    ]


# --- finding islands -----------------------------------------------------------------------


def with_islands(model: ir.Model, nodes: Sequence[str]) -> ir.Model:
    """Return a copy in which the nodes of these names are marked to be computed in float32."""
    copy = copied(model)
    for node in copy.graph:
        if _name(node) in nodes:
            node.metadata_props[FLOAT32_MARK] = "float32"
    return copy


def _name(node: ir.Node) -> str:
    """Return the name of a node, or that of its first output: foreign files have unnamed nodes."""
    return node.name or str(node.outputs[0].name)


class _IslandSearch:
    """Finds the smallest set of nodes that must be computed in float32.

    A tensor that overflows must be computed and read in float32. That needs every node that computes
    or reads it, and no other. Rounding may move a tensor close to the limit across it, so such
    tensors are checked in the rounded model.
    """

    def __init__(
        self,
        model: ir.Model,
        precision: Precision,
        io: Precision,
        subject: Subject,
        peaks: Mapping[str, float],
    ) -> None:
        self.model, self.precision, self.io, self.subject = model, precision, io, subject
        self.peaks = peaks
        self.values = {str(value.name): value for value in values_of(model)}
        self.min_overflow = MIN_OVERFLOW[precision]

    def run(self) -> tuple[list[Island], str]:
        """Return the islands, and why they do not suffice; empty if they do."""
        overflowing = [n for n, p in self.peaks.items() if self.min_overflow <= p < math.inf]
        islands = self._touching(overflowing)
        if not islands and not self._is_close():
            return [], ""
        while name := self._first_overflow(islands):
            more = self._touching([name], islands)
            if len(more) == len(islands):
                return list(islands.values()), (
                    f"{self.precision.value} cannot hold {name}, which reaches "
                    f"{self.peaks[name]:.3g}, and no float32 island prevents it: it is an input "
                    "or output in half precision; leave --io out"
                )
            islands = more
        return self._needed(islands), ""

    def _is_close(self) -> bool:
        """Return whether rounding may make a computed tensor overflow that does not in float32."""
        computed = (v for v in self.values.values() if v.const_value is None and _half_nodes(v))
        peaks = (self.peaks.get(str(value.name), 0.0) for value in computed)
        return any(self.min_overflow / ROUNDING_MARGIN <= peak < math.inf for peak in peaks)

    def _touching(
        self, names: Sequence[str], islands: Mapping[str, Island] | None = None
    ) -> dict[str, Island]:
        """Add an island for every half node that computes or reads one of these tensors.

        Return node name to island, in graph order.
        """
        found = dict(islands or {})
        for name in sorted(names, key=lambda name: -self.peaks[name]):
            for node in _half_nodes(self.values[name]):
                island = Island(
                    node=_name(node), op_type=node.op_type, because=name, peak=self.peaks[name]
                )
                found.setdefault(island.node, island)
        order = [_name(node) for node in self.model.graph]
        return dict(sorted(found.items(), key=lambda item: order.index(item[0])))

    def _first_overflow(self, islands: Mapping[str, Island]) -> str | None:
        """Return the first tensor that is finite in float32 and not in the rounded model."""
        marked = with_islands(self.model, list(islands))
        rounded = rounding_model(to_precision(marked, self.precision, self.io))
        origins = {str(value.name): origin_of(value) for value in values_of(rounded)}
        found = measure(rounded, self.subject, 0.0)
        for name, peak in found.peak_of(np.ones(len(self.subject.probes), bool)).items():
            origin = origins[name]
            if not math.isfinite(peak) and math.isfinite(self.peaks[origin]):
                return origin
        return None

    def _needed(self, islands: dict[str, Island]) -> list[Island]:
        """Remove islands of tensors close to the limit, as long as everything stays finite."""
        for name, island in list(islands.items()):
            if island.peak < self.min_overflow * ROUNDING_MARGIN:
                fewer = {other: i for other, i in islands.items() if other != name}
                islands = islands if self._first_overflow(fewer) else fewer
        return list(islands.values())


def _half_nodes(value: ir.Value) -> list[ir.Node]:
    """Return the nodes that compute or read a tensor in half precision."""
    nodes = (value.producer(), *_readers(value))
    return [node for node in nodes if node is not None and not is_float32(node)]


# --- reporting -----------------------------------------------------------------------------


def _rows(
    model: ir.Model,
    precision: Precision,
    io: Precision,
    found: Measured,
    converges: np.ndarray,
    peaks: Mapping[str, float],
) -> list[TensorRange]:
    """Return one row for each tensor, in the order of the graph."""
    underflow = found.underflow_of(converges)
    columns = {name: index for index, name in enumerate(found.names)}
    labels = _labels(found.probes)
    rows = []
    for value in values_of(model):
        name, producer, image, diverged = str(value.name), value.producer(), "", 0.0
        if name not in peaks:
            continue
        if value.const_value is not None:
            share = _underflow(value.const_value.numpy(), MIN_NORMAL[precision])
        else:
            measured = found.peaks[:, columns[name]]
            image = labels[int(np.where(converges, measured, -1.0).argmax())]
            diverged = float(np.where(converges, 0.0, measured).max())
            share = underflow[name]
        source = "weight" if value.const_value is not None else "input"
        rows.append(
            TensorRange(
                name=name,
                op_type=producer.op_type if producer is not None else source,
                peak=peaks[name],
                picture=image,
                underflow=share,
                is_half=bool(_half_nodes(value)) or (io.is_half and _is_map_at_port(value)),
                headroom=MAX_FINITE[precision] / peaks[name] if peaks[name] else math.inf,
                peak_diverged=diverged,
            )
        )
    return rows


def _labels(probes: Sequence[Probe]) -> list[str]:
    return [f"{probe.label} {probe.size}" for probe in probes]


def _is_map_at_port(value: ir.Value) -> bool:
    """Return whether a tensor is an input or output of type ``io``; scalar inputs are not."""
    is_input = value.producer() is None and value.const_value is None
    return value.is_graph_output() or (is_input and bool(value.shape))


def _underflow(weight: np.ndarray, min_normal: float) -> float:
    """Return the share of values that are not zero and below the smallest normal number."""
    return float(np.mean((weight != 0) & (np.abs(weight) < min_normal))) if weight.size else 0


def _with_shares(
    rows: list[TensorRange], half: ir.Model, exact: ir.Model, subject: Subject
) -> list[TensorRange]:
    """Return the rows with the largest shares of the error, measured on the first probe."""
    shares = error_shares(half, exact, subject.inputs, subject.probes[0], is_own=subject.is_own)
    return [replace(row, error_share=shares.get(row.name)) for row in rows]
