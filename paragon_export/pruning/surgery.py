"""Cut a network's tensors to other widths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from paragon_export.networks.paragonsr2.v9_v11.layout import (
    HEADS,
    Hyperparameters,
    Widths,
    block_prefix,
    expected_shapes,
    full_widths,
)
from paragon_export.networks.paragonsr2.v9_v11.network import ParagonSR2
from paragon_export.pruning.choose import Order, ridged
from paragon_export.pruning.statistics import Measured

SEPARABLE = ("realtime", "stream")
"""Variants whose empty blocks are left out: they have no windows that blocks shift in turn."""

ROUNDING = 1e-6
"""Share of a mean square that is taken for rounding error of a variance."""

LEAST_VARIANCE = 1e-30
"""Variance of channels that are zero."""


def cut(
    network: ParagonSR2,
    hp: Hyperparameters,
    widths: list[Widths],
    orders: Mapping[tuple[int, str], Order],
    measured: Mapping[tuple[int, str], Measured],
) -> tuple[ParagonSR2, Hyperparameters, list[int]]:
    """Return a network of other widths with the tensors that remain.

    Args:
        network: The network as trained.
        hp: Its hyperparameters.
        widths: Of each block.
        orders: For each block and kind of width, which units are kept first.
        measured: What was measured of them.

    Returns:
        The network, its hyperparameters, and for each of its blocks the index of the original one.
    """
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for index, to in enumerate(widths):
        prefix = block_prefix(hp, index)
        if hp.variant == "stream" and to.hidden and to.context < hp.features:
            _compress_context(state, prefix, measured[index, "hidden"], to.context)
        if to.hidden and to.hidden < 2 * hp.features:
            keep = _sorted(orders[index, "hidden"], to.hidden)
            (_cut_product if hp.variant == "stream" else _cut_mix)(state, prefix, keep)
        if 0 < to.heads < HEADS and hp.attention:
            keep = _sorted(orders[index, "heads"], to.heads)
            name = "attn" if hp.variant == "photo" else "window_attn"
            _cut_heads(state, f"{prefix}{name}.", keep, hp.features // HEADS)
    blocks = list(range(len(widths)))
    if hp.variant in SEPARABLE:
        blocks = [index for index in blocks if widths[index].hidden]
    smaller = shape(hp, [widths[index] for index in blocks])
    result = ParagonSR2(smaller)
    result.load_state_dict(_renamed(state, hp, smaller, blocks))
    return result.requires_grad_(False).eval(), smaller, blocks


def _renamed(
    state: Mapping[str, Tensor], hp: Hyperparameters, smaller: Hyperparameters, blocks: list[int]
) -> dict[str, Tensor]:
    """Return the tensors of the blocks that remain, and of all else, by their new names."""
    renamed = {name: tensor for name, tensor in state.items() if not name.startswith("body.")}
    for new, old in enumerate(blocks):
        before, after = block_prefix(hp, old), block_prefix(smaller, new)
        renamed |= {after + n[len(before) :]: t for n, t in state.items() if n.startswith(before)}
    return {name: renamed[name] for name in expected_shapes(smaller)}


def shape(hp: Hyperparameters, widths: list[Widths]) -> Hyperparameters:
    """Return the hyperparameters of a network with blocks of these widths.

    They are those of an ordinary network where all blocks are as wide as trained.
    """
    if len(widths) < hp.groups * hp.blocks:
        hp = replace(hp, groups=1, blocks=len(widths))
    pruned = any(one != full_widths(hp.features) for one in widths)
    return replace(hp, widths=tuple(widths) if pruned else ())


def _sorted(order: Order, count: int) -> Tensor:
    return torch.tensor(sorted(order.kept[:count]))


def _rows(state: dict[str, Tensor], name: str, keep: Tensor) -> None:
    for leaf in ("weight", "bias"):
        state[f"{name}.{leaf}"] = state[f"{name}.{leaf}"][keep]


def _columns(state: dict[str, Tensor], name: str, keep: Tensor) -> None:
    state[f"{name}.weight"] = state[f"{name}.weight"][:, keep]


def _cut_mix(state: dict[str, Tensor], prefix: str, keep: Tensor) -> None:
    _rows(state, f"{prefix}conv1", keep)
    _rows(state, f"{prefix}dw", keep)
    _columns(state, f"{prefix}conv2", keep)


def _cut_product(state: dict[str, Tensor], prefix: str, keep: Tensor) -> None:
    both = torch.cat((keep, keep + len(state[f"{prefix}proj.weight"]) // 2))
    _rows(state, f"{prefix}proj", both)
    _rows(state, f"{prefix}gate", both)
    _columns(state, f"{prefix}out", keep)


def _cut_heads(state: dict[str, Tensor], prefix: str, keep: Tensor, width: int) -> None:
    channels = (keep[:, None] * width + torch.arange(width)).flatten()
    inner = state[f"{prefix}proj.weight"].shape[1]
    _rows(state, f"{prefix}qkv", torch.cat([channels + part * inner for part in range(3)]))
    _columns(state, f"{prefix}proj", channels)


def context_loss(state: Mapping[str, Tensor], prefix: str, measured: Measured) -> list[float]:
    """Return the mean squared error of the output with 0, 1, ... context channels kept."""
    _, values, _ = _spectrum(state, prefix, measured)
    squares = values.square().flip(0)
    return [*squares.cumsum(0).flip(0).tolist(), 0.0]


def _spectrum(
    state: Mapping[str, Tensor], prefix: str, measured: Measured
) -> tuple[Tensor, Tensor, Tensor]:
    """Decompose what the projection makes of the context, weighted by what it does to the output.

    Returns:
        ``U`` (context, rank) that compresses the context, less its mean, the square roots of what
        each rank contributes to the mean squared error, and what expands it, (rank, context).
    """
    assert measured.context is not None
    assert measured.factors is not None
    c = len(measured.context) - 1
    mean = measured.context[-1, :c]
    covariance = ridged(measured.context[:c, :c] - torch.outer(mean, mean))
    root = _root(covariance, measured.context[:c, :c].diagonal().mean())
    taps = state[f"{prefix}gate.weight"].double().flatten(1).square().sum(dim=1)
    cost = torch.einsum("kc,cd,kd->k", measured.weight, measured.sensitivity, measured.weight)
    other = measured.factors.roll(len(cost))
    rows = (taps * other * cost.repeat(2)).sqrt()
    matrix = rows[:, None] * state[f"{prefix}proj.weight"].double()[:, :, 0, 0] @ root
    _, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return torch.linalg.solve_triangular(root.T, right.T, upper=True), values, right @ root.T


def _root(covariance: Tensor, square: Tensor) -> Tensor:
    """Return the Cholesky factor of a covariance.

    Of channels that are constant only the rounding error of the sums is left, which may be negative:
    their variance is set to a small share of the mean square.
    """
    root, failed = torch.linalg.cholesky_ex(covariance)
    held = torch.eye(len(covariance)).double() * (ROUNDING * square).clamp(min=LEAST_VARIANCE)
    while failed and held.isfinite().all():
        root, failed = torch.linalg.cholesky_ex(covariance + held)
        held *= 10
    return root


def _compress_context(state: dict[str, Tensor], prefix: str, measured: Measured, rank: int) -> None:
    """Give stream's context fewer channels: the best ones for the product, with the mean exact."""
    assert measured.context is not None
    into, _, back = _spectrum(state, prefix, measured)
    into, back = into[:, :rank].T, back[:rank].T
    mean = measured.context[-1, :-1]
    fuse, proj = (state[f"{prefix}{name}.weight"].double()[:, :, 0, 0] for name in ("fuse", "proj"))
    bias = state[f"{prefix}proj.bias"].double() + proj @ (mean - back @ (into @ mean))
    changed = {
        "fuse.weight": (into @ fuse)[:, :, None, None],
        "fuse.bias": into @ state[f"{prefix}fuse.bias"].double(),
        "proj.weight": (proj @ back)[:, :, None, None],
        "proj.bias": bias,
    }
    state.update({prefix + name: tensor.float() for name, tensor in changed.items()})
