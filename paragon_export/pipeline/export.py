"""The flow: load, describe, build the reference, rewrite, trace, simplify, audit, verify, build.

Every arrow is a value; no stage reads another stage's files by name.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from paragon_export.graph.onnx_io import is_our_onnx
from paragon_export.networks.describe import Described, describe
from paragon_export.parity.reference import measure_drop
from paragon_export.pipeline.float32_graph import float32_graph
from paragon_export.pipeline.results import ExportResult
from paragon_export.precision.range_report import RangeAudit
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.types import Runtime
from paragon_export.system.atomic_write import check_writable, write_files


def export(plan: ExportPlan) -> ExportResult:
    """Turn a checkpoint into a verified ONNX file, and write it if its verdict passes.

    Raises:
        ParagonExportError: If a stage could not run; nothing is written then.
    """
    check_writable(plan.output, plan.checkpoint, named=plan.is_named, is_ours=is_our_onnx)
    result = make_onnx(plan, describe(plan.checkpoint, plan.options))
    if result.passed:
        write_files({plan.output: result.file.data})
    return result


def make_onnx(plan: ExportPlan, described: Described) -> ExportResult:
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


def _make_onnx(plan: ExportPlan, described: Described) -> ExportResult:
    """Make the file once, rewritten or as trained."""
    from paragon_export.graph.onnx_io import describe_in, serialized
    from paragon_export.parity.check import judge
    from paragon_export.precision.audit import audit
    from paragon_export.precision.half import to_precision
    from paragon_export.precision.range_report import describe_islands

    made = float32_graph(plan, described)
    checkpoint, spec, reference = made.checkpoint, made.spec, made.reference
    simplified, ranges = made.model, None
    if plan.precision.is_half:
        simplified, ranges = audit(
            simplified, plan.precision, plan.io, made.subject(), shares=plan.error_shares
        )
    model = to_precision(simplified, plan.precision, plan.io)
    describe_in(model, spec, checkpoint, plan, made.fired)
    describe_islands(model, ranges)
    file = serialized(model, plan.output)
    parity = judge(reference, spec, [file])
    drop_cost = measure_drop(checkpoint, spec, plan.options) if spec.dropped else None
    return ExportResult(
        file=file,
        reference=reference,
        spec=spec,
        fired=made.fired,
        parity=parity,
        drop_cost=drop_cost,
        ranges=ranges,
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
    from paragon_export.graph.onnx_io import is_onnx, read_onnx_file
    from paragon_export.precision.audit import audit, subject_of_file

    if is_onnx(plan.checkpoint):
        file = read_onnx_file(plan.checkpoint)
        model, subject = file.model, subject_of_file(file, images)
    else:
        made = float32_graph(plan, describe(plan.checkpoint, plan.options))
        model, subject = made.model, made.subject(images)
    return audit(model, plan.precision, plan.io, subject, shares=True)[1]
