"""Turn a network into a float32 graph, and a graph into an ONNX file with metadata.

Exports of every precision call both functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from paragon_export.errors import PlanError
from paragon_export.graph.onnx_io import OnnxFile, describe_in, serialized
from paragon_export.networks.describe import LoadedNetwork
from paragon_export.networks.registry import architecture_named
from paragon_export.parity.reference import TorchReference, build_reference
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.ports import FixedExtents
from paragon_export.specs.types import Quantization, Size, Tracer

if TYPE_CHECKING:
    import onnx_ir as ir

    from paragon_export.precision.instrument import Subject
    from paragon_export.precision.range_report import RangeAudit
    from paragon_export.specs.network import Port


@dataclass(frozen=True, kw_only=True)
class Float32Graph:
    """A float32 graph and the network that it was traced from."""

    reference: TorchReference
    fired: Mapping[str, int]
    """How often each rewrite was applied, by its name."""
    model: ir.Model
    static: Size | None
    """The only input size; None if batch, height and width are dynamic."""

    def subject(self, images: Path | None = None) -> Subject:
        """Return the inputs of a range audit; ``images`` is a folder of images to add."""
        from paragon_export.precision.audit import subject_of

        reference = self.reference
        fixed = FixedExtents()
        if self.static:
            fixed = FixedExtents(batch=1, height=self.static.height, width=self.static.width)
        return subject_of(reference.input_spec, reference.inputs, fixed=fixed, images=images)


def float32_graph(network: LoadedNetwork, plan: ExportPlan) -> Float32Graph:
    """Build the reference, rewrite it, trace it and simplify the graph.

    Raises:
        PlanError: If the plan does not suit the network.
        TraceError: If an operator has no ONNX counterpart.
    """
    from paragon_export.graph.simplify import simplify
    from paragon_export.inputs.sizes import check_defined

    spec = network.spec
    check_defined([plan.static] if plan.static else [], spec.smallest)
    reference = build_reference(network, video=plan.video)
    if plan.static and spec.task.is_classifier:
        raise PlanError(
            f"--static is for images; a {spec.architecture} network has one input size; "
            "leave it out"
        )
    ports = reference.fixed(plan.static) if plan.static else None
    inputs, outputs = ports or (reference.inputs, reference.outputs)
    model, fired = _traced(reference, inputs, outputs, plan)
    return Float32Graph(reference=reference, fired=fired, model=simplify(model), static=plan.static)


def _traced(
    reference: TorchReference, inputs: Sequence[Port], outputs: Sequence[Port], plan: ExportPlan
) -> tuple[ir.Model, Mapping[str, int]]:
    """Return the graph of a network, and how often each rewrite was applied."""
    from paragon_export.graph.torch_export import export_by_torch, keep_norms_in_float32
    from paragon_export.graph.trace import trace
    from paragon_export.rewrite.rules import rewrite, unchanged

    tracers = reference.spec.tracers
    tracer = plan.tracer or tracers[0]
    module = architecture_named(reference.spec.architecture).exportable(reference.module)
    if tracer is not Tracer.SYMBOLIC:
        return export_by_torch(module, inputs, outputs, plan.operator_set, tracer), {}
    rewritten = unchanged(module)
    if plan.rewrite:
        rewritten = rewrite(module, plan.runtime, half=plan.precision.is_half)
    traced = trace(rewritten.module, inputs, outputs, plan.operator_set)
    if len(tracers) > 1:  # code that does not say what belongs in float32
        keep_norms_in_float32(traced)
    return traced, rewritten.fired


def finish(
    graph: Float32Graph,
    model: ir.Model,
    plan: ExportPlan,
    *,
    ranges: RangeAudit | None = None,
    quantization: Quantization | None = None,
) -> OnnxFile:
    """Add the metadata to a model and return it as an ONNX file in memory.

    Args:
        graph: The float32 graph that the model was converted from.
        model: The graph in the precision of the artifact. It is modified in place.
        plan: What to export.
        ranges: The audit that chose the nodes that stay in float32, for half precision.
        quantization: Replaces the plan's precision in the metadata.
    """
    from paragon_export.precision.range_report import describe_islands

    describe_in(model, graph.reference.network, plan, graph.fired)
    if quantization is not None:
        model.metadata_props["precision"] = quantization.value
    describe_islands(model, ranges)
    return serialized(model, plan.output)
