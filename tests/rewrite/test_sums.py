"""Rules on sums and on a 1x1 convolution before a dense one: exact, and applied where they should be."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.rewrite.dense import BiasInside, compose_pointwise
from paragon_export.rewrite.sums import constants_last, cut_gates, separate_part
from tests.engines.moved import moved_bytes
from tests.rewrite.test_rules import Applied, chain


def conv(into: int, out: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(into, out, kernel, padding=kernel // 2, **options)


# --- numbers are added last ------------------------------------------------------------------


@pytest.mark.parametrize(
    "compute",
    [
        lambda m, x: m.conv(x) + (x - 0.5),
        lambda m, x: (x - 0.5) + m.conv(x),
        lambda m, x: m.conv(x) + (x + 0.25),
    ],
)
def test_a_number_is_added_last(compute: Any) -> None:
    applied = Applied(chain(compute, conv=conv(8, 8)), constants_last)
    assert applied.fired == [1]
    assert applied.exact()
    *_, total, shifted, _ = applied.module.graph.nodes
    assert total.target is operator.add
    assert shifted.args[0] is total
    assert isinstance(shifted.args[1], float)


@pytest.mark.parametrize(
    "compute",
    [
        lambda m, x: (lambda y: m.conv(y) + y)(x - 0.5),
        lambda m, x: m.conv(x) + (0.5 - x),
        lambda m, x: m.conv(x) + (x * 0.5),
        lambda m, x: m.conv(x) - (x - 0.5),
        lambda m, x: m.conv(x) + (x + x),
        lambda m, x: m.conv(x)[:, :, : x.shape[2] + (x.shape[3] - 1)],
        lambda m, x: 1.5 + (x - 0.5),
    ],
    ids=["another reader", "negated", "a factor", "a difference", "two maps", "sizes", "two numbers"],
)  # fmt: skip
def test_other_sums_keep_their_order(compute: Any) -> None:
    assert Applied(chain(compute, conv=conv(8, 8)), constants_last).fired == [0]


# --- a part of a concatenation from which another is computed --------------------------------


def gated(m: Any, x: Tensor) -> Tensor:
    """The second part is computed from the first, as in SPAN."""
    first = m.a(x)
    y = m.b(first)
    second = (y + first) * (torch.sigmoid(y) - 0.5)
    return m.fuse(torch.cat([first, m.c(second), second], 1))


LAYERS: dict[str, tuple[int, int]] = {"a": (8, 6), "b": (6, 6), "c": (6, 5)}


@pytest.mark.parametrize("fuse", [conv(17, 11, 1), conv(17, 11), conv(17, 11, bias=False)])
def test_a_part_that_another_reads_is_convolved_apart(fuse: nn.Conv2d) -> None:
    layers = {name: conv(*channels) for name, channels in LAYERS.items()}
    applied = Applied(chain(gated, fuse=fuse, **layers), separate_part)
    assert applied.fired == [1]
    assert applied.exact()
    (concat,) = (n for n in applied.module.graph.nodes if n.target is torch.cat)
    assert len(concat.args[0]) == 2


def test_of_two_parts_none_is_concatenated() -> None:
    def compute(m: Any, x: Tensor) -> Tensor:
        first = m.a(x)
        return m.fuse(torch.cat([F.silu(first), first], 1))

    applied = Applied(chain(compute, a=conv(8, 6), fuse=conv(12, 5)), separate_part)
    assert applied.fired == [1]
    assert applied.exact()
    assert torch.cat not in {node.target for node in applied.module.graph.nodes}


def read_by_a_convolution(m: Any, x: Tensor) -> Tensor:
    first = m.a(x)
    return m.fuse(torch.cat([first, F.silu(m.b(first))], 1))


def of_unknown_channels(m: Any, x: Tensor) -> Tensor:
    first = m.a(x)
    return m.fuse(torch.cat([first, F.silu(first), x[:, :5]], 1))


def read_elsewhere(m: Any, x: Tensor) -> Tensor:
    first = m.a(x)
    joined = torch.cat([first, F.silu(first)], 1)
    return m.fuse(joined) + joined[:, :5]


def broadcast(m: Any, x: Tensor) -> Tensor:
    first = m.a(x)
    return m.fuse(torch.cat([first, first * m.one(x)], 1))


def silu_of_a_part(m: Any, x: Tensor) -> Tensor:
    first = m.a(x)
    return m.fuse(torch.cat([first, F.silu(first)], 1))


@pytest.mark.parametrize(
    ("compute", "fuse"),
    [
        (read_by_a_convolution, conv(12, 5)),
        (of_unknown_channels, conv(17, 5)),
        (read_elsewhere, conv(12, 5)),
        (broadcast, conv(12, 5)),
        (silu_of_a_part, conv(12, 12)),
        (silu_of_a_part, conv(12, 6, groups=2)),
        (lambda m, x: m.fuse(torch.cat([m.a(x), F.silu(m.a(x))], 2)), conv(6, 5)),
    ],
    ids=["a convolution between", "unknown channels", "another reader", "broadcast", "too many",
         "groups", "rows"],
)  # fmt: skip
def test_other_concatenations_stay(compute: Any, fuse: nn.Conv2d) -> None:
    layers = {"a": conv(8, 6), "b": conv(6, 6), "one": conv(8, 1)}
    assert Applied(chain(compute, fuse=fuse, **layers), separate_part).fired == [0]


# --- a 1x1 convolution, then a dense one -----------------------------------------------------


def composed(m: Any, x: Tensor) -> Tensor:
    return m.last(m.first(x))


@pytest.mark.parametrize("last", [conv(12, 4), conv(12, 4, bias=False), conv(12, 2, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_two_convolutions_become_one_at_every_size_and_border(last: nn.Conv2d, bias: bool) -> None:
    module = chain(composed, first=conv(8, 12, 1, bias=bias), last=last)
    applied = Applied(module, compose_pointwise)
    assert applied.fired == [1]
    assert applied.exact()
    assert sum(isinstance(layer, BiasInside) for layer in applied.module.modules()) == bias


def test_the_bias_counts_inside_the_image_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    module = chain(composed, first=conv(8, 12, 1), last=conv(12, 4))
    monkeypatch.setattr(BiasInside, "forward", lambda self, x: self.conv.weight.sum((1, 2, 3)).reshape(1, -1, 1, 1))  # fmt: skip
    applied = Applied(module, compose_pointwise)
    assert applied.fired == [1]
    assert applied.error((7, 9)) > 1e-3


@pytest.mark.parametrize(
    ("first", "last", "compute"),
    [
        (conv(8, 12), conv(12, 4), composed),
        (conv(8, 12, 1), nn.Conv2d(12, 4, 3), composed),
        (conv(8, 12, 1), conv(12, 4, groups=4), composed),
        (conv(8, 12, 1), conv(12, 4, padding_mode="reflect"), composed),
        (conv(8, 2, 1), conv(2, 60), composed),
        (conv(8, 12, 1), conv(12, 4), lambda m, x: m.last(F.relu(m.first(x)))),
        (conv(8, 12, 1), conv(12, 12), lambda m, x: (lambda y: m.last(y) + y)(m.first(x))),
        (nn.Conv2d(8, 12, 1, stride=2), conv(12, 4), composed),
    ],
    ids=["3x3 first", "no padding", "groups", "reflection", "too many operations", "an activation",
         "another reader", "a stride"],
)  # fmt: skip
def test_other_pairs_stay(first: nn.Conv2d, last: nn.Conv2d, compute: Any) -> None:
    assert Applied(chain(compute, first=first, last=last), compose_pointwise).fired == [0]


def test_both_rules_apply_to_the_tail_of_span() -> None:
    module = chain(
        lambda m, x: m.last(gated(m, x)), last=conv(11, 4), fuse=conv(17, 11, 1),
        **{name: conv(*channels) for name, channels in LAYERS.items()},
    )  # fmt: skip
    applied = Applied(module, compose_pointwise, separate_part)
    assert applied.fired == [1, 1]
    assert applied.exact()


# --- gates of concatenated maps --------------------------------------------------------------


def gated_parts(m: Any, x: Tensor) -> Tensor:
    """A gate of two parts, of which the second is convolved, as in MoSR."""
    g, a, b = torch.split(m.first(x), [7, 3, 4], dim=1)
    return m.last(m.act(g) * torch.cat((a, m.inner(b)), dim=1))


GATED = {"first": (8, 14), "inner": (4, 4), "last": (7, 5)}


@pytest.mark.parametrize("act", [nn.Mish(), nn.LeakyReLU(0.3)])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"padding_mode": "replicate"}])
def test_gates_are_cut(act: nn.Module, options: Any) -> None:
    layers = {name: conv(*channels, **options) for name, channels in GATED.items()}
    applied = Applied(chain(gated_parts, act=act, **layers), cut_gates)
    assert applied.fired == [1]
    assert applied.exact()
    targets = [node.target for node in applied.module.graph.nodes]
    assert torch.split not in targets
    assert targets.count(operator.mul) == 2


def test_a_gate_by_a_function_is_cut_in_either_order() -> None:
    def compute(m: Any, x: Tensor) -> Tensor:
        b, g, a = torch.split(m.first(x), [4, 7, 3], 1)
        return m.last(torch.cat([m.inner(b), a], 1) * F.leaky_relu(g, negative_slope=0.4))

    layers = {name: conv(*channels) for name, channels in GATED.items()}
    applied = Applied(chain(compute, **layers), cut_gates)
    assert applied.fired == [1]
    assert applied.exact()


def test_an_activation_that_serves_others_too_stays() -> None:
    """MoSR's blocks call one layer twice."""

    def compute(m: Any, x: Tensor) -> Tensor:
        return m.act(gated_parts(m, x))

    layers = {name: conv(*channels) for name, channels in GATED.items()}
    applied = Applied(chain(compute, act=nn.Mish(), **layers), cut_gates)
    assert applied.fired == [1]
    assert applied.exact()


