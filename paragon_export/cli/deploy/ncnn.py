"""``ncnn``: a checkpoint in, verified files for ncnn out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paragon_export.cli.options import (
    At,
    CheckpointFile,
    Json,
    default_name,
    existing,
    exit_on_failure,
    replaced,
    sizes_in,
    takes_options,
)
from paragon_export.specs.plans import NetworkOptions
from paragon_export.specs.types import NcnnProgram

Name = Annotated[
    Path | None, typer.Option("-o", "--output", help="Name of both files, without .param and .bin.")
]

For = Annotated[
    NcnnProgram,
    typer.Option(
        "--for",
        help="realesrgan: also for Real-ESRGAN-ncnn-vulkan and programs made from it, as Upscayl.",
    ),
]


@takes_options
def ncnn(
    checkpoint: CheckpointFile,
    output: Name = None,
    program: For = NcnnProgram.NCNN,
    at: At = None,
    *,
    options: NetworkOptions,
    json: Json = False,
) -> None:
    """Export to ncnn and verify in ncnn: NAME.param and NAME.bin, for chaiNNer, Upscayl and others."""
    from paragon_export.cli.show.console import show
    from paragon_export.cli.show.onnx import ncnn_document, ncnn_table
    from paragon_export.ncnn.export import export_ncnn, paths_of
    from paragon_export.networks.describe import read_network

    name = output or default_name(checkpoint, [], "")
    there = existing(*paths_of(name))
    network = read_network(checkpoint, options)
    result = export_ncnn(
        network, name, is_named=output is not None, at=sizes_in("--at", at), program=program
    )
    there = there if result.passed else []
    document = ncnn_document(result)
    document["notes"] += replaced(there)
    show(json, document, ncnn_table, result, bool(there))
    exit_on_failure(result.passed)
