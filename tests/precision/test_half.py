"""Half precision: strongly typed, float32 exactly where the network wants it, nothing hidden."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import nn

from paragon_export.errors import PlanError, RunError
from paragon_export.graph.metadata import FLOAT32_MARK
from paragon_export.graph.onnx_io import check_types
from paragon_export.graph.onnx_io import serialized as serialized_file
from paragon_export.graph.simplify import simplify
from paragon_export.graph.trace import trace
from paragon_export.networks.paragonsr2.v9_v11.network import ParagonSR2, VideoParagonSR2
from paragon_export.parity.candidates import open_onnx
from paragon_export.precision.half import FLOAT32_INPUTS, to_precision
from paragon_export.precision.rounding import rounding_model
from paragon_export.specs.network import Port
from paragon_export.specs.types import Precision
from paragon_export.testing.tiny import tiny_hyperparameters, tiny_tensors

VARIANTS = ("realtime", "stream", "photo", "pro")
HALVES = (Precision.FP16, Precision.BF16)

FLOAT = onnx.TensorProto.FLOAT
ONNX_TYPES = {Precision.FP16: onnx.TensorProto.FLOAT16, Precision.BF16: onnx.TensorProto.BFLOAT16}
NUMPY_TYPES = {Precision.FP16: np.dtype(np.float16), Precision.BF16: np.dtype(ml_dtypes.bfloat16)}
TORCH_TYPES = {Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16}
FLOAT_TYPES = {FLOAT, *ONNX_TYPES.values()}

IMAGE = (Port("input", ("batch", 3, "height", "width")),)
RESULT = (Port("output", ("batch", 3, "2*height", "2*width")),)
MAP = ("batch", 8, "height", "width")
VIDEO_IMAGE = (*IMAGE, Port("prev_feat", MAP), Port("alpha", ()))
VIDEO_RESULT = (*RESULT, Port("feature_map", MAP))


@cache
def network(variant: str, *, video: bool = False) -> nn.Module:
    """Return a small network with random weights."""
    hyperparameters = tiny_hyperparameters(variant, upsampler_alpha=0.3)
    module = (VideoParagonSR2 if video else ParagonSR2)(hyperparameters)
    tensors = tiny_tensors(hyperparameters)
    module.load_state_dict({n: torch.tensor(a) for n, a in tensors.items()}, strict=True)
    return module.requires_grad_(False).eval()


@cache
def exported(variant: str, *, video: bool = False) -> ir.Model:
    """Return its float32 graph, simplified as the export does; bfloat16 needs operator set 22."""
    ports = (VIDEO_IMAGE, VIDEO_RESULT) if video else (IMAGE, RESULT)
    return simplify(trace(network(variant, video=video), *ports, 22))


def serialized(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


def session(model: ir.Model) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return ort.InferenceSession(serialized(model), options, providers=["CPUExecutionProvider"])


def outputs_of(model: ir.Model, **feeds: np.ndarray) -> list[np.ndarray]:
    return session(model).run(None, feeds)


def typed(model: ir.Model, folder: Path) -> tuple[onnx.ModelProto, dict[str, int]]:
    """Save, check in full, load, and return the model with the type of every value in it."""
    file = folder / "model.onnx"
    file.write_bytes(serialized(model))
    onnx.checker.check_model(str(file), full_check=True)
    proto = onnx.shape_inference.infer_shapes(onnx.load(file), strict_mode=True)
    graph = proto.graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        types[value.name] = value.type.tensor_type.elem_type
    assert all(name in types for node in graph.node for name in node.output)
    return proto, types


def is_island(node: onnx.NodeProto) -> bool:
    return any(p.key == FLOAT32_MARK and p.value == "float32" for p in node.metadata_props)


def graph_of(
    nodes: Sequence[onnx.NodeProto],
    elem_type: int = FLOAT,
    shape: Sequence[int | str] = (1, 3, "height", "width"),
    initializers: Sequence[onnx.TensorProto] = (),
) -> ir.Model:
    """Return a model from ``input`` to ``output`` with one type at both."""
    ports = [onnx.helper.make_tensor_value_info(n, elem_type, shape) for n in ("input", "output")]
    graph = onnx.helper.make_graph(nodes, "snippet", ports[:1], ports[1:], initializers)
    opsets = [onnx.helper.make_opsetid("", 22)]
    return ir.from_proto(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10))


def weight(name: str, values: object, dtype: np.dtype | type = np.float32) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.array(values, dtype), name)


# --- types ---------------------------------------------------------------------------------


@pytest.mark.parametrize("io", ["fp32", "half"])
@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_value_is_half_except_islands(
    variant: str, precision: Precision, io: str, tmp_path: Path
) -> None:
    """Everything is half but the marked islands, operands pinned by ONNX, and float32 ports."""
    ports = precision if io == "half" else Precision.FP32
    proto, types = typed(to_precision(exported(variant), precision, ports), tmp_path)
    half = ONNX_TYPES[precision]
    for node in proto.graph.node:
        if node.op_type == "Cast":
            continue
        wanted = FLOAT if is_island(node) else half
        for index, name in enumerate(node.input):
            if name and types[name] in FLOAT_TYPES:
                pinned = index in FLOAT32_INPUTS.get(node.op_type, ())
                assert types[name] == (FLOAT if pinned else wanted), (node.name, name)
        for name in node.output:
            if types[name] in FLOAT_TYPES:
                assert types[name] == wanted, (node.name, name)
    at_port = half if io == "half" else FLOAT
    assert types["input"] == types["output"] == at_port


@pytest.mark.parametrize("precision", HALVES)
def test_mean_of_squares_is_float32(precision: Precision, tmp_path: Path) -> None:
    """The square, its mean and the root of every RMS norm are computed in float32."""
    model = to_precision(exported("photo"), precision, Precision.FP32)
    proto, types = typed(model, tmp_path)
    makers = {name: node for node in proto.graph.node for name in node.output}
    means = [node for node in proto.graph.node if node.op_type == "ReduceMean"]
    assert len(means) == 4
    for mean in means:
        square = makers[mean.input[0]]
        assert square.op_type in ("Mul", "Pow")
        assert types[square.input[0]] == types[square.output[0]] == types[mean.output[0]] == FLOAT
    roots = [node for node in proto.graph.node if node.op_type == "Sqrt"]
    assert len(roots) == 4
    assert all(types[root.output[0]] == FLOAT for root in roots)


@pytest.mark.parametrize("precision", HALVES)
def test_gated_product_is_float32(precision: Precision, tmp_path: Path) -> None:
    """The product of stream's gate is computed and clamped in float32, then becomes half."""
    proto, types = typed(to_precision(exported("stream"), precision, Precision.FP32), tmp_path)
    makers = {name: node for node in proto.graph.node for name in node.output}
    clips = [node for node in proto.graph.node if node.op_type == "Clip"]
    assert len(clips) == 2
    for clip in clips:
        product = makers[clip.input[0]]
        assert product.op_type == "Mul"
        names = (*product.input, *product.output, *clip.input, *clip.output)
        assert {types[name] for name in names} == {FLOAT}
        users = [node for node in proto.graph.node if clip.output[0] in node.input]
        assert [node.op_type for node in users] == ["Cast"]
        assert types[users[0].output[0]] == ONNX_TYPES[precision]


