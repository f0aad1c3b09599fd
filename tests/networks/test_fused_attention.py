"""Fused attention gives the values of one expression, and is left out where operators are seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from paragon_export.networks import layers
from paragon_export.networks.cost import cost_per_pixel
from paragon_export.networks.describe import load_network
from paragon_export.networks.layers import fused_attention, may_attend_fused, places_in_picture
from paragon_export.networks.paragonsr2.v55_v8 import network
from paragon_export.networks.paragonsr2.v55_v8.layout import TRAITS
from paragon_export.parity.diagnosis.alternatives import alternatives
from paragon_export.parity.reference import build_reference
from paragon_export.runtimes.torch_arithmetic import HalfArithmetic


def as_one_expression(
    q: Tensor, k: Tensor, v: Tensor, factor: float, inside: Tensor, bias: Tensor | None, sees: bool
) -> Tensor:
    """Return what ``fused_attention`` documents, with all scores at once."""
    query, key, value = (x.transpose(2, 3) for x in (q, k, v))
    scores = factor * query @ key.transpose(-1, -2) + (0 if bias is None else bias)
    if not sees:
        scores = scores.masked_fill(~inside[None, :, None, None], -torch.inf)
    y = (torch.softmax(scores, -1) @ value).transpose(2, 3)
    return torch.where(inside[None, :, :, None, None], y, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(("tokens", "width"), [(64, 8), (600, 4)])
def test_values_are_those_of_one_expression(
    tokens: int, width: int, has_bias: bool, padded: bool, dtype: torch.dtype
) -> None:
    q, k, v = torch.randn(3, 2, 5, tokens, 4, width, dtype=dtype).unbind()
    bias = torch.randn(4, tokens, tokens, dtype=dtype) if has_bias else None
    inside = torch.rand(5, tokens) > 0.3
    inside[1], inside[2:4] = inside[0], True
    expected = as_one_expression(q, k, v, 0.3, inside, bias, padded)
    wide = None if bias is None else bias.double()
    parts = q.double(), k.double(), v.double()
    truth = as_one_expression(*parts, 0.3, inside, wide, padded)
    of_queries = None if bias is None else lambda queries: bias[:, queries]
    qkv = torch.stack((q, k, v), 3)
    found = fused_attention(qkv, 0.3, inside, bias=of_queries, padded=padded)
    assert found.shape == q.shape
    allowed = 2 * (expected - truth).abs().max() + 16 * torch.finfo(dtype).eps * truth.abs().max()
    assert (found - truth).abs().max() <= allowed
    assert (found[:, ~inside] == 0).all()


class Operators(TorchDispatchMode):
    """Records the names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("has_bias", [True, False])
def test_scores_are_not_held_in_memory(has_bias: bool, padded: bool, dtype: torch.dtype) -> None:
    qkv, bias = torch.randn(1, 2, 64, 3, 4, 8, dtype=dtype), torch.randn(4, 64, 64, dtype=dtype)
    of_queries = (lambda queries: bias[:, queries]) if has_bias else None
    inside = torch.arange(64).repeat(2, 1) < 50
    with torch.no_grad(), Operators() as seen:
        fused_attention(qkv, 0.3, inside, bias=of_queries, padded=padded)
    assert "_scaled_dot_product_flash_attention_for_cpu" in seen.names
    assert not seen.names & {"softmax", "_softmax", "_safe_softmax", "bmm"}


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_so(value: float) -> None:
    original, inside = torch.randn(3, 1, 2, 64, 4, 8), torch.ones(2, 64, dtype=torch.bool)
    for index in range(3):
        parts = original.clone()
        parts[index, 0, 0, 5, 1, 3] = value
        q, k, v = parts
        expected = as_one_expression(q, k, v, 0.3, inside, None, True)
        found = fused_attention(torch.stack((q, k, v), 3), 0.3, inside)
        assert torch.equal(found.isfinite(), expected.isfinite())


