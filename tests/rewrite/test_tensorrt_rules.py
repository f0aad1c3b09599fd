"""Rules for TensorRT alone: each computes the same, fires where it should and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.networks.layers import (
    ChannelAttention,
    LayerScale,
    RMSNorm,
    TokenAttention,
    WindowAttention,
)
from paragon_export.rewrite.attention.stacked_windows import (
    StackedAttention,
    WindowPlaces,
    stack_windows,
)
from paragon_export.rewrite.attention.whole_picture import (
    fuse_tokens,
    gate_channels,
    tabulate_tokens,
    transpose_for_means,
)
from paragon_export.rewrite.channels_last import channels_last
from paragon_export.rewrite.dense import ActivationAtEdges, merge_depthwise, merge_pointwise
from paragon_export.rewrite.linear import fold_gains, fold_norms
from tests.rewrite.test_rules import EXACT, Applied, chain


def layers_of(applied: Applied, kind: type[nn.Module]) -> list[nn.Module]:
    """Return the layers of a kind that the rewritten network calls."""
    calls = [n for n in applied.module.graph.nodes if n.op == "call_module"]
    layers = [applied.module.get_submodule(str(n.target)) for n in calls]
    return [layer for layer in layers if isinstance(layer, kind)]


# --- windows ------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0, 2])
def test_windows_are_stacked(shift: int) -> None:
    module = chain(lambda m, x: x + m.attn(x), attn=WindowAttention(8, 4, shift, 2))
    applied = Applied(module, stack_windows)
    assert applied.fired == [1]
    assert applied.exact()


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("gain", [None, 0.0])
def test_norm_moves_behind_the_cut_padding_included(shift: int, gain: float | None) -> None:
    """Padding stays zero after the norm, whatever its gain and bias are."""
    module = chain(
        lambda m, x: m.attn(m.norm(x)), norm=RMSNorm(8), attn=WindowAttention(8, 4, shift, 2)
    )
    if gain is not None:
        with torch.no_grad():
            module.norm.scale[3] = gain  # type: ignore[union-attr, index, operator]
    applied = Applied(module, stack_windows)
    assert applied.fired == [1]
    assert not layers_of(applied, RMSNorm)
    assert applied.exact()


def test_padding_needs_its_mask() -> None:
    """Without it padded places hold the norm's bias, and the results differ."""
    module = chain(
        lambda m, x: m.attn(m.norm(x)), norm=RMSNorm(8), attn=WindowAttention(8, 4, 0, 2)
    )
    applied = Applied(module, stack_windows)
    (places,) = layers_of(applied, WindowPlaces)
    found = places.forward(torch.zeros(1, 8, 7, 9, dtype=torch.float64))
    assert found[2].shape == (16, 1, 6, 1)
    places.forward = lambda x: (*found[:2], torch.ones_like(found[2]))  # type: ignore[method-assign]
    assert applied.error((7, 9)) > 1e-3


@pytest.mark.parametrize(
    "compute",
    [
        lambda m, x: (lambda y: y + m.attn(y))(m.norm(x)),  # needed itself
        lambda m, x: m.attn(m.norm(m.norm(x))),  # called twice
        lambda m, x: m.attn(m.conv(m.norm(x))),  # not directly before
    ],
)
def test_norm_stays_where_it_is_needed(compute: Any) -> None:
    layers = {"norm": RMSNorm(8), "attn": WindowAttention(8, 4, 2, 2), "conv": nn.Conv2d(8, 8, 1)}
    applied = Applied(chain(compute, **layers), stack_windows)
    assert applied.fired == [1]
    assert layers_of(applied, RMSNorm)
    assert applied.exact()


def test_attention_called_twice_is_not_stacked() -> None:
    module = chain(lambda m, x: m.attn(m.attn(x)), attn=WindowAttention(8, 4, 0, 2))
    assert Applied(module, stack_windows).fired == [0]


def test_places_are_shared_by_maps_of_one_size_and_shift() -> None:
    def compute(m: Any, x: Tensor) -> Tensor:
        y = x + m.a(m.n1(x))
        y = y + m.b(m.n2(y))
        return y + m.c(m.n3(y))

    module = chain(
        compute, a=WindowAttention(8, 4, 0, 2), b=WindowAttention(8, 4, 2, 2),
        c=WindowAttention(8, 4, 0, 2), n1=RMSNorm(8), n2=RMSNorm(8), n3=RMSNorm(8),
    )  # fmt: skip
    applied = Applied(module, stack_windows)
    assert applied.fired == [3]
    assert len(layers_of(applied, WindowPlaces)) == 2
    assert applied.exact()


