"""Sabotage: good exports made wrong, each in one way, and what the verdict should call it.

Every one is a whole ONNX file that loads and runs (or should have run): weights changed, nodes
changed, other networks traced, or a few operators put before or behind a good graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import compose, parser
from torch import Tensor, nn

from paragon_export.assets import CHECKPOINT
from paragon_export.checkpoints.load import Checkpoint
from paragon_export.graph.trace import trace
from paragon_export.networks.describe import describe, read_network
from paragon_export.parity.reference import TorchReference, build_reference
from paragon_export.precision.half import to_precision
from paragon_export.specs.network import NetworkSpec
from paragon_export.specs.plans import NetworkOptions
from paragon_export.specs.types import Precision, Size
from tests.tiny import tiny_checkpoint, tiny_hyperparameters, tiny_tensors

OPSET = 20

TRACED_AT = Size(32, 32)
"""Where exporters trace and compare; a multiple of the window, as theirs are."""


@dataclass(frozen=True)
class Case:
    """A network, and the good graph that is broken in the tests."""

    checkpoint: Checkpoint
    variant: NetworkSpec
    reference: TorchReference
    model: ir.Model


def case_of(path: Path, *, video: bool = False, opset: int = OPSET, **flags: object) -> Case:
    network = read_network(path, NetworkOptions(flags=flags))
    reference = build_reference(network, video=video)
    model = trace(reference.module, reference.inputs, reference.outputs, opset)
    return Case(network.checkpoint, network.spec, reference, model)


Break = Callable[[Case], ir.Model]


def copied(model: ir.Model) -> ir.Model:
    return ir.from_proto(ir.to_proto(model))


# --- weights -----------------------------------------------------------------------------------


def with_weight(model: ir.Model, name: str, change: Callable[[np.ndarray], np.ndarray]) -> ir.Model:
    """Return a copy in which one weight is another."""
    model = copied(model)
    value = model.graph.initializers[name]
    assert value.const_value is not None
    before = value.const_value.numpy()
    after = np.asarray(change(before.copy()), before.dtype)
    assert not np.array_equal(before, after)
    value.const_value = ir.tensor(after, name=name)
    return model


def off_by_a_thousandth(name: str) -> Break:
    def nudge(array: np.ndarray) -> np.ndarray:
        largest = np.unravel_index(np.abs(array).argmax(), array.shape)
        array[largest] *= 1.001
        return array

    return lambda case: with_weight(case.model, name, nudge)


def weight(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Break:
    return lambda case: with_weight(case.model, name, change)


def swap_channels(w: np.ndarray) -> np.ndarray:
    return w[[1, 0, *range(2, len(w))]]


def in_eight_bits(w: np.ndarray) -> np.ndarray:
    step = np.abs(w).max() / 127
    return np.round(w / step) * step


def blocks_swapped(case: Case) -> ir.Model:
    """The depthwise weights of two blocks change places."""
    first, second = (f"body.0.blocks.{index}.dw.weight" for index in (0, 1))
    weights = [case.model.graph.initializers[name].const_value.numpy() for name in (first, second)]
    model = with_weight(case.model, first, lambda _: weights[1])
    return with_weight(model, second, lambda _: weights[0])


# --- nodes -------------------------------------------------------------------------------------


def with_attribute(op_type: str, name: str, value: str) -> Break:
    """Give every operator of a type another attribute."""

    def make(case: Case) -> ir.Model:
        model = copied(case.model)
        nodes = [node for node in model.graph if node.op_type == op_type]
        assert nodes
        for node in nodes:
            node.attributes[name] = ir.AttrString(name, value)
        return model

    return make


tanh_gelu = with_attribute("Gelu", "approximate", "tanh")

other_shuffle = with_attribute("DepthToSpace", "mode", "DCR")
"""Depth to space in the other order of channels."""


def edges_repeated(case: Case) -> ir.Model:
    """Zero padding replaced by repeated edges: only the border changes."""
    model = copied(case.model)
    conv = next(node for node in model.graph if node.name.startswith("conv_out/"))
    conv.attributes["pads"] = ir.AttrInt64s("pads", [0, 0, 0, 0])
    (features,) = conv.inputs[:1]
    assert features is not None
    pads = ir.tensor(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), name="edge")
    value = ir.Value(
        name="edge", shape=pads.shape, type=ir.TensorType(pads.dtype), const_value=pads
    )
    model.graph.register_initializer(value)
    pad = ir.node("Pad", [features, value], {"mode": "edge"}, name="pad")
    pad.outputs[0].name = "padded"
    conv.prepend(pad)
    conv.replace_input_with(0, pad.outputs[0])
    return model


def turned_shuffle(case: Case) -> ir.Model:
    """Rows and columns within a small pixel change places: the channels before it are reordered."""
    model = copied(case.model)
    before = next(n for n in model.graph if n.op_type == "DepthToSpace").inputs[0].producer()
    name = before.inputs[1].name
    scale = case.variant.scale

    def transposed(w: np.ndarray) -> np.ndarray:
        grouped = w.reshape(-1, scale, scale, *w.shape[1:])
        return grouped.swapaxes(1, 2).reshape(w.shape)

    return with_weight(model, name, transposed)


def rolled_back_the_wrong_way(case: Case) -> ir.Model:
    """The second roll of the window attention goes the same way as the first."""
    model = copied(case.model)
    there, back = (model.graph.initializers[name] for name in ("ints_8", "ints_-8"))
    uses = list(back.uses())
    assert uses
    for user, index in uses:
        user.replace_input_with(index, there)
    return model


def not_rolled(case: Case) -> ir.Model:
    """The windows of odd blocks lie where those of even blocks do."""
    model = copied(case.model)
    for name in ("ints_8", "ints_-8"):
        for user, index in list(model.graph.initializers[name].uses()):
            if user.op_type == "Slice":
                user.replace_input_with(index, model.graph.initializers["ints_0"])
    return model


def windows_from_the_end(case: Case) -> ir.Model:
    """Maps are padded in front and not behind: windows of partial tiles lie elsewhere."""
    model = copied(case.model)
    pads = [node.inputs[1].producer() for node in model.graph if node.op_type == "Pad"]
    assert pads
    for concat in {id(node): node for node in pads}.values():
        # before: (0, 0 0 0 0, rows, columns, 0); the five zeros go behind
        zeros, rows, columns, last = concat.inputs
        for index, value in enumerate((last, rows, columns, zeros)):
            concat.replace_input_with(index, value)
    return model


def without_crop(case: Case) -> ir.Model:
    """Right at every multiple of the window; the crop was not recorded."""
    model = copied(case.model)
    crops = [node for node in model.graph if node.op_type == "Slice" and is_crop(node)]
    assert crops
    for crop in crops:
        (padded, *_), (cropped,) = crop.inputs, crop.outputs
        assert padded is not None
        for user, index in list(cropped.uses()):
            user.replace_input_with(index, padded)
        model.graph.remove(crop)
    return model


def is_crop(node: ir.Node) -> bool:
    """Tell the slices back to the picture's size from those of a roll: their ends are computed."""
    ends = node.inputs[2]
    return ends is not None and ends.const_value is None


