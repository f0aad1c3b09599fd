"""Simplifying: fewer nodes, the same function, the same islands."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from paragon_export.errors import TraceError
from paragon_export.graph.metadata import FLOAT32_MARK
from paragon_export.graph.simplify import simplify
from paragon_export.graph.trace import trace
from paragon_export.networks.paragonsr2.blocks import GroupNorm
from paragon_export.networks.paragonsr2.v9_v11.network import ParagonSR2
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.specs.network import Port
from paragon_export.testing.tiny import tiny_hyperparameters, tiny_tensors

VARIANTS = ("realtime", "stream", "photo", "pro")

CLOSE = 1e-5

IMAGE = (Port("input", ("batch", 3, "height", "width")),)
RESULT = (Port("output", ("batch", 3, "2*height", "2*width")),)


@cache
def traced(variant: str, opset: int = 20) -> ir.Model:
    """Return the graph of a small network as it comes out of the tracer."""
    hyperparameters = tiny_hyperparameters(variant)
    module = ParagonSR2(hyperparameters)
    tensors = tiny_tensors(hyperparameters)
    module.load_state_dict({n: torch.tensor(a) for n, a in tensors.items()}, strict=True)
    return trace(module.requires_grad_(False).eval(), IMAGE, RESULT, opset)


@cache
def simplified(variant: str, opset: int = 20) -> ir.Model:
    return simplify(traced(variant, opset))


def serialized(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


def output_of(model: ir.Model, pixels: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    running = ort.InferenceSession(serialized(model), options, providers=["CPUExecutionProvider"])
    return running.run(["output"], {"input": pixels})[0]


def marks(model: ir.Model) -> Counter[str]:
    return Counter(
        n.op_type for n in model.graph if n.metadata_props.get(FLOAT32_MARK) == "float32"
    )


@pytest.mark.parametrize("opset", [18, 20, 23])
@pytest.mark.parametrize("variant", VARIANTS)
def test_same_function(variant: str, opset: int, tmp_path: Path) -> None:
    """The simplified graph is valid and gives the same picture at sizes around the window."""
    file = tmp_path / "model.onnx"
    file.write_bytes(serialized(simplified(variant, opset)))
    onnx.checker.check_model(str(file), full_check=True)
    rng = np.random.default_rng(2)
    for shape in [(1, 3, 1, 1), (1, 3, 17, 33), (2, 3, 16, 15)]:
        pixels = rng.random(shape, np.float32)
        expected = output_of(traced(variant, opset), pixels)
        found = output_of(simplified(variant, opset), pixels)
        assert np.abs(found - expected).max() <= CLOSE


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_more_nodes(variant: str) -> None:
    """Simplifying never leaves more nodes than there were."""
    assert len(list(simplified(variant).graph)) <= len(list(traced(variant).graph))


@pytest.mark.parametrize("variant", VARIANTS)
def test_marks_survive(variant: str) -> None:
    """The float32 islands are marked after simplifying as they were before."""
    assert marks(simplified(variant)) == marks(traced(variant))
    assert (sum(marks(simplified(variant)).values()) > 0) == (variant != "realtime")


def test_ports_keep_names_and_symbols() -> None:
    """Inputs and outputs keep their names, types and dimensions, symbols included."""
    before, after = traced("photo").graph, simplified("photo").graph
    for old, new in zip(
        (*before.inputs, *before.outputs), (*after.inputs, *after.outputs), strict=True
    ):
        assert (new.name, new.dtype, str(new.shape)) == (old.name, old.dtype, str(old.shape))


def test_model_is_unchanged() -> None:
    """Simplifying works on a copy."""
    before = serialized(traced("stream"))
    simplify(traced("stream"))
    assert serialized(traced("stream")) == before


@pytest.mark.parametrize("variant", VARIANTS)
def test_simplifying_is_reproducible(variant: str) -> None:
    """Two runs on one graph are equal byte for byte."""
    assert serialized(simplify(traced(variant))) == serialized(simplified(variant))


def test_broken_graph_is_refused() -> None:
    """A graph that contradicts itself ends in one line of what onnxsim said."""
    image = ir.Value(
        name="input", shape=ir.Shape((1, 3, 4, 4)), type=ir.TensorType(ir.DataType.FLOAT)
    )
    node = ir.node("Conv", [image, image], {"kernel_shape": [9, 9, 9]})
    node.outputs[0].name = "output"
    graph = ir.Graph([image], node.outputs, nodes=[node], opset_imports={"": 20}, name="network")
    with pytest.raises(TraceError, match="onnxsim cannot simplify the graph") as caught:
        simplify(ir.Model(graph, ir_version=10))
    assert "\n" not in str(caught.value)


def test_a_mean_of_means_stays_one() -> None:
    """Made one mean, it is summed at a stretch: ten times the error on a picture of 128 pixels."""
    norm = GroupNorm(8, affine=False)
    ports = [[Port(name, ("batch", 8, "height", "width"))] for name in ("input", "output")]
    traced = trace(norm, *ports, 20)
    model = simplify(traced)
    assert sum(node.op_type == "ReduceMean" for node in model.graph) == 6
    x = np.random.default_rng(0).random((1, 8, 128, 128), dtype=np.float32) + 4
    found = OnnxRunner(ir.to_proto(model).SerializeToString()).infer({"input": x})["output"]
    exact = norm(torch.from_numpy(x).double()).numpy()
    assert np.abs(found - exact).max() < 2e-6
