"""Sabotage of a graph itself: other weights, other nodes, other edges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from paragon_export.testing.sabotage.case import Break, Case, copied
from paragon_export.testing.sabotage.pieces import UNUSED_BFLOAT16, before

# --- weights -----------------------------------------------------------------------------------


def array_of(value: ir.Value) -> np.ndarray:
    """Return the numbers of a constant."""
    assert value.const_value is not None
    return value.const_value.numpy()


def producer_of(value: ir.Value | None) -> ir.Node:
    """Return the node that makes a value."""
    assert value is not None
    node = value.producer()
    assert node is not None
    return node


def named(model: ir.Model, prefix: str) -> ir.Node:
    """Return the first node whose name begins so."""
    return next(node for node in model.graph if (node.name or "").startswith(prefix))


def new_constant(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    """Add a constant to a graph."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    model.graph.register_initializer(value)
    return value


def with_weight(model: ir.Model, name: str, change: Callable[[np.ndarray], np.ndarray]) -> ir.Model:
    """Return a copy in which one weight is another."""
    model = copied(model)
    value = model.graph.initializers[name]
    before = array_of(value)
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


def with_bfloat16(make: Break) -> Break:
    """Let a wrong float32 graph look like one of bfloat16, by one value that changes nothing."""
    return lambda case: before(UNUSED_BFLOAT16)(replace(case, model=make(case)))


def swap_channels(w: np.ndarray) -> np.ndarray:
    return w[[1, 0, *range(2, len(w))]]


def in_eight_bits(w: np.ndarray) -> np.ndarray:
    step = np.abs(w).max() / 127
    return np.round(w / step) * step


def blocks_swapped(case: Case) -> ir.Model:
    """The depthwise weights of two blocks change places."""
    first, second = (f"body.0.blocks.{index}.dw.weight" for index in (0, 1))
    weights = [array_of(case.model.graph.initializers[name]) for name in (first, second)]
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
    conv = named(model, "conv_out/")
    conv.attributes["pads"] = ir.AttrInt64s("pads", [0, 0, 0, 0])
    (features,) = conv.inputs[:1]
    assert features is not None
    value = new_constant(model, "edge", np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    pad = ir.node("Pad", [features, value], {"mode": "edge"}, name="pad")
    pad.outputs[0].name = "padded"
    conv.prepend(pad)
    conv.replace_input_with(0, pad.outputs[0])
    return model


def turned_shuffle(case: Case) -> ir.Model:
    """Rows and columns within a small pixel change places: the channels before it are reordered."""
    model = copied(case.model)
    before = producer_of(next(n for n in model.graph if n.op_type == "DepthToSpace").inputs[0])
    kernel = before.inputs[1]
    assert kernel is not None
    assert kernel.name is not None
    scale = case.variant.scale

    def transposed(w: np.ndarray) -> np.ndarray:
        grouped = w.reshape(-1, scale, scale, *w.shape[1:])
        return grouped.swapaxes(1, 2).reshape(w.shape)

    return with_weight(model, kernel.name, transposed)


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
    pads = [producer_of(node.inputs[1]) for node in model.graph if node.op_type == "Pad"]
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


# --- video -------------------------------------------------------------------------------------


def blending_always(case: Case) -> ir.Model:
    """The state is not reset at a cut: ``alpha`` is taken for 0.2 whatever is fed."""
    return _alpha(case, 0.2)


def never_blending(case: Case) -> ir.Model:
    """The features of the frame before are not used."""
    return _alpha(case, 0.0)


def on_and_off(case: Case) -> ir.Model:
    """Every ``alpha`` but 0 is taken for 0.2: the values fed are 0, and 0.2 or more."""
    model = copied(case.model)
    (alpha,) = (port for port in model.graph.inputs if port.name == "alpha")
    users = list(alpha.uses())
    tensor = ir.tensor(np.array(0.2, np.float32), name="most_alpha")
    most = ir.Value(name="most_alpha", shape=alpha.shape, type=alpha.type, const_value=tensor)
    model.graph.register_initializer(most)
    lower = ir.node("Min", [alpha, most])
    lower.outputs[0].shape, lower.outputs[0].type = alpha.shape, alpha.type
    model.graph.insert_before(model.graph[0], lower)
    for user, index in users:
        user.replace_input_with(index, lower.outputs[0])
    return model


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
    conv = named(model, "conv_mid/")
    features = conv.outputs[0]
    uses = list(features.uses())
    at: ir.Node = conv
    value = features
    for name, factor in (("up", LARGE), ("down", 1 / LARGE)):
        weight = new_constant(model, name, np.array(factor, np.float32))
        product = ir.node("Mul", [value, weight], name=f"{name}/mul")
        value = product.outputs[0]
        value.name, value.type, value.shape = f"{name}/value", features.type, features.shape
        at.append(product)
        at = product
    for user, index in uses:
        user.replace_input_with(index, value)
    return model