# --- other networks ----------------------------------------------------------------------------


def another(**flags: object) -> Break:
    """The same weights with a switch that tensors cannot tell."""

    def make(case: Case) -> ir.Model:
        opset = case.model.opset_imports[""]
        return case_of(case.checkpoint.path, opset=opset, **flags).model

    return make


def baked_size(case: Case) -> ir.Model:
    """A graph traced at one size that claims to take any size."""
    ports = case.reference.fixed(TRACED_AT)
    model = trace(case.reference.module, *ports, case.model.opset_imports[""])
    for value, port in zip(
        (*model.graph.inputs, *model.graph.outputs),
        (*case.reference.inputs, *case.reference.outputs),
        strict=True,
    ):
        value.shape = ir.Shape(port.dims)
    return model


def last_weights(case: Case) -> ir.Model:
    """The weights of the last step in place of the averaged ones, from the same file."""
    last = describe(case.checkpoint.other_weights(), NetworkOptions(flags={"upsampler_alpha": 0.0}))
    reference = build_reference(last)
    return trace(reference.module, reference.inputs, reference.outputs, OPSET)


def both_weights(path: Path) -> Path:
    """Write a training checkpoint with averaged weights beside the last ones."""
    averaged = tiny_tensors(tiny_hyperparameters("realtime"))
    rng = np.random.default_rng(1)
    last = {
        name: array if name.startswith("base.") else array + 1e-3 * rng.standard_normal(array.shape)
        for name, array in averaged.items()
    }
    torch.save(
        {
            container: {name: torch.tensor(array, dtype=torch.float32) for name, array in w.items()}
            for container, w in (("params", last), ("params_ema", averaged))
        },
        path,
    )
    return path