def test_gain_moves_into_the_projection_of_stacked_windows() -> None:
    module = chain(
        lambda m, x: x + m.scale(m.attn(x)), attn=WindowAttention(8, 4, 2, 2), scale=LayerScale(8)
    )
    applied = Applied(module, stack_windows, fold_gains)
    assert applied.fired == [1, 1]
    assert layers_of(applied, StackedAttention)
    assert applied.exact()


# --- tokens and channels ------------------------------------------------------------------


def test_tokens_are_fused_with_the_norm_before_them() -> None:
    module = chain(
        lambda m, x: x + m.attn(m.norm(x)), norm=RMSNorm(8), attn=TokenAttention(8, 6, 4)
    )
    applied = Applied(module, tabulate_tokens, fold_norms, fuse_tokens)
    assert applied.fired == [1, 1, 1]
    assert len(layers_of(applied, nn.Module)) == 1
    assert applied.exact()


@pytest.mark.parametrize(
    "compute", [lambda m, x: m.attn(x), lambda m, x: (lambda y: y + m.attn(y))(m.norm(x))]
)
def test_tokens_are_fused_without_a_norm(compute: Any) -> None:
    module = chain(compute, norm=RMSNorm(8), attn=TokenAttention(8, 6, 4))
    applied = Applied(module, tabulate_tokens, fold_norms, fuse_tokens)
    assert applied.fired == [1, 0, 1]
    assert applied.exact()


def test_tokens_are_fused_after_they_are_tabulated() -> None:
    module = chain(lambda m, x: m.attn(x), attn=TokenAttention(8, 6, 4))
    assert Applied(module, fuse_tokens).fired == [0]


def test_means_are_taken_of_the_transposed_map() -> None:
    layers = {"attn": ChannelAttention(8, 2), "scale": LayerScale(8)}
    module = chain(lambda m, x: x + m.scale(m.attn(x)), **layers)
    applied = Applied(module, gate_channels, transpose_for_means)
    assert applied.fired == [1, 1]
    assert applied.exact()
    assert Applied(module, transpose_for_means).fired == [0]


def test_means_of_a_transposed_map_are_not_transposed_again() -> None:
    def compute(m: Any, x: Tensor) -> Tensor:
        y = x + m.tokens(x)
        return m.conv(y + m.scale(m.attn(y)))

    module = chain(
        compute, tokens=TokenAttention(8, 6, 4), attn=ChannelAttention(8, 2),
        scale=LayerScale(8), conv=nn.Conv2d(8, 8, 1),
    )  # fmt: skip
    applied = Applied(module, tabulate_tokens, gate_channels, channels_last, transpose_for_means)
    assert applied.fired[-1] == 0
    assert applied.error((7, 9)) < EXACT


# --- dense convolutions -------------------------------------------------------------------


def depthwise(channels: int, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, **{"padding": 1, "groups": channels} | options)


def _block(m: Any, x: Tensor) -> Tensor:
    return m.out(F.gelu(m.dw(m.conv(x))))


def _gate(m: Any, x: Tensor) -> Tensor:
    return m.out((m.g(m.a(x)) * m.h(m.b(x))).clamp(-0.2, 0.3))


@pytest.mark.parametrize("bias", [True, False])
def test_block_becomes_dense_at_every_size_and_border(bias: bool) -> None:
    module = chain(
        _block, conv=nn.Conv2d(8, 12, 1, bias=bias), dw=depthwise(12, bias=bias), out=nn.Conv2d(12, 8, 1)
    )  # fmt: skip
    applied = Applied(module, merge_depthwise)
    assert applied.fired == [1]
    assert applied.exact()


def test_gate_becomes_dense_at_every_size_and_border() -> None:
    module = chain(
        _gate, a=nn.Conv2d(8, 12, 1), b=nn.Conv2d(8, 12, 1), g=depthwise(12), h=depthwise(12),
        out=nn.Conv2d(12, 8, 1),
    )  # fmt: skip
    applied = Applied(module, merge_depthwise)
    assert applied.fired == [2]
    assert applied.exact()


