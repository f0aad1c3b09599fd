"""Sabotage by a few operators before or behind a good graph, written as ONNX text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
import onnx_ir as ir
from onnx import compose, parser

from paragon_export.testing.sabotage.case import Break

MAP = "float[batch,channels,height,width]"


def behind(body: str) -> Break:
    """Put operators behind a good graph; ``body`` makes ``output`` of ``y``."""
    return lambda case: joined(case.model, body, "y", "output")


def before(body: str) -> Break:
    """Put operators before a good graph; ``body`` makes ``x`` of ``input``."""
    return lambda case: joined(case.model, body, "input", "x")


def joined(model: ir.Model, body: str, given: str, made: str, kind: str = MAP) -> ir.Model:
    """Join a piece that makes one value of another to a graph; its seam is the port of its name."""
    good = ir.to_proto(model)
    ports = {port.name: port for port in (*good.graph.input, *good.graph.output)}
    (opset,) = good.opset_import
    piece = parser.parse_model(
        f'<ir_version: {good.ir_version}, opset_import: ["" : {opset.version}]>'
        f"piece ({kind} {given}) => ({kind} {made}) {{ {body} }}"
    )
    (seam,) = {"input", "output"} & {given, made}
    inner = _renamed(good, seam, "seam")
    if seam == "input":
        whole_model = compose.merge_models(piece, inner, io_map=[(made, "seam")])
    else:
        whole_model = compose.merge_models(inner, piece, io_map=[("seam", given)])
    for port in (*whole_model.graph.input, *whole_model.graph.output):
        port.CopyFrom(ports[port.name])
    return ir.from_proto(whole_model)


def extended(model: ir.Model, body: str, renamed: Mapping[str, str]) -> ir.Model:
    """Append operators that read any value of a good graph and make its outputs.

    Args:
        model: The good graph.
        body: Operators that make each output of ``renamed``.
        renamed: Names of outputs, and the names that the good graph's own ones get.
    """
    good = ir.to_proto(model)
    ports = list(good.graph.output)
    for name, new in renamed.items():
        good = _renamed(good, name, new)
    del good.graph.output[:]
    good.graph.output.extend(ports)
    good.graph.node.extend(parser.parse_graph(f"piece () => () {{ {body} }}").node)
    return ir.from_proto(good)


def _renamed(model: onnx.ModelProto, old: str, new: str) -> onnx.ModelProto:
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    for node in copy.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for port in (*copy.graph.input, *copy.graph.output):
        port.name = new if port.name == old else port.name
    return copy


def whole(**values: Sequence[int]) -> str:
    return " ".join(f"{n} = Constant<value_ints = {list(v)}>()" for n, v in values.items()) + " "


def real(**values: float) -> str:
    return " ".join(f"{n} = Constant<value_float = {float(v)}>()" for n, v in values.items()) + " "


FAR = 2**31

UNUSED_BFLOAT16 = (
    "half = Cast<to = 16>(input) wide = Cast<to = 1>(half) nothing = Sub(wide, wide) "
    "x = Add(input, nothing)"
)
"""A bfloat16 value that changes nothing."""

SHIFTED = whole(none=[0], one=[1], minus=[-1], axis=[3]) + (
    "first = Slice(y, none, one, axis) rest = Slice(y, none, minus, axis) "
    "output = Concat<axis = 3>(first, rest)"
)

RING = whole(start=[1, 1], end=[-1, -1], axes=[2, 3], pads=[0, 0, 1, 1, 0, 0, 1, 1]) + (
    'inside = Slice(y, start, end, axes) output = Pad<mode = "constant">(inside, pads)'
)

ROW_LOST = whole(one=[1], far=[FAR], axis=[2]) + "output = Slice(y, one, far, axis)"


def reverse(axis: int, given: str, made: str) -> str:
    return (
        whole(last=[-1], beyond=[-FAR], axis=[axis], step=[-1])
        + f"{made} = Slice({given}, last, beyond, axis, step)"
    )


FIRST_OF_BATCH = whole(none=[0], one=[1], axis=[0]) + (
    "first = Slice(y, none, one, axis) like = Shape(y) output = Expand(first, like)"
)

ONE_NAN = whole(row=[0, 1, 2, 3], zeros=[0]) + (
    "last = Constant<value_ints = [-1]>() shape = Shape(y) minus = Cast<to = 7>(last) "
    "where = Add(shape, minus) "
    "axis = Constant<value_ints = [0]>() index = Unsqueeze(where, axis) "
    "nan = Constant<value_floats = [nan]>() output = ScatterND(y, index, nan)"
)

LEVELS = real(slope=219 / 255, offset=16 / 255) + "z = Mul(y, slope) output = Add(z, offset)"

TINTED = "tint = Constant<value = float[1,3,1,1] {0.01, 0.0, -0.01}>() output = Add(y, tint)"

LOWER_SCALE = "output = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(y)"

NEAREST = (
    "small = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(y) "
    "by = Constant<value_floats = [1.0, 1.0, 2.0, 2.0]>() "
    'output = Resize<mode = "nearest">(small, , by)'
)

BLURRED = (
    "wide = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(y) output = Identity(wide)"
)

NOISY = real(little=1e-3) + (
    "noise = RandomNormalLike(y) faint = Mul(noise, little) output = Add(y, faint)"
)

GREY = whole(channels=[1]) + (
    "mean = ReduceMean(y, channels) like = Shape(y) output = Expand(mean, like)"
)
