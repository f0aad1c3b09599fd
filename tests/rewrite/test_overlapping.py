"""Attention in overlapping windows: the same result, with a bounded part of the scores at a time."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from paragon_export.engines.build import compile_engine
from paragon_export.graph.onnx_io import serialized
from paragon_export.graph.simplify import simplify
from paragon_export.graph.trace import trace
from paragon_export.networks.describe import load_network
from paragon_export.networks.munet.network import SelfAttention
from paragon_export.networks.paragonsr2.v0_v5.attention import (
    GlobalAttention,
    HierarchicalAttention,
    LocalAttention,
)
from paragon_export.pipeline.float32_graph import float32_graph
from paragon_export.precision.half import to_precision
from paragon_export.precision.rounding import rounding_model
from paragon_export.rewrite.rules import Rewritten, rewrite, unchanged
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.specs.network import Port
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.profiles import Profile
from paragon_export.specs.types import Backend, Precision, Runtime, Size
from paragon_export.testing.recorded import OLDER, recorded_weights
from paragon_export.testing.tiny import save
from tests import remembered

SIZES = ((1, 1), (3, 2), (5, 9), (24, 7), (32, 32), (33, 3), (33, 40), (41, 20), (57, 80))

WIDTHS = ((14, 1), (24, 3), (33, 4))
"""Channels and channels of queries: those of nano and micro, and none of a multiple of 16."""

RUNTIMES = [
    (Runtime.ANY, False, "attend_in_steps"),
    (Runtime.ANY, True, "attend_in_steps"),
    (Runtime.TENSORRT, False, "attend_in_steps"),
    (Runtime.TENSORRT, True, "equal_widths"),
]
"""A runtime, whether the file will be in half precision, and the rule that is for it."""

FORMS = [RUNTIMES[0], RUNTIMES[3]]
"""One for each rule."""


@cache
def attention(channels: int, queries: int) -> nn.Module:
    """Return a local attention with random weights whose scores differ by about 10."""
    torch.manual_seed(channels)
    module = LocalAttention(channels, queries)
    with torch.no_grad():
        module.gamma.fill_(1.0)
        module.query.weight.mul_(60 / queries**0.5)
        module.key.weight.mul_(60 / queries**0.5)
    return module.requires_grad_(False).eval()


def picture(channels: int, height: int, width: int, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * 100 + width)
    return torch.randn(batch, channels, height, width, generator=generator, dtype=torch.float64)


def graph(module: nn.Module, channels: int) -> ir.Model:
    x, y = (Port(name, ("batch", channels, "height", "width")) for name in ("x", "y"))
    return simplify(trace(module, (x,), (y,), 20))


@pytest.mark.parametrize(("runtime", "half", "rule"), RUNTIMES)
def test_each_runtime_has_its_rule(runtime: Runtime, half: bool, rule: str) -> None:
    assert rewrite(attention(24, 3), runtime, half=half).fired == {rule: 1}


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
def test_the_precision_of_a_file_chooses_the_rule(precision: Precision, tmp_path: Path) -> None:
    """Also where the session's graphs are kept (``tests/remembered.py``)."""
    weights = recorded_weights(OLDER["v5_nano_x2_40x56_win"])
    network = load_network(save(weights, tmp_path / "net.safetensors"), scale=2)
    plan = ExportPlan(
        checkpoint=network.checkpoint.path, output=tmp_path / "net.onnx",
        precision=precision, runtime=Runtime.TENSORRT,
    )  # fmt: skip
    rule, other = ("equal_widths", "attend_in_steps")[:: 1 if precision.is_half else -1]
    for make in (float32_graph, remembered.float32_graph):
        fired = make(network, plan).fired
        assert fired[rule] > 0
        assert other not in fired


@pytest.mark.parametrize(("runtime", "half", "rule"), FORMS)
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_it_computes_the_same(
    widths: tuple[int, int], runtime: Runtime, half: bool, rule: str
) -> None:
    """At sizes of one window, of many, of cut ones, and of fewer pixels than there are steps."""
    module = attention(*widths)
    found = rewrite(module, runtime, half=half)
    fast, plain = (copy.deepcopy(m).double() for m in (found.module, module))

    assert found.fired == {rule: 1}
    for size in SIZES:
        x = picture(widths[0], *size)
        assert (fast(x) - plain(x)).abs().max() < 1e-12


