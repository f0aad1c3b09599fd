"""What the kernels of a network of others move in TensorRT, compiled without running."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from paragon_export.engines.kernels.cards import find_card
from paragon_export.networks.describe import load_network
from paragon_export.pipeline.float32_graph import finish, float32_graph
from paragon_export.pipeline.kernel_plan import _of_file
from paragon_export.precision.half import to_precision
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.types import Precision, Runtime, Size, Tracer
from paragon_export.testing.foreign import foreign_checkpoint


def moved_bytes(name: str, fired: Mapping[str, int], folder: Path) -> tuple[int, int]:
    """Return the bytes of the network rewritten for TensorRT, in float16, and as trained.

    Args:
        name: A network of ``testing.foreign``.
        fired: The rewrites that are expected.
        folder: Where the checkpoint is written.
    """
    pytest.importorskip("tensorrt_rtx")
    network = load_network(foreign_checkpoint(folder / "net.pth", name))
    moved = []
    for rewritten in (True, False):
        plan = ExportPlan(
            checkpoint=network.checkpoint.path, output=folder / "net.onnx", rewrite=rewritten,
            runtime=Runtime.TENSORRT if rewritten else Runtime.ANY, tracer=Tracer.SYMBOLIC,
            precision=Precision.FP16,
        )  # fmt: skip
        graph = float32_graph(network, plan)
        assert graph.fired == (fired if rewritten else {})
        file = finish(graph, to_precision(graph.model, plan.precision, plan.io), plan)
        (kernels,) = _of_file(file, [Size(64, 96)], [find_card("3060")])
        moved.append(sum(work.moved for work in kernels.works))
    return moved[0], moved[1]