@pytest.mark.parametrize("shift", [0, 2, 3])
@pytest.mark.parametrize("size", [(1, 1), (4, 8), (5, 7), (13, 2)])
def test_places_are_those_of_a_rolled_mask(size: tuple[int, int], shift: int) -> None:
    rows, columns = (-(-extent // 4) for extent in size)
    mask = F.pad(torch.ones(size), (0, 4 * columns - size[1], 0, 4 * rows - size[0]))
    mask = torch.roll(mask, (-shift, -shift), (0, 1)).reshape(rows, 4, columns, 4)
    expected = mask.transpose(1, 2).reshape(-1, 16).bool()
    assert torch.equal(places_in_picture(*size, 4, shift), expected)


def before_v9(version: str) -> nn.Module:
    traits = SimpleNamespace(window=8, hidden=8, traits=TRAITS[version])
    layer = network.WindowAttention(traits, 1).eval()  # type: ignore[arg-type]
    layer.bake()
    if version != "v6":
        nn.init.normal_(layer.relative_position_bias_table)
    return layer


LAYERS = {
    "v6": lambda: before_v9("v6"),
    "v8": lambda: before_v9("v8"),
    "v11": lambda: layers.WindowAttention(8, 8, 4, 2).eval(),
}


@pytest.mark.parametrize("version", LAYERS)
@pytest.mark.parametrize("size", [(1, 1), (8, 5), (9, 8), (16, 16), (12, 20)])
def test_layers_compute_the_same_fused(
    version: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each pixel of the picture is asked once, and padding is not."""
    asked: list[int] = []
    fused = F.scaled_dot_product_attention

    def counted(q: Tensor, *args: Tensor, **kwargs: Any) -> Tensor:
        asked.append(q.shape[0] * q.shape[2])
        return fused(q, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    layer, x = LAYERS[version]().double(), torch.randn(2, 8, *size, dtype=torch.float64)
    whole = layer(x)
    assert not asked
    with torch.no_grad():
        assert (layer(x) - whole).abs().max() <= 1e-13
    assert sum(asked) == 2 * size[0] * size[1]


def test_networks_attend_fused_where_nothing_looks(
    tiny_photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reference does; counting costs, half precision, training and altered networks do not."""
    calls: list[int] = []

    def counted(*args: Any) -> Tensor:
        calls.append(1)
        return fused_attention(*args)

    monkeypatch.setattr(layers, "fused_attention", counted)
    reference = build_reference(load_network(tiny_photo))
    image = torch.zeros(1, 3, 20, 20)
    for precision, is_used in (("float64", True), ("float32", True), ("float16", False)):
        calls.clear()
        reference.runner(precision).infer({"input": image.numpy()})
        assert bool(calls) == is_used
    calls.clear()
    cost_per_pixel(reference.module, reference.inputs)
    reference.module(image.requires_grad_())
    assert calls == []


def test_altered_networks_compute_padding_too(tiny_photo: Path) -> None:
    """A network that is rolled back the wrong way shows the values of padding."""
    reference = build_reference(load_network(tiny_photo))
    image = torch.rand(1, 3, 19, 21)
    altered = {a.finding.detail: a.reference for a in alternatives(reference)}
    for detail in ("not rolled", "rolled back the wrong way"):
        found = altered[detail].runner("float64").infer({"input": image.numpy()})["output"]
        module = altered[detail].module.double()
        expected = module(image.double()).detach().numpy()  # with gradients: as one expression
        reference.module.float()
        assert abs(found - expected).max() <= 1e-12


def test_what_looks_at_operators() -> None:
    x = torch.zeros(1)
    with torch.no_grad():
        assert may_attend_fused(x)
        with HalfArithmetic(torch.float16):
            assert not may_attend_fused(x)
        with FlopCounterMode(display=False):
            assert not may_attend_fused(x)
        assert not may_attend_fused(fx.Graph().placeholder("x"))  # type: ignore[arg-type]
        assert not may_attend_fused(torch.zeros(1, device="meta"))
    assert not may_attend_fused(x)