def test_norm_does_not_overflow_in_half() -> None:
    """An RMS norm of values whose squares overflow half stays right in a half model."""

    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            from paragon_export.networks.layers import RMSNorm

            self.norm = RMSNorm(3)
            self.first = nn.Conv2d(3, 3, 1, bias=False)
            self.first.weight.data = 1000 * torch.eye(3)[:, :, None, None]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.first(x))

    module = Norm().requires_grad_(False).eval()
    model = to_precision(trace(module, IMAGE, RESULT, 20), Precision.FP16, Precision.FP32)
    pixels = np.random.default_rng(3).random((1, 3, 5, 6), np.float32)
    (found,) = outputs_of(rounding_model(model), input=pixels)
    assert np.abs(found - module(torch.from_numpy(pixels)).numpy()).max() < 2e-3


@pytest.mark.parametrize("precision", HALVES)
def test_video_ports(precision: Precision, tmp_path: Path) -> None:
    """Half ports are the picture and the feature maps; the scalar alpha stays float32."""
    model = to_precision(exported("photo", video=True), precision, precision)
    _, types = typed(model, tmp_path)
    assert types["alpha"] == FLOAT
    names = ("input", "prev_feat", "output", "feature_map")
    assert {types[name] for name in names} == {ONNX_TYPES[precision]}
    wide = to_precision(exported("photo", video=True), precision, Precision.FP32)
    _, types = typed(wide, tmp_path)
    assert {types[name] for name in (*names, "alpha")} == {FLOAT}


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_are_rounded_once(variant: str) -> None:
    """A half weight is the float32 weight rounded to nearest, and no float32 copy is left."""
    before = exported(variant)
    after = to_precision(before, Precision.FP16, Precision.FP32)
    wide = {n: v.const_value.numpy() for n, v in before.graph.initializers.items()}
    halves = {n: v for n, v in after.graph.initializers.items() if v.dtype == ir.DataType.FLOAT16}
    assert halves
    for name, value in halves.items():
        source = wide.get(name.removesuffix(".float16"))
        if source is not None:
            assert np.array_equal(value.const_value.numpy(), source.astype(np.float16))
    unused = [n for n, v in after.graph.initializers.items() if not v.uses()]
    assert unused == []