# --- operators before and behind ---------------------------------------------------------------

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


class Halves(nn.Module):
    """Upscales the left and the right half apart and puts them side by side."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        half = (x.shape[3] + 1) // 2
        rest = x.shape[3] - half
        left, right = self.network(x[:, :, :, :half]), self.network(x[:, :, :, rest:])
        return torch.cat((left[:, :, :, : 2 * rest], right), 3)


def halves_apart(case: Case) -> ir.Model:
    halves = Halves(case.reference.module)
    return trace(halves, case.reference.inputs, case.reference.outputs, OPSET)


# --- video -------------------------------------------------------------------------------------


def blending_always(case: Case) -> ir.Model:
    """The state is not reset at a cut: ``alpha`` is taken for 0.2 whatever is fed."""
    return _alpha(case, 0.2)


def never_blending(case: Case) -> ir.Model:
    """The features of the frame before are not used."""
    return _alpha(case, 0.0)


def _alpha(case: Case, value: float) -> ir.Model:
    model = copied(case.model)
    (alpha,) = (port for port in model.graph.inputs if port.name == "alpha")
    tensor = ir.tensor(np.array(value, np.float32), name="baked_alpha")
    baked = ir.Value(name="baked_alpha", shape=alpha.shape, type=alpha.type, const_value=tensor)
    model.graph.register_initializer(baked)
    for user, index in list(alpha.uses()):
        user.replace_input_with(index, baked)
    return model


def multiplying(case: Case) -> ir.Model:
    """The state is multiplied by ``alpha`` and never left out: 0 times NaN is NaN."""
    model = copied(case.model)
    (port,) = (port for port in model.graph.inputs if port.name == "prev_feat")
    ((choice, _),) = port.uses()
    assert choice.op_type == "Where"
    for user, index in list(choice.outputs[0].uses()):
        user.replace_input_with(index, port)
    return model


# --- half precision ----------------------------------------------------------------------------

LARGE = 2.0**15


def overflowing(case: Case) -> ir.Model:
    """Return the graph with features taken out of half's range and back: exact in float32."""
    model = copied(case.model)
    conv = next(node for node in model.graph if node.name.startswith("conv_mid/"))
    features = conv.outputs[0]
    uses = list(features.uses())
    at: ir.Node = conv
    value = features
    for name, factor in (("up", LARGE), ("down", 1 / LARGE)):
        tensor = ir.tensor(np.array(factor, np.float32), name=name)
        weight = ir.Value(
            name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        model.graph.register_initializer(weight)
        product = ir.node("Mul", [value, weight], name=f"{name}/mul")
        value = product.outputs[0]
        value.name, value.type, value.shape = f"{name}/value", features.type, features.shape
        at.append(product)
        at = product
    for user, index in uses:
        user.replace_input_with(index, value)
    return model


# --- the suite ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sabotage:
    """One way to be wrong."""

    what: str
    looks_like: str
    """The name that the verdict should give it."""
    make: Break
    subject: str = "realtime"
    precision: Precision = Precision.FP32


GAMMA = "body.0.blocks.1.scale.gamma"
EVERYWHERE = "error everywhere"

SUITE = [
    Sabotage("one weight off by 1e-3", EVERYWHERE, off_by_a_thousandth("conv_in.weight")),
    Sabotage("one bias off by 1e-3", "colour shift", off_by_a_thousandth("conv_out.bias")),
    Sabotage("detail gain off by 1e-3", EVERYWHERE, off_by_a_thousandth("detail_gain")),
    Sabotage("weights in 8 bits", EVERYWHERE, weight("conv_mid.weight", in_eight_bits)),
    Sabotage("two feature channels swapped", EVERYWHERE, weight("conv_mid.weight", swap_channels)),
    Sabotage("gamma of a block zeroed", EVERYWHERE, weight(GAMMA, np.zeros_like)),
    Sabotage("detail left out", "blur", weight("detail_gain", np.zeros_like)),
    Sabotage("weights of two blocks swapped", EVERYWHERE, blocks_swapped),
    Sabotage("GELU by tanh", "another activation", tanh_gelu),
    Sabotage("pixel shuffle in the other order", "pixel order", other_shuffle),
    Sabotage("rows and columns of a shuffle swapped", "pixel order", turned_shuffle),
    Sabotage("nearest in place of a shuffle", "nearest", behind(NEAREST)),
    Sabotage("another upsampler_alpha", "another switch", another(upsampler_alpha=0.35)),
    Sabotage("weights before averaging", "other weights", last_weights, "both weights"),
    Sabotage("padding mode changed", "border", edges_repeated),
    Sabotage("ring of one pixel wrong", "border", behind(RING)),
    Sabotage("RGB taken for BGR", "colours swapped", before(reverse(1, "input", "x"))),
    Sabotage("BGR given out", "colours swapped", behind(reverse(1, "y", "output"))),
    Sabotage("grey in three channels", "grey", behind(GREY)),
    Sabotage("tinted", "colour shift", behind(TINTED)),
    Sabotage("limited range", "contrast", behind(LEVELS)),
    Sabotage("clamped", "clamped", behind(real(low=0, high=1) + "output = Clip(y, low, high)")),
    Sabotage("pictures expected in 0 to 255", "value range",
             before(real(most=255) + "x = Div(input, most)")),
    Sabotage("shift by one pixel", "shift", behind(SHIFTED)),
    Sabotage("upside down", "turned", behind(reverse(2, "y", "output"))),
    Sabotage("rows are columns", "turned", behind("output = Transpose<perm = [0, 1, 3, 2]>(y)")),
    Sabotage("blurred", "blur", behind(BLURRED)),
    Sabotage("noise left in", "not repeatable", behind(NOISY)),
    Sabotage("halves upscaled apart", "seam", halves_apart),
    Sabotage("one row lost", "wrong shape", behind(ROW_LOST)),
    Sabotage("scale 2 taken for 4", "wrong scale", behind(LOWER_SCALE), "four times"),
    Sabotage("NaN in one pixel of one item", "NaN", behind(ONE_NAN)),
    Sabotage("all zero", "all zero", behind(real(no=0) + "output = Mul(y, no)")),
    Sabotage("all grey", "constant", behind(real(no=0, half=0.5) + "z = Mul(y, no) output = Add(z, half)")),
    Sabotage("batch items swapped", "batch mixed up", behind(reverse(0, "y", "output"))),
    Sabotage("first item repeated", "batch mixed up", behind(FIRST_OF_BATCH)),
    Sabotage("size baked in at the trace", "fixed size", baked_size, "photo"),
    Sabotage("crop lost at the trace", "partial window", without_crop, "photo"),
    Sabotage("windows misaligned at a partial tile", "partial window", windows_from_the_end, "photo"),
    Sabotage("attention rolled back the wrong way", "windows misplaced", rolled_back_the_wrong_way, "photo"),
    Sabotage("attention not rolled", "windows misplaced", not_rolled, "photo"),
    Sabotage("another window_size", "another switch", another(window_size=8), "photo"),
    Sabotage("attention left out", "another switch", another(export_safe=True), "photo"),
    Sabotage("state not reset at a cut", "state not reset", blending_always, "video"),
    Sabotage("state lost", "state lost", never_blending, "video"),
    Sabotage("state multiplied, not selected", "state multiplied", multiplying, "video"),
    Sabotage("overflow in half precision", "overflow", overflowing, precision=Precision.FP16),
]  # fmt: skip
"""The ways of the published table; more names are tested in ``test_sabotage.py``."""


def subjects(folder: Path) -> dict[str, Case]:
    """Return the networks that are broken; the one for stills is the trained one that ships."""
    photo = tiny_checkpoint(folder / "photo.safetensors", "photo")
    large = tiny_checkpoint(folder / "large.safetensors", "realtime", 4)
    return {
        "realtime": case_of(CHECKPOINT, upsampler_alpha=0.0),
        "photo": case_of(photo, upsampler_alpha=0.3),
        "four times": case_of(large, upsampler_alpha=0.0),
        "both weights": case_of(both_weights(folder / "both.pth"), upsampler_alpha=0.0),
        "video": case_of(CHECKPOINT, video=True, upsampler_alpha=0.0),
    }


def written(sabotage: Sabotage, case: Case, path: Path) -> Path:
    """Write the sabotaged file."""
    model = to_precision(sabotage.make(case), sabotage.precision, Precision.FP32)
    path.write_bytes(ir.to_proto(model).SerializeToString())
    return path
