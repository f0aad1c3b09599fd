"""What ``inspect`` shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from paragon_export.cli.show.console import Document, cell, line
from paragon_export.networks.describe import LoadedNetwork
from paragon_export.specs.network import NetworkSpec
from paragon_export.system.text import figure

if TYPE_CHECKING:
    from paragon_export.pipeline.fit_options import Fit


def inspection(network: LoadedNetwork, fits: Sequence[Fit] | None = None) -> Document:
    """Return the document of ``inspect``; ``fits`` are those of ``--probe``, best first."""
    spec = network.spec
    document: Document = {
        "family": spec.architecture,
        "generation": spec.generation,
        "variant": spec.variant,
        "scale": spec.scale,
        "in_channels": spec.in_channels,
        "out_channels": spec.out_channels,
        "parameters": spec.parameters,
        **({"classes": spec.out_channels} if spec.task.is_classifier else {}),
        "sha256": network.checkpoint.sha256,
        "switches": resolved_options(spec),
        "needs": list(spec.needs),
        "notes": list(spec.notes),
    }
    if fits is not None:
        best = fits[0].over_bicubic_db
        document["probe"] = [
            {
                **fit.options,
                "psnr_y_db": fit.psnr_y_db,
                "over_bicubic_db": fit.over_bicubic_db,
                "below_best_db": best - fit.over_bicubic_db,
            }
            for fit in fits
        ]
    return document


def resolved_options(spec: NetworkSpec) -> Document:
    """Return every option's value and source."""
    return {name: asdict(option) for name, option in spec.options.items()}


def inspection_table(
    console: Console,
    network: LoadedNetwork,
    fits: Sequence[Fit] | None = None,
) -> None:
    spec = network.spec
    if spec.task.is_classifier:
        size, kind = "", f"{spec.out_channels} classes"
    else:
        size = f" {spec.scale or '?'}x"
        kind = f"{spec.in_channels} to {spec.out_channels} channels"
    console.print(
        f"[bold]{cell(spec.architecture)} {cell(spec.variant)}{size}[/bold], "
        f"generation {cell(spec.generation)}, {spec.parameters:,} parameters, {kind}"
    )
    line(console, f"sha256 {network.checkpoint.sha256}")
    for need in spec.needs:
        line(console, f"still needed: {need}", style="red")
    table = Table("option")
    table.add_column("value", overflow="fold")
    table.add_column("from")
    for name, option in spec.options.items():
        style = "yellow" if option.is_assumed else ""
        table.add_row(name, cell(option.value), option.source, style=style)
    if spec.options:
        console.print(table)
    if fits is not None:
        _fits_table(console, fits)


def _fits_table(console: Console, fits: Sequence[Fit]) -> None:
    headings = ("PSNR-Y dB", "over bicubic dB", "below best dB")
    table = Table(*fits[0].options, *headings)
    best = fits[0].over_bicubic_db
    for fit in fits:
        figures = fit.psnr_y_db, fit.over_bicubic_db, best - fit.over_bicubic_db
        table.add_row(
            *(cell(value) for value in fit.options.values()),
            *(figure(number, ".3f", "inf") for number in figures),
        )
    line(console, "fit on a photograph, best first")
    console.print(table)
    line(console, "A hint, not a proof: it holds for networks trained for fidelity.")
