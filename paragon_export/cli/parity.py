"""``parity``: judge ONNX files and engines against the PyTorch network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from paragon_export.cli.options import (
    At,
    Backends,
    Candidates,
    Images,
    Json,
    JunitFile,
    OtherCheckpoint,
    Reference,
    Sizes,
    backends_of,
    existing,
    exit_on_failure,
    is_artifact,
    replaced,
    sizes_in,
    takes_options,
)
from paragon_export.reports.files import ReportFiles
from paragon_export.specs.plans import NetworkOptions

if TYPE_CHECKING:
    from paragon_export.parity.report import ParityReport


@takes_options
def parity(
    reference: Reference,
    candidates: Candidates = None,
    sizes: Sizes = None,
    at: At = None,
    images: Images = None,
    backend: Backends = None,
    junit: JunitFile = None,
    other_checkpoint: OtherCheckpoint = False,
    *,
    reports: ReportFiles,
    options: NetworkOptions,
    json: Json = False,
) -> None:
    """Judge artifacts against PyTorch in float64. Exit code 1 if any fails."""
    from paragon_export.cli.show.console import show
    from paragon_export.cli.show.parity import judged, parity_table
    from paragon_export.parity.check import check_parity
    from paragon_export.reports.judged import of_parity
    from paragon_export.system.atomic_write import check_writable

    files = candidates or [reference]
    if not candidates and not is_artifact(reference):
        raise typer.BadParameter("give the ONNX files and engines to judge against it")
    if junit:
        check_writable(junit, reference, *files, options.config)
    reports.check(reference, *files, options.config, junit)
    there = existing(junit, *reports.paths)
    report = check_parity(
        reference if candidates else None, files, sizes=sizes_in("--sizes", sizes) or (),
        at=sizes_in("--at", at), images=images, backends=backends_of(backend),
        other_checkpoint=other_checkpoint, pictures=reports.pictures, options=options,
    )  # fmt: skip
    _write_junit(report, junit)
    reports.write(lambda: of_parity(report, [reference, *files]))
    document = judged(report, files)
    document["notes"] += replaced(there)
    show(json, document, parity_table, report)
    exit_on_failure(report.passed)


def _write_junit(report: ParityReport, path: Path | None) -> None:
    from paragon_export.reports.junit import junit
    from paragon_export.system.atomic_write import write_text

    if path is not None:
        write_text(path, junit(report))
