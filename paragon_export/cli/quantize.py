"""``quantize``: a checkpoint becomes one INT8 ONNX file, judged on real inputs."""

from __future__ import annotations

from pathlib import Path

from paragon_export.cli.options import (
    AcceptLoss,
    Agreement,
    Calibrate,
    CheckpointFile,
    Json,
    Opset,
    Output,
    Phase1,
    default_name,
    existing,
    exit_on_failure,
    replaced,
    takes_options,
)
from paragon_export.specs.plans import ExportPlan, NetworkOptions

CALIBRATION_OPTIONS = "--calibrate, --phase-1 and --accept-loss"


@takes_options
def quantize(
    checkpoint: CheckpointFile,
    output: Output = None,
    calibrate: Calibrate = None,
    phase_1: Phase1 = None,
    agreement: Agreement = 0.95,
    accept_loss: AcceptLoss = False,
    opset: Opset = None,
    *,
    options: NetworkOptions,
    json: Json = False,
) -> None:
    """Export an INT8 ONNX file. It is judged on real inputs; if it fails, it is not written."""
    calibration = (calibrate, phase_1, agreement, accept_loss)
    quantize_checkpoint(checkpoint, output, opset, calibration, options, json)


def quantize_checkpoint(
    checkpoint: Path,
    output: Path | None,
    opset: int | None,
    calibration: tuple[Path | None, Path | None, float, bool],
    options: NetworkOptions,
    json: bool,
    advice: str = "",
) -> None:
    """Quantize and show the result.

    ``calibration`` holds the fields of ``Calibration`` in their order; ``advice`` is a note about
    the command line, printed with the result.
    """
    from paragon_export.cli.show.console import note, show
    from paragon_export.cli.show.onnx import export_table, exported
    from paragon_export.pipeline.quantize import Calibration, export_int8

    parts = ["int8", "" if opset is None else f"opset{opset}"]
    plan = ExportPlan(
        checkpoint=checkpoint,
        output=output or default_name(checkpoint, parts, ".onnx"),
        is_named=output is not None,
        options=options,
        opset=opset,
    )
    path, phase_1, agreement, accept_loss = calibration
    there = existing(plan.output)
    result = export_int8(
        plan,
        Calibration(path=path, phase_1=phase_1, agreement=agreement, accept_loss=accept_loss),
    )
    there = there if result.passed else []
    document = exported(result)
    document["notes"] += replaced(there)
    if advice:
        note(advice)
    show(json, {**document, "int8": dict(result.figures)}, export_table, result, bool(there))
    exit_on_failure(result.passed)
