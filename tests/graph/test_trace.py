"""Tracing: the ONNX graph is the network, at every size and under the network's own names."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.errors import TraceError
from paragon_export.graph.metadata import FLOAT32_MARK
from paragon_export.graph.trace import trace
from paragon_export.networks.describe import LoadedNetwork, read_network
from paragon_export.networks.float32 import narrow, widen
from paragon_export.networks.paragonsr2.v9_v11.network import ParagonSR2
from paragon_export.parity.reference import TorchReference, build_reference
from paragon_export.specs.network import Port
from paragon_export.specs.plans import NetworkOptions
from paragon_export.specs.types import Size
from paragon_export.testing.tiny import tiny_hyperparameters, tiny_tensors

VARIANTS = ("realtime", "stream", "photo", "pro")
WINDOW = 16

CLOSE = 1e-5
"""Of full range: what the judge allows a float32 model at most."""

SIZES = {
    "1x1": (1, 1, 1),
    "smaller than the window": (1, 5, 9),
    "one below the window": (1, WINDOW - 1, 2 * WINDOW - 1),
    "a multiple of the window": (1, WINDOW, 2 * WINDOW),
    "one above the window": (1, WINDOW + 1, 2 * WINDOW + 1),
    "odd": (1, 19, 27),
    "portrait": (1, 2 * WINDOW + 5, 11),
    "batch 2": (2, 18, 21),
}

IMAGE = (Port("input", ("batch", 3, "height", "width")),)
RESULT = (Port("output", ("batch", "c", "h", "w")),)


@cache
def network(variant: str, scale: int = 2) -> nn.Module:
    """Return a small network with random weights."""
    hyperparameters = tiny_hyperparameters(variant, scale, upsampler_alpha=0.3)
    module = ParagonSR2(hyperparameters)
    tensors = tiny_tensors(hyperparameters)
    module.load_state_dict({n: torch.tensor(a) for n, a in tensors.items()}, strict=True)
    return module.requires_grad_(False).eval()


@cache
def traced(variant: str, scale: int = 2, opset: int = 20) -> ir.Model:
    """Return its graph with dynamic sizes."""
    return trace(network(variant, scale), IMAGE, RESULT, opset)


def serialized(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


def session(model: ir.Model) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return ort.InferenceSession(serialized(model), options, providers=["CPUExecutionProvider"])


@cache
def dynamic_session(variant: str, scale: int = 2, opset: int = 20) -> ort.InferenceSession:
    return session(traced(variant, scale, opset))


def picture(batch: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).random((batch, 3, height, width), np.float32)


def run(running: ort.InferenceSession, pixels: np.ndarray) -> np.ndarray:
    return running.run(["output"], {"input": pixels})[0]


def in_float64(module: nn.Module, pixels: np.ndarray) -> np.ndarray:
    """Return what the network computes in float64; the network stays as it is."""
    import copy

    wide = copy.deepcopy(module).double()
    with torch.inference_mode():
        return wide(torch.from_numpy(pixels).double()).numpy()


def op_types(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def marked(model: ir.Model) -> Counter[str]:
    return Counter(
        n.op_type for n in model.graph if n.metadata_props.get(FLOAT32_MARK) == "float32"
    )


class Snippet(nn.Module):
    """A module whose forward pass is a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


# --- the same function ---------------------------------------------------------------------


