"""``parity``: judge ONNX files and engines against the PyTorch network."""

from __future__ import annotations

import typer

from paragon_export.cli.options import (
    Backends,
    Candidates,
    Images,
    Json,
    JunitFile,
    OtherCheckpoint,
    Reference,
    Sizes,
    backends_of,
    existing,
    exit_on_failure,
    is_artifact,
    replaced,
    size_of,
    takes_options,
)
from paragon_export.specs.plans import NetworkOptions


@takes_options
def parity(
    reference: Reference,
    candidates: Candidates = None,
    sizes: Sizes = None,
    images: Images = None,
    backend: Backends = None,
    junit: JunitFile = None,
    other_checkpoint: OtherCheckpoint = False,
    *,
    options: NetworkOptions,
    json: Json = False,
) -> None:
    """Judge artifacts against PyTorch in float64. Exit code 1 if any fails."""
    from paragon_export.cli.show.console import show
    from paragon_export.cli.show.parity import judged, parity_table
    from paragon_export.parity.check import check_parity
    from paragon_export.parity.junit import junit as junit_xml
    from paragon_export.system.atomic_write import check_writable, write_text

    files = candidates or [reference]
    if not candidates and not is_artifact(reference):
        raise typer.BadParameter("give the ONNX files and engines to judge against it")
    if junit:
        check_writable(junit, reference, *files, options.config)
    wanted = [size_of(text, "--sizes") for text in sizes.split(",")] if sizes is not None else []
    there = existing(junit)
    report = check_parity(
        reference if candidates else None,
        files,
        sizes=wanted,
        images=images,
        backends=backends_of(backend),
        other_checkpoint=other_checkpoint,
        options=options,
    )
    if junit:
        write_text(junit, junit_xml(report))
    document = judged(report, files)
    document["notes"] += replaced(there)
    show(json, document, parity_table, report)
    exit_on_failure(report.passed)
