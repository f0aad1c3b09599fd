"""Attention in parts gives the values of attention at once, and is left out where operators are seen."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, fx

from paragon_export.networks import layers
from paragon_export.networks.cost import cost_per_pixel
from paragon_export.networks.layers import attended_in_parts, may_attend_in_parts
from paragon_export.networks.paragonsr2.v55_v8 import network
from paragon_export.networks.paragonsr2.v55_v8.layout import TRAITS
from paragon_export.parity.reference import build_reference
from paragon_export.runtimes.half_torch import HalfArithmetic


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("shape", "bias_shape"),
    [
        ((5, 4, 64, 8), None),
        ((2, 3, 4, 64, 8), (1, 4, 64, 64)),
        ((2, 3, 4, 64, 8), (1, 3, 1, 1, 64)),
        ((3, 4, 600, 4), (1, 4, 600, 600)),  # one head after another
    ],
)
def test_values_are_those_of_all_windows_at_once(
    shape: tuple[int, ...], bias_shape: tuple[int, ...] | None, dtype: torch.dtype
) -> None:
    q, k, v = (torch.randn(shape, dtype=dtype) for _ in range(3))
    bias = None if bias_shape is None else torch.randn(bias_shape, dtype=dtype)
    scores = q @ k.transpose(-1, -2) * 0.3
    expected = torch.softmax(scores if bias is None else scores + bias, dim=-1) @ v
    found = attended_in_parts(q, k, v, 0.3, bias)
    difference = (found - expected).abs().max() / expected.abs().max()
    assert difference <= 4 * torch.finfo(dtype).eps


def test_networks_attend_in_parts_where_nothing_looks(
    tiny_photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reference does; counting costs, half precision, training and traces see all windows at once."""
    from paragon_export.networks.describe import load_network

    parts: list[int] = []

    def counted(*args: Tensor) -> Tensor:
        parts.append(1)
        return attended_in_parts(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(layers, "attended_in_parts", counted)
    reference = build_reference(load_network(tiny_photo))
    image = torch.zeros(1, 3, 20, 20)
    for precision, is_used in (("float64", True), ("float32", True), ("float16", False)):
        parts.clear()
        reference.runner(precision).infer({"input": image.numpy()})
        assert bool(parts) == is_used
    parts.clear()
    cost_per_pixel(reference.module, reference.inputs)
    reference.module(image.requires_grad_())
    assert parts == []


def test_what_looks_at_operators() -> None:
    q = torch.zeros(1)
    with torch.no_grad():
        assert may_attend_in_parts(q)
        with HalfArithmetic(torch.float16):
            assert not may_attend_in_parts(q)
        assert not may_attend_in_parts(fx.Graph().placeholder("q"))  # type: ignore[arg-type]
        assert not may_attend_in_parts(torch.zeros(1, device="meta"))
    assert not may_attend_in_parts(q)


def test_the_scores_of_a_part_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """All heads of a small window at once, of a large one some queries of a head."""
    found: list[int] = []
    softmax = torch.softmax

    def counted(scores: Tensor, dim: int) -> Tensor:
        found.append(scores.numel())
        return softmax(scores, dim=dim)

    monkeypatch.setattr(torch, "softmax", counted)
    for tokens, scores in ((64, {4 * 64**2}), (600, {436 * 600, 164 * 600})):
        found.clear()
        attended_in_parts(*torch.randn(3, 2, 4, tokens, 4), 1.0)
        assert set(found) == scores
        assert max(found) <= layers.MAX_SCORES


@pytest.mark.parametrize("version", ["v6", "v8"])
def test_networks_before_v9_attend_in_parts_too(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    traits = SimpleNamespace(window=8, hidden=8, traits=TRAITS[version])
    layer = network.WindowAttention(traits, 1).eval()  # type: ignore[arg-type]
    layer.bake()
    x, parts = torch.randn(2, 8, 12, 20), []

    def counted(*args: Tensor) -> Tensor:
        parts.append(1)
        return attended_in_parts(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(network, "attended_in_parts", counted)
    whole = layer(x)
    assert not parts
    with torch.no_grad():
        assert (layer(x) - whole).abs().max() <= 1e-6
    assert parts
