"""What is measured of a network on photographs: features, and what an error costs at the output.

An error ``e`` of the map behind a branch changes the output by ``J e``. The mean of ``|J e|^2`` is
``trace(S E)`` with the covariance ``E`` of the error over channels and ``S`` that of the gradients of
random projections of the output; errors of different pixels are taken to be independent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paragon_export.media.images import LUMA
from paragon_export.networks.paragonsr2.v9_v11.network import Block, Branch, ParagonSR2, StreamBlock
from paragon_export.system.progress import counted


@dataclass
class Measured:
    """Sums over the pixels of all crops, for one branch of one block."""

    block: int
    kind: str
    gram: Tensor
    """(K + 1, K + 1), float64: of the features and a channel of ones, mean over pixels."""
    sensitivity: Tensor
    """(C, C), float64: S of the map behind the branch."""
    weight: Tensor
    """(K, C), float64: what makes the branch of the features, the gain included."""
    context: Tensor | None = None
    """Gram matrix of stream's context and a channel of ones, as ``gram``."""
    factors: Tensor | None = None
    """(2 K): mean squares of stream's two factors."""


def branches_of(network: ParagonSR2) -> Iterator[tuple[int, Block, Branch]]:
    """Yield the branches of all blocks in order, with the index of the block and the block."""
    blocks = [module for module in network.body.modules() if isinstance(module, Block)]
    for index, block in enumerate(blocks):
        for branch in block.branches():
            yield index, block, branch


def gain_of(branch: Branch, channels: int) -> Tensor:
    """Return the gain of a branch, (channels), float64."""
    gamma = getattr(branch.scale, "gamma", None)
    return torch.ones(channels).double() if gamma is None else gamma.detach().flatten().double()


def matrix_of(branch: Branch) -> Tensor:
    """Return the weights of a branch's output layer, (C, K), float64."""
    assert branch.output is not None
    return branch.output.weight.detach().flatten(1).double()


def pixels(x: Tensor) -> Tensor:
    """Return the values of a map (N, C, H, W) as (pixels, C)."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def with_ones(rows: Tensor) -> Tensor:
    """Return rows with a last column of ones."""
    return torch.cat((rows, rows.new_ones(len(rows), 1)), dim=1)


def gram_of(x: Tensor) -> Tensor:
    """Return the mean of products of channels, with one of ones, over a map's pixels, float64."""
    rows = with_ones(pixels(x))
    return (rows.T @ rows).double() / len(rows)


SUMMED = ("gram", "sensitivity", "context", "factors")


def measure(network: ParagonSR2, crops: Sequence[Tensor], seed: int) -> list[Measured]:
    """Measure all branches that have a width, in their order.

    Args:
        network: Not changed.
        crops: Batches (N, 3, H, W) of one shape.
        seed: Of the random projections.
    """
    generator = torch.Generator().manual_seed(seed)
    sums: list[Measured] = []
    for x in counted("measuring features", crops):
        found = _of_batch(network, x, generator)
        for total, one in zip(sums, found, strict=bool(sums)):
            for name in SUMMED:
                if (more := getattr(one, name)) is not None:
                    setattr(total, name, getattr(total, name) + more)
        sums = sums or found
    for total in sums:
        for name in SUMMED:
            if (summed := getattr(total, name)) is not None:
                setattr(total, name, summed / len(crops))
    return sums


def _of_batch(network: ParagonSR2, x: Tensor, generator: torch.Generator) -> list[Measured]:
    found: list[Measured] = []
    behind: list[Tensor] = []
    with torch.enable_grad():
        state = network.conv_in(x).requires_grad_()
        for index, block, branch in branches_of(network):
            before, state = state, state + branch.scale(branch.compute(state))
            if branch.features is not None:
                found.append(_of_branch(index, block, branch, before.detach()))
                behind.append(state)
        detail = network.detail_gain * network.conv_out(network.up(network.conv_mid(state)))
        luma = (detail * torch.tensor(LUMA[: detail.shape[1]])[:, None, None]).sum(dim=1)
        signs = torch.randint(0, 2, luma.shape, generator=generator) * 2 - 1
        gradients = torch.autograd.grad((luma * signs).sum(), behind)
    for one, gradient in zip(found, gradients, strict=True):
        rows = pixels(gradient).double()
        one.sensitivity = rows.T @ rows / len(rows)
    return found


@torch.no_grad()
def _of_branch(index: int, block: Block, branch: Branch, x: Tensor) -> Measured:
    """Measure a branch on the map before it; its sensitivity is not known yet."""
    assert branch.features is not None
    matrix = matrix_of(branch)
    one = Measured(
        block=index,
        kind=branch.kind,
        gram=gram_of(branch.features(x)),
        sensitivity=torch.empty(0),
        weight=(matrix * gain_of(branch, len(matrix))[:, None]).T,
    )
    if isinstance(block, StreamBlock):
        context = block.context(x)
        one.context = gram_of(context)
        one.factors = block.gate(block.proj(context)).double().square().mean(dim=(0, 2, 3))
    return one
