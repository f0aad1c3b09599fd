"""Means over a picture: their error does not grow with the picture, in either CPU runtime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from paragon_export.graph.metadata import FLOAT32_MARK
from paragon_export.graph.simplify import simplify
from paragon_export.graph.trace import trace
from paragon_export.networks.layers import ChannelAttention
from paragon_export.networks.paragonsr2.blocks import GroupNorm, Means
from paragon_export.rewrite.attention.whole_picture import ChannelGate
from paragon_export.runtimes.base import Runner
from paragon_export.runtimes.isolated import open_runner
from paragon_export.specs.network import Port
from paragon_export.specs.types import OnnxBackend
from tests.conftest import ON_CPU

CHANNELS = 4

LARGE = (480, 854)

CLOSE = 2e-6
"""Relative to the largest value. One sum over ``LARGE`` is off by 1e-3."""


class MeansTimes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.means = Means()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.means(x)


def gate(*, channels_last: bool) -> nn.Module:
    """Return a channel gate without its perceptron: ``x * (1 + mean of x)``."""
    attention = ChannelAttention(CHANNELS, 2)
    attention.fc = nn.Sequential(nn.Identity())
    made = ChannelGate(attention, torch.ones(1, CHANNELS, 1, 1))
    made.channels_last = channels_last
    return made


def attention() -> nn.Module:
    made = ChannelAttention(CHANNELS, 2)
    made.fc = nn.Sequential(nn.Identity())
    return made


LAYERS: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "means": (MeansTimes, False),
    "attention": (attention, False),
    "gate": (lambda: gate(channels_last=False), False),
    "gate channels last": (lambda: gate(channels_last=True), True),
    "norm": (lambda: GroupNorm(CHANNELS, affine=False), False),
}


def graph_of(name: str, extents: tuple[int | str, ...] = ("height", "width")) -> ir.Model:
    make, is_last = LAYERS[name]
    batch = 1 if isinstance(extents[0], int) else "batch"
    dims = (batch, *extents, CHANNELS) if is_last else (batch, CHANNELS, *extents)
    ports = ([Port(port, dims)] for port in ("input", "output"))
    return simplify(trace(make().requires_grad_(False).eval(), *ports, 20))


def runner_of(model: ir.Model, backend: OnnxBackend = OnnxBackend.ONNXRUNTIME) -> Runner:
    return open_runner(ir.to_proto(model).SerializeToString(), backend, is_own=True)


def pictures(size: tuple[int, int]) -> list[np.ndarray]:
    """Return a flat picture and one with bars at the top and bottom, (1, C, H, W)."""
    colors = np.array([0.1, 0.7, 5.1, 0.013], np.float32).reshape(1, CHANNELS, 1, 1)
    flat = np.broadcast_to(colors, (1, CHANNELS, *size)).copy()
    barred = flat.copy()
    barred[:, :, : size[0] // 8], barred[:, :, -size[0] // 8 :] = 0.3, 0.3
    return [flat, barred]


def error_of(name: str, runner: Runner, x: np.ndarray) -> float:
    make, is_last = LAYERS[name]
    x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if is_last else x
    exact = make().double()(torch.from_numpy(x).double()).detach().numpy()
    found = runner.infer({"input": x})["output"]
    assert found.shape == exact.shape
    return float(np.abs(found - exact).max() / max(1.0, np.abs(exact).max()))


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("name", LAYERS)
def test_the_error_does_not_grow(name: str, backend: OnnxBackend) -> None:
    """Flat pictures are the worst: every addition rounds in the same direction."""
    runner = runner_of(graph_of(name), backend)
    for size in ((1, 1), (3, 33), (64, 31), LARGE):
        for x in pictures(size):
            assert error_of(name, runner, x) < CLOSE, size


@pytest.mark.parametrize("name", LAYERS)
def test_reductions_cannot_be_merged(name: str) -> None:
    """Runtimes merge a reduction with the next one if both are of one kind: none follow."""
    for node in graph_of(name).graph:
        reads = node.inputs[0].producer() if node.inputs and node.inputs[0] else None
        if reads is not None and node.op_type.startswith("Reduce"):
            assert node.op_type != reads.op_type


@pytest.mark.parametrize("name", LAYERS)
def test_reductions_are_float32_islands(name: str) -> None:
    reductions = [n for n in graph_of(name).graph if n.op_type.startswith("Reduce")]
    assert len(reductions) >= 4
    assert all(n.metadata_props.get(FLOAT32_MARK) == "float32" for n in reductions)


def test_a_static_graph_has_constant_counts() -> None:
    model = graph_of("means", (37, 53))
    assert not [node for node in model.graph if node.op_type in ("Shape", "Cast")]
    runner = runner_of(model)
    assert max(error_of("means", runner, x) for x in pictures((37, 53))) < CLOSE
