"""``plan``: the kernels of an engine, counted without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paragon_export.cli.options import (
    BenchSizes,
    Bf16,
    Fp16,
    Json,
    PlanSource,
    Rewrite,
    existing,
    precision_of,
    replaced,
    size_of,
    takes_options,
)
from paragon_export.reports.files import ReportFiles
from paragon_export.specs.plans import NetworkOptions
from paragon_export.specs.types import check_suffix

Cards = Annotated[
    list[str] | None,
    typer.Option(
        "--card",
        metavar="NAME",
        help="Card, as 3060 or 4090 (repeatable); default all, or those of an engine.",
    ),
]

Plot = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE.svg", help="Draw the estimated times by kind of kernel."),
]


@takes_options
def plan(
    source: PlanSource,
    size: BenchSizes = None,
    card: Cards = None,
    fp16: Fp16 = False,
    bf16: Bf16 = False,
    rewrite: Rewrite = True,
    plot: Plot = None,
    *,
    reports: ReportFiles,
    options: NetworkOptions,
    json: Json = False,
) -> None:
    """Count the kernels that TensorRT-RTX compiles, and estimate their time. Nothing is run."""
    from paragon_export.cli.show.console import note, show
    from paragon_export.cli.show.plan import plan_document, plan_table
    from paragon_export.pipeline.kernel_plan import plan_kernels
    from paragon_export.reports.measured import of_plan
    from paragon_export.reports.plots.kernels import kernel_plot
    from paragon_export.system.atomic_write import check_writable, write_text

    if plot:
        check_suffix(plot, (".svg",))
        check_writable(plot, source, options.config)
    reports.check(source, options.config)
    there = existing(plot, *reports.paths)
    plans = plan_kernels(
        source, sizes=[size_of(text, "--size") for text in size or ()], cards=card or (),
        precision=precision_of(fp16, bf16), rewrite=rewrite, options=options,
    )  # fmt: skip
    if plot:
        write_text(plot, kernel_plot([one.estimate for one in plans], source.name))
        note(f"wrote {plot}")
    reports.write(lambda: of_plan(plans, [source]))
    for text in replaced(there):
        note(text)
    show(json, plan_document(plans), plan_table, plans)
