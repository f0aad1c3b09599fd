"""What ``audit`` shows."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from paragon_export.cli.show.console import Document, cell, line, verdict
from paragon_export.precision.range_report import RangeAudit, TensorRange
from paragon_export.reports.measured import audit_lines, range_cells
from paragon_export.system.text import figure

MAX_ROWS = 20
"""Tensors that the table shows; the JSON has them all."""


def audited(ranges: RangeAudit) -> Document:
    """Return the document of an audit."""
    return {**ranges.to_json(), "notes": list(ranges.notes)}


def audit_table(console: Console, ranges: RangeAudit) -> None:
    """Print the tensors with the least headroom, and all whose error was measured."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("tensor", overflow="fold", min_width=24)
    for heading in ("peak", "headroom", "underflow", "error"):
        table.add_column(heading, justify="right")
    table.add_column("on", overflow="fold", min_width=12)
    ranked = ranges.ranked
    cells = dict.fromkeys(tuple(map(cell, range_cells(row))) for row in _distinct(ranked))
    shown = [row for index, row in enumerate(cells) if index < MAX_ROWS or row[4]]
    for row in shown:
        table.add_row(*row)
    console.print(table)
    left = len(ranked) - len(shown)
    if left > 0:
        line(console, f"and {left} with as much headroom or more, or in float32")
    for text in audit_lines(ranges):
        line(console, text)
    if ranges.islands:
        islands = Table(box=box.SIMPLE_HEAD)
        for heading in ("float32 island", "because", "largest"):
            islands.add_column(heading, overflow="fold")
        for island in ranges.islands:
            peak = figure(island.peak, ".3g", "inf")
            islands.add_row(cell(island.node), cell(island.because), peak)
        console.print(islands)
    how = "with the islands above" if ranges.islands else "no float32 island needed"
    verdict(console, ranges.passed, ranges.fault or how)


def _distinct(rows: Sequence[TensorRange]) -> list[TensorRange]:
    """Leave out what only moves the values of another tensor, but keep measured errors."""
    first: dict[tuple[object, ...], TensorRange] = {}
    for row in rows:
        figures = row.peak, row.underflow, row.picture, row.is_half, row.error_share
        first.setdefault(figures, row)
    return list(first.values())
