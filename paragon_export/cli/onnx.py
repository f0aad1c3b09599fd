"""``onnx``: a checkpoint becomes one verified ONNX file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from paragon_export.cli.options import (
    AcceptLossAlias,
    AgreementAlias,
    At,
    AuditFile,
    Bf16,
    CalibrateAlias,
    CheckpointFile,
    ForRuntime,
    Fp16,
    Int8Alias,
    Io,
    Json,
    Opset,
    Output,
    Phase1Alias,
    Rewrite,
    Static,
    Video,
    default_name,
    existing,
    exit_on_failure,
    precision_of,
    replaced,
    size_of,
    sizes_in,
    takes_options,
)
from paragon_export.cli.quantize import CALIBRATION_OPTIONS, quantize_checkpoint
from paragon_export.errors import PlanError
from paragon_export.reports.files import ReportFiles
from paragon_export.specs.plans import ExportPlan, NetworkOptions
from paragon_export.specs.types import Precision, Runtime

ALIAS = "onnx --int8 is now the command quantize; use it instead"


@takes_options
def onnx(
    checkpoint: CheckpointFile,
    output: Output = None,
    fp16: Fp16 = False,
    bf16: Bf16 = False,
    io: Io = Precision.FP32,
    static: Static = None,
    video: Video = False,
    rewrite: Rewrite = True,
    runtime: ForRuntime = Runtime.ANY,
    opset: Opset = None,
    at: At = None,
    audit: AuditFile = None,
    int8: Int8Alias = False,
    calibrate: CalibrateAlias = None,
    phase_1: Phase1Alias = None,
    agreement: AgreementAlias = 0.95,
    accept_loss: AcceptLossAlias = False,
    *,
    reports: ReportFiles,
    options: NetworkOptions,
    json: Json = False,
) -> None:
    """Export a verified ONNX file. A file that fails its verdict is not written."""
    precision = precision_of(fp16, bf16)
    if int8:
        if any((precision.is_half, static, video, io != Precision.FP32, audit, at, reports.paths)):
            raise PlanError("--int8 goes with float32 inputs and outputs and no other precision")
        how = (calibrate, phase_1, agreement, accept_loss)
        return quantize_checkpoint(checkpoint, output, opset, how, options, json, ALIAS)
    if calibrate or phase_1 or accept_loss:
        raise PlanError(f"{CALIBRATION_OPTIONS} need --int8; better, use the command quantize")
    plan = ExportPlan(
        checkpoint=checkpoint, output=output or Path("unnamed.onnx"), is_named=output is not None,
        options=options, precision=precision, io=io, video=video, rewrite=rewrite, runtime=runtime,
        static=size_of(static, "--static") if static else None, opset=opset,
        at=sizes_in("--at", at), error_shares=audit is not None, pictures=reports.pictures,
    )  # fmt: skip
    plan = plan if output else replace(plan, output=_default_output(plan))
    _export(plan, audit, reports, json)


def _default_output(plan: ExportPlan) -> Path:
    parts = [
        "video" if plan.video else "",
        plan.precision.value if plan.precision.is_half else "",
        str(plan.static or ""),
        "" if plan.opset is None else f"opset{plan.opset}",
        "" if plan.runtime is Runtime.ANY else plan.runtime.value,
        "" if plan.rewrite else "no-rewrite",
    ]
    return default_name(plan.checkpoint, parts, ".onnx")


def _export(plan: ExportPlan, audit: Path | None, reports: ReportFiles, json: bool) -> None:
    from paragon_export.cli.show.console import show
    from paragon_export.cli.show.onnx import export_table, exported
    from paragon_export.pipeline.export import export
    from paragon_export.reports.judged import of_export
    from paragon_export.system.atomic_write import to_json, write_text

    if audit:
        _check_audit(audit, plan)
    reports.check(plan.checkpoint, plan.output, plan.options.config, audit)
    there, others_there = existing(plan.output), existing(audit, *reports.paths)
    result = export(plan)
    if audit and result.ranges:
        write_text(audit, to_json(result.ranges.to_json()))
    reports.write(lambda: of_export(result, [plan.checkpoint]))
    there = there if result.passed else []
    document = exported(result)
    document["notes"] += replaced([*there, *others_there])
    show(json, document, export_table, result, bool(there))
    exit_on_failure(result.passed)


def _check_audit(audit: Path, plan: ExportPlan) -> None:
    """Refuse an audit that would not be made, or would replace another file of the command."""
    from paragon_export.system.atomic_write import check_writable

    if not plan.precision.is_half:
        raise PlanError("--audit is about half precision; give --fp16 or --bf16 as well")
    check_writable(audit, plan.checkpoint, plan.options.config)
    if audit.resolve() == plan.output.resolve():
        raise PlanError(f"--audit {audit} is the file to export to; choose another")
