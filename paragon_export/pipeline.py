"""The flow: load, describe, build the reference, rewrite, trace, simplify, audit, verify, build.

Every arrow is a value; no stage reads another stage's files by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import paragon_export
from paragon_export.artifact import check_writable, write_files
from paragon_export.errors import PlanError
from paragon_export.onnx_file import OnnxFile, is_our_onnx
from paragon_export.outcome import Build, Export, Prover, Source
from paragon_export.plan import EnginePlan, ExportPlan, Precision, Runtime, Size
from paragon_export.ranges import RangeAudit
from paragon_export.reference import (
    Described,
    TorchReference,
    build_reference,
    describe,
    measure_drop,
)
from paragon_export.variant import Variant

if TYPE_CHECKING:
    import onnx_ir as ir

    from paragon_export.checkpoint import Checkpoint
    from paragon_export.gauges import Subject


def export(plan: ExportPlan) -> Export:
    """Turn a checkpoint into a verified ONNX file, and write it if its verdict passes.

    Raises:
        ParagonExportError: If a stage could not run; nothing is written then.
    """
    check_writable(plan.output, plan.checkpoint, named=plan.is_named, is_ours=is_our_onnx)
    result = make_onnx(plan, describe(plan.checkpoint, plan.switches))
    if result.passed:
        write_files({plan.output: result.file.data})
    return result


def make_onnx(plan: ExportPlan, described: Described) -> Export:
    """Make the ONNX file of a plan in memory and judge it.

    Rewriting changes where half precision rounds. Where that costs a network its verdict, it is
    exported as trained, and that is said.

    Raises:
        ParagonExportError: If a stage could not run.
    """
    result = _make_onnx(plan, described)
    if result.passed or not result.fired or not plan.precision.is_half:
        return result
    as_trained = _make_onnx(replace(plan, rewrite=False, runtime=Runtime.ANY), described)
    if not as_trained.passed:
        return result
    worst = result.parity.worst
    told = f"error {worst.found.max_abs:.2g} on {worst.picture} {worst.size}" if worst else ""
    remark = f"exported as trained: rewritten it fails in {plan.precision.value} ({told})"
    return replace(as_trained, remarks=(remark,))


def _make_onnx(plan: ExportPlan, described: Described) -> Export:
    """Make the file once, rewritten or as trained."""
    from paragon_export.audit import audit
    from paragon_export.judge import judge
    from paragon_export.onnx_file import describe_in, describe_islands, serialized
    from paragon_export.precision import to_precision

    made = _float32_graph(plan, described)
    checkpoint, variant, reference = made.checkpoint, made.variant, made.reference
    simplified, ranges = made.model, None
    if plan.precision.is_half:
        simplified, ranges = audit(
            simplified, plan.precision, plan.io, made.subject(), shares=plan.error_shares
        )
    model = to_precision(simplified, plan.precision, plan.io)
    describe_in(model, variant, checkpoint, plan, made.fired)
    describe_islands(model, ranges)
    file = serialized(model, plan.output)
    parity = judge(reference, variant, [file])
    drop_cost = measure_drop(checkpoint, variant, plan.switches) if variant.dropped else None
    return Export(
        file=file,
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


def _float32_graph(plan: ExportPlan, described: Described) -> _Made:
    """Describe, build the reference, rewrite, trace and simplify."""
    from paragon_export.probes import check_defined
    from paragon_export.rewrite import rewrite, unchanged
    from paragon_export.simplify import simplify
    from paragon_export.trace import trace

    checkpoint, variant = described
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
    from paragon_export.onnx_file import is_onnx, read_onnx_file

    if is_onnx(plan.checkpoint):
        file = read_onnx_file(plan.checkpoint)
        model, subject = file.model, subject_of_file(file, images)
    else:
        made = _float32_graph(plan, describe(plan.checkpoint, plan.switches))
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
        EngineFile,
        add_proof,
        check_manifest,
        describe_engine,
        identify,
        manifest_bytes,
        manifest_path,
        read,
        read_source,
        sealed,
        why_judge_again,
        why_rebuild,
    )
    from paragon_export.onnx_file import is_classifier, metadata_of, static_size
    from paragon_export.polygraphy_bridge import polygraphy_trt

    check_outputs(plan)
    given = read_source(plan)
    identity = identify(plan, given)
    reason = why_rebuild(plan.output, identity) or why_judge_again(plan)
    if not reason:
        manifest = read(plan.output) or {}
        matches = "everything in the manifest matches"
        return Build(engine=plan.output, manifest=manifest, cached=True, reason=matches)
    polygraphy_trt(plan.backend.value)  # refuse now what is not installed
    source = _model_to_compile(plan, given)
    result = Build(
        engine=plan.output,
        manifest={},
        cached=False,
        reason=reason,
        parity=source.parity,
        notes=source.notes,
    )
    if result.passed is False:
        return result
    model = source.file.model
    batches = plan.batches() if is_classifier(model) else None
    profile = batches or plan.profile_for(static_size(model), metadata_of(model).smallest)
    built = build_engine(source.file, plan.backend, plan.targets, profile)
    manifest = sealed(describe_engine(plan, identity, source, built), built.data)
    engine = EngineFile(plan.output, built.data, check_manifest(manifest))
    proof = (prove or prove_on_gpu)(engine, source.judged_against, profile)
    manifest = sealed(add_proof(manifest, proof), built.data)
    result = replace(result, manifest=manifest, proof=proof, notes=(*result.notes, *proof.notes))
    if result.passed is not False:
        compiled = {plan.compiled_onnx: source.file.data} if source.is_ours else {}
        last = {manifest_path(plan.output): manifest_bytes(manifest)}
        write_files({**compiled, plan.output: built.data, **last})
    return result


def check_outputs(plan: EnginePlan) -> None:
    """Refuse outputs that cannot be written, or that would replace a file of somebody else.

    Raises:
        PlanError: Naming the first.
    """
    from paragon_export.manifest import is_manifest, manifest_path

    manifest = manifest_path(plan.output)
    check_writable(
        plan.output,
        plan.source,
        plan.checkpoint,
        named=plan.is_named,
        is_ours=lambda _: is_manifest(manifest) or is_our_onnx(plan.compiled_onnx),
    )
    beside = {manifest: is_manifest, plan.compiled_onnx: is_our_onnx}
    for path, is_ours in beside.items():
        check_writable(path, plan.source, plan.checkpoint, named=False, is_ours=is_ours)


def _model_to_compile(plan: EnginePlan, given: OnnxFile | Described) -> Source:
    """Export a checkpoint, convert an ONNX file, or take it as it is; judge it in each case."""
    from paragon_export.audit import audit, subject_of_file
    from paragon_export.isolated import open_runner
    from paragon_export.judge import judge, judge_conversion, reference_for
    from paragon_export.onnx_file import describe_islands, precision_of, serialized
    from paragon_export.precision import to_precision

    if not isinstance(given, OnnxFile):
        exported = make_onnx(
            ExportPlan(
                checkpoint=plan.source,
                output=plan.compiled_onnx,
                switches=plan.switches,
                precision=plan.precision,
                video=plan.video,
                rewrite=plan.rewrite,
                runtime=Runtime.TENSORRT if plan.rewrite else Runtime.ANY,
            ),
            given,
        )
        against = (exported.reference, exported.variant)
        return Source(exported.file, exported.parity, against, exported.notes, is_ours=True)
    known, notes = reference_for(plan, given)
    if not plan.rewrite:
        notes = (*notes, "--no-rewrite has no effect: an ONNX file is compiled as it is")
    if not plan.precision.is_half or precision_of(given.model) is plan.precision:
        if known is None:  # TensorRT folds constants as ONNX Runtime does, but without limits
            open_runner(given.data, is_own=False, title=str(plan.source))
        parity = judge(*known, [given]) if known else None
        return Source(given, parity, known, notes)
    mended, ranges = audit(given.model, plan.precision, Precision.FP32, subject_of_file(given))
    model = to_precision(mended, plan.precision, io=Precision.FP32)
    model.metadata_props["precision"] = plan.precision.value
    model.metadata_props["tool"] = f"paragon-export {paragon_export.__version__}"
    describe_islands(model, ranges)
    made = replace(serialized(model, plan.compiled_onnx), is_own=given.is_own)
    parity = judge(*known, [made]) if known else judge_conversion(given, made)
    return Source(made, parity, known, (*notes, *ranges.notes), is_ours=True)
