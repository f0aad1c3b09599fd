"""The flow: load, describe, build the reference, rewrite, trace, simplify, audit, verify, build.

Every arrow is a value; no stage reads another stage's files by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from paragon_export.artifact import check_writable, staged
from paragon_export.errors import PlanError
from paragon_export.outcome import Build, Export, Prover, Source
from paragon_export.plan import EnginePlan, ExportPlan, Precision, Runtime, Size
from paragon_export.ranges import RangeAudit
from paragon_export.reference import TorchReference, build_reference, describe, measure_drop
from paragon_export.variant import Variant

if TYPE_CHECKING:
    import onnx_ir as ir

    from paragon_export.checkpoint import Checkpoint
    from paragon_export.gauges import Subject


def export(plan: ExportPlan) -> Export:
    """Turn a checkpoint into a verified ONNX file.

    Rewriting changes where half precision rounds. Where that costs a network its verdict, it is
    exported as trained, and that is said.

    Raises:
        ParagonExportError: If a stage could not run; nothing is written then.
    """
    result = _export(plan)
    if result.passed or not result.fired or not plan.precision.is_half:
        return result
    as_trained = _export(replace(plan, rewrite=False))
    if not as_trained.passed:
        return result
    worst = result.parity.worst
    told = f"error {worst.found.max_abs:.2g} on {worst.picture} {worst.size}" if worst else ""
    remark = f"exported as trained: rewritten it fails in {plan.precision.value} ({told})"
    return replace(as_trained, remarks=(remark,))


def _export(plan: ExportPlan) -> Export:
    """Export once, rewritten or as trained."""
    from paragon_export.audit import audit
    from paragon_export.judge import judge
    from paragon_export.onnx_file import describe_in, describe_islands, write_onnx
    from paragon_export.precision import to_precision

    check_writable(plan.output, plan.checkpoint)
    made = _float32_graph(plan)
    checkpoint, variant, reference = made.checkpoint, made.variant, made.reference
    simplified, ranges = made.model, None
    if plan.precision.is_half:
        simplified, ranges = audit(
            simplified, plan.precision, plan.io, made.subject(), shares=plan.error_shares
        )
    model = to_precision(simplified, plan.precision, plan.io)
    describe_in(model, variant, checkpoint, plan, made.fired)
    describe_islands(model, ranges)
    with staged(plan.output) as file:
        write_onnx(model, file.path)
        parity = judge(reference, variant, [file.path])
        file.keep = parity.passed and (ranges is None or ranges.passed)
    drop_cost = measure_drop(checkpoint, variant, plan.switches) if variant.dropped else None
    return Export(
        output=plan.output,
        reference=reference,
        variant=variant,
        fired=made.fired,
        parity=parity,
        drop_cost=drop_cost,
        ranges=ranges,
    )


@dataclass(frozen=True, kw_only=True)
class _Made:
    """A float32 graph and what it was made from."""

    checkpoint: Checkpoint
    variant: Variant
    reference: TorchReference
    fired: Mapping[str, int]
    model: ir.Model
    static: Size | None

    def subject(self, images: Path | None = None) -> Subject:
        """Return what the graph is audited on."""
        from paragon_export.audit import subject_of

        v = self.variant
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


def _float32_graph(plan: ExportPlan) -> _Made:
    """Describe, build the reference, rewrite, trace and simplify."""
    from paragon_export.probes import check_defined
    from paragon_export.rewrite import rewrite, unchanged
    from paragon_export.simplify import simplify
    from paragon_export.trace import trace

    checkpoint, variant = describe(plan.checkpoint, plan.switches)
    check_defined([plan.static] if plan.static else [], variant.smallest)
    reference = build_reference(checkpoint, variant, video=plan.video)
    if plan.static and variant.is_classifier:
        raise PlanError(f"--static is for pictures; a {variant.family} network has one grid")
    ports = reference.fixed(plan.static, variant.scale) if plan.static else None
    inputs, outputs = ports or (reference.inputs, reference.outputs)
    network = reference.module
    rewritten = rewrite(network, plan.runtime) if plan.rewrite else unchanged(network)
    traced = trace(rewritten.module, inputs, outputs, plan.operator_set)
    return _Made(
        checkpoint=checkpoint,
        variant=variant,
        reference=reference,
        fired=rewritten.fired,
        model=simplify(traced),
        static=plan.static,
    )


def audit_source(plan: ExportPlan, images: Path | None = None) -> RangeAudit:
    """Measure what half precision has to hold, of a checkpoint or of a float32 ONNX file.

    Args:
        plan: Its ``checkpoint`` may be an ONNX file, which is audited as it is. Nothing is
            written: ``output`` is not looked at.
        images: Folder of pictures to add.

    Raises:
        ParagonExportError: If a stage could not run, or the file is half already.
    """
    from paragon_export.audit import audit, subject_of_file
    from paragon_export.onnx_file import is_onnx, read_onnx

    if is_onnx(plan.checkpoint):
        model = read_onnx(plan.checkpoint)
        subject = subject_of_file(model, plan.checkpoint, images)
    else:
        made = _float32_graph(plan)
        model, subject = made.model, made.subject(images)
    return audit(model, plan.precision, plan.io, subject, shares=True)[1]


def build(plan: EnginePlan, prove: Prover | None = None) -> Build:
    """Turn a checkpoint or an ONNX file into an engine with a manifest, or reuse the one there.

    Args:
        plan: What to build.
        prove: How to judge and time the engine itself; None does so on a GPU if there is one.

    Raises:
        ParagonExportError: If a stage could not run; no engine is written then.
    """
    from paragon_export.engine import build_engine
    from paragon_export.gpu import prove_on_gpu
    from paragon_export.manifest import (
        add_proof,
        describe_engine,
        identify,
        manifest_path,
        read,
        why_judge_again,
        why_rebuild,
        write_engine,
        write_manifest,
    )
    from paragon_export.onnx_file import is_classifier, metadata_of, read_onnx, static_size
    from paragon_export.polygraphy_bridge import polygraphy_trt

    files = (plan.output, manifest_path(plan.output), plan.compiled_onnx)
    for file in files:
        check_writable(file, plan.source, plan.checkpoint)
    identity = identify(plan)
    reason = why_rebuild(plan.output, identity) or why_judge_again(plan)
    if not reason:
        manifest = read(plan.output) or {}
        matches = "everything in the manifest matches"
        return Build(engine=plan.output, manifest=manifest, cached=True, reason=matches)
    polygraphy_trt(plan.backend.value)  # refuse now what is not installed
    with staged(*files) as made:
        source = _model_to_compile(plan, made.beside(plan.compiled_onnx))
        result = Build(
            engine=plan.output,
            manifest={},
            cached=False,
            reason=reason,
            parity=source.parity,
            notes=source.notes,
        )
        if result.passed is False:
            made.keep = False
            return result
        model = read_onnx(source.path)
        batches = plan.batches() if is_classifier(model) else None
        profile = batches or plan.profile_for(static_size(model), metadata_of(model).smallest)
        built = build_engine(source.path, model, plan.backend, plan.targets, profile)
        manifest = describe_engine(plan, identity, source, model, built)
        write_engine(made.path, built.data, manifest)
        proof = (prove or prove_on_gpu)(made.path, source.judged_against, profile)
        add_proof(manifest, proof)
        write_manifest(made.path, manifest)
        notes = (*result.notes, *proof.notes)
        result = replace(result, manifest=manifest, proof=proof, notes=notes)
        made.keep = result.passed is not False
    return result


def _model_to_compile(plan: EnginePlan, compiled: Path) -> Source:
    """Export a checkpoint, convert an ONNX file, or take it as it is; judge it in each case."""
    from paragon_export.audit import audit, subject_of_file
    from paragon_export.judge import judge, judge_conversion, reference_for
    from paragon_export.onnx_file import (
        describe_islands,
        is_onnx,
        precision_of,
        read_onnx,
        write_onnx,
    )
    from paragon_export.precision import to_precision

    if not is_onnx(plan.source):
        exported = export(
            ExportPlan(
                checkpoint=plan.source,
                output=compiled,
                switches=plan.switches,
                precision=plan.precision,
                video=plan.video,
                rewrite=plan.rewrite,
                runtime=Runtime.TENSORRT if plan.rewrite else Runtime.ANY,
            )
        )
        against = (exported.reference, exported.variant)
        return Source(compiled, exported.parity, against, exported.notes, is_ours=True)
    given = read_onnx(plan.source)
    known, notes = reference_for(plan, given)
    if not plan.rewrite:
        notes = (*notes, "--no-rewrite has no effect: an ONNX file is compiled as it is")
    if not plan.precision.is_half or precision_of(given) is plan.precision:
        parity = judge(*known, [plan.source]) if known else None
        return Source(plan.source, parity, known, notes)
    subject = subject_of_file(given, plan.source)
    mended, ranges = audit(given, plan.precision, Precision.FP32, subject)
    model = to_precision(mended, plan.precision, io=Precision.FP32)
    model.metadata_props["precision"] = plan.precision.value
    describe_islands(model, ranges)
    write_onnx(model, compiled)
    parity = judge(*known, [compiled]) if known else judge_conversion(plan.source, compiled)
    return Source(compiled, parity, known, (*notes, *ranges.notes), is_ours=True)
