"""The flow: load, describe, build the reference, rewrite, trace, simplify, audit, verify, build.

Every arrow is a value; no stage reads another stage's files by name.
"""

from __future__ import annotations

from dataclasses import replace

import paragon_export
from paragon_export.graph.onnx_io import OnnxFile, is_our_onnx
from paragon_export.networks.describe import Described
from paragon_export.pipeline.export import make_onnx
from paragon_export.pipeline.results import BuildResult, Prover, Source
from paragon_export.specs.plans import EnginePlan, ExportPlan
from paragon_export.specs.types import Precision, Runtime
from paragon_export.system.atomic_write import check_writable, write_files


def build(plan: EnginePlan, prove: Prover | None = None) -> BuildResult:
    """Turn a checkpoint or an ONNX file into an engine with a manifest, or reuse the one there.

    Args:
        plan: What to build.
        prove: How to judge and time the engine itself; None does so on a GPU if there is one.

    Raises:
        ParagonExportError: If a stage could not run; no engine is written then.
    """
    from paragon_export.engines.build import build_engine
    from paragon_export.engines.manifest import EngineFile, manifest_path, read_manifest
    from paragon_export.engines.reuse import identify, read_source, why_judge_again, why_rebuild
    from paragon_export.graph.inspection import is_classifier, metadata_of, static_size
    from paragon_export.pipeline.engine_manifest import add_proof, describe_engine
    from paragon_export.pipeline.prove import prove_on_gpu
    from paragon_export.runtimes.polygraphy import polygraphy_trt

    check_outputs(plan)
    given = read_source(plan)
    identity = identify(plan, given)
    reason = why_rebuild(plan.output, identity) or why_judge_again(plan)
    if not reason:
        manifest = read_manifest(plan.output)
        matches = "everything in the manifest matches"
        return BuildResult(engine=plan.output, manifest=manifest, cached=True, reason=matches)
    polygraphy_trt(plan.backend.value)  # refuse now what is not installed
    source = _model_to_compile(plan, given)
    result = BuildResult(
        engine=plan.output,
        manifest=None,
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
    manifest = describe_engine(plan, identity, source, built).seal(built.data)
    engine = EngineFile(plan.output, built.data, manifest)
    proof = (prove or prove_on_gpu)(engine, source.judged_against, profile)
    manifest = add_proof(manifest, proof).seal(built.data)
    result = replace(result, manifest=manifest, proof=proof, notes=(*result.notes, *proof.notes))
    if result.passed is not False:
        compiled = {plan.compiled_onnx: source.file.data} if source.is_ours else {}
        last = {manifest_path(plan.output): manifest.to_bytes()}
        write_files({**compiled, plan.output: built.data, **last})
    return result


def check_outputs(plan: EnginePlan) -> None:
    """Refuse outputs that cannot be written, or that would replace a file of somebody else.

    Raises:
        PlanError: Naming the first.
    """
    from paragon_export.engines.manifest import is_manifest, manifest_path

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
    """ExportResult a checkpoint, convert an ONNX file, or take it as it is; judge it in each case."""
    from paragon_export.graph.inspection import precision_of
    from paragon_export.graph.onnx_io import serialized
    from paragon_export.parity.check import judge, judge_conversion
    from paragon_export.parity.provenance import reference_for
    from paragon_export.precision.audit import audit, subject_of_file
    from paragon_export.precision.half import to_precision
    from paragon_export.precision.range_report import describe_islands
    from paragon_export.runtimes.isolated import open_runner

    if not isinstance(given, OnnxFile):
        exported = make_onnx(
            ExportPlan(
                checkpoint=plan.source,
                output=plan.compiled_onnx,
                options=plan.options,
                precision=plan.precision,
                video=plan.video,
                rewrite=plan.rewrite,
                runtime=Runtime.TENSORRT if plan.rewrite else Runtime.ANY,
            ),
            given,
        )
        against = (exported.reference, exported.spec)
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