def test_float32_is_a_copy() -> None:
    """Asking for float32 gives an equal model."""
    pixels = np.random.default_rng(4).random((1, 3, 9, 17), np.float32)
    before = exported("photo")
    after = to_precision(before, Precision.FP32, Precision.FP32)
    assert after is not before
    expected, found = (outputs_of(model, input=pixels)[0] for model in (before, after))
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("precision", list(Precision))
def test_model_is_unchanged(precision: Precision) -> None:
    """Converting and rounding work on copies."""
    before = serialized(exported("photo"))
    half = to_precision(exported("photo"), precision, precision)
    assert serialized(exported("photo")) == before
    half_before = serialized(half)
    rounding_model(half)
    assert serialized(half) == half_before


@pytest.mark.parametrize("precision", HALVES)
def test_conversion_is_reproducible(precision: Precision) -> None:
    """Two conversions of one model are equal byte for byte."""
    first, second = (to_precision(exported("photo"), precision, precision) for _ in range(2))
    assert serialized(first) == serialized(second)


# --- refusals ------------------------------------------------------------------------------


FILLINGS = {
    "a given value": "filled = ConstantOfShape <value = float[1] {2.5}> (size)",
    "zeros by default": "filled = ConstantOfShape (size)",
    "a matrix of ones": "filled = EyeLike <dtype = 1> (grid)",
}
"""Nodes whose attributes alone give their results a type."""


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("filling", FILLINGS.values(), ids=FILLINGS.keys())
def test_results_whose_attributes_give_the_type(filling: str, precision: Precision) -> None:
    """They become half as well. Otherwise no runtime loads the file, and a simulation hides it."""
    model = filling_model(filling)
    half = to_precision(model, precision, Precision.FP32)
    check_types(serialized_file(half, Path("net.onnx")))
    if precision is Precision.FP16 and "EyeLike" not in filling:  # it has none in half precision
        image = np.ones((2, 2), np.float32)
        (found,), (expected,) = outputs_of(half, input=image), outputs_of(model, input=image)
        assert np.abs(found - expected).max() < 1e-2


def filling_model(filling: str) -> ir.Model:
    text = f"""
    <ir_version: 9, opset_import: ["" : 22]>
    net (float[n, m] input) => (float[n, m] output) {{
        size = Shape (input)
        grid = Cast <to = 7> (input)
        {filling}
        output = Add (input, filled)
    }}"""
    return ir.from_proto(onnx.parser.parse_model(text))


