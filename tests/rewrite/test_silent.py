"""What contributes nothing is removed, exactly; what contributes a little stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.networks.float32 import narrow, widen
from paragon_export.networks.layers import (
    ChannelAttention,
    LayerScale,
    RMSNorm,
    TokenAttention,
    WindowAttention,
)
from paragon_export.networks.paragonsr2.v9_v11.network import ParagonSR2
from paragon_export.rewrite.rules import rewrite
from paragon_export.rewrite.silent import (
    drop_branches,
    drop_channels,
    drop_gates,
    drop_heads,
    drop_tokens,
)
from paragon_export.testing.tiny import tiny_hyperparameters
from tests.rewrite.test_rules import Applied, Chain, chain, randomise

FAINT = 1e-30
"""A weight that is tiny, but one that float32 holds."""

BELOW = 1e-40
"""A weight below the normal numbers of float32."""


def _mix(m: Any, x: Tensor) -> Tensor:
    return m.out(F.gelu(m.dw(m.into(x))))


def _mixing(out: nn.Module | None = None) -> Any:
    return chain(
        _mix,
        into=nn.Conv2d(8, 12, 1),
        dw=nn.Conv2d(12, 12, 3, padding=1, groups=12),
        out=out or nn.Conv2d(12, 8, 1),
    )


def _product(m: Any, x: Tensor) -> Tensor:
    a, b = m.gate(m.into(x)).chunk(2, dim=1)
    return m.out(narrow((widen(a) * widen(b)).clamp(-9.0, 9.0), x))


class _Product(Chain):
    """A chain that is traced with the names of this module, of which ``widen`` is one."""

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(self, x)


def _gating() -> Any:
    module = _Product(
        _product,
        into=nn.Conv2d(8, 24, 1),
        gate=nn.Conv2d(24, 24, 3, padding=1, groups=24),
        out=nn.Conv2d(12, 8, 1),
    )
    return randomise(module)


def _width(applied: Applied, name: str) -> int:
    return int(applied.module.get_submodule(name).out_channels)


def test_channels_that_are_constant_or_unread_go() -> None:
    module = _mixing()
    module.dw.weight[1] = 0.0  # constant: its bias
    module.dw.weight[2] = BELOW
    module.into.weight[3], module.into.bias[3] = 0.0, 0.0  # zero before the depthwise convolution
    module.out.weight[:, 4] = 0.0
    applied = Applied(module, drop_channels)
    assert applied.fired == [4]
    assert applied.exact()
    assert [_width(applied, name) for name in ("into", "dw")] == [8, 8]


@pytest.mark.parametrize("out", [nn.Conv2d(12, 8, 3, padding=1), nn.Conv2d(12, 8, 1, bias=False)])
def test_constants_stay_where_no_bias_can_hold_them(out: nn.Conv2d) -> None:
    module = _mixing(out)
    module.dw.weight[1] = 0.0
    module.dw.weight[2], module.dw.bias[2] = 0.0, 0.0  # zero, which padding does not change
    applied = Applied(module, drop_channels)
    assert applied.fired == [1]
    assert applied.exact()


def test_channels_that_vary_stay() -> None:
    module = _mixing()
    module.dw.weight[1] = FAINT
    module.into.weight[2] = 0.0  # constant inside, but the depthwise convolution pads it
    module.out.weight[:, 3] = FAINT
    module.dw.bias[4] = -1e3  # gelu makes it 0 for these pictures, not for all
    applied = Applied(module, drop_channels)
    assert applied.fired == [0]
    assert applied.exact()


def test_channels_stay_where_another_call_reads_them() -> None:
    def compute(m: Any, x: Tensor) -> Tensor:
        y = m.dw(m.into(x))
        return m.out(F.gelu(y)) + m.out2(y)

    module: Any = chain(
        compute,
        into=nn.Conv2d(8, 12, 1),
        dw=nn.Conv2d(12, 12, 3, padding=1, groups=12),
        out=nn.Conv2d(12, 8, 1),
        out2=nn.Conv2d(12, 8, 1),
    )
    module.out.weight[:, 4] = 0.0
    applied = Applied(module, drop_channels)
    assert applied.fired == [0]
    assert applied.exact()


def test_the_last_channel_stays() -> None:
    module = _mixing()
    module.dw.weight.zero_()
    applied = Applied(module, drop_channels)
    assert applied.fired == [11]
    assert applied.exact()


def test_products_with_zero_or_of_constants_go() -> None:
    module = _gating()
    module.gate.weight[1], module.gate.bias[1] = 0.0, 0.0  # zero times anything
    module.gate.weight[[2, 14]] = 0.0  # a product of two constants
    module.gate.bias[[2, 14]] = 4.0  # which the clamp limits
    module.out.weight[:, 3] = 0.0
    applied = Applied(module, drop_channels)
    assert applied.fired == [3]
    assert applied.exact()
    assert _width(applied, "gate") == 18


def test_gates_that_are_constant_alone_stay() -> None:
    module = _gating()
    module.gate.weight[1] = 0.0  # a constant times what varies, limited by the clamp
    applied = Applied(module, drop_channels)
    assert applied.fired == [0]
    assert applied.exact()


def _attention(shift: int = 0) -> Any:
    module: Any = chain(lambda m, x: m.a(x), a=WindowAttention(8, 4, shift, heads=4))
    return module


@pytest.mark.parametrize("shift", [0, 2])
def test_heads_of_constant_values_go(shift: int) -> None:
    module = _attention(shift)
    module.a.qkv.weight[16 + 2 : 16 + 4] = 0.0  # the values of head 1; their bias stays
    module.a.proj.weight[:, 4:6] = BELOW
    applied = Applied(module, drop_heads)
    assert applied.fired == [2]
    assert applied.exact()
    assert applied.module.a.heads == 2


def test_heads_that_attend_evenly_stay() -> None:
    module = _attention()
    module.a.qkv.weight[:2], module.a.qkv.bias[:2] = 0.0, 0.0  # queries of zero: a mean
    module.a.qkv.weight[18] = 0.0  # one channel of a head alone
    module.a.proj.weight[:, 4:6] = FAINT
    assert Applied(module, drop_heads).fired == [0]


def test_the_last_head_stays() -> None:
    module = _attention()
    module.a.proj.weight.zero_()
    applied = Applied(module, drop_heads)
    assert applied.fired == [3]
    assert applied.exact()


def test_hidden_values_of_channel_attention_go() -> None:
    module: Any = chain(lambda m, x: m.a(x), a=ChannelAttention(8, 6))
    module.a.fc[0].weight[0] = 0.0
    module.a.fc[2].weight[:, 2] = BELOW
    module.a.fc[2].weight[:, 3] = FAINT
    applied = Applied(module, drop_gates)
    assert applied.fired == [2]
    assert applied.exact()


def _dictionary(far: float, compute: Any = lambda m, x: m.a(m.norm(x))) -> Any:
    module: Any = chain(compute, norm=RMSNorm(8), a=TokenAttention(8, 6, 4))
    with torch.no_grad():
        module.a.q_proj.bias.fill_(1.0)
        module.a.q_proj.weight *= 0.1
        module.a.k_proj.weight.copy_(torch.eye(4, 8))
        module.a.token_dict[0, 2, :4] = -far  # its score is far below the others'
    return module


def test_tokens_that_no_pixel_attends_to_go() -> None:
    applied = Applied(_dictionary(200.0), drop_tokens)
    assert applied.fired == [1]
    assert applied.exact()


def _steep() -> Any:
    """Return a dictionary whose token is far below the others, but not for every picture."""
    module = _dictionary(200.0)
    module.a.q_proj.weight *= 1e3
    return module


@pytest.mark.parametrize(
    "module", [_dictionary(4.0), _steep(), _dictionary(200.0, lambda m, x: m.norm(x) + m.a(x))]
)
def test_tokens_stay_where_a_pixel_may_attend_to_them(module: Any) -> None:
    assert Applied(module, drop_tokens).fired == [0]


def _residual(m: Any, x: Tensor) -> Tensor:
    x = m.into(x)
    return m.after(x + m.scale(m.f(x)))


def _branch(**layers: nn.Module) -> Any:
    given = {"f": nn.Conv2d(8, 8, 1), "scale": LayerScale(8), "after": nn.Conv2d(8, 8, 1)}
    return chain(_residual, into=nn.Conv2d(8, 8, 1), **{**given, **layers})


def test_branches_of_zero_go() -> None:
    module = _branch()
    module.scale.gamma[:] = BELOW
    applied = Applied(module, drop_branches)
    assert applied.fired == [1]
    assert applied.exact()
    module = _branch(f=WindowAttention(8, 4, 0, 2))
    module.f.proj.weight.zero_()
    module.f.proj.bias.zero_()
    applied = Applied(module, drop_branches)
    assert applied.fired == [1]
    assert applied.exact()


def test_branches_that_add_anything_stay() -> None:
    module = _branch()
    module.scale.gamma[0, 1:] = 0.0  # one channel is left
    assert Applied(module, drop_branches).fired == [0]
    module = _branch()
    module.f.weight.zero_()  # its bias is left
    assert Applied(module, drop_branches).fired == [0]
    module = _branch(f=nn.Conv2d(8, 8, 1), scale=LayerScale(8))
    module.scale.gamma[:] = FAINT
    assert Applied(module, drop_branches).fired == [0]


def test_a_sum_that_broadcasts_stays() -> None:
    def compute(m: Any, x: Tensor) -> Tensor:
        x = m.into(x)
        return m.narrow(x) + m.f(x)

    module: Any = chain(
        compute, into=nn.Conv2d(8, 8, 1), narrow=nn.Conv2d(8, 1, 1), f=nn.Conv2d(8, 8, 1)
    )
    module.f.weight.zero_()
    module.f.bias.zero_()
    applied = Applied(module, drop_branches)
    assert applied.fired == [0]
    assert applied.exact()


def test_whole_networks_lose_what_is_silent_and_nothing_else() -> None:
    torch.manual_seed(0)
    module: Any = ParagonSR2(tiny_hyperparameters("photo", features=16, blocks=3))
    module = module.double().requires_grad_(False).eval()
    first, second, third = module.body[0].blocks
    first.dw.weight[:4] = 0.0
    second.scale.gamma.zero_()  # both branches of the block
    third.attn.proj.weight[:, :4] = 0.0
    x = torch.rand(1, 3, 19, 23, dtype=torch.float64)
    rewritten = rewrite(module)
    counts = {name: n for name, n in rewritten.fired.items() if name.startswith("drop")}
    assert counts == {"drop_heads": 1, "drop_channels": 4, "drop_branches": 2}
    assert float((rewritten.module.double()(x) - module(x)).abs().max()) < 1e-6
