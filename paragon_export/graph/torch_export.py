"""Export by PyTorch: a module in, an ONNX graph out, for networks that the own tracer cannot trace.

PyTorch has two exporters. Either may make a constant of something that depends on the size. So the
verdict decides which file is taken.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import torch

from paragon_export.errors import TraceError
from paragon_export.graph.metadata import FLOAT32_MARK
from paragon_export.specs.types import Size, Tracer
from paragon_export.system.private_folder import scratch
from paragon_export.system.progress import step
from paragon_export.system.streams import libraries_silenced

if TYPE_CHECKING:
    from paragon_export.specs.network import Port

TRACED_AT = Size(37, 85)
"""Neither height nor width is a multiple of a window. DAT has a branch for 64x64 and what is padded
to it."""

MAX_TORCHSCRIPT_OPSET = 20

FLOAT32_TYPES = {
    "LayerNormalization", "InstanceNormalization", "GroupNormalization", "ReduceMean", "Pow", "Sqrt",
    "ReduceL2",
}  # fmt: skip
"""Operators of norms. They are computed in float32 in files of every precision: in float16 their sums
overflow, and TensorRT warns of it."""

DIVISION_BY_LENGTH = {"Clip", "Max", "Expand", "Div"}
"""Operators between a length and the vectors of length 1. They too are computed in float32: the least
length that is divided by, 1e-12, is 0 in float16, and vectors of zeros would become NaN."""


def export_by_torch(
    module: torch.nn.Module,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    opset: int,
    tracer: Tracer,
) -> ir.Model:
    """Export a module with one of PyTorch's exporters.

    Args:
        module: In eval mode, float32, with one input and one output.
        inputs: The input's name and dimensions. Numbers are fixed; a graph without names is static.
        outputs: The output's name and dimensions.
        opset: ONNX operator set.
        tracer: ``TORCHSCRIPT`` or ``DYNAMO``.

    Returns:
        A float32 model with the names of the ports, without traces of the machine it was made on.

    Raises:
        TraceError: If the exporter fails.
    """
    image = _example(inputs[0], batch=1 if tracer is Tracer.TORCHSCRIPT else 2)
    export = _by_torchscript if tracer is Tracer.TORCHSCRIPT else _by_dynamo
    try:
        with step(f"exporting by PyTorch's {tracer.value}"), _silenced():
            model = export(module, image, inputs[0], outputs[0], opset)
    except Exception as error:  # exporters raise whatever they meet
        reason = " ".join(str(error).split())[:200]
        raise TraceError(
            f"PyTorch's {tracer.value} exporter fails: {type(error).__name__}: {reason}"
        ) from error
    _name_ports(model, inputs, outputs)
    _forget_origins(model)
    keep_norms_in_float32(model)
    return model


def keep_norms_in_float32(model: ir.Model) -> None:
    """Mark the operators of norms, so that they stay in float32 in files of every precision."""
    lengths: set[ir.Value | None] = set()
    for node in model.graph:
        divides = node.op_type in DIVISION_BY_LENGTH and not lengths.isdisjoint(node.inputs)
        if node.op_type in FLOAT32_TYPES or divides:
            node.metadata_props.setdefault(FLOAT32_MARK, "float32")
        if node.op_type == "ReduceL2" or (divides and node.op_type != "Div"):
            lengths.update(node.outputs)


def _example(port: Port, batch: int) -> torch.Tensor:
    """Return a picture of noise; named dimensions get the size of ``TRACED_AT``."""
    extents = {"batch": batch, "height": TRACED_AT.height, "width": TRACED_AT.width}
    shape = [dim if isinstance(dim, int) else extents[dim] for dim in port.dims]
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def _by_torchscript(
    module: torch.nn.Module, image: torch.Tensor, taken: Port, given: Port, opset: int
) -> ir.Model:
    if opset > MAX_TORCHSCRIPT_OPSET:
        raise ValueError(f"it writes operator sets up to {MAX_TORCHSCRIPT_OPSET}, not {opset}")
    axes = {
        port.name: {axis: dim for axis, dim in enumerate(port.dims) if isinstance(dim, str)}
        for port in (taken, given)
    }
    with scratch() as folder:
        path = folder / "model.onnx"
        torch.onnx.export(
            module,
            (image,),
            path,
            dynamo=False,
            opset_version=opset,
            input_names=[taken.name],
            output_names=[given.name],
            dynamic_axes={name: named for name, named in axes.items() if named},
        )
        return _loaded(path.read_bytes())


def _by_dynamo(
    module: torch.nn.Module, image: torch.Tensor, taken: Port, given: Port, opset: int
) -> ir.Model:
    dynamic = torch.export.Dim.DYNAMIC
    shapes = {axis: dynamic for axis, dim in enumerate(taken.dims) if isinstance(dim, str)}
    program = torch.onnx.export(
        module,
        (image,),
        dynamo=True,
        opset_version=opset,
        input_names=[taken.name],
        output_names=[given.name],
        dynamic_shapes=(shapes,),
        external_data=False,
        verbose=False,
    )
    assert program is not None
    return _loaded(program.model_proto.SerializeToString())


def _loaded(data: bytes) -> ir.Model:
    import onnx

    return ir.from_proto(onnx.ModelProto.FromString(data))


def _name_ports(model: ir.Model, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
    """Give inputs and outputs the dimensions of the ports."""
    values: Any = (*model.graph.inputs, *model.graph.outputs)
    for value, port in zip(values, (*inputs, *outputs), strict=True):
        value.name, value.shape = port.name, ir.Shape(port.dims)


def _forget_origins(model: ir.Model) -> None:
    """Remove texts that name files and lines of the machine where the graph was made."""
    model.metadata_props.clear()
    model.doc_string = None
    model.graph.metadata_props.clear()
    model.graph.doc_string = None
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()


@contextmanager
def _silenced() -> Iterator[None]:
    """Suppress what the exporters print and warn of: the verdict says whether the file is right."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)  # torch.export logs errors that it recovers from
    try:
        with warnings.catch_warnings(), libraries_silenced():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