def test_types_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    """The judge computes half files in float32, where the contradiction is gone."""
    half = to_precision(filling_model(FILLINGS["a given value"]), Precision.FP16, Precision.FP32)
    (node,) = [node for node in half.graph if node.op_type == "ConstantOfShape"]
    node.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.full(1, 2.5, np.float32)))
    file = serialized_file(half, tmp_path / "net.onnx")
    with pytest.raises(RunError, match="types in the file contradict each other") as caught:
        open_onnx(file, file.ports[1])
    assert "\n" not in str(caught.value)


def scaling(factor: float) -> ir.Model:
    node = onnx.helper.make_node("Mul", ["input", "gain"], ["output"], name="gain")
    return graph_of([node], initializers=[weight("gain", factor)])


def test_weight_too_large_for_half_is_refused() -> None:
    """A weight beyond half's range is named, with its size and a way out; bfloat16 holds it."""
    with pytest.raises(PlanError, match=r"gain reaches 70000, which FLOAT16 cannot hold.*bf16"):
        to_precision(scaling(7e4), Precision.FP16, Precision.FP32)
    to_precision(scaling(65504), Precision.FP16, Precision.FP32)
    to_precision(scaling(7e4), Precision.BF16, Precision.FP32)
    with pytest.raises(PlanError, match="BFLOAT16 cannot hold"):
        to_precision(scaling(3.4e38), Precision.BF16, Precision.FP32)


def test_infinity_stays_infinity() -> None:
    """Masks of attention hold it. It is no overflow."""
    half = to_precision(scaling(-np.inf), Precision.FP16, Precision.FP32)
    (gain,) = [v for name, v in half.graph.initializers.items() if name.startswith("gain")]
    assert np.isneginf(gain.const_value.numpy().astype(np.float32)).all()


@pytest.mark.parametrize("asked", HALVES)
@pytest.mark.parametrize("made", HALVES)
def test_half_model_is_refused(made: Precision, asked: Precision) -> None:
    """A model that is half already is not converted again."""
    half = to_precision(exported("realtime"), made, Precision.FP32)
    with pytest.raises(PlanError, match="wants a float32 model, and this one is half already"):
        to_precision(half, asked, Precision.FP32)


def test_subgraphs_are_refused() -> None:
    """A model with a branch in it is refused, because its inside would keep another type."""
    branches = [
        onnx.helper.make_graph(
            [onnx.helper.make_node(op, ["input"], [op])],
            op,
            [],
            [onnx.helper.make_tensor_value_info(op, FLOAT, (1, 3, "height", "width"))],
        )
        for op in ("Sqrt", "Abs")
    ]
    node = onnx.helper.make_node(
        "If", ["yes"], ["output"], then_branch=branches[0], else_branch=branches[1]
    )
    model = graph_of([node], initializers=[weight("yes", True, np.bool_)])
    with pytest.raises(PlanError, match="subgraphs"):
        to_precision(model, Precision.FP16, Precision.FP32)


# --- rounding as the target would ----------------------------------------------------------


def overflowing() -> ir.Model:
    """Return a half graph whose middle leaves the range of half: times 10,000, times 0.0001."""
    nodes = [
        onnx.helper.make_node("Conv", ["input", "kernel"], ["seen"], kernel_shape=[1, 1]),
        onnx.helper.make_node("Mul", ["seen", "up"], ["large"]),
        onnx.helper.make_node("Mul", ["large", "down"], ["output"]),
    ]
    weights = [
        weight("kernel", np.full((3, 3, 1, 1), 3)),
        weight("up", 1e4),
        weight("down", 1e-4),
    ]
    return to_precision(graph_of(nodes, initializers=weights), Precision.FP16, Precision.FP32)


def test_overflow_in_the_middle_is_seen() -> None:
    """An intermediate beyond half's range is finite in plain ONNX Runtime and infinite here."""
    ramp = np.linspace(0.5, 1, 20, dtype=np.float32).reshape(1, 1, 4, 5)
    pixels = np.repeat(ramp, 3, axis=1)
    (plain,) = outputs_of(overflowing(), input=pixels)
    assert np.isfinite(plain).all()
    (rounded,) = outputs_of(rounding_model(overflowing()), input=pixels)
    beyond = np.repeat(ramp * 9e4 > 65520, 3, axis=1)
    assert 0 < beyond.sum() < beyond.size
    assert np.array_equal(np.isinf(rounded), beyond)