def gate_used_twice(m: Any, x: Tensor) -> Tensor:
    g, a, b = torch.split(m.first(x), [7, 3, 4], dim=1)
    return m.last(m.act(g) * torch.cat((a, m.inner(b)), dim=1) + g)


def joined_used_twice(m: Any, x: Tensor) -> Tensor:
    g, a, b = torch.split(m.first(x), [7, 3, 4], dim=1)
    joined = torch.cat((a, m.inner(b)), dim=1)
    return m.last(m.act(g) * joined + joined)


def activated_used_twice(m: Any, x: Tensor) -> Tensor:
    g, a, b = torch.split(m.first(x), [7, 3, 4], dim=1)
    gate = m.act(g)
    return m.last(gate * torch.cat((a, m.inner(b)), dim=1) + gate)


def whole_used_twice(m: Any, x: Tensor) -> Tensor:
    whole = m.first(x)
    g, a, b = torch.split(whole, [7, 3, 4], dim=1)
    return m.last(m.act(g) * torch.cat((a, m.inner(b)), dim=1)) + whole[:, :5]


def a_part_of_unknown_channels(m: Any, x: Tensor) -> Tensor:
    g, _, b = torch.split(m.first(x), [7, 3, 4], dim=1)
    return m.last(m.act(g) * torch.cat((x[:, :3], m.inner(b)), dim=1))


