"""What is removed first, what it costs, and which widths are chosen."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from paragon_export.networks.paragonsr2.v9_v11.layout import Widths
from paragon_export.pruning.choose import Option, choose, levels, options_of, removal_order
from paragon_export.pruning.statistics import Measured, gram_of, pixels, with_ones
from paragon_export.pruning.work import work_of
from paragon_export.testing.tiny import tiny_hyperparameters


def _measured(features: Tensor, weight: Tensor, sensitivity: Tensor) -> Measured:
    return Measured(0, "hidden", gram_of(features), sensitivity, weight)


def _features(units: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    mixed = torch.randn(units, units, generator=generator)
    noise = torch.randn(2, units, 9, 7, generator=generator)
    return torch.einsum("ck,nkhw->nchw", mixed, noise).double() + 0.5


def _error(features: Tensor, weight: Tensor, sensitivity: Tensor, kept: tuple[int, ...]) -> float:
    """Fit the output of all units with some of them, by least squares: the weighted error left."""
    rows = with_ones(pixels(features))
    wanted = rows[:, :-1] @ weight
    some = rows[:, [*kept, rows.shape[1] - 1]]
    fitted = some @ torch.linalg.lstsq(some, wanted).solution
    return float(((wanted - fitted) @ sensitivity * (wanted - fitted)).sum(dim=1).mean())


def _spread(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 4, generator=generator).double()
    root = torch.randn(4, 4, generator=generator).double()
    return weight, root @ root.T


@pytest.mark.parametrize("size", [1, 2])
def test_told_loss_is_that_of_a_fit_of_the_others(size: int) -> None:
    features, (weight, sensitivity) = _features(), _spread(0)
    units = 6 // size
    order = removal_order(_measured(features, weight, sensitivity), units)
    assert sorted(order.kept) == list(range(units))
    for count, told in enumerate(order.loss):
        kept = tuple(unit * size + i for unit in order.kept[:count] for i in range(size))
        assert told == pytest.approx(
            _error(features, weight, sensitivity, kept), rel=1e-3, abs=1e-4
        )


def test_the_unit_that_costs_least_goes_first() -> None:
    features, (weight, sensitivity) = _features(), _spread(1)
    order = removal_order(_measured(features, weight, sensitivity), 6)
    costs = [
        _error(features, weight, sensitivity, tuple(k for k in range(6) if k != unit))
        for unit in range(6)
    ]
    assert order.kept[-1] == costs.index(min(costs))


def test_a_unit_that_others_replace_costs_nothing() -> None:
    features, (weight, sensitivity) = _features(), _spread(2)
    features[:, 4] = features[:, 1] - 2 * features[:, 3] + 0.25
    order = removal_order(_measured(features, weight, sensitivity), 6)
    assert order.kept[-1] in (1, 3, 4)
    assert order.loss[5] < 1e-4 < order.loss[4]


def test_channels_to_which_the_output_is_blind_cost_nothing() -> None:
    features, (weight, _) = _features(), _spread(2)
    weight[2, 1:] = 0.0
    blind = torch.diag(torch.tensor([0.0, 1.0, 1.0, 1.0])).double()
    assert removal_order(_measured(features, weight, blind), 6).kept[-1] == 2


def _options(losses: list[float]) -> list[Option]:
    return [
        Option(Widths(hidden=8 * i, heads=4, context=8), loss, float(i))
        for i, loss in enumerate(losses)
    ]


@pytest.mark.parametrize("keep", [1.0, 0.8, 0.5, 0.2])
def test_no_choice_of_as_little_work_loses_less(keep: float) -> None:
    # Convex losses: then a price finds every best choice on the way, up to one step of one block.
    options = [_options([9.0, 4.0, 2.0, 1.0, 0.0]), _options([5.0, 1.5, 0.4, 0.1, 0.0])]
    chosen = choose(options, keep)
    work, loss = sum(o.work for o in chosen), sum(o.loss for o in chosen)
    assert work <= keep * 8
    for others in itertools.product(*options):
        if sum(o.work for o in others) <= work:
            assert sum(o.loss for o in others) >= loss
    assert keep < 1 or loss == 0


def test_widths_are_multiples_that_runtimes_like() -> None:
    assert levels(128) == [16, 32, 48, 64, 80, 96, 112, 128]
    assert levels(32) == [8, 16, 24, 32]
    assert levels(10) == [8, 10]


@pytest.mark.parametrize("variant", ["realtime", "stream", "photo", "pro"])
def test_less_width_is_less_work_and_the_first_block_stays(variant: str) -> None:
    hp = tiny_hyperparameters(variant, features=48)
    losses = {"hidden": [1.0] * 97}
    if variant == "stream":
        losses["context"] = [1.0] * 49
    if hp.attention:
        losses["heads"] = [1.0] * 5
    first, second = (options_of(hp, index, losses) for index in (0, 1))
    assert all(option.widths.hidden and option.widths.heads for option in first)
    assert any(option.widths.hidden == 0 for option in second)
    for option in second:
        for field in ("hidden", "heads", "context"):
            wide = getattr(option.widths, field)
            more = [o for o in second if getattr(o.widths, field) > wide]
            others = {
                f: getattr(option.widths, f) for f in ("hidden", "heads", "context") if f != field
            }
            for larger in more:
                if all(getattr(larger.widths, f) == value for f, value in others.items()):
                    assert larger.work >= option.work
    assert work_of(hp, second[-1].widths) == max(option.work for option in second)
