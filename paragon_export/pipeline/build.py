"""Build a TensorRT engine with a manifest from a checkpoint or an ONNX file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import paragon_export
from paragon_export.engines.reuse import ExistingEngine
from paragon_export.graph.onnx_io import OnnxFile, is_our_onnx
from paragon_export.networks.describe import LoadedNetwork
from paragon_export.pipeline.export import make_onnx
from paragon_export.pipeline.results import BuildResult, ModelToCompile, Prover
from paragon_export.specs.plans import EnginePlan, ExportPlan
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
    """Build a TensorRT engine with a manifest, or reuse the one there if all of it matches.

    Args:
        source: A network, the path of a checkpoint, or an ONNX file.
        output: The ``.engine`` file to write; the manifest gets ``.json`` added to its name.
        checkpoint: The reference to judge an ONNX source against; None takes the one that its
            metadata names, from its own folder or the working folder.
        precision: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
        targets: Compute capabilities in one engine, as ``"sm86"``; empty means Ampere and later.
        backend: ``"rtx"`` compiles without a GPU; ``"tensorrt"`` needs one.
        profile: Sizes, or batches of a glyph classifier; None takes 1x1 to 1080x1920.
        video: Build the network with its temporal ports.
        rewrite: Build an algebraically equal network that runs faster.

    Returns:
        The result. ``passed`` is the verdict on the ONNX file that was compiled, and on the
        engine where a GPU is present; None where no reference is known.

    Raises:
        PlanError: If the arguments do not fit each other or the network.
        MissingDependencyError: If TensorRT is not installed.
        ParagonExportError: If a step could not run. No engine is written then.
    """
    network = source if isinstance(source, LoadedNetwork) else None
    plan = EnginePlan(
        source=network.checkpoint.path if network else Path(str(source)),
        output=Path(output),
        checkpoint=None if checkpoint is None else Path(checkpoint),
        precision=Precision(precision),
        targets=tuple(dict.fromkeys(targets)),
        backend=Backend(backend),
        profile=profile,
        video=video,
        rewrite=rewrite,
    )
    return build(plan, network=network)


def build(
    plan: EnginePlan, prove: Prover | None = None, network: LoadedNetwork | None = None
) -> BuildResult:
    """Carry out an engine plan.

    Args:
        plan: What to build.
        prove: How to judge and time the engine itself; None does so on a GPU if there is one.
        network: That of the plan's source, if it was read.

    Raises:
        ParagonExportError: If a step could not run. No engine is written then.
    """
    from paragon_export.engines.build import compile_engine
    from paragon_export.engines.manifest import EngineFile, manifest_path
    from paragon_export.engines.reuse import (
        identify,
        read_existing,
        read_source,
        why_judge_again,
        why_rebuild,
    )
    from paragon_export.pipeline.engine_manifest import add_proof, describe_engine
    from paragon_export.pipeline.prove import prove_on_gpu
    from paragon_export.runtimes.polygraphy import polygraphy_trt

    existing = read_existing(plan.output)
    check_outputs(plan, existing)
    given = network or read_source(plan)
    identity = identify(plan, given)
    reason = why_rebuild(existing, identity, given) or why_judge_again(existing, plan)
    if not reason:
        return BuildResult(
            engine=plan.output,
            manifest=existing.manifest,
            cached=True,
            reason="everything in the manifest matches",
        )
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
    profile = _profile(plan, source.file)
    built = compile_engine(source.file, plan.backend, plan.targets, profile)
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


def _profile(plan: EnginePlan, file: OnnxFile) -> Profile | BatchProfile:
    if file.task.is_classifier:
        return plan.batches()
    return plan.profile_for(file.static, file.metadata.smallest)


def check_outputs(plan: EnginePlan, existing: ExistingEngine) -> None:
    """Refuse outputs that cannot be written, or that would replace a file of somebody else.

    Raises:
        PlanError: Naming the first.
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
    next_to_it = {manifest: is_our_manifest, plan.compiled_onnx: is_our_model}
    for path, is_ours in next_to_it.items():
        check_writable(path, plan.source, plan.checkpoint, named=False, is_ours=is_ours)


def _model_to_compile(plan: EnginePlan, given: OnnxFile | LoadedNetwork) -> ModelToCompile:
    """Return the ONNX file to compile with its verdict: exported, converted, or as it is."""
    if isinstance(given, OnnxFile):
        return _from_onnx(plan, given)
    exported = make_onnx(
        given,
        ExportPlan(
            checkpoint=plan.source,
            output=plan.compiled_onnx,
            options=given.options,
            precision=plan.precision,
            video=plan.video,
            rewrite=plan.rewrite,
            runtime=Runtime.TENSORRT if plan.rewrite else Runtime.ANY,
        ),
    )
    return ModelToCompile(
        exported.file, exported.parity, exported.reference, exported.notes, is_ours=True
    )


def _from_onnx(plan: EnginePlan, file: OnnxFile) -> ModelToCompile:
    from paragon_export.parity.check import judge, judge_conversion
    from paragon_export.parity.provenance import network_of_source
    from paragon_export.parity.reference import build_reference
    from paragon_export.runtimes.isolated import open_runner

    network, notes = network_of_source(file, plan.checkpoint, plan.options)
    reference = build_reference(network, video=file.video) if network else None
    if not plan.rewrite:
        notes = (*notes, "--no-rewrite has no effect: an ONNX file is compiled as it is")
    if not plan.precision.is_half or file.precision is plan.precision:
        if reference is None:  # TensorRT folds constants as ONNX Runtime does, but without limits
            open_runner(file.data, is_own=False, title=str(plan.source))
        parity = judge(reference, [file]) if reference else None
        return ModelToCompile(file, parity, reference, notes)
    converted, told = _converted(plan, file)
    parity = judge(reference, [converted]) if reference else judge_conversion(file, converted)
    return ModelToCompile(converted, parity, reference, (*notes, *told), is_ours=True)


def _converted(plan: EnginePlan, file: OnnxFile) -> tuple[OnnxFile, tuple[str, ...]]:
    """Return a float32 ONNX file in half precision, and the notes of its range audit."""
    from paragon_export.graph.onnx_io import serialized
    from paragon_export.precision.audit import audit, subject_of_file
    from paragon_export.precision.half import to_precision
    from paragon_export.precision.range_report import describe_islands

    mended, ranges = audit(file.model, plan.precision, Precision.FP32, subject_of_file(file))
    model = to_precision(mended, plan.precision, io=Precision.FP32)
    model.metadata_props["precision"] = plan.precision.value
    model.metadata_props["tool"] = f"paragon-export {paragon_export.__version__}"
    describe_islands(model, ranges)
    made = replace(serialized(model, plan.compiled_onnx), is_own=file.is_own)
    return made, ranges.notes
