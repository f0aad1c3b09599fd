"""The flow: load, describe, build the reference, rewrite, trace, simplify, audit, verify, build.

Every arrow is a value; no stage reads another stage's files by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from paragon_export.errors import PlanError
from paragon_export.networks.describe import Described
from paragon_export.parity.reference import TorchReference, build_reference
from paragon_export.specs.network import NetworkSpec
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.types import Size

if TYPE_CHECKING:
    import onnx_ir as ir

    from paragon_export.checkpoints.load import Checkpoint
    from paragon_export.precision.instrument import Subject


@dataclass(frozen=True, kw_only=True)
class Float32Graph:
    """A float32 graph and what it was made from."""

    checkpoint: Checkpoint
    spec: NetworkSpec
    reference: TorchReference
    fired: Mapping[str, int]
    model: ir.Model
    static: Size | None

    def subject(self, images: Path | None = None) -> Subject:
        """Return what the graph is audited on."""
        from paragon_export.precision.audit import subject_of

        v = self.spec
        return subject_of(
            self.reference.inputs,
            self.reference.outputs,
            window=v.window,
            smallest=v.smallest,
            also=v.also_probed,
            static=self.static,
            is_picture=v.is_picture,
            images=images,
        )


def float32_graph(plan: ExportPlan, described: Described) -> Float32Graph:
    """Describe, build the reference, rewrite, trace and simplify."""
    from paragon_export.graph.simplify import simplify
    from paragon_export.graph.trace import trace
    from paragon_export.inputs.probes import check_defined
    from paragon_export.rewrite.rules import rewrite, unchanged

    checkpoint, spec = described
    check_defined([plan.static] if plan.static else [], spec.smallest)
    reference = build_reference(checkpoint, spec, video=plan.video)
    if plan.static and spec.is_classifier:
        raise PlanError(f"--static is for pictures; a {spec.architecture} network has one grid")
    ports = reference.fixed(plan.static, spec.scale) if plan.static else None
    inputs, outputs = ports or (reference.inputs, reference.outputs)
    network = reference.module
    rewritten = rewrite(network, plan.runtime) if plan.rewrite else unchanged(network)
    traced = trace(rewritten.module, inputs, outputs, plan.operator_set)
    return Float32Graph(
        checkpoint=checkpoint,
        spec=spec,
        reference=reference,
        fired=rewritten.fired,
        model=simplify(traced),
        static=plan.static,
    )
