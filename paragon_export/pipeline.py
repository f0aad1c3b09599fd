"""The flow: load, describe, build the reference, trace, simplify, verify, build the engine.

Every arrow is a value; no stage reads another stage's files by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paragon_export.artifact import check_writable, staged
from paragon_export.metrics import Difference
from paragon_export.plan import EnginePlan, ExportPlan, Precision
from paragon_export.reference import build_reference, describe, measure_drop
from paragon_export.report import ParityReport
from paragon_export.variant import Variant


@dataclass(frozen=True, kw_only=True)
class Export:
    """What became of an export plan. The file was written only if the verdict passed."""

    output: Path
    variant: Variant
    parity: ParityReport
    drop_cost: Difference | None
    """How far dropping trained tensors moves the picture; None where none were dropped."""


@dataclass(frozen=True, kw_only=True)
class Build:
    """What became of an engine plan. The engine was written only if no verdict failed."""

    engine: Path
    manifest: Mapping[str, Any]
    cached: bool
    reason: str
    """Why the engine was built, or that it was reused."""
    parity: ParityReport | None = None
    """None where the engine was reused, or nothing was there to judge against."""
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool | None:
        """The verdict, also of a reused engine; None where none was given."""
        return self.parity.passed if self.parity else self.manifest.get("parity", {}).get("passed")


def export(plan: ExportPlan) -> Export:
    """Turn a checkpoint into a verified ONNX file.

    Raises:
        ParagonExportError: If a stage could not run; nothing is written then.
    """
    from paragon_export.judge import judge
    from paragon_export.onnx_file import describe_in, write_onnx
    from paragon_export.precision import to_precision
    from paragon_export.simplify import simplify
    from paragon_export.trace import trace

    check_writable(plan.output)
    checkpoint, variant = describe(plan.checkpoint, plan.switches)
    reference = build_reference(checkpoint, variant, video=plan.video)
    ports = reference.fixed(plan.static, variant.scale) if plan.static else None
    inputs, outputs = ports or (reference.inputs, reference.outputs)
    traced = trace(reference.module, inputs, outputs, plan.operator_set)
    simplified = simplify(traced)
    model = to_precision(simplified, plan.precision, plan.io)
    describe_in(model, variant, checkpoint, plan)
    with staged(plan.output) as file:
        write_onnx(model, file.path)
        parity = judge(reference, variant, [file.path])
        file.keep = parity.passed
    drop_cost = measure_drop(checkpoint, variant, plan.switches) if variant.dropped else None
    return Export(output=plan.output, variant=variant, parity=parity, drop_cost=drop_cost)


def build(plan: EnginePlan) -> Build:
    """Turn a checkpoint or an ONNX file into an engine with a manifest, or reuse the one there.

    Raises:
        ParagonExportError: If a stage could not run; no engine is written then.
    """
    from paragon_export.engine import build_engine, profile_for, run_on_gpu
    from paragon_export.manifest import describe_engine, identify, read, why_rebuild, write_engine
    from paragon_export.onnx_file import read_onnx

    check_writable(plan.output)
    identity = identify(plan)
    reason = why_rebuild(plan.output, identity)
    if not reason:
        return Build(
            engine=plan.output,
            manifest=read(plan.output) or {},
            cached=True,
            reason="everything in the manifest matches",
        )
    source = _model_to_compile(plan)
    if source.parity and not source.parity.passed:
        return Build(
            engine=plan.output, manifest={}, cached=False, reason=reason, parity=source.parity
        )
    model = read_onnx(source.path)
    built = build_engine(source.path, model, plan.backend, plan.targets, profile_for(model, plan))
    manifest = describe_engine(plan, identity, source.path, model, built, source.parity)
    write_engine(plan.output, built.data, manifest)
    notes = (*source.notes, *run_on_gpu(plan.output))
    return Build(
        engine=plan.output,
        manifest=manifest,
        cached=False,
        reason=reason,
        parity=source.parity,
        notes=notes,
    )


@dataclass(frozen=True)
class _Source:
    """The ONNX file that is compiled and the verdict on it."""

    path: Path
    parity: ParityReport | None
    notes: tuple[str, ...] = ()


def _model_to_compile(plan: EnginePlan) -> _Source:
    """Export a checkpoint, convert an ONNX file, or take it as it is; judge it in each case."""
    from paragon_export.candidates import is_onnx
    from paragon_export.judge import judge_given
    from paragon_export.onnx_file import read_onnx, write_onnx
    from paragon_export.precision import to_precision

    compiled = plan.output.with_name(plan.output.name + ".onnx")
    if not is_onnx(plan.source):
        exported = export(
            ExportPlan(
                checkpoint=plan.source,
                output=compiled,
                switches=plan.switches,
                precision=plan.precision,
                video=plan.video,
            )
        )
        return _Source(compiled, exported.parity, exported.variant.notes)
    if not plan.precision.is_half:
        return _Source(plan.source, judge_given(plan, plan.source))
    model = to_precision(read_onnx(plan.source), plan.precision, io=Precision.FP32)
    model.metadata_props["precision"] = plan.precision.value
    with staged(compiled) as file:
        write_onnx(model, file.path)
        parity = judge_given(plan, file.path)
        file.keep = parity is not None and parity.passed
    return _Source(compiled, parity)
