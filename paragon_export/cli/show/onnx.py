"""What ``onnx``, ``quantize`` and ``ncnn`` show."""

from __future__ import annotations

from rich.console import Console

from paragon_export.cli.show.console import Document, line, written
from paragon_export.cli.show.parity import judged, parity_table
from paragon_export.ncnn.export import NcnnResult
from paragon_export.pipeline.results import ExportResult
from paragon_export.reports.measured import audit_lines
from paragon_export.system.text import figure


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


def ncnn_document(result: NcnnResult) -> Document:
    """Return the document of an export to ncnn."""
    document = judged(result.parity, result.paths)
    half = result.half_storage
    document["written"] = document["passed"] = result.passed
    document["half_storage"] = {"max_abs": half.max_abs, "psnr_db": half.psnr_db}
    document["reach_px"] = result.reach_px
    return document


def ncnn_table(console: Console, result: NcnnResult, replaced: bool = False) -> None:
    parity_table(console, result.parity)
    half = result.half_storage
    line(
        console,
        "with every result stored in float16, as on GPUs (simulated): error "
        f"{figure(half.max_abs, '.1e')}, {figure(half.psnr_db, '.1f', 'inf')} dB on the worst image",
    )
    reach = result.reach_px
    line(
        console,
        "a pixel depends on all others: do not cut pictures into tiles"
        if reach is None
        else f"a pixel depends on others up to {reach} px away: tiles that overlap by less show seams",
    )
    names = " and ".join(str(path) for path in result.paths)
    if result.passed:
        written(console, names, replaced)
    else:
        line(console, f"{names} were not written", style="red")
