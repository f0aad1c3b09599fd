"""Documents of verdicts: what ``parity`` and ``onnx`` say."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from paragon_export.parity.report import Finding, ParityReport, ParityRow
from paragon_export.pipeline.results import ExportResult
from paragon_export.reports import measured, provenance
from paragon_export.reports.document import Code, Document, Table, Text
from paragon_export.reports.pictures import comparison
from paragon_export.system.text import figure, two_digits

MAX_NAMED = 3
"""Files that a verdict names. The rest is counted."""


def of_parity(report: ParityReport, files: Iterable[Path] = ()) -> Document:
    """Return the document of a verdict.

    Args:
        report: The verdict.
        files: Checkpoint and candidates, for the provenance.
    """
    return Document(
        command="parity",
        passed=report.passed,
        verdict=_sentence(report),
        findings=tuple(map(_finding, report.findings)),
        notes=_notes(report),
        comparisons=tuple(map(comparison, report.pictures)),
        tables=(_rows(report),),
        provenance=(
            *provenance.of_files(files),
            *provenance.of_network(report.spec),
            *provenance.of_machine(),
        ),
    )


def of_export(result: ExportResult, files: Iterable[Path] = ()) -> Document:
    """Return the document of an export: the verdict, and the ranges of a half-precision file."""
    ranges, judged = result.ranges, of_parity(result.parity)
    is_written = "it was written" if result.passed else "it was not written"
    digests = {result.output: result.file.sha256}
    facts = provenance.of_files(files, digests)
    rewrites = ", ".join(f"{name} {count}" for name, count in result.fired.items()) or "none"
    fault: Text = () if ranges is None or ranges.passed else (Code(ranges.fault), "; ")
    return replace(
        judged,
        command="onnx",
        passed=result.passed,
        verdict=(*fault, *judged.verdict[:-1], f"{judged.verdict[-1].removesuffix('.')}; {is_written}."),
        notes=tuple(dict.fromkeys((*result.notes, *judged.notes))),
        plots=() if ranges is None else (measured.ranges_plotted(ranges),),
        tables=(*judged.tables, *([] if ranges is None else measured.range_tables(ranges))),
        provenance=(*facts, ("rewrites", (Code(rewrites),)), *judged.provenance),
    )  # fmt: skip


def _notes(report: ParityReport) -> tuple[str, ...]:
    own = report.spec.notes if report.spec else ()
    return tuple(dict.fromkeys((*own, *report.notes)))


def _sentence(report: ParityReport) -> Text:
    """Say in a sentence what decides."""
    worst = report.worst
    names = list(dict.fromkeys(row.candidate for row in report.rows))
    if worst is None:
        return ("nothing was judged.",)
    if not worst.failure:
        images = len({(row.picture, row.size, row.batch) for row in report.rows})
        return (*_listed(names), f" passed on {images} inputs: the worst error is ", *_error(worst))
    failed = list(dict.fromkeys(row.candidate for row in report.rows if row.failure))
    looks = [f for f in report.findings if f.candidate == worst.candidate]
    seen: Text = ("; it looks like ", looks[0].symptom) if looks else ()
    return (
        *_listed(failed),
        " failed: ",
        Code(worst.failure),
        ", ",
        *_error(worst, end=""),
        *seen,
        ".",
    )


def _listed(names: list[str]) -> Text:
    parts: list[str] = []
    for name in names[:MAX_NAMED]:
        parts += [", " if parts else "", Code(name)]
    more = len(names) - MAX_NAMED
    return (*parts, f" and {more} more" if more > 0 else "")


def _error(row: ParityRow, end: str = ".") -> Text:
    """Say how large the error of a row is, in its unit and in what is allowed."""
    where: Text = (" on ", Code(row.picture), f" {row.size}{end}")
    if not math.isfinite(row.found.max_abs):
        return ("not comparable", *where)
    of = f", {two_digits(row.share)} times what is allowed," if math.isfinite(row.limit) else ""
    return (f"{row.found.max_abs:.1e} of {_unit(row)}{of}", *where)


def _unit(row: ParityRow) -> str:
    """Return the unit of a row's errors."""
    return "full range" if row.wrong_top1 is None else "the largest logit"


def _finding(finding: Finding) -> Text:
    detail: Text = (" (", Code(finding.detail), ")") if finding.detail else ()
    names: Text = (Code(finding.candidate), ": ", Code(finding.output), " looks like ")
    return (*names, finding.symptom, *detail)


def _rows(report: ParityReport) -> Table:
    """Return the rows, worst first."""
    several = [
        (head, [Code(each) for each in values])
        for head, values in (
            ("file", [f"{row.candidate} ({row.precision})" for row in report.ranked]),
            ("output", [row.output for row in report.ranked]),
        )
        if len(set(values)) > 1
    ]
    first = len(several) + 1
    rows = [
        (*(values[n] for _, values in several), Code(pictured(row)), *figures_of(row), word_of(row))
        for n, row in enumerate(report.ranked)
    ]
    failures, worst = sum(bool(row.failure) for row in report.rows), report.worst
    return Table(
        caption="Inputs, worst first" + (f"; errors in units of {_unit(worst)}" if worst else ""),
        heads=(*(head for head, _ in several), "input", *FIGURES, "verdict"),
        rows=tuple(rows),
        figures=frozenset(range(first, first + len(FIGURES))),
        short=max(10, min(failures, 20)),
    )


FIGURES = ("max err", "border", "PyTorch", "limit", "PSNR dB")
"""Heads of the figures of a row."""


def figures_of(row: ParityRow) -> tuple[str, ...]:
    """Return the figures of a row as text, one for each of ``FIGURES``."""
    found = row.found
    border = math.nan if row.is_excerpt else found.border_max_abs
    errors = (found.max_abs, border, row.reference_max_abs, row.limit)
    psnr = figure(found.psnr_db, ".1f", "inf" if found.max_abs == 0 else "-")
    return (*(figure(error, ".1e") for error in errors), psnr)


def pictured(row: ParityRow) -> str:
    """Return the input of a row: its contents, its size, and how much of it was compared."""
    several = f" x{row.batch}" if row.batch > 1 else ""
    return f"{row.picture} {row.size}{several}" + (" in part" if row.is_excerpt else "")


def word_of(row: ParityRow) -> str:
    """Return the verdict on a row in a few words."""
    if not row.is_judged:
        return "diverges"
    return Code(row.failure) if row.failure else "passed"
