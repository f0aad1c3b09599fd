"""What ``onnx`` and ``quantize`` show."""

from __future__ import annotations

from rich.console import Console

from paragon_export.cli.show.console import Document, line, written
from paragon_export.cli.show.parity import judged, parity_table
from paragon_export.pipeline.results import ExportResult
from paragon_export.reports.measured import audit_lines


def exported(result: ExportResult) -> Document:
    """Return the document of an export."""
    document = judged(result.parity, [result.output])
    document["notes"] = [*result.notes, *result.parity.notes]
    document["written"] = document["passed"] = result.passed
    if result.ranges is not None:
        document["audit"] = result.ranges.summary()
    document["rewrites"] = dict(result.fired)
    if result.drop_cost is not None:
        cost = {"max_abs": result.drop_cost.max_abs, "psnr_db": result.drop_cost.psnr_db}
        document["dropped"] = {"tensors": list(result.spec.dropped), "cost": cost}
    return document


def export_table(console: Console, result: ExportResult, replaced: bool = False) -> None:
    parity_table(console, result.parity)
    if result.fired:
        counts = ", ".join(f"{name} {count}" for name, count in result.fired.items())
        line(console, f"rewritten before export: {counts}")
    if result.ranges is not None:
        for text in audit_lines(result.ranges):
            line(console, text)
    if result.passed:
        written(console, result.output, replaced)
    else:
        line(console, f"{result.output} was not written", style="red")