@pytest.mark.parametrize("shape", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("variant", VARIANTS)
def test_graph_equals_float64_network(
    variant: str, scale: int, shape: tuple[int, int, int]
) -> None:
    """The traced graph gives PyTorch's float64 picture at sizes that no trace has seen."""
    pixels = picture(*shape)
    expected = in_float64(network(variant, scale), pixels)
    found = run(dynamic_session(variant, scale), pixels)
    assert found.shape == (shape[0], 3, scale * shape[1], scale * shape[2])
    assert np.abs(found - expected).max() <= CLOSE


@pytest.mark.parametrize("variant", VARIANTS)
def test_graph_is_valid(variant: str, tmp_path: Path) -> None:
    """ONNX's own checker accepts the graph, shapes and types included."""
    file = tmp_path / "model.onnx"
    file.write_bytes(serialized(traced(variant)))
    onnx.checker.check_model(str(file), full_check=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_operator_sets_agree(variant: str) -> None:
    """Operator set 18 spells the GELU with Erf, 20 has Gelu, and both give the same picture."""
    old, new = traced(variant, opset=18), traced(variant, opset=20)
    gelus = op_types(new)["Gelu"]
    assert op_types(new)["Erf"] == 0
    assert op_types(old)["Gelu"] == 0
    assert op_types(old)["Erf"] == gelus
    assert gelus > 0 or variant == "stream"
    assert old.graph.opset_imports == {"": 18}
    assert new.graph.opset_imports == {"": 20}
    pixels = picture(1, WINDOW + 1, 2 * WINDOW + 1)
    found = run(dynamic_session(variant, opset=18), pixels)
    assert np.abs(found - run(dynamic_session(variant), pixels)).max() <= CLOSE


def test_ports_keep_names_and_symbols() -> None:
    """Inputs and outputs carry the names and dimensions that were asked for, in float32."""
    model = traced("photo")
    (image,), (result,) = model.graph.inputs, model.graph.outputs
    assert (image.name, result.name) == ("input", "output")
    assert [str(dim) if not isinstance(dim, int) else dim for dim in image.shape] == [
        "batch", 3, "height", "width",
    ]  # fmt: skip
    assert image.dtype == result.dtype == ir.DataType.FLOAT


def test_input_handed_through_is_an_output() -> None:
    """A module that returns its input becomes a graph that runs."""
    model = trace(Snippet(lambda x: x), IMAGE, RESULT, 20)
    pixels = picture(1, 3, 4)
    assert np.array_equal(run(session(model), pixels), pixels)


# --- weights -------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_keep_their_checkpoint_names(variant: str) -> None:
    """Every weight that the network multiplies with is in the graph under its checkpoint name."""
    state = {name: tensor.numpy() for name, tensor in network(variant).state_dict().items()}
    weights = {n: v.const_value.numpy() for n, v in traced(variant).graph.initializers.items()}
    folded = [name for name in state if "token_ca.token_dict" in name]
    folded += [name for name in state if "token_ca.k_proj" in name or "token_ca.v_proj" in name]
    for name, expected in state.items():
        if name in folded:  # a product of weights alone, computed once
            continue
        stored = weights[f"{name}.T"].T if f"{name}.T" in weights else weights[name]
        assert np.array_equal(stored, expected), name
    assert len(folded) == (10 if variant == "pro" else 0)


def test_module_is_unchanged() -> None:
    """Tracing leaves the reference module as it was: names, values, mode and gradients."""
    module = network("photo")

    def digest() -> str:
        parts = [f"{n} {t.dtype} {t.shape}".encode() + t.numpy().tobytes()
                 for n, t in module.state_dict().items()]  # fmt: skip
        return hashlib.sha256(b"".join(parts)).hexdigest()

    before = digest()
    trace(module, IMAGE, RESULT, 20)
    trace(module, fixed(IMAGE, 1, 12, 20), fixed(RESULT, 1, 24, 40), 20)
    assert digest() == before
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_graph_shares_no_memory_with_module() -> None:
    """Changing the module after the trace does not change the model."""
    module = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)).requires_grad_(False).eval()
    model = trace(module, IMAGE, RESULT, 20)
    before = serialized(model)
    module[0].weight.zero_()
    module[1].bias.fill_(7)
    assert serialized(model) == before


@pytest.mark.parametrize("variant", VARIANTS)
def test_tracing_is_reproducible(variant: str) -> None:
    """Two traces of one network are equal byte for byte."""
    again = trace(network(variant), IMAGE, RESULT, 20)
    assert serialized(again) == serialized(traced(variant))


# --- static export -------------------------------------------------------------------------


def fixed(ports: tuple[Port, ...], batch: int, height: int, width: int) -> tuple[Port, ...]:
    """Return image ports with every extent a number."""
    return tuple(Port(port.name, (batch, 3, height, width)) for port in ports)


