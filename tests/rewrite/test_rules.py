"""Rewriting: every rule computes the same, fires where it should and nowhere else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.graph.inspection import metadata_of
from paragon_export.graph.onnx_io import read_onnx
from paragon_export.graph.trace import trace
from paragon_export.networks.float32 import narrow, widen
from paragon_export.networks.layers import (
    BaseUpsampler,
    ChannelAttention,
    LayerScale,
    RMSNorm,
    TokenAttention,
    WindowAttention,
)
from paragon_export.networks.paragonsr2.v9_v11.network import ParagonSR2, VideoParagonSR2
from paragon_export.networks.windowed_attention import OverlappingWindows
from paragon_export.pipeline.export import export
from paragon_export.rewrite.attention.whole_picture import gate_channels, tabulate_tokens
from paragon_export.rewrite.attention.windows import fuse_heads, fuse_windows, gather_windows
from paragon_export.rewrite.channels_last import channels_last
from paragon_export.rewrite.fx_network import Network
from paragon_export.rewrite.linear import (
    clamp_in_convolution,
    fold_gains,
    fold_norms,
    narrow_products,
    split_concat,
    split_halves,
)
from paragon_export.rewrite.rules import RULES, Rewritten, Rule, rewrite
from paragon_export.rewrite.upsampling import (
    fuse_tail,
    repeat_after_filter,
    share_shuffle,
    shuffle_in_steps,
)
from paragon_export.specs.network import Port
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.types import Precision, Runtime
from paragon_export.testing.tiny import tiny_hyperparameters, tiny_tensors

VARIANTS = ("realtime", "stream", "photo", "pro")

SIZES = ((1, 1), (1, 5), (4, 1), (2, 2), (7, 9), (16, 32), (17, 33))

EXACT = 1e-12
"""Of values of order 1: float64 rounding, for rules applied in float64 alone."""


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter values of order 1, none of them special."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            fan_in = max(1, parameter[0].numel()) if parameter.dim() > 1 else 4
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise / fan_in**0.5 + (0.5 if parameter.dim() <= 1 else 0))
    return module.requires_grad_(False).eval()


class Applied:
    """A rule applied to a network, both in float64."""

    def __init__(self, module: nn.Module, *rules: Callable[[Network], int]) -> None:
        network = Network(module)
        self.fired = [rule(network) for rule in rules]
        network.module.recompile()
        self.module = network.module
        self.original = copy.deepcopy(module).double()

    def error(self, size: tuple[int, int], channels: int = 8, batch: int = 2) -> float:
        generator = torch.Generator().manual_seed(1)
        x = torch.rand((batch, channels, *size), generator=generator, dtype=torch.float64) - 0.3
        return float((self.module(x) - self.original(x)).detach().abs().max())

    def exact(self, channels: int = 8) -> bool:
        return all(self.error(size, channels) < EXACT for size in SIZES)


class Chain(nn.Module):
    """Layers in a row, or whatever ``compute`` makes of them."""

    def __init__(self, compute: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.compute = compute

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(self, x)


def chain(compute: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> nn.Module:
    return randomise(Chain(compute, **layers))


def network(variant: str, scale: int = 2, *, video: bool = False, **changes: Any) -> nn.Module:
    """Return a small network with random weights, and windows that the larger sizes exceed."""
    changes = {"window_size": 8, "upsampler_alpha": 0.3, **changes}
    hyperparameters = tiny_hyperparameters(variant, scale, **changes)
    module = (VideoParagonSR2 if video else ParagonSR2)(hyperparameters)
    tensors = tiny_tensors(hyperparameters)
    module.load_state_dict({n: torch.tensor(a) for n, a in tensors.items()}, strict=True)
    return module.requires_grad_(False).eval()


# --- gains --------------------------------------------------------------------------------


def test_gain_moves_into_the_convolution_before_it() -> None:
    applied = Applied(
        chain(lambda m, x: x + m.scale(m.conv(x)), conv=nn.Conv2d(8, 8, 3, padding=1), scale=LayerScale(8)),
        fold_gains,
    )  # fmt: skip
    assert applied.fired == [1]
    assert applied.exact()


def test_gain_without_bias_and_shared_by_two_maps() -> None:
    """A gain that is applied in two places moves into both maps."""
    applied = Applied(
        chain(
            lambda m, x: m.scale(m.a(x)) + m.scale(m.b(x)),
            a=nn.Conv2d(8, 8, 1, bias=False), b=nn.Conv2d(8, 8, 1), scale=LayerScale(8),
        ),
        fold_gains,
    )  # fmt: skip
    assert applied.fired == [2]
    assert applied.exact()


def test_scalar_gain_moves_too() -> None:
    class Gained(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.gain = nn.Conv2d(8, 8, 1), nn.Parameter(torch.tensor(0.1))

        def forward(self, x: Tensor) -> Tensor:
            return self.gain * self.conv(x)

    applied = Applied(randomise(Gained()), fold_gains)
    assert applied.fired == [1]
    assert applied.exact()


@pytest.mark.parametrize(
    "compute",
    [
        lambda m, x: m.scale(m.conv(x)) + m.conv(x),  # called twice
        lambda m, x: (lambda y: m.scale(y) + y)(m.conv(x)),  # needed without the gain as well
        lambda m, x: m.scale(F.gelu(m.conv(x))),  # not a linear map
    ],
)
def test_gain_stays_where_the_map_is_needed_without_it(compute: Any) -> None:
    applied = Applied(chain(compute, conv=nn.Conv2d(8, 8, 1), scale=LayerScale(8)), fold_gains)
    assert applied.fired == [0]
    assert applied.exact()


# --- norms --------------------------------------------------------------------------------


def test_norm_moves_into_a_pointwise_convolution() -> None:
    applied = Applied(
        chain(lambda m, x: m.conv(m.norm(x)), norm=RMSNorm(8), conv=nn.Conv2d(8, 6, 1)), fold_norms
    )
    assert applied.fired == [1]
    assert applied.exact()


def test_norm_stays_before_padding() -> None:
    """A 3x3 convolution pads with zeros after the bias: moving it would brighten the border."""
    applied = Applied(
        chain(lambda m, x: m.conv(m.norm(x)), norm=RMSNorm(8), conv=nn.Conv2d(8, 6, 3, padding=1)),
        fold_norms,
    )
    assert applied.fired == [0]
    assert applied.exact()


def test_norm_stays_where_it_is_needed_itself() -> None:
    applied = Applied(
        chain(
            lambda m, x: (lambda y: y + m.conv(y))(m.norm(x)), norm=RMSNorm(8), conv=nn.Conv2d(8, 8, 1)
        ),
        fold_norms,
    )  # fmt: skip
    assert applied.fired == [0]
    assert applied.exact()


@pytest.mark.parametrize("shift", [0, 2])
def test_norm_moves_into_window_attention_padding_included(shift: int) -> None:
    module = chain(
        lambda m, x: m.attn(m.norm(x)), norm=RMSNorm(8), attn=WindowAttention(8, 4, shift, 4)
    )
    applied = Applied(module, gather_windows, fold_norms)
    assert applied.fired == [1, 1]
    assert applied.exact()


@pytest.mark.parametrize("gain", [0.0, 1e-4])
def test_norm_stays_where_padding_has_no_decent_value(gain: float) -> None:
    """Where a gain is zero or tiny no value of the normalised map stands for padding."""
    module = chain(
        lambda m, x: m.attn(m.norm(x)), norm=RMSNorm(8), attn=WindowAttention(8, 4, 0, 4)
    )
    with torch.no_grad():
        module.norm.scale[3] = gain  # type: ignore[union-attr, index, operator]
    applied = Applied(module, gather_windows, fold_norms)
    assert applied.fired == [1, 0]
    assert applied.exact()


# --- splitting ----------------------------------------------------------------------------


def _contexts(m: Any, x: Tensor) -> Tensor:
    return m.fuse(torch.cat((m.a(x), m.b(x)), dim=1))


def _dw(dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(8, 8, 3, padding=dilation, dilation=dilation, groups=8)


@pytest.mark.parametrize("fuse", [nn.Conv2d(16, 6, 1), nn.Conv2d(16, 6, 3, padding=1, bias=False)])
def test_joined_maps_are_convolved_apart(fuse: nn.Conv2d) -> None:
    applied = Applied(chain(_contexts, a=_dw(), b=_dw(3), fuse=fuse), split_concat)
    assert applied.fired == [1]
    assert applied.exact()


def test_joined_maps_keep_their_kind_of_padding() -> None:
    fuse = nn.Conv2d(16, 6, 3, padding=1, padding_mode="reflect")
    applied = Applied(chain(_contexts, a=_dw(), b=_dw(3), fuse=fuse), split_concat)
    assert applied.fired == [1]
    assert applied.error((7, 9)) < EXACT


def test_joined_maps_stay_where_groups_cross_or_channels_are_unknown() -> None:
    grouped = nn.Conv2d(16, 16, 1, groups=2)
    assert Applied(chain(_contexts, a=_dw(), b=_dw(3), fuse=grouped), split_concat).fired == [0]
    unknown = chain(lambda m, x: m.fuse(torch.cat((F.gelu(x), x), dim=1)), fuse=nn.Conv2d(16, 8, 1))
    assert Applied(unknown, split_concat).fired == [0]


def _gated(m: Any, x: Tensor) -> Tensor:
    a, b = m.gate(m.proj(x)).chunk(2, dim=1)
    return (widen(a) * widen(b)).clamp(-0.01, 0.02)


def _gate() -> dict[str, nn.Module]:
    return {"proj": nn.Conv2d(8, 12, 1), "gate": nn.Conv2d(12, 12, 3, padding=1, groups=12)}


def test_cut_maps_are_computed_in_parts() -> None:
    applied = Applied(chain(_gated, **_gate()), split_halves)
    assert applied.fired == [1]
    assert applied.exact()


def test_cut_maps_stay_behind_other_groupings_and_where_needed_whole() -> None:
    grouped = chain(_gated, proj=nn.Conv2d(8, 12, 1), gate=nn.Conv2d(12, 12, 1, groups=3))
    assert Applied(grouped, split_halves).fired == [0]

    def whole(m: Any, x: Tensor) -> Tensor:
        y = m.gate(m.proj(x))
        a, b = y.chunk(2, dim=1)
        return y + torch.cat((a * b, a), dim=1)

    applied = Applied(chain(whole, **_gate()), split_halves)
    assert applied.fired == [0]
    assert applied.exact()


def _narrowed(m: Any, x: Tensor) -> Tensor:
    product = (widen(m.proj(x)) * widen(x)).clamp(-65504.0, 65504.0)
    return narrow(product, x)


def test_narrow_products_are_bit_equal_in_half() -> None:
    """In float16 and bfloat16 both forms agree in every bit, overflow included."""
    module = chain(_narrowed, proj=nn.Conv2d(8, 8, 1))
    applied = Applied(module, narrow_products)
    assert applied.fired == [1]
    assert applied.exact()
    x = 400 * torch.randn(1, 8, 30, 30, generator=torch.Generator().manual_seed(2))
    for dtype in (torch.float16, torch.bfloat16):
        a = applied.module.to(dtype)(x.to(dtype))
        assert torch.equal(a, module.to(dtype)(x.to(dtype)))
    assert float(a.abs().max()) >= 65504


def test_narrow_products_leave_other_islands_alone() -> None:
    summed = chain(lambda m, x: narrow((widen(x) + widen(m.proj(x))).clamp(-1.0, 1.0), x), proj=nn.Conv2d(8, 8, 1))  # fmt: skip
    assert Applied(summed, narrow_products).fired == [0]


def test_clamp_ends_a_convolution_that_does_nothing() -> None:
    applied = Applied(chain(_gated, **_gate()), split_halves, clamp_in_convolution)
    # The widened factors are maps whose layer is not known.
    assert applied.fired == [1, 0]
    plain = chain(
        lambda m, x: (m.a(x) * m.b(x)).clamp(-0.2, 0.1), a=nn.Conv2d(8, 4, 1), b=nn.Conv2d(8, 4, 1)
    )
    applied = Applied(plain, clamp_in_convolution)
    assert applied.fired == [1]
    assert applied.exact()
    unclamped = chain(lambda m, x: m.a(x) * m.b(x), a=nn.Conv2d(8, 4, 1), b=nn.Conv2d(8, 4, 1))
    assert Applied(unclamped, clamp_in_convolution).fired == [0]


# --- upsampling ---------------------------------------------------------------------------


def _tail(m: Any, x: Tensor) -> Tensor:
    return m.out(m.shuffle(m.up(x)))


def tail(scale: int, *, bias: bool = True, inner: int = 8) -> nn.Module:
    return chain(
        _tail,
        up=nn.Conv2d(8, inner * scale**2, 3, padding=1, bias=bias),
        shuffle=nn.PixelShuffle(scale),
        out=nn.Conv2d(inner, 3, 3, padding=1, bias=bias),
    )


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_tail_is_exact_at_every_size_and_border(scale: int) -> None:
    applied = Applied(tail(scale), fuse_tail)
    assert applied.fired == [1]
    assert applied.exact()


def test_tail_without_bias() -> None:
    applied = Applied(tail(2, bias=False, inner=40), fuse_tail)
    assert applied.fired == [1]
    assert applied.exact()


def test_tail_needs_its_edges() -> None:
    """Without it the outermost pixels differ: the composed kernel sees past the picture."""
    applied = Applied(tail(2), fuse_tail)
    for node in list(applied.module.graph.nodes):
        if node.op == "call_module" and "TailAtEdges" in type(applied.module.get_submodule(node.target)).__name__:  # fmt: skip
            node.replace_all_uses_with(node.args[0])
    applied.module.recompile()
    x = torch.rand(1, 8, 9, 9, dtype=torch.float64)
    difference = (applied.module(x) - applied.original(x)).abs()
    assert float(difference[..., 1:-1, 1:-1].max()) < EXACT
    assert float(difference.max()) > 1e-2


@pytest.mark.parametrize(
    "compute",
    [
        lambda m, x: m.out(F.gelu(m.shuffle(m.up(x)))),
        lambda m, x: (lambda y: m.out(y) + y[:, :3])(m.shuffle(m.up(x))),
        lambda m, x: m.out(m.shuffle(m.up(x))) + m.out(m.shuffle(m.up(-x))),
    ],
)
def test_tail_stays_where_something_is_between_or_beside(compute: Any) -> None:
    module = tail(2)
    module.compute = compute
    applied = Applied(module, fuse_tail)
    assert applied.fired == [0]
    assert applied.exact()


@pytest.mark.parametrize(
    ("up", "out"),
    [
        (nn.Conv2d(8, 32, 5, padding=2), nn.Conv2d(8, 3, 3, padding=1)),
        (nn.Conv2d(8, 32, 3, padding=1), nn.Conv2d(8, 3, 5, padding=2)),
        (nn.Conv2d(8, 32, 3, padding=1), nn.Conv2d(8, 3, 1)),
        (nn.Conv2d(8, 32, 3, padding=1, padding_mode="reflect"), nn.Conv2d(8, 3, 3, padding=1)),
        (nn.Conv2d(8, 32, 3, padding=1), nn.Conv2d(8, 3, 3)),
        (nn.Conv2d(8, 32, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)),
        (nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(1, 9, 3, padding=1)),  # takes more products
    ],
)
def test_tail_stays_where_it_does_not_compose_or_pay(up: nn.Conv2d, out: nn.Conv2d) -> None:
    module = chain(_tail, up=up, shuffle=nn.PixelShuffle(2), out=out)
    assert Applied(module, fuse_tail).fired == [0]


def test_nothing_is_upsampled_by_one() -> None:
    assert Applied(tail(1), fuse_tail).fired == [0]
    assert Applied(randomise(BaseUpsampler(3, 1, 0.4)), repeat_after_filter).fired == [0]


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_base_is_filtered_before_it_is_repeated(scale: int, alpha: float) -> None:
    applied = Applied(randomise(BaseUpsampler(3, scale, alpha)), repeat_after_filter)
    assert applied.fired == [1]
    assert applied.exact(channels=3)


def _base(mode: str = "nearest", factor: float = 2.0, **changes: Any) -> nn.Module:
    options = {"padding": (0, 2), "groups": 3, "bias": False} | changes
    return chain(
        lambda m, x: m.h(F.interpolate(x, scale_factor=factor, mode=mode)),
        h=nn.Conv2d(3, 3, (1, 5), **options),
    )


def test_base_with_one_filter() -> None:
    applied = Applied(_base(), repeat_after_filter)
    assert applied.fired == [1]
    assert applied.exact(channels=3)


@pytest.mark.parametrize(
    "module",
    [_base(bias=True), _base(groups=1), _base(padding=0), _base("bilinear"), _base(factor=1.5)],
)
def test_base_stays_behind_other_filters(module: nn.Module) -> None:
    assert Applied(module, repeat_after_filter).fired == [0]


def test_two_filters_along_one_axis_are_not_multiplied() -> None:
    """The second pads what the first made: their product would see past the border."""
    module = chain(
        lambda m, x: m.b(m.a(F.interpolate(x, scale_factor=2.0, mode="nearest"))),
        a=nn.Conv2d(3, 3, (1, 5), padding=(0, 2), groups=3, bias=False),
        b=nn.Conv2d(3, 3, (1, 5), padding=(0, 2), groups=3, bias=False),
    )
    applied = Applied(module, repeat_after_filter)
    assert applied.fired == [1]
    assert applied.exact(channels=3)


def two_tails(compute: Callable[..., Tensor], p: int, q: int) -> nn.Module:
    return chain(compute, p=tail(p), q=tail(q))


def _sum_of_tails(m: Any, x: Tensor) -> Tensor:
    return _tail(m.p, x) + _tail(m.q, x)


@pytest.mark.parametrize("scale", [2, 3])
def test_shuffles_are_shared(scale: int) -> None:
    applied = Applied(two_tails(_sum_of_tails, scale, scale), fuse_tail, share_shuffle)
    assert applied.fired == [2, 1]
    assert applied.exact()


def test_shuffles_of_unlike_factor_or_use_stay() -> None:
    apart = two_tails(lambda m, x: _tail(m.p, x)[:, :, :2, :2] + _tail(m.q, x)[:, :, :2, :2], 2, 3)
    assert Applied(apart, fuse_tail, share_shuffle).fired == [2, 0]
    unlike = two_tails(lambda m, x: _tail(m.p, x) + _tail(m.q, x[:, :, :2, :2]), 2, 4)
    assert Applied(unlike, fuse_tail, share_shuffle).fired == [2, 0]
    beside = two_tails(lambda m, x: (lambda y: y + _tail(m.q, x) * y)(_tail(m.p, x)), 2, 2)
    assert Applied(beside, fuse_tail, share_shuffle).fired == [2, 0]


@pytest.mark.parametrize("scale", [2, 3])
def test_shared_shuffle_in_steps(scale: int) -> None:
    rules = (fuse_tail, share_shuffle, shuffle_in_steps)
    applied = Applied(two_tails(_sum_of_tails, scale, scale), *rules)
    # The shuffles inside the tails at the edges are small and stay.
    assert applied.fired == [2, 1, 1]
    assert applied.exact()


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_shuffle_in_steps(scale: int) -> None:
    module = chain(
        lambda m, x: m.p(m.a(x)), a=nn.Conv2d(8, 2 * scale**2, 1), p=nn.PixelShuffle(scale)
    )
    applied = Applied(module, shuffle_in_steps)
    assert applied.fired == [1]
    assert applied.exact()
    assert Applied(nn.Identity(), shuffle_in_steps).fired == [0]


# --- attention ----------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("rules", [(gather_windows,), (gather_windows, fuse_heads)])
def test_windows_are_gathered(shift: int, rules: tuple[Any, ...]) -> None:
    module = chain(lambda m, x: x + m.attn(x), attn=WindowAttention(8, 4, shift, 2))
    applied = Applied(module, *rules)
    assert set(applied.fired) == {1}
    assert applied.exact()


def test_heads_are_fused_where_windows_are_gathered() -> None:
    module = chain(lambda m, x: m.attn(x), attn=WindowAttention(8, 4, 0, 2))
    assert Applied(module, fuse_heads).fired == [0]


@pytest.mark.parametrize("size", [(5, 9), (33, 40), (41, 20)])
def test_windows_are_fused(size: tuple[int, int]) -> None:
    """The mask in a channel bars what the mask of scores bars."""
    module = chain(lambda m, x: m.w(x[:, :3], x[:, 3:6], x), w=OverlappingWindows())
    applied = Applied(module, fuse_windows)
    assert applied.fired == [1]
    assert applied.error(size) < 1e-11
    assert Applied(nn.Identity(), fuse_windows).fired == [0]


def test_window_orders_are_shared_by_maps_of_one_size_alone() -> None:
    """Blocks of one size and shift share their order; a smaller map gets its own."""

    def compute(m: Any, x: Tensor) -> Tensor:
        y = m.a(m.conv(x))
        return m.smaller(x) + 0 * y.mean() + m.b(y).mean()

    module = chain(
        compute, conv=nn.Conv2d(8, 8, 3, padding=1), a=WindowAttention(8, 4, 0, 2),
        b=WindowAttention(8, 4, 0, 2),
        smaller=nn.Sequential(nn.Conv2d(8, 8, 2, stride=2), WindowAttention(8, 4, 0, 2)),
    )  # fmt: skip
    applied = Applied(module, gather_windows)
    assert applied.fired == [3]
    orders = [
        n for n in applied.module.graph.nodes if "WindowOrder" in str(type(_layer(applied, n)))
    ]
    assert len(orders) == 2
    assert all(applied.error(size) < EXACT for size in ((2, 2), (9, 7), (16, 17)))


def _layer(applied: Applied, node: Any) -> Any:
    return applied.module.get_submodule(node.target) if node.op == "call_module" else None


def test_attention_called_twice_stays() -> None:
    module = chain(lambda m, x: m.attn(m.attn(x)), attn=WindowAttention(8, 4, 0, 2))
    assert Applied(module, gather_windows).fired == [0]


def test_tokens_are_tabulated() -> None:
    module = chain(lambda m, x: m.attn(x), attn=TokenAttention(8, 6, 4))
    applied = Applied(module, tabulate_tokens)
    assert applied.fired == [1]
    assert applied.exact()


def test_channels_are_gated_in_one_pass() -> None:
    layers = {"attn": ChannelAttention(8, 2), "scale": LayerScale(8)}
    applied = Applied(chain(lambda m, x: x + m.scale(m.attn(x)), **layers), gate_channels)
    assert applied.fired == [1]
    assert applied.exact()
    other = Applied(chain(lambda m, x: 2 * x + m.scale(m.attn(x)), **layers), gate_channels)
    assert other.fired == [0]


def test_layout_changes_cancel() -> None:
    """Two attending layers with sums and norms between them leave one pair of transposes."""

    def compute(m: Any, x: Tensor) -> Tensor:
        x = x + m.a(m.n1(x))
        x = m.n2(x + m.b(x))
        return m.conv(x)

    module = chain(
        compute, a=WindowAttention(8, 4, 0, 2), b=TokenAttention(8, 6, 4), n1=RMSNorm(8),
        n2=RMSNorm(8), conv=nn.Conv2d(8, 8, 1),
    )  # fmt: skip
    applied = Applied(module, gather_windows, tabulate_tokens, fold_norms, channels_last)
    assert applied.exact()
    permutes = [n for n in applied.module.graph.nodes if n.target == "permute"]
    assert applied.fired[-1] > 0
    assert len(permutes) <= 3


def test_layout_stays_without_attention() -> None:
    assert Applied(network("realtime"), channels_last).fired == [0]


# --- whole networks -----------------------------------------------------------------------


EXPECTED = {
    "realtime": {"fold_gains", "fuse_tail", "repeat_after_filter", "share_shuffle"},
    "stream": {"fold_gains", "split_concat", "split_halves", "narrow_products", "fuse_tail",
               "repeat_after_filter", "share_shuffle"},
    "photo": {"gather_windows", "fold_norms", "fold_gains", "fuse_tail", "repeat_after_filter",
              "share_shuffle", "channels_last"},
    "pro": {"gather_windows", "tabulate_tokens", "gate_channels", "fold_norms", "fold_gains",
            "fuse_tail", "repeat_after_filter", "share_shuffle", "channels_last"},
}  # fmt: skip


FOR_TENSORRT = {
    "realtime": {"merge_depthwise"},
    "stream": {"merge_pointwise", "merge_depthwise"},
    "photo": {"stack_windows", "merge_depthwise"},
    "pro": {"stack_windows", "fuse_tokens", "transpose_for_means", "merge_depthwise"},
}


@pytest.mark.parametrize("runtime", list(Runtime))
@pytest.mark.parametrize("variant", VARIANTS)
def test_network_is_equal_and_every_rule_meant_for_it_fires(variant: str, runtime: Runtime) -> None:
    module = network(variant, features=32)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    rewritten = rewrite(module, runtime)
    extra = set()
    if variant in ("photo", "pro") and runtime in (Runtime.ONNXRUNTIME, Runtime.OPENVINO):
        extra.add("fuse_heads")
    if runtime is Runtime.ONNXRUNTIME:
        extra.add("shuffle_in_steps")
    if runtime is Runtime.ONNXRUNTIME and variant == "stream":
        extra.add("clamp_in_convolution")
    expected = EXPECTED[variant] | extra
    if runtime is Runtime.TENSORRT:
        expected = (expected - {"gather_windows", "channels_last"}) | FOR_TENSORRT[variant]
    if runtime is Runtime.PORTABLE:
        expected &= {"fold_gains", "split_concat", "split_halves"}
    assert set(rewritten.fired) == expected
    fast, plain = (copy.deepcopy(m).double() for m in (rewritten.module, module))
    for size in SIZES:
        x = torch.rand(2, 3, *size, dtype=torch.float64)
        error = fast(x) - plain(x)
        assert float(error.abs().max()) < 1e-6  # weights are rounded to float32 once
    after = module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("scale", [1, 3, 4])
def test_scales(scale: int) -> None:
    module = network("photo", scale)
    x = torch.rand(1, 3, 9, 21, dtype=torch.float64)
    error = rewrite(module).module.double()(x) - copy.deepcopy(module).double()(x)
    assert float(error.abs().max()) < 1e-6


@pytest.mark.parametrize("variant", ["stream", "pro"])
def test_video_ports_stay(variant: str) -> None:
    module = network(variant, video=True)
    rewritten = rewrite(module).module.double()
    x, previous = torch.rand(1, 3, 9, 11).double(), torch.rand(1, 8, 9, 11).double()
    for alpha in (0.0, 0.4):
        told = (x, previous, torch.tensor(alpha).double())
        found, wanted = rewritten(*told), copy.deepcopy(module).double()(*told)
        for a, b in zip(found, wanted, strict=True):
            assert float((a - b).abs().max()) < 1e-6


@pytest.mark.parametrize("variant", VARIANTS)
def test_exported_graph_computes_the_same(variant: str) -> None:
    """ONNX Runtime agrees with the untouched network at sizes that share nothing."""
    module = network(variant)
    image = (Port("input", ("batch", 3, "height", "width")),)
    result = (Port("output", ("batch", "c", "h", "w")),)
    plain = copy.deepcopy(module).double()
    for runtime in (Runtime.ANY, Runtime.ONNXRUNTIME, Runtime.TENSORRT):
        model = trace(rewrite(module, runtime).module, image, result, 20)
        session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
        for size in SIZES:
            x = torch.rand(2, 3, *size)
            (found,) = session.run(None, {"input": x.numpy()})
            wanted = plain(x.double()).numpy()
            assert np.abs(np.asarray(found) - wanted).max() < 1e-5


def test_a_wrong_rule_is_seen() -> None:
    """The comparison above can fail: a rule that forgets the gain does not pass it."""

    def forget_gains(rules: Network) -> int:
        for node, _ in rules.calls(LayerScale):
            rules.replace(node, node.args[0])
        return 1

    module = network("realtime")
    x = torch.rand(1, 3, 9, 11, dtype=torch.float64)
    wrong = rewrite(module, rules=(Rule(forget_gains), *RULES)).module.double()(x)
    assert float((wrong - copy.deepcopy(module).double()(x)).abs().max()) > 1e-3


# --- where rewriting costs the verdict -----------------------------------------------------------


def coarse(network: nn.Module, runtime: Runtime, *, half: bool) -> Rewritten:
    """Rewrite wrongly: all that half precision may err, twice."""
    wrong = copy.deepcopy(network)
    with torch.no_grad():
        wrong.conv_out.bias += 0.01
    return Rewritten(module=wrong, fired={"coarse": 1})


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.FP32])
def test_half_that_rewriting_spoils_is_exported_as_trained(
    precision: Precision, tiny_realtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says so; in float32 a rewrite that is not equal is a fault, and fails."""
    monkeypatch.setattr("paragon_export.rewrite.rules.rewrite", coarse)
    output = tmp_path / "a.onnx"
    result = export(ExportPlan(checkpoint=tiny_realtime, output=output, precision=precision))
    assert result.passed is output.exists() is precision.is_half
    assert any(note.startswith("exported as trained") for note in result.notes) is result.passed
    if result.passed:
        assert metadata_of(read_onnx(output)).rewrites == {}
