"""What ``plan`` shows."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from paragon_export.cli.show.console import Document, cell, line
from paragon_export.engines.kernels.cards import seconds
from paragon_export.pipeline.kernel_plan import BASIS, KernelPlan

LONGEST = 5
"""Kernels that are listed for a size: those that take most of the time."""


def plan_document(plans: Sequence[KernelPlan]) -> Document:
    return {"basis": BASIS, "plans": [one.to_json() for one in plans]}


def plan_table(console: Console, plans: Sequence[KernelPlan]) -> None:
    table = Table("size", "card")
    for heading in ("kernels", "streams", "GB moved", "TFLOP", "estimated ms"):
        table.add_column(heading, justify="right")
    table.add_column("most of it", overflow="fold")
    for one in plans:
        moved = sum(work.moved for work in one.works) / 1e9
        flops = sum(work.flops or 0 for work in one.works) / 1e12
        parts = ", ".join(
            f"{ms / one.milliseconds:.0%} {group}" for group, ms in one.groups().items()
        )
        counts = (str(len(one.kernels)), str(one.streams), f"{moved:.3g}", f"{flops:.3g}")
        table.add_row(str(one.size), one.card.name, *counts, f"{one.milliseconds:.3g}", parts)
    console.print(table)
    _longest(console, plans[0])
    for one in plans:
        if one.unknown:
            where = f"at {one.size} for {one.card.name}"
            line(console, f"FLOPs of {one.unknown} kernels are not known {where}")
    line(console, f"{BASIS}; its error: Benchmarks, Estimates in the documentation")


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