@pytest.mark.parametrize(("runtime", "half", "rule"), FORMS)
def test_one_graph_serves_every_size(runtime: Runtime, half: bool, rule: str) -> None:
    module = attention(24, 3)
    runner = OnnxRunner(_bytes(graph(rewrite(module, runtime, half=half).module, 24)))
    plain = copy.deepcopy(module).double()
    for size in SIZES:
        x = picture(24, *size)
        found = runner.infer({"x": x.float().numpy()})["y"]
        assert np.abs(found - plain(x).numpy()).max() < 1e-4, rule


@pytest.mark.parametrize(("runtime", "half", "rule"), [RUNTIMES[1], RUNTIMES[3]])
@pytest.mark.parametrize("size", [(16, 12), (33, 40)], ids=str)
def test_half_precision_is_no_less_accurate(
    size: tuple[int, int], runtime: Runtime, half: bool, rule: str
) -> None:
    """Every value rounded to float16, the mean error is at most that of the plain graph."""
    module, x = attention(24, 3), picture(24, *size, batch=1)
    errors = []
    for network in (module, rewrite(module, runtime, half=half).module):
        model = to_precision(graph(network, 24), Precision.FP16, Precision.FP32)
        runner = OnnxRunner(_bytes(rounding_model(model)))
        found = runner.infer({"x": x.float().numpy()})["y"]
        errors.append(np.abs(found - copy.deepcopy(module).double()(x).numpy()).mean())
    assert errors[1] <= errors[0] * 1.05, rule


@pytest.mark.parametrize("runtime", [Runtime.ANY, Runtime.TENSORRT])
def test_other_attention_is_left_alone(runtime: Runtime) -> None:
    """MUNet, which has these windows too, and v5's other modes are exported as before."""
    others: tuple[nn.Module, ...] = (
        SelfAttention(24, "windows"), GlobalAttention(24, 3), HierarchicalAttention(24, 3),
    )  # fmt: skip
    rules = {"attend_in_steps", "equal_widths"}
    for module in others:
        assert not rules & set(rewrite(module.eval(), runtime, half=True).fired)


@pytest.mark.parametrize("runtime", [Runtime.ONNXRUNTIME, Runtime.OPENVINO])
def test_processors_keep_their_own_operator(runtime: Runtime) -> None:
    assert rewrite(attention(24, 3), runtime, half=True).fired == {"fuse_windows": 1}


LARGE = Size(512, 512)

ALL_SCORES = 441 * 1024 * 1024
"""Scores of the 441 windows of a map of this size."""


@pytest.mark.parametrize(
    ("runtime", "precision", "limit"),
    [
        (Runtime.TENSORRT, Precision.FP16, 0.4),
        pytest.param(Runtime.TENSORRT, Precision.FP32, 2.4, marks=pytest.mark.slow),
        pytest.param(Runtime.ANY, Precision.FP16, 1.2, marks=pytest.mark.slow),
    ],
)
def test_tensorrt_plans_less_than_the_scores(
    runtime: Runtime, precision: Precision, limit: float, tmp_path: Path
) -> None:
    """Bytes for each score; holding all of them, in and out of the softmax, takes 4 or 8."""
    found = rewrite(attention(24, 3), runtime, half=precision.is_half)
    assert planned(found, precision, tmp_path) < limit * ALL_SCORES


@pytest.mark.slow
def test_the_plain_graph_holds_all_scores(tmp_path: Path) -> None:
    """The limits above can be exceeded."""
    assert planned(unchanged(attention(24, 3)), Precision.FP16, tmp_path) > 3.5 * ALL_SCORES


def planned(rewritten: Rewritten, precision: Precision, folder: Path) -> int:
    """Return the bytes that TensorRT-RTX plans for inputs up to ``LARGE``."""
    model = graph(rewritten.module, 24)
    if precision.is_half:
        model = to_precision(model, precision, Precision.FP32)
    file = serialized(model, folder / "model.onnx")
    profile = Profile(smallest=Size(1, 1), optimal=LARGE, largest=LARGE)
    built = compile_engine(file, Backend.RTX, ("sm86",), profile)
    assert built.planned_bytes is not None
    return built.planned_bytes


def _bytes(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString()
