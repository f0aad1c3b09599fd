"""``serve-config``: a folder that a server loads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paragon_export.cli.options import BenchSizes, Json, sizes_in
from paragon_export.errors import PlanError
from paragon_export.specs.types import OnnxBackend, Server

Model = Annotated[Path, typer.Argument(help="ONNX file, or engine of TensorRT.")]
Folder = Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")]
ForServer = Annotated[Server, typer.Option("--for", help="Server that loads it.")]
Name = Annotated[str, typer.Option(help="Name of the model; default that of the file.")]
ServeBackend = Annotated[OnnxBackend, typer.Option("--backend", help="What runs an ONNX file.")]
MaxBatch = Annotated[
    int, typer.Option(min=1, max=1024, help="Largest batch, if the model takes any.")
]
Instances = Annotated[
    int, typer.Option(min=1, max=64, help="Copies of the model that run at the same time.")
]


def serve_config(
    model: Model,
    output: Folder,
    server: ForServer = Server.TRITON,
    name: Name = "",
    backend: ServeBackend = OnnxBackend.ONNXRUNTIME,
    max_batch: MaxBatch = 8,
    instances: Instances = 1,
    size: BenchSizes = None,
    json: Json = False,
) -> None:
    """Write a folder that serves an ONNX file or engine; --size: sizes to run before any request."""
    from paragon_export.cli.show.console import Document, line, show

    sizes = sizes_in("--size", size) or ()
    if server is Server.RAY:
        from paragon_export.serving.ray_serve import Limits, write_application

        if name:
            raise PlanError("--name is for Triton; an application has none")
        limits = Limits(batch=max_batch, workers=instances)
        path = write_application(model, output, backend=backend, limits=limits, sizes=sizes)
        document: Document = {"written": str(path), "notes": []}
        text = f"wrote {path}; run it: python {path}"
    else:
        from paragon_export.serving.triton import write_repository

        written = write_repository(
            model, output, name=name, backend=backend, max_batch=max_batch, instances=instances,
            sizes=sizes,
        )  # fmt: skip
        document = {"written": str(written.folder), "version": written.version, "notes": []}
        text = f"wrote version {written.version} of {written.folder}"
    show(json, document, lambda console: line(console, text))
