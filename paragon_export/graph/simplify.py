"""Simplify: an ONNX graph in, one with fewer nodes out.

onnxsim folds the LayerScale gains into the convolutions before them and merges products with
their biases. Of onnxsim, onnxslim and onnxscript's optimizer it leaves the fewest nodes of a
traced graph. None of them changes the latency by more than the noise of the measurement
(``benchmarks/simplifiers.py``).
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from paragon_export.errors import TraceError
from paragon_export.graph.inspection import copied
from paragon_export.graph.metadata import FLOAT32_MARK
from paragon_export.system.optional import import_without_telemetry
from paragon_export.system.progress import step
from paragon_export.system.streams import libraries_silenced

SKIPPED_PASSES = ["fuse_qkv", "fuse_consecutive_reduce"]
"""Passes of onnxsim that make the result worse. The first merges three products into one, which must
be split again with a copy. The second merges a mean of means into one long sum, whose rounding
error grows with the image."""

MAX_GROWTH_FACTOR = 1.25
"""Constants are folded if the file grows by no more than this factor. Without the limit, for example,
the bias of every pair of places in a window would be stored instead of a small table."""


@step("simplifying the graph")
def simplify(model: ir.Model) -> ir.Model:
    """Return a copy of a float32 model with no more nodes; float32 marks of nodes are kept.

    Raises:
        TraceError: If onnxsim fails on the graph.
    """
    original = ir.to_proto(model)
    proto = _simplified(original)
    if proto.ByteSize() > MAX_GROWTH_FACTOR * original.ByteSize():
        proto = _simplified(original, skip_constant_folding=True)
    simplified = ir.from_proto(proto)
    if simplified.graph.num_nodes() >= model.graph.num_nodes():
        # A bias merged into Gemm can need more reshapes than the merge removes.
        return copied(model)
    # onnxsim removes the metadata of nodes and keeps their names.
    marks = {n.name: n.metadata_props.get(FLOAT32_MARK) for n in model.graph}
    for node in simplified.graph:
        if mark := marks.get(node.name):
            node.metadata_props[FLOAT32_MARK] = mark
    _restore_symbols(model, simplified)
    return simplified


def _simplified(proto: onnx.ModelProto, **options: bool) -> onnx.ModelProto:
    onnxsim = import_without_telemetry("onnxsim")  # it imports ONNX Runtime
    try:
        with libraries_silenced():
            return onnxsim.simplify(proto, skipped_optimizers=SKIPPED_PASSES, **options)[0]
    except Exception as error:  # native code raises unrelated classes
        raise TraceError(
            f"onnxsim cannot simplify the graph: {' '.join(str(error).split())}; this is a fault "
            "of the lowering or of onnxsim"
        ) from error


def _restore_symbols(model: ir.Model, simplified: ir.Model) -> None:
    """Restore the names of dynamic dimensions at inputs and outputs."""
    for before, after in zip(
        (*model.graph.inputs, *model.graph.outputs),
        (*simplified.graph.inputs, *simplified.graph.outputs),
        strict=True,
    ):
        after.shape = before.shape
