"""Fit the weights that remain to the network as trained: least squares, layer by layer, no training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.networks.paragonsr2.v9_v11.network import Branch, ParagonSR2
from paragon_export.pruning.statistics import (
    branches_of,
    gain_of,
    pixels,
    with_ones,
)
from paragon_export.system.progress import counted

RIDGE = 1e-5
"""How much weights are held where they are, as a share of the features' mean square."""

LEAST_GAIN = 1e-8
"""Channels with a smaller LayerScale are left as they are."""

Key = tuple[int, str, int]
"""Block of the network as trained, kind of a branch, and how many of the kind came before it."""


@torch.no_grad()
def refit(
    trained: ParagonSR2, smaller: ParagonSR2, blocks: Sequence[int], crops: Sequence[Tensor]
) -> None:
    """Fit the output layer of each branch of ``smaller``, and ``conv_mid``, in place.

    From front to back: with the features that the smaller network itself computes, its map behind a
    branch is fitted to that of the trained network at the place where the next branch begins. So each
    layer makes up for what was removed before and behind it.

    Args:
        trained: Not changed.
        smaller: What was cut from it.
        blocks: For each block of ``smaller`` that of ``trained``.
        crops: Batches (N, 3, H, W), in [0, 1]; sides are multiples of the window.
    """
    wanted, own = ([net.conv_in(x) for x in crops] for net in (trained, smaller))
    ahead = _keyed(trained, range(1 + max(index for index, _, _ in branches_of(trained))))
    kept = list(_keyed(smaller, blocks))
    keys = {key for key, _ in kept}
    pending = next(ahead, None)
    for key, branch in counted("fitting layers", kept):
        passed = False
        while pending and not (passed and pending[0] in keys):
            passed = passed or pending[0] == key
            wanted = [x + pending[1].scale(pending[1].compute(x)) for x in wanted]
            pending = next(ahead, None)
        if branch.features is not None:
            _fit_branch(branch, own, wanted)
        own = [x + branch.scale(branch.compute(x)) for x in own]
    _fit_convolution(smaller.conv_mid, own, [trained.conv_mid(x) for x in wanted])


def _keyed(network: ParagonSR2, blocks: Sequence[int]) -> Iterator[tuple[Key, Branch]]:
    seen: dict[tuple[int, str], int] = {}
    for index, _, branch in branches_of(network):
        kind = blocks[index], branch.kind
        seen[kind] = seen.get(kind, -1) + 1
        yield (*kind, seen[kind]), branch


def _fit_branch(branch: Branch, own: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    layer, gain = branch.output, gain_of(branch, own[0].shape[1])
    assert layer is not None
    assert layer.bias is not None
    assert branch.features is not None
    features = [pixels(branch.features(x)) for x in own]
    gram, product = _normal_equations(
        features, [pixels(t - x) for x, t in zip(own, wanted, strict=True)]
    )
    started = torch.cat((layer.weight.flatten(1), layer.bias[:, None]), dim=1).double()
    fitted = _solve(gram, product, (started * gain[:, None]).T).T
    usable = gain.abs() > LEAST_GAIN
    started[usable] = fitted[usable] / gain[usable, None]
    layer.weight.copy_(started[:, :-1].reshape(layer.weight.shape))
    layer.bias.copy_(started[:, -1])


def _fit_convolution(conv: nn.Conv2d, inputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    """Fit a 3x3 convolution that pads with zeros."""
    patches = (F.unfold(x, 3, padding=1).transpose(1, 2).flatten(0, 1) for x in inputs)
    gram, product = _normal_equations(patches, [pixels(x) for x in wanted])
    assert conv.bias is not None
    started = torch.cat((conv.weight.flatten(1), conv.bias[:, None]), dim=1).double()
    fitted = _solve(gram, product, started.T).T
    conv.weight.copy_(fitted[:, :-1].reshape(conv.weight.shape))
    conv.bias.copy_(fitted[:, -1])


def _normal_equations(
    features: Iterable[Tensor], targets: Iterable[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the mean products of features (pixels, K) and ones with themselves and with targets."""
    grams, products = [], []
    for some, target in zip(features, targets, strict=True):
        rows = with_ones(some)
        grams.append((rows.T @ rows).double() / len(rows))
        products.append((rows.T @ target).double() / len(rows))
    return torch.stack(grams).mean(dim=0), torch.stack(products).mean(dim=0)


def _solve(gram: Tensor, product: Tensor, started: Tensor) -> Tensor:
    """Return the weights of least squared error, close to those at the start where it does not matter."""
    held = RIDGE * gram.diagonal().mean() * torch.eye(len(gram)).double()
    return started + torch.linalg.solve(gram + held, product - gram @ started)