@pytest.mark.parametrize("variant", VARIANTS)
def test_static_graph_knows_its_sizes(variant: str) -> None:
    """A static graph reads no shape: every size in it is a constant."""
    model = trace(network(variant), fixed(IMAGE, 1, 21, 18), fixed(RESULT, 1, 42, 36), 20)
    assert op_types(model)["Shape"] == 0
    for node in model.graph:
        for value in node.inputs:
            if value is not None and value.const_value is None and value.producer() is not None:
                assert value.producer().op_type not in ("Shape", "Range", "NonZero")
        if node.op_type in ("Reshape", "Slice", "Pad"):
            assert all(value.const_value is not None for value in node.inputs[1:]), node.name


@pytest.mark.parametrize("variant", VARIANTS)
def test_static_graph_runs_at_its_size_only(variant: str) -> None:
    """A static graph gives the network's picture at its size and refuses any other."""
    model = trace(network(variant), fixed(IMAGE, 1, 21, 18), fixed(RESULT, 1, 42, 36), 20)
    running = session(model)
    pixels = picture(1, 21, 18)
    assert np.abs(run(running, pixels) - in_float64(network(variant), pixels)).max() <= CLOSE
    for shape in [(1, 18, 21), (1, 22, 18), (2, 21, 18)]:
        with pytest.raises(Exception, match="invalid dimensions"):
            run(running, picture(*shape))


def test_static_ports_of_a_reference(tiny_photo: Path) -> None:
    """A reference spells out its ports for one size and batch 1."""
    network = read_network(tiny_photo, NetworkOptions())
    checkpoint, variant = network.checkpoint, network.spec
    reference: TorchReference = build_reference(
        LoadedNetwork(checkpoint=checkpoint, spec=variant), video=True
    )
    inputs, outputs = reference.fixed(Size(9, 12))
    assert [port.dims for port in inputs] == [(1, 3, 9, 12), (1, 8, 9, 12), ()]
    assert [port.dims for port in outputs] == [(1, 3, 18, 24), (1, 8, 9, 12)]


# --- what cannot be traced -----------------------------------------------------------------


def _crop_if_needed(x: Tensor) -> Tensor:
    padded = F.pad(x, (0, 1, 0, 1))
    return padded if x.shape[2] % 2 == 0 else padded[:, :, :1]


def _crop_if_large(x: Tensor) -> Tensor:
    return x[:, :, :8] if x.shape[2] > 8 else x


def _while_large(x: Tensor) -> Tensor:
    while x.shape[3] > 8:
        x = x[:, :, :, :8]
    return x


def _branch_on_values(x: Tensor) -> Tensor:
    return x + 1 if x.mean(dim=1).sum() > 0 else x


@pytest.mark.parametrize(
    "function", [_crop_if_needed, _crop_if_large, _while_large, _branch_on_values]
)
def test_python_branch_is_refused(function: Callable[[Tensor], Tensor]) -> None:
    """A module that branches on what only a run can tell is refused, not baked."""
    with pytest.raises(TraceError, match="branches on a value known only at run time"):
        trace(Snippet(function), IMAGE, RESULT, 20)


def _loop_over_rows(x: Tensor) -> Tensor:
    return torch.cat([x[:, :, row : row + 1] for row in range(x.shape[2])], dim=2)


def test_python_loop_over_a_size_is_refused() -> None:
    """A module that loops over a size is refused as one that branches on it."""
    with pytest.raises(TraceError):
        trace(Snippet(_loop_over_rows), IMAGE, RESULT, 20)


UNKNOWN_CALLS: dict[str, tuple[nn.Module, str]] = {
    "function": (Snippet(lambda x: torch.sin(x)), "sin"),
    "method": (Snippet(lambda x: x.cumsum(2)), "cumsum"),
    "operator": (Snippet(lambda x: x > 0), "gt"),
    "module": (nn.Sequential(nn.Conv2d(3, 3, 1), nn.Softshrink()).eval(), "Softshrink"),
}


