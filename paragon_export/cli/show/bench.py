"""What ``bench`` shows."""

from __future__ import annotations

import itertools

from rich.console import Console
from rich.table import Table

from paragon_export.bench.report import BenchReport
from paragon_export.cli.show.console import cell, line
from paragon_export.engines.kernels.estimate import BASIS
from paragon_export.reports.measured import bench_figures, bench_heads, extent_of
from paragon_export.system.text import printable


def bench_table(console: Console, report: BenchReport) -> None:
    table = Table()
    table.add_column("backend", overflow="fold")
    table.add_column("size")
    for heading in bench_heads(report):
        table.add_column(heading, justify="right")
    for artifact, rows in itertools.groupby(report.rows, lambda row: row.artifact):
        table.add_section()
        table.add_row(f"[bold]{cell(artifact)}[/]")
        for row in rows:
            if not row.reason:
                table.add_row(cell(row.backend), extent_of(row), *bench_figures(row, report))
    console.print(table)
    for row in report.rows:
        if row.reason:
            where = f"{row.backend} on {row.artifact} at {extent_of(row)}"
            line(console, f"not run: {where}: {row.reason}")
    found = report.environment["gpu"]
    gpu = f"{found}; images stay in its memory" if found else "no GPU: nothing here ran on one"
    line(console, f"{report.environment['processor']}, {gpu}")
    if report.has_estimates:
        line(console, f"estimated ms: {BASIS}")


def bench_markdown(report: BenchReport) -> str:
    """Return the report as a Markdown document."""
    headings = ["artifact", "backend", "size", *bench_heads(report)]
    lines = ["| " + " | ".join(headings) + " |", "|" + " --- |" * len(headings)]
    for row in report.rows:
        *figures, last = bench_figures(row, report)
        cells = [row.artifact, row.backend, extent_of(row), *figures, row.reason or last]
        lines.append("| " + " | ".join(printable(c.replace("|", "/")) for c in cells) + " |")
    facts = report.environment
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    lines += [
        "",
        f"Measured {facts['time']} on {facts['processor']}, {facts['cores']} cores, "
        f"{facts['platform']}; GPU: {facts['gpu'] or 'none'}.",
        f"{versions}.",
        "Samples of all backends alternate in one run, each warmed up at its size. Peak MiB is "
        "the growth of the process's resident memory while the backend was opened and warmed up.",
        *([f"Estimated ms: {BASIS}."] if report.has_estimates else []),
        "",
    ]
    return "\n".join(lines)
