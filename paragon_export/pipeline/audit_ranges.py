"""Audit which tensors of a network exceed the range of half precision."""

from __future__ import annotations

from pathlib import Path

from paragon_export.graph.onnx_io import is_onnx, read_onnx_file
from paragon_export.networks.describe import LoadedNetwork, read_network
from paragon_export.pipeline.export import with_tracer
from paragon_export.pipeline.float32_graph import float32_graph
from paragon_export.precision.range_report import RangeAudit
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.types import Precision


def audit_ranges(
    source: LoadedNetwork | str | Path,
    *,
    precision: str = "fp16",
    images: str | Path | None = None,
    video: bool = False,
    rewrite: bool = True,
) -> RangeAudit:
    """Measure the range of every tensor and find those that half precision cannot represent.

    Args:
        source: A network, the path of a checkpoint, or the path of a float32 ONNX file. ONNX files
            are audited unchanged.
        precision: ``"fp16"`` or ``"bf16"``.
        images: Folder of images to add to the probes.
        video: Audit the network with its temporal ports.
        rewrite: Audit the rewritten network; False audits the network as trained.

    Returns:
        The audit. ``passed`` is False if a tensor overflows that no float32 node can replace, as
        an output.

    Raises:
        ParagonExportError: If a step could not run, or the file is in half precision already.
    """
    network = source if isinstance(source, LoadedNetwork) else None
    plan = ExportPlan(
        checkpoint=network.checkpoint.path if network else Path(str(source)),
        output=Path("unwritten.onnx"),
        precision=Precision(precision),
        video=video,
        rewrite=rewrite,
    )
    return audit_source(plan, None if images is None else Path(images), network)


def audit_source(
    plan: ExportPlan, images: Path | None = None, network: LoadedNetwork | None = None
) -> RangeAudit:
    """Run the audit of a plan, whose ``checkpoint`` may be an ONNX file.

    ``plan.output`` is not used: nothing is written.

    Raises:
        ParagonExportError: As :func:`audit_ranges`.
    """
    from paragon_export.precision.audit import audit, subject_of_file

    if network is None and is_onnx(plan.checkpoint):
        file = read_onnx_file(plan.checkpoint)
        model, subject = file.model, subject_of_file(file, images)
    else:
        loaded = network or read_network(plan.checkpoint, plan.options)
        graph = float32_graph(loaded, with_tracer(loaded, plan))
        model, subject = graph.model, graph.subject(images)
    return audit(model, plan.precision, plan.io, subject, shares=True)[1]