def a_gate_of_one_channel(m: Any, x: Tensor) -> Tensor:
    g, a, b, _ = torch.split(m.first(x), [1, 3, 4, 6], dim=1)
    return m.last(m.act(g) * torch.cat((a, m.inner(b)), dim=1))


def along_rows(m: Any, x: Tensor) -> Tensor:
    g, a, b = torch.split(m.first(x), [7, 3, 4], dim=2)
    return m.act(g) * torch.cat((a, b), dim=1)


@pytest.mark.parametrize(
    "compute",
    [gate_used_twice, joined_used_twice, activated_used_twice, whole_used_twice,
     a_part_of_unknown_channels, a_gate_of_one_channel, along_rows],
)  # fmt: skip
def test_other_gates_stay(compute: Any) -> None:
    layers = {name: conv(*channels) for name, channels in GATED.items()}
    assert Applied(chain(compute, act=nn.Mish(), **layers), cut_gates).fired == [0]


@pytest.mark.parametrize(
    ("act", "options"), [(nn.PReLU(7), {}), (nn.Softmax(1), {}), (nn.Mish(), {"groups": 2})]
)
def test_other_layers_keep_their_gates(act: nn.Module, options: Any) -> None:
    layers = {name: conv(*channels) for name, channels in GATED.items()}
    layers["first"] = conv(*GATED["first"], **options)
    assert Applied(chain(gated_parts, act=act, **layers), cut_gates).fired == [0]


# --- in networks -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fired"),
    [
        ("MoSR", {"cut_gates": 2, "mish_by_sigmoid": 10, "constants_last": 3}),
        ("SPAN", {"separate_part": 1}),
    ],
)
def test_tensorrt_moves_less(name: str, fired: dict[str, int], tmp_path: Path) -> None:
    """Compiled without running: kernels read and write fewer bytes than as trained."""
    rewritten, trained = moved_bytes(name, fired, tmp_path)
    assert rewritten < trained
