"""Choose the widths of all blocks: the least loss for the work that is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from paragon_export.networks.paragonsr2.v9_v11.layout import (
    HEADS,
    Hyperparameters,
    Widths,
    full_widths,
)
from paragon_export.pruning.statistics import Measured
from paragon_export.pruning.work import work_of

RIDGE = 1e-6
"""Added to Gram matrices, as a share of their mean diagonal: features may depend on each other."""

STEPS = 60
"""Bisections of the price of work."""


@dataclass(frozen=True)
class Order:
    """In which order the units of a branch are removed, and what that costs."""

    kept: tuple[int, ...]
    """Units, those that are removed last first."""
    loss: tuple[float, ...]
    """Mean squared error of the output, with 0, 1, ... units kept."""


def removal_order(measured: Measured, units: int) -> Order:
    """Remove the units of a branch one by one, always the one that costs least.

    The others make up for it: without the columns ``u`` of the features the least squares fit of the
    others leaves the error ``W_u' (G^-1_uu)^-1 W_u`` with the Gram matrix ``G``. It is weighted
    with the sensitivity of the output.

    Args:
        measured: Of the branch.
        units: Number of units, each with the same number of columns of the features.
    """
    weight, gram = measured.weight.clone(), ridged(measured.gram)
    weight = torch.cat((weight, weight.new_zeros(1, weight.shape[1])))  # of the ones
    inverse, size = torch.linalg.inv(gram), len(measured.weight) // units
    left, removed, losses = list(range(units)), [], [0.0]
    while left:
        columns = torch.arange(len(left) * size).reshape(len(left), size)
        own = torch.stack([inverse[rows][:, rows] for rows in columns])
        parts = weight[columns.flatten()].reshape(len(left), size, -1)
        errors = torch.einsum("usc,ust,utd,dc->u", parts, torch.linalg.inv(own), parts,
                              measured.sensitivity)  # fmt: skip
        best = int(errors.argmin())
        rows = columns[best]
        removed.append(left.pop(best))
        losses.append(losses[-1] + float(errors[best]))
        weight, inverse = _without(weight, inverse, rows)
    return Order(tuple(reversed(removed)), tuple(reversed(losses)))


def _without(weight: Tensor, inverse: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Remove columns of the features: return the fitted weights and the inverse Gram matrix."""
    keep = torch.ones(len(inverse), dtype=torch.bool)
    keep[rows] = False
    across = inverse[keep][:, rows] @ torch.linalg.inv(inverse[rows][:, rows])
    fitted = weight[keep] - across @ weight[rows]
    return fitted, inverse[keep][:, keep] - across @ inverse[rows][:, keep]


def ridged(gram: Tensor) -> Tensor:
    """Return a Gram matrix that can be inverted."""
    return gram + RIDGE * gram.diagonal().mean() * torch.eye(len(gram)).double()


@dataclass(frozen=True)
class Option:
    """Widths of one block, what they lose and what work they are."""

    widths: Widths
    loss: float
    work: float


def levels(full: int) -> list[int]:
    """Return the widths to choose from: multiples of 16, or of 8 for narrow maps."""
    step = 16 if full >= 64 and full % 16 == 0 else 8
    return [*range(step, full, step), full]


def options_of(hp: Hyperparameters, index: int, losses: dict[str, Sequence[float]]) -> list[Option]:
    """Return all widths that a block may get.

    The first block keeps a part of everything, since its tensors tell the variant.

    Args:
        hp: Of the network as trained.
        index: Of the block.
        losses: By kind, ``hidden``, ``heads`` or ``context``: the loss with 0, 1, ... units kept.
    """
    full = full_widths(hp.features)
    nothing = [0] if index else []
    hidden = [*nothing, *levels(full.hidden)]
    heads = [*nothing, *range(1, HEADS + 1)] if "heads" in losses else [full.heads]
    contexts = levels(full.context) if "context" in losses else [full.context]
    found = []
    for h, a, k in product(hidden, heads, contexts):
        loss = losses["hidden"][h]
        if "heads" in losses:
            loss += losses["heads"][a]
        if h and "context" in losses:  # without hidden channels nothing reads the context
            loss += losses["context"][k]
        widths = Widths(hidden=h, heads=a, context=k)
        found.append(Option(widths, loss, work_of(hp, widths)))
    return found


def choose(options: Sequence[Sequence[Option]], keep: float) -> list[Option]:
    """Return an option for each block: the least loss with at most a share of the work.

    Each block takes the option with the least ``loss + price * work``; the price is the least at
    which the work is small enough.

    Args:
        options: Of each block.
        keep: Share of the work of the widest options, in (0, 1].
    """
    allowed = keep * sum(max(one.work for one in of_block) for of_block in options)
    low, high = 0.0, 1.0
    while _work(_at(options, high)) > allowed and high < 1e12:
        high *= 4
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if _work(_at(options, middle)) <= allowed else (middle, high)
    return _at(options, high)


def _at(options: Sequence[Sequence[Option]], price: float) -> list[Option]:
    return [min(one, key=lambda option: option.loss + price * option.work) for one in options]


def _work(options: Sequence[Option]) -> float:
    return sum(option.work for option in options)