@pytest.mark.parametrize(("module", "name"), UNKNOWN_CALLS.values(), ids=UNKNOWN_CALLS.keys())
def test_unknown_call_is_named(module: nn.Module, name: str) -> None:
    """A call without a lowering is refused by its name."""
    with pytest.raises(TraceError, match=rf"no ONNX lowering for {name}\b"):
        trace(module, IMAGE, RESULT, 20)


UNKNOWN_WAYS: dict[str, nn.Module] = {
    "GELU by tanh": Snippet(lambda x: F.gelu(x, approximate="tanh")),
    "GELU module by tanh": nn.Sequential(nn.GELU(approximate="tanh")),
    "circular padding": Snippet(lambda x: F.pad(x, (1, 1, 1, 1), mode="circular")),
    "padding with ones": Snippet(lambda x: F.pad(x, (1, 1, 1, 1), value=1.0)),
    "convolution that wraps": nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular")),
    "sum of everything": Snippet(lambda x: torch.sum(x)),
    "sum in another type": Snippet(lambda x: torch.sum(x, 1, dtype=torch.float64)),
    "bicubic": Snippet(lambda x: F.interpolate(x, scale_factor=2, mode="bicubic")),
    "broken scale": Snippet(lambda x: F.interpolate(x, scale_factor=1.5, mode="nearest")),
    "step in a slice": Snippet(lambda x: x[:, :, ::2]),
    "tensor attribute": Snippet(lambda x: x.mT),
}


@pytest.mark.parametrize("module", UNKNOWN_WAYS.values(), ids=UNKNOWN_WAYS.keys())
def test_known_call_in_an_unknown_way_is_refused(module: nn.Module) -> None:
    """A known call with options that the lowering does not honour is refused, not approximated."""
    with pytest.raises(TraceError):
        trace(module.eval(), IMAGE, RESULT, 20)


@pytest.mark.parametrize("shift", [3, -3, 0])
def test_roll_is_cyclic(shift: int) -> None:
    """A roll is PyTorch's in either direction."""
    module = Snippet(lambda x: torch.roll(x, (shift, -shift), (2, 3)))
    pixels = picture(1, 7, 5)
    expected = module(torch.from_numpy(pixels)).numpy()
    found = run(session(trace(module, IMAGE, RESULT, 20)), pixels)
    assert np.array_equal(found, expected)


# --- float32 islands -----------------------------------------------------------------------


def test_island_is_marked() -> None:
    """Exactly the nodes between widen and narrow carry the float32 mark."""

    def norm(x: Tensor) -> Tensor:
        wide = widen(x * 3)
        rms = torch.sqrt(wide.square().mean(dim=1, keepdim=True) + 1e-6)
        return narrow(wide / rms, x) + 1

    model = trace(Snippet(norm), IMAGE, RESULT, 20)
    assert marked(model) == Counter(Mul=1, ReduceMean=1, Add=1, Sqrt=1, Div=1)
    unmarked = [n for n in model.graph if FLOAT32_MARK not in n.metadata_props]
    assert sorted(n.op_type for n in unmarked) == ["Add", "Mul"]


def test_same_operation_inside_and_outside_an_island() -> None:
    """An operation done in both precisions is in the graph twice."""
    model = trace(Snippet(lambda x: narrow(widen(x) * 2, x) + x * 2), IMAGE, RESULT, 20)
    assert op_types(model) == Counter(Mul=2, Add=1)
    assert marked(model) == Counter(Mul=1)


ISLANDS = {
    "realtime": Counter(),
    "stream": Counter(Mul=2, Clip=2),
    "photo": Counter(Mul=4, ReduceMean=4, Add=4, Sqrt=4, Div=4),
    "pro": Counter(Mul=6, ReduceMean=6, Add=6, Sqrt=6, Div=6)
    + Counter(Pad=4, Reshape=4, ReduceMean=4, ReduceSum=4, Cast=1, Mul=1, Div=2),
}
"""In two blocks: the gated product, two or three norms, and the means over the picture."""


@pytest.mark.parametrize("variant", VARIANTS)
def test_islands_of_networks(variant: str) -> None:
    """Norms' means of squares, gated products and pictures' means are marked, and nothing else."""
    assert marked(traced(variant)) == ISLANDS[variant]
