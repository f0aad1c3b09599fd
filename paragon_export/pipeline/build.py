"""Build a TensorRT engine with a manifest from a checkpoint or an ONNX file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import paragon_export
from paragon_export.engines.kernels.estimate import Estimate
from paragon_export.engines.reuse import ExistingEngine
from paragon_export.errors import EngineBuildError, PlanError
from paragon_export.graph.onnx_io import OnnxFile, is_our_onnx
from paragon_export.networks.describe import LoadedNetwork
from paragon_export.pipeline.export import make_onnx
from paragon_export.pipeline.results import BuildResult, ModelToCompile, Prover
from paragon_export.specs.plans import EnginePlan, ExportPlan, ParityPlan
from paragon_export.specs.profiles import BatchProfile, Profile
from paragon_export.specs.types import Backend, Precision, Runtime
from paragon_export.system.atomic_write import check_writable, write_files


def build_engine(
    source: LoadedNetwork | str | Path,
    output: str | Path,
    *,
    checkpoint: str | Path | None = None,
    precision: str = "fp32",
    targets: Iterable[str] = (),
    backend: str = "rtx",
    profile: Profile | BatchProfile | None = None,
    video: bool = False,
    rewrite: bool = True,
) -> BuildResult:
    """Build a TensorRT engine with a manifest, or reuse an existing one if its manifest matches.

    Args:
        source: A network, the path of a checkpoint, or an ONNX file.
        output: The ``.engine`` file to write. The manifest has the same name with ``.json`` added.
        checkpoint: The reference for an ONNX source; None takes the one that its metadata names.
        precision: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
        targets: Compute capabilities of the engine, as ``"sm86"``; empty means Ampere and later.
        backend: ``"rtx"`` compiles without a GPU; ``"tensorrt"`` needs one.
        profile: Input sizes, or batches of a glyph classifier; None takes 1x1 to 1080x1920.
        video: Build the network with its temporal ports.
        rewrite: Build an algebraically equal network that runs faster.

    Returns:
        The result. ``passed`` is the verdict, None without a reference; False writes nothing.

    Raises:
        MissingDependencyError: If TensorRT is not installed.
        ParagonExportError: If the arguments do not fit, or a step could not run; nothing is written.
    """
    network = source if isinstance(source, LoadedNetwork) else None
    plan = EnginePlan(
        source=network.checkpoint.path if network else Path(str(source)), output=Path(output),
        checkpoint=None if checkpoint is None else Path(checkpoint), profile=profile,
        precision=Precision(precision), targets=tuple(dict.fromkeys(targets)),
        backend=Backend(backend), video=video, rewrite=rewrite,
    )  # fmt: skip
    return build(plan, network=network)


def build(
    plan: EnginePlan, prove: Prover | None = None, network: LoadedNetwork | None = None
) -> BuildResult:
    """Reuse the engine of a plan, or compile, judge and write it.

    Args:
        plan: What to build.
        prove: Judges and times the engine; None does so on a GPU, if there is one.
        network: The network of the plan's source; None reads the source.

    Raises:
        ParagonExportError: If a step could not run. No engine is written then.
    """
    from paragon_export.engines import reuse
    from paragon_export.runtimes.polygraphy import polygraphy_trt

    existing = reuse.read_existing(plan.output)
    check_outputs(plan, existing)
    opened = network or reuse.read_source(plan)
    identity = reuse.identify(plan, opened)
    why = reuse.why_rebuild(existing, identity, opened) or reuse.why_judge_again(existing, plan)
    if not why:
        return BuildResult(
            engine=plan.output,
            manifest=existing.manifest,
            cached=True,
            reason="everything in the manifest matches",
        )
    polygraphy_trt(plan.backend.value)  # raise before the export if TensorRT is missing
    source = _model_to_compile(plan, opened)
    result = BuildResult(
        engine=plan.output, manifest=None, cached=False, reason=why,
        parity=source.parity, notes=source.notes,
    )  # fmt: skip
    if result.passed is False:
        return result
    return _compile_and_write(plan, identity, source, result, prove)


def _compile_and_write(
    plan: EnginePlan,
    identity: Mapping[str, Any],
    source: ModelToCompile,
    result: BuildResult,
    prove: Prover | None,
) -> BuildResult:
    """Compile an engine, judge it, and write it with its manifest unless a verdict failed.

    Args:
        plan: What to build.
        identity: The part of the manifest that decides about reuse.
        source: The ONNX file to compile.
        result: The result so far, with the verdict on the ONNX file.
        prove: Judges and times the engine; None does so on a GPU, if there is one.
    """
    from paragon_export.engines.build import compile_engine
    from paragon_export.engines.manifest import EngineFile, manifest_path
    from paragon_export.pipeline.engine_manifest import add_proof, describe_engine
    from paragon_export.pipeline.prove import prove_on_gpu

    profile = _profile(plan, source.file)
    built = compile_engine(source.file, plan.backend, plan.targets, profile)
    kernels, doubt = _estimates(plan, source.file, profile)
    manifest = describe_engine(plan, identity, source, built, kernels).seal(built.data)
    engine = EngineFile(plan.output, built.data, manifest)
    proof = (prove or prove_on_gpu)(engine, source.judged_against, profile)
    manifest = add_proof(manifest, proof).seal(built.data)
    result = replace(
        result, manifest=manifest, proof=proof, notes=(*result.notes, *doubt, *proof.notes)
    )
    if result.passed is not False:
        compiled = {plan.compiled_onnx: source.file.data} if source.is_ours else {}
        last = {manifest_path(plan.output): manifest.to_bytes()}
        write_files({**compiled, plan.output: built.data, **last})
    return result


def _estimates(
    plan: EnginePlan, file: OnnxFile, profile: Profile | BatchProfile
) -> tuple[tuple[Estimate, ...], tuple[str, ...]]:
    """Return the estimated times of an engine of TensorRT-RTX, or a note why there are none.

    The engine is complete without them, so a list of kernels that is not understood is no error.
    """
    from paragon_export.pipeline.kernel_plan import estimate_engine

    if isinstance(profile, BatchProfile) or plan.backend is not Backend.RTX:
        return (), ()
    try:
        return estimate_engine(file, plan.targets, profile.optimal), ()
    except (EngineBuildError, PlanError) as error:
        return (), (f"the time of the engine is not estimated: {error}",)


def _profile(plan: EnginePlan, file: OnnxFile) -> Profile | BatchProfile:
    if file.task.is_classifier:
        return plan.batches()
    return plan.profile_for(file.fixed, file.metadata.smallest)


def check_outputs(plan: EnginePlan, existing: ExistingEngine) -> None:
    """Check that the engine, its manifest and the compiled ONNX file may be written.

    Raises:
        PlanError: If one cannot be written, or would replace a file that this tool did not write.
    """
    from paragon_export.engines.manifest import is_manifest, manifest_path

    manifest = manifest_path(plan.output)

    def is_our_manifest(path: Path) -> bool:
        manifest = existing.manifest
        return bool(manifest and manifest.is_intact) or is_manifest(path)

    def is_our_model(path: Path) -> bool:
        return existing.onnx.is_ours if existing.onnx else is_our_onnx(path)

    check_writable(
        plan.output,
        plan.source,
        plan.checkpoint,
        named=plan.is_named,
        is_ours=lambda _: is_our_manifest(manifest) or is_our_model(plan.compiled_onnx),
    )
    other_outputs = {manifest: is_our_manifest, plan.compiled_onnx: is_our_model}
    for path, is_ours in other_outputs.items():
        check_writable(path, plan.source, plan.checkpoint, named=False, is_ours=is_ours)


def _model_to_compile(plan: EnginePlan, source: OnnxFile | LoadedNetwork) -> ModelToCompile:
    """Return the ONNX file to compile and its verdict: exported, converted or unchanged."""
    if isinstance(source, OnnxFile):
        return _from_onnx(plan, source)
    exported = make_onnx(
        source,
        ExportPlan(
            checkpoint=plan.source,
            output=plan.compiled_onnx,
            options=source.options,
            precision=plan.precision,
            video=plan.video,
            rewrite=plan.rewrite,
            runtime=Runtime.TENSORRT if plan.rewrite else Runtime.ANY,
            made_for=plan.made_for,
        ),
    )
    return ModelToCompile(
        exported.file, exported.parity, exported.reference, exported.notes, is_ours=True
    )


def _from_onnx(plan: EnginePlan, file: OnnxFile) -> ModelToCompile:
    """Judge an ONNX file, in half precision if the plan asks for it.

    Its reference is its checkpoint, or the float32 file itself if no checkpoint is known.
    """
    from paragon_export.parity.check import judge, judge_conversion
    from paragon_export.parity.provenance import network_of_source
    from paragon_export.parity.reference import build_reference
    from paragon_export.precision.counts import check_counts
    from paragon_export.runtimes.isolated import open_runner

    network, notes = network_of_source(file, plan.checkpoint, plan.options)
    reference = build_reference(network, video=file.video) if network else None
    to_judge = ParityPlan(made_for=plan.made_for)
    if not plan.rewrite:
        notes = (*notes, "--no-rewrite has no effect: an ONNX file is compiled as it is")
    if not plan.precision.is_half or file.precision is plan.precision:
        if reference is None:  # TensorRT folds constants without limits: try it isolated
            check_counts(file.model, str(plan.source))
            open_runner(file.data, is_own=False, title=str(plan.source))
        parity = judge(reference, [file], to_judge) if reference else None
        notes = (*notes, *(parity.notes if parity else ()))
        return ModelToCompile(file, parity, reference, notes)
    converted, audit_notes = _converted(plan, file)
    parity = (
        judge(reference, [converted], to_judge) if reference else judge_conversion(file, converted)
    )
    notes = (*notes, *audit_notes, *parity.notes)
    return ModelToCompile(converted, parity, reference, notes, is_ours=True)


def _converted(plan: EnginePlan, file: OnnxFile) -> tuple[OnnxFile, tuple[str, ...]]:
    """Convert a float32 ONNX file to half precision; also return the notes of its range audit."""
    from paragon_export.graph.onnx_io import serialized
    from paragon_export.precision.audit import audit, subject_of_file
    from paragon_export.precision.half import to_precision
    from paragon_export.precision.range_report import describe_islands

    audited, ranges = audit(file.model, plan.precision, Precision.FP32, subject_of_file(file))
    model = to_precision(audited, plan.precision, io=Precision.FP32)
    model.metadata_props["precision"] = plan.precision.value
    model.metadata_props["tool"] = f"paragon-export {paragon_export.__version__}"
    describe_islands(model, ranges)
    converted = replace(serialized(model, plan.compiled_onnx), is_own=file.is_own)
    return converted, ranges.notes
