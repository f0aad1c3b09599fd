"""``inspect``: what a checkpoint is."""

from __future__ import annotations

from typing import Annotated

import typer

from paragon_export.cli.options import CheckpointFile, Json, takes_options
from paragon_export.specs.plans import NetworkOptions


@takes_options
def inspect(
    checkpoint: CheckpointFile,
    *,
    options: NetworkOptions,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe",
            help="Try values of the options that the checkpoint does not determine on a photograph.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Describe a checkpoint and its options. Each value is shown with its source."""
    from paragon_export.cli.show.console import show
    from paragon_export.cli.show.inspect import inspection, inspection_table
    from paragon_export.networks.describe import read_network

    network = read_network(checkpoint, options)
    fits = None
    if probe:
        from paragon_export.pipeline.fit_options import fit_options

        fits = fit_options(network)
    show(json, inspection(network, fits), inspection_table, network, fits)
