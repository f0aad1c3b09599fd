"""What ``plan`` shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from paragon_export.cli.show.console import Document, cell, line
from paragon_export.engines.kernels.cards import seconds
from paragon_export.engines.kernels.estimate import BASIS, Estimate, rounded

if TYPE_CHECKING:
    from paragon_export.pipeline.kernel_plan import KernelPlan

LONGEST = 5
"""Kernels that are listed for a size: those that take most of the time."""


def plan_document(plans: Sequence[KernelPlan]) -> Document:
    """Return the document of ``--json``; its notes are printed in either case."""
    remarks = list(dict.fromkeys(one.remark for one in plans if one.remark))
    return {"basis": BASIS, "plans": [one.to_json() for one in plans], "notes": remarks}


def plan_table(console: Console, plans: Sequence[KernelPlan]) -> None:
    estimates_table(console, [one.estimate for one in plans])
    if plans[0].kernels:
        _longest(console, plans[0])
    else:
        line(
            console,
            "the ONNX file of the engine is gone or changed: these are the sums in its manifest",
        )
    line(console, "the error of the estimate: in the documentation, under Benchmarks, Estimates")


def estimates_table(console: Console, estimates: Sequence[Estimate]) -> None:
    """Print a row for each size and card, and that nothing was run."""
    table = Table("size", "card")
    for heading in ("kernels", "streams", "GB read", "GB written", "TFLOP", "estimated ms"):
        table.add_column(heading, justify="right")
    table.add_column("most of it", overflow="fold")
    for one in estimates:
        total = one.estimated_ms
        shares = {group: ms / total for group, ms in one.estimated_ms_by_group.items() if ms}
        parts = ", ".join(f"{share:.0%} {cell(group)}" for group, share in shares.items())
        sums = (one.bytes_read / 1e9, one.bytes_written / 1e9, one.flops / 1e12, total)
        figures = (str(one.launches), str(one.streams), *map(rounded, sums))
        table.add_row(str(one.size), cell(one.card), *figures, parts)
    console.print(table)
    for one in estimates:
        if one.kernels_of_unknown_flops:
            where = f"at {one.size} for {one.card}"
            line(console, f"FLOPs of {one.kernels_of_unknown_flops} kernels are not known {where}")
    line(console, BASIS)


def _longest(console: Console, plan: KernelPlan) -> None:
    """List the kernels that take longest at the first size on the first card."""
    title = f"longest kernels at {plan.size} on {plan.card.name}"
    table = Table("kernel", "group", title=title, title_justify="left")
    for heading in ("MB read", "MB written", "GFLOP", "estimated ms"):
        table.add_column(heading, justify="right")
    table.add_column("ONNX nodes", overflow="fold")
    for kernel, work in sorted(plan.kernels, key=lambda one: -seconds(plan.card, one[1]))[:LONGEST]:
        gflop = "unknown" if work.flops is None else f"{work.flops / 1e9:.3g}"
        figures = (f"{work.read / 1e6:.3g}", f"{work.written / 1e6:.3g}", gflop)
        ms = f"{seconds(plan.card, work) * 1e3:.3g}"
        nodes = ", ".join(kernel.nodes)
        table.add_row(cell(kernel.name), work.group, *figures, ms, cell(nodes))
    console.print(table)
