"""``audit``: how every tensor fits into half precision."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paragon_export.cli.options import (
    Images,
    Json,
    Rewrite,
    Video,
    existing,
    exit_on_failure,
    replaced,
    takes_options,
)
from paragon_export.reports.files import ReportFiles
from paragon_export.specs.plans import ExportPlan, NetworkOptions
from paragon_export.specs.types import Precision


@takes_options
def audit(
    source: Annotated[Path, typer.Argument(help="Checkpoint or float32 ONNX file.")],
    bf16: Annotated[bool, typer.Option("--bf16", help="Audit for bfloat16, not float16.")] = False,
    video: Video = False,
    rewrite: Rewrite = True,
    images: Images = None,
    *,
    reports: ReportFiles,
    options: NetworkOptions,
    json: Json = False,
) -> None:
    """Measure ranges for half precision. Exit code 1 if float32 islands cannot help."""
    from paragon_export.cli.show.audit import audit_table, audited
    from paragon_export.cli.show.console import show
    from paragon_export.pipeline.audit_ranges import audit_source
    from paragon_export.reports.measured import of_audit

    plan = ExportPlan(
        checkpoint=source,
        output=Path("unwritten.onnx"),
        options=options,
        precision=Precision.BF16 if bf16 else Precision.FP16,
        video=video,
        rewrite=rewrite,
    )
    reports.check(source, options.config)
    there = existing(*reports.paths)
    ranges = audit_source(plan, images)
    reports.write(lambda: of_audit(ranges, [source]))
    document = audited(ranges)
    document["notes"] += replaced(there)
    show(json, document, audit_table, ranges)
    exit_on_failure(ranges.passed)
