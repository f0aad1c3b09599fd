"""Simplify: an ONNX graph in, one with fewer nodes out.

onnxsim folds the LayerScale gains into the convolutions before them and merges products with
their biases. Measured beside onnxslim and onnxscript's optimizer on traced graphs, it leaves the
fewest nodes; in latency none of them differs from the traced graph beyond the noise of the
measurement (``benchmarks/simplifiers.py``).
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from paragon_export.errors import TraceError
from paragon_export.graph.metadata import FLOAT32_MARK
from paragon_export.system.progress import step

SKIPPED = ["fuse_qkv", "fuse_consecutive_reduce"]
"""Passes that do harm. Three products made one have to be split again, which copies; a mean of means
made one mean is summed at a stretch, whose rounding error grows with the picture."""

MAX_GROWTH_FACTOR = 1.25
"""By how much constants may grow when what follows from them is computed; beyond, it is left to
the run. A bias for every pair of places of a window is gathered from a small table."""


@step("simplifying the graph")
def simplify(model: ir.Model) -> ir.Model:
    """Return a copy of a float32 model with no more nodes; float32 islands stay marked.

    Raises:
        TraceError: If onnxsim fails on the graph.
    """
    given = ir.to_proto(model)
    proto = _simplified(given)
    if proto.ByteSize() > MAX_GROWTH_FACTOR * given.ByteSize():
        proto = _simplified(given, skip_constant_folding=True)
    simplified = ir.from_proto(proto)
    if simplified.graph.num_nodes() >= model.graph.num_nodes():
        # Biases merged into Gemm can cost more reshapes around it than the merge removes.
        return ir.from_proto(ir.to_proto(model))
    # onnxsim drops node metadata and keeps node names.
    marked = {n.name for n in model.graph if n.metadata_props.get(FLOAT32_MARK)}
    for node in simplified.graph:
        if node.name in marked:
            node.metadata_props[FLOAT32_MARK] = "float32"
    _restore_symbols(model, simplified)
    return simplified


def _simplified(proto: onnx.ModelProto, **options: bool) -> onnx.ModelProto:
    import onnxsim

    try:
        return onnxsim.simplify(proto, skipped_optimizers=SKIPPED, **options)[0]
    except Exception as error:  # raised by onnxsim's native part, of no common class
        raise TraceError(
            f"onnxsim cannot simplify the graph: {' '.join(str(error).split())}"
        ) from error


def _restore_symbols(model: ir.Model, simplified: ir.Model) -> None:
    """Keep the names of the dynamic extents at the ports as the tracer gave them."""
    for before, after in zip(
        (*model.graph.inputs, *model.graph.outputs),
        (*simplified.graph.inputs, *simplified.graph.outputs),
        strict=True,
    ):
        after.shape = before.shape
