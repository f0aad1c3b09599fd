"""``plan``: the kernels of an engine, counted without a GPU."""

from __future__ import annotations

from typing import Annotated

import typer

from paragon_export.cli.options import (
    BenchSizes,
    Bf16,
    EngineSource,
    Fp16,
    Json,
    Rewrite,
    precision_of,
    size_of,
    takes_options,
)
from paragon_export.specs.plans import NetworkOptions

Cards = Annotated[
    list[str] | None,
    typer.Option("--card", metavar="NAME", help="Card, as 3060 or 4090 (repeatable); default all."),
]


@takes_options
def plan(
    source: EngineSource,
    size: BenchSizes = None,
    card: Cards = None,
    fp16: Fp16 = False,
    bf16: Bf16 = False,
    rewrite: Rewrite = True,
    *,
    options: NetworkOptions,
    json: Json = False,
) -> None:
    """Count the kernels that TensorRT-RTX compiles, and estimate their time. Nothing is run."""
    from paragon_export.cli.show.console import show
    from paragon_export.cli.show.plan import plan_document, plan_table
    from paragon_export.pipeline.kernel_plan import plan_kernels

    plans = plan_kernels(
        source,
        sizes=[size_of(text, "--size") for text in size or ()],
        cards=card or (),
        precision=precision_of(fp16, bf16),
        rewrite=rewrite,
        options=options,
    )
    show(json, plan_document(plans), plan_table, plans)
