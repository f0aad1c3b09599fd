"""Overlapping windows: all at once equals one after the other, in PyTorch and as ONNX."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from paragon_export.errors import TraceError
from paragon_export.graph.simplify import simplify
from paragon_export.graph.trace import trace
from paragon_export.networks.ops import floating, positions
from paragon_export.networks.windowed_attention import OverlappingWindows
from paragon_export.precision.half import to_precision
from paragon_export.precision.rounding import rounding_model
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.specs.network import Port
from paragon_export.specs.types import Precision

PORTS = tuple(
    Port(name, ("batch", c, "height", "width")) for name, c in zip("qkv", (2, 2, 3), strict=True)
)

LENGTHS = [1, 3, 4, 5, 16, 31, 32, 33, 40, 41, 48, 57, 64, 65, 80]

SIZES = [*((n, n) for n in LENGTHS), *((3, n) for n in LENGTHS), *((n, 20) for n in LENGTHS)]


def one_by_one(q: Tensor, k: Tensor, v: Tensor, window: int = 32, overlap: int = 8) -> Tensor:
    """Window after window, as the trained network did it."""
    height, width = q.shape[2:]
    if height <= window and width <= window:
        return _attend(q, k, v)
    total, weights = torch.zeros_like(v), torch.zeros_like(v[:, :1])
    for rows in _spans(height, window, overlap):
        for columns in _spans(width, window, overlap):
            part = (..., slice(*rows[:2]), slice(*columns[:2]))
            weight = rows[2][:, None] * columns[2]
            total[part] += weight * _attend(q[part], k[part], v[part])
            weights[part] += weight
    return total / (weights + 1e-8)


def _spans(length: int, window: int, overlap: int) -> list[tuple[int, int, Tensor]]:
    extent = min(window, length)
    shared = min(overlap, extent // 4, length // 4)
    stride = extent - shared
    spans = []
    for index in range((length + shared - 1) // stride):
        start, end = index * stride, min(length, index * stride + extent)
        ramp = torch.ones(end - start, dtype=torch.float64)
        fade = min(shared, (end - start) // 4)
        if start > 0:
            ramp[:fade] *= torch.linspace(0, 1, fade, dtype=torch.float64)
        if end < length:
            ramp[-fade:] *= torch.linspace(1, 0, fade, dtype=torch.float64)
        spans.append((start, end, ramp))
    return spans


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    n, c, h, w = v.shape
    scores = q.flatten(2).transpose(1, 2) @ k.flatten(2) / (h * w) ** 0.5
    return (v.flatten(2) @ torch.softmax(scores, -1).transpose(1, 2)).reshape(n, c, h, w)


def maps(height: int, width: int, batch: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(100 * height + width)
    return [
        gain * torch.randn(batch, c, height, width, generator=generator, dtype=torch.float64)
        for c, gain in ((2, 6.0), (2, 6.0), (3, 1.0))
    ]


@cache
def graph() -> ir.Model:
    outputs = (Port("output", ("batch", 3, "height", "width")),)
    return simplify(trace(OverlappingWindows(), PORTS, outputs, 20))


@cache
def exported() -> OnnxRunner:
    return OnnxRunner(ir.to_proto(graph()).SerializeToString())


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_all_windows_at_once_equal_one_after_the_other(size: tuple[int, int]) -> None:
    """At every kind of length: one window, cut, a tail in no window, too short for any."""
    q, k, v = maps(*size)

    found = OverlappingWindows()(q, k, v)

    expected = one_by_one(q, k, v)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-12


@pytest.mark.parametrize("length", range(1, 81))
def test_every_length(length: int) -> None:
    """No length along an axis is special."""
    q, k, v = maps(length, 34)

    assert (OverlappingWindows()(q, k, v) - one_by_one(q, k, v)).abs().max() < 1e-12


def test_other_windows_and_a_batch() -> None:
    """The extent of windows and overlaps are parameters."""
    q, k, v = maps(37, 50, batch=2)

    found = OverlappingWindows(window=16, overlap=4)(q, k, v)

    assert (found - one_by_one(q, k, v, 16, 4)).abs().max() < 1e-12


@pytest.mark.parametrize("length", [33, 40, 64])
def test_a_tail_in_no_window_is_zero(length: int) -> None:
    """What the formula leaves uncovered gets no attention."""
    q, k, v = maps(length, 20)

    found = OverlappingWindows()(q, k, v)

    covered = 32 if length < 64 else 56
    assert found[:, :, covered - 2].abs().max() > 0
    assert found[:, :, covered - 1 :].abs().max() == 0


@pytest.mark.parametrize(("window", "overlap"), [(32, 9), (8, 2), (32, 1), (32, 0)])
def test_windows_without_proper_ramps_are_refused(window: int, overlap: int) -> None:
    """A ramp of one pixel would be a division by zero."""
    with pytest.raises(ValueError, match="cannot overlap"):
        OverlappingWindows(window, overlap)


@pytest.mark.parametrize("overlap", [4, 6, 7])
def test_a_wrong_overlap_is_seen(overlap: int) -> None:
    """The comparison tells one overlap from another."""
    q, k, v = maps(41, 20)

    assert (OverlappingWindows(overlap=overlap)(q, k, v) - one_by_one(q, k, v)).abs().max() > 1e-3


@pytest.mark.parametrize(
    "size", [(1, 1), (3, 2), (32, 32), (33, 3), (3, 41), (40, 20), (41, 64), (57, 80)], ids=str
)
def test_one_exported_graph_serves_every_size(size: tuple[int, int]) -> None:
    """ONNX Runtime computes the same from one dynamic graph."""
    arrays = [x.numpy() for x in maps(*size, batch=2)]
    feeds = {n: a.astype(np.float32) for n, a in zip("qkv", arrays, strict=True)}

    found = exported().infer(feeds)["output"]

    expected = one_by_one(*(torch.from_numpy(a.astype(np.float64)) for a in feeds.values()))
    assert found.shape == expected.shape
    assert np.abs(found - expected.numpy()).max() < 2e-5


@pytest.mark.parametrize("size", [(16, 12), (40, 20), (65, 36)], ids=str)
@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16])
def test_half_precision_stays_finite(size: tuple[int, int], precision: Precision) -> None:
    """The sum of weights plus 1e-8 is a float32 island: in half it would be a division by 0."""
    model = trace(OverlappingWindows(), PORTS, (Port("output", ("batch", 3, "h", "w")),), 22)
    half = rounding_model(to_precision(simplify(model), precision, Precision.FP32))
    runner = OnnxRunner(ir.to_proto(half).SerializeToString())
    q, k, v = maps(*size)
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision.value]

    own = OverlappingWindows().to(dtype)(q.to(dtype), k.to(dtype), v.to(dtype)).double()
    found = runner.infer({n: x.numpy() for n, x in zip("qkv", (q, k, v), strict=True)})["output"]

    truth = one_by_one(q, k, v)
    allowed = 2 * (own - truth).abs().max().item()
    assert np.abs(found - truth.numpy()).max() <= allowed < 1.5


@pytest.mark.parametrize("size", [(20, 12), (41, 36)], ids=str)
def test_a_fixed_size_can_be_traced(size: tuple[int, int]) -> None:
    """With every extent a number the graph holds the same function."""
    shapes = [Port(port.name, (1, int(port.dims[1]), *size)) for port in PORTS]
    model = simplify(trace(OverlappingWindows(), shapes, (Port("output", (1, 3, *size)),), 20))
    q, k, v = (x.float() for x in maps(*size))
    runner = OnnxRunner(ir.to_proto(model).SerializeToString())

    found = runner.infer({n: x.numpy() for n, x in zip("qkv", (q, k, v), strict=True)})["output"]

    assert np.abs(found - one_by_one(q, k, v).numpy()).max() < 2e-5


class Halved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * floating(positions(x, 3) * 0.5, x)


def test_whole_numbers_are_not_mixed_with_others() -> None:
    """What PyTorch would promote in silence is an error of the tracer, which names the way out."""
    port = Port("x", ("n", 1, "h", "w"))
    with pytest.raises(TraceError, match="floating"):
        trace(Halved(), (port,), (port,), 20)