@pytest.mark.parametrize("io", ["fp32", "half"])
@pytest.mark.parametrize("precision", HALVES)
def test_rounding_equals_numpy(precision: Precision, io: str) -> None:
    """Each node's result is rounded to nearest, exactly as NumPy rounds it, ports included."""
    nodes = [
        onnx.helper.make_node("Mul", ["input", "factor"], ["product"]),
        onnx.helper.make_node("Add", ["product", "term"], ["sum"]),
        onnx.helper.make_node("Transpose", ["sum"], ["turned"], perm=[0, 1, 3, 2]),
        onnx.helper.make_node("Sqrt", ["turned"], ["output"]),
    ]
    weights = [weight("factor", 1.2345678), weight("term", [[[0.7654321]]])]
    model = graph_of(nodes, shape=(1, 3, 8, 8), initializers=weights)
    ports = precision if io == "half" else Precision.FP32
    half = NUMPY_TYPES[precision]

    def rounded(array: np.ndarray) -> np.ndarray:
        return np.asarray(array, np.float32).astype(half).astype(np.float32)

    pixels = np.random.default_rng(5).random((1, 3, 8, 8), np.float32)
    product = rounded(rounded(pixels) * rounded(np.float32(1.2345678)))
    total = rounded(product + rounded(np.float32(0.7654321)))
    expected = rounded(np.sqrt(total.transpose(0, 1, 3, 2)))
    (found,) = outputs_of(rounding_model(to_precision(model, precision, ports)), input=pixels)
    assert found.dtype == np.float32
    assert np.array_equal(found, expected)


def test_islands_are_not_rounded() -> None:
    """What is computed in float32 keeps its bits until it is cast to half."""
    nodes = [
        onnx.helper.make_node("Mul", ["input", "third"], ["inside"], name="inside"),
        onnx.helper.make_node("Mul", ["inside", "three"], ["output"], name="outside"),
    ]
    model = graph_of(nodes, initializers=[weight("third", 1 / 3), weight("three", 3)])
    for node in model.graph:
        node.metadata_props[FLOAT32_MARK] = "float32"
    half = to_precision(model, Precision.FP16, Precision.FP32)
    pixels = np.random.default_rng(6).random((1, 3, 4, 4), np.float32)
    (found,) = outputs_of(rounding_model(half), input=pixels)
    assert np.array_equal(found, pixels * np.float32(1 / 3) * np.float32(3))


@pytest.mark.parametrize("variant", VARIANTS)
def test_rounding_a_float32_model_changes_nothing(variant: str) -> None:
    """A model without half values computes the same."""
    pixels = np.random.default_rng(7).random((1, 3, 9, 17), np.float32)
    (expected,) = outputs_of(exported(variant), input=pixels)
    (found,) = outputs_of(rounding_model(exported(variant)), input=pixels)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_rounding_errs_as_pytorch_does(variant: str, precision: Precision) -> None:
    """Against float64 a rounded model errs as much as PyTorch in half, within a factor of 1.5."""
    model = rounding_model(to_precision(exported(variant), precision, Precision.FP32))
    pixels = np.random.default_rng(8).random((1, 3, 33, 37), np.float32)
    wide, half = (
        copy.deepcopy(network(variant)).to(dtype)
        for dtype in (torch.float64, TORCH_TYPES[precision])
    )
    with torch.inference_mode():
        truth = wide(torch.from_numpy(pixels).double()).numpy()
        own = half(torch.from_numpy(pixels).to(TORCH_TYPES[precision])).double().numpy()
    (found,) = outputs_of(model, input=pixels)
    own_error, error = np.abs(own - truth).max(), np.abs(found - truth).max()
    assert own_error / 1.5 <= error <= own_error * 1.5