def test_dense_convolution_needs_its_edges() -> None:
    """Without them the bias of the first convolution counts outside the image too."""
    module = chain(_block, conv=nn.Conv2d(8, 12, 1), dw=depthwise(12), out=nn.Conv2d(12, 8, 1))
    applied = Applied(module, merge_depthwise)
    (edges,) = layers_of(applied, ActivationAtEdges)
    edges.forward = lambda y, x: y  # type: ignore[method-assign]
    x = torch.rand(1, 8, 9, 9, dtype=torch.float64)
    difference = (applied.module(x) - applied.original(x)).detach().abs()
    assert float(difference[..., 1:-1, 1:-1].max()) < EXACT
    assert float(difference.max()) > 1e-2


@pytest.mark.parametrize(
    ("layers", "compute"),
    [
        ({"conv": nn.Conv2d(40, 12, 1)}, lambda m, x: _block(m, m.wide(x))),  # too wide
        ({"conv": nn.Conv2d(8, 12, 3, padding=1)}, _block),
        ({"dw": depthwise(12, padding=0)}, _block),
        ({"dw": depthwise(12, padding=2, dilation=2)}, _block),
        ({"dw": depthwise(12, groups=1)}, _block),
        ({"dw": depthwise(12, padding_mode="reflect")}, _block),
        ({}, lambda m, x: m.out(m.dw(m.conv(x)))),  # no activation
        ({}, lambda m, x: m.out(F.gelu(m.dw(m.conv(x))) + m.conv(x))),
        ({}, lambda m, x: (lambda y: m.out(F.gelu(m.dw(y)) + y))(m.conv(x))),
        ({}, lambda m, x: (lambda y: m.out(F.gelu(y) + y))(m.dw(m.conv(x)))),
        ({}, lambda m, x: m.out((m.dw(m.conv(x)) * m.conv(x)).clamp(-0.2, 0.3))),
    ],
)
def test_block_stays_where_it_does_not_merge(layers: dict[str, nn.Module], compute: Any) -> None:
    layers = {
        "conv": nn.Conv2d(8, 12, 1), "dw": depthwise(12), "out": nn.Conv2d(12, 8, 1),
        "wide": nn.Conv2d(8, 40, 1), **layers,
    }  # fmt: skip
    assert Applied(chain(compute, **layers), merge_depthwise).fired == [0]


@pytest.mark.parametrize(
    "compute",
    [
        lambda m, x: (m.g(m.a(x)) * m.h(m.b(-x))).clamp(-0.2, 0.3),  # of two maps
        lambda m, x: (lambda y: (m.g(y) * m.h(y)).clamp(-0.2, 0.3))(m.a(x)),
        lambda m, x: (lambda y: y + y.clamp(-0.2, 0.3))(m.g(m.a(x)) * m.h(m.b(x))),
        lambda m, x: m.g(m.a(x)) * m.h(m.b(x)),  # no clamp
    ],
)
def test_gate_stays_where_it_does_not_merge(compute: Any) -> None:
    module = chain(
        compute, a=nn.Conv2d(8, 12, 1), b=nn.Conv2d(8, 12, 1), g=depthwise(12), h=depthwise(12)
    )
    assert Applied(module, merge_depthwise).fired == [0]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dilation", [1, 3])
def test_depthwise_and_pointwise_become_dense(bias: bool, dilation: int) -> None:
    dw = depthwise(8, padding=dilation, dilation=dilation, bias=bias)
    applied = Applied(
        chain(lambda m, x: m.out(m.dw(x)), dw=dw, out=nn.Conv2d(8, 6, 1, bias=bias)), merge_pointwise
    )  # fmt: skip
    assert applied.fired == [1]
    assert applied.exact()


@pytest.mark.parametrize(
    ("layers", "compute"),
    [
        ({"out": nn.Conv2d(8, 33, 1)}, lambda m, x: m.out(m.dw(x))),  # too wide
        ({"out": nn.Conv2d(8, 6, 3, padding=1)}, lambda m, x: m.out(m.dw(x))),
        ({"dw": nn.Conv2d(8, 8, 5, padding=2, groups=8)}, lambda m, x: m.out(m.dw(x))),
        ({"dw": depthwise(8, stride=2)}, lambda m, x: m.out(m.dw(x))),
        ({}, lambda m, x: (lambda y: m.out(y) + y.mean())(m.dw(x))),
        ({}, lambda m, x: m.out(F.gelu(m.dw(x)))),
    ],
)
def test_depthwise_and_pointwise_stay_apart(layers: dict[str, nn.Module], compute: Any) -> None:
    layers = {"dw": depthwise(8), "out": nn.Conv2d(8, 6, 1), **layers}
    assert Applied(chain(compute, **layers), merge_pointwise).fired == [0]
