"""What ``parity`` shows, and every other command that gives a verdict."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from paragon_export.cli.show.console import Document, cell, line, verdict
from paragon_export.cli.show.inspect import resolved_options
from paragon_export.parity.report import ParityReport, ParityRow
from paragon_export.reports.judged import FIGURES, figures_of, pictured, word_of
from paragon_export.specs.types import Quantization


def judged(report: ParityReport, artifacts: Sequence[Path]) -> Document:
    """Return the document of a verdict."""
    document = {"artifacts": [str(path) for path in artifacts], **report.to_json()}
    if report.spec is not None:  # None if the reference is an ONNX file
        document["switches"] = resolved_options(report.spec)
        document["notes"] = [*report.spec.notes, *report.notes]
    return document


def parity_table(console: Console, report: ParityReport) -> None:
    """Print one table for each candidate and output, narrow enough for 80 columns."""

    def candidate(row: ParityRow) -> str:
        return f"{row.candidate} ({row.precision}): {row.output}"

    for title, rows in itertools.groupby(report.rows, candidate):
        line(console, title, style="bold")
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("image", overflow="fold")
        for heading in FIGURES:
            table.add_column(heading, justify="right")
        table.add_column("verdict")
        for row in rows:
            table.add_row(*_cells(row))
        console.print(table)
    verdict(console, report.passed, _what_decides(report.rows))
    for finding in report.findings:
        text = f"{finding.candidate}: {finding.output} looks like {finding}"
        line(console, text, style="red")


def _what_decides(rows: Sequence[ParityRow]) -> str:
    is_logits = any(row.wrong_top1 is not None for row in rows)
    if any(row.precision is Quantization.INT8 for row in rows):
        what = "the best class" if is_logits else "the worst image"
        return f"{what} on inputs held back from calibration decides"
    return (
        f"every {'logit and best class' if is_logits else 'pixel'} counts; the worst case decides"
    )


def _cells(row: ParityRow) -> list[str]:
    color = "red" if row.failure else "green" if row.is_judged else "yellow"
    word = f"[{color}]{cell(word_of(row))}[/]"
    return [cell(pictured(row)), *figures_of(row), word]
