"""Pages of results, for programs in Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paragon_export.bench.report import BenchReport
from paragon_export.errors import PlanError
from paragon_export.parity.report import ParityReport
from paragon_export.pipeline.results import ExportResult
from paragon_export.precision.range_report import RangeAudit
from paragon_export.reports import judged, measured
from paragon_export.reports.document import Document
from paragon_export.reports.html import to_html

if TYPE_CHECKING:
    from paragon_export.pipeline.kernel_plan import KernelPlan


def report_page(
    result: ParityReport | ExportResult | BenchReport | RangeAudit | Sequence[KernelPlan],
    *files: str | Path,
) -> str:
    """Return a page of a result: one HTML document that needs no network.

    A verdict shows pictures if they were kept: ``check_parity(..., pictures=True)``.

    Args:
        result: What ``check_parity``, ``export_onnx``, ``benchmark``, ``audit_ranges`` or
            ``plan_kernels`` returned.
        files: The files that it is about. Their SHA-256 is shown.

    Returns:
        The page as text, to be written in UTF-8.

    Raises:
        PlanError: If there is no plan among the plans of kernels.
    """
    return to_html(document_of(result, [Path(file) for file in files]))


def document_of(
    result: ParityReport | ExportResult | BenchReport | RangeAudit | Sequence[KernelPlan],
    files: Sequence[Path],
) -> Document:
    """Return the document of a result."""
    match result:
        case ParityReport():
            return judged.of_parity(result, files)
        case ExportResult():
            return judged.of_export(result, files)
        case BenchReport():
            return measured.of_bench(result, files)
        case RangeAudit():
            return measured.of_audit(result, files)
    if not result:
        raise PlanError("no plan of kernels to report; give what plan_kernels returned")
    return measured.of_plan(result, files)
