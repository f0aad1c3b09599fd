"""Prune a network of ParagonSR2: remove what matters least, fit the rest, and measure the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paragon_export.engines.kernels.cards import find_card
from paragon_export.errors import PlanError, UnsupportedNetworkError
from paragon_export.networks.describe import LoadedNetwork, load_network
from paragon_export.networks.paragonsr2.v9_v11.layout import (
    HEADS,
    Hyperparameters,
    Widths,
    block_prefix,
)
from paragon_export.networks.paragonsr2.v9_v11.network import ParagonSR2
from paragon_export.pruning.choose import Option, Order, choose, options_of, removal_order
from paragon_export.pruning.distill import finished, pieces_of
from paragon_export.pruning.pictures import Photographs, batch, read_photographs
from paragon_export.pruning.refit import refit
from paragon_export.pruning.report import MAX_LOSS_DB, SmallerResult, Target, judged, written
from paragon_export.pruning.statistics import Measured, measure
from paragon_export.pruning.surgery import context_loss, cut
from paragon_export.pruning.train import Training, check_seed, checked, settings_of, train
from paragon_export.system.atomic_write import check_writable

CROPS = 40
"""Crops of photographs that are fitted on, of all together; at least one of each."""

CROP_PX = 64
"""Least side of a crop of the network's input; a multiple of the attention window is taken."""

FINETUNE_RATE = 5e-4
"""Highest learning rate of a training of what remains."""

BATCH = 2
"""Crops that are computed at once."""


@dataclass(frozen=True)
class Fitting:
    """The photographs, and the crops of them that are fitted on."""

    photographs: Photographs
    crops: list[Tensor]
    """Batches (N, 3, H, W)."""


def prune(
    network: LoadedNetwork | str | Path,
    output: str | Path,
    *,
    data: str | Path,
    keep: float = 0.7,
    seed: int = 0,
    finetune: Training | None = None,
    card: str = "3060",
    accept_loss: bool = False,
    named: bool = True,
) -> SmallerResult:
    """Prune a network, measure the loss on photographs, and write it if that is small.

    Args:
        network: A Realtime, Stream, Photo or Pro network, v9 to v11, or its checkpoint.
        output: The ``.safetensors`` file to write.
        data: Folder of photographs. Three quarters are fitted on, the rest is judged on.
        keep: Share of the work of the blocks that is kept, in (0, 1].
        seed: Of crops and random projections. The same arguments give the same bytes.
        finetune: A training of what remains; the network as trained is its teacher.
        card: Graphics card that an engine's time is estimated for.
        accept_loss: Write the file whatever it loses.
        named: Whether the user chose ``output``. If not, no file is replaced.

    Returns:
        The result; the file was written only if ``passed``.

    Raises:
        ParagonExportError: If a step could not run; the output is not written then.
    """
    loaded = network if isinstance(network, LoadedNetwork) else load_network(network)
    if not 0 < keep <= 1:
        raise PlanError(f"--keep {keep:g}: give a share above 0 and at most 1")
    check_seed(seed)
    limit = None if accept_loss else MAX_LOSS_DB
    target = Target(Path(output), find_card(card).name, limit)
    check_writable(target.output, loaded.checkpoint.path, named=named)
    result, run = _made(loaded, target, Path(data), keep, seed, finetune)
    return written(result) if run is None else finished(result, run)


def _made(
    source: LoadedNetwork,
    target: Target,
    data: Path,
    keep: float,
    seed: int,
    finetune: Training | None,
) -> tuple[SmallerResult, Training | None]:
    """Prune a network and judge it; return the training of what remains as well, if there was one."""
    hp, photographs = prunable(source), read_photographs(data)
    run = None
    if finetune is not None:
        parts = [source.checkpoint.sha256, keep, seed, photographs.digest]
        run = checked(finetune, target.output, parts)
    module = _module(source)
    smaller, shape = pruned(module, hp, fitting_of(hp, photographs, seed), keep, seed)
    made: dict[str, Any] = {"keep": keep, "seed": seed}
    if run is not None:
        train(smaller, pieces_of(module, photographs, hp.scale, run), hp.scale, run)
        made["finetune"] = settings_of(run)
    return judged(source, smaller, shape, photographs, target, made), run


def prunable(network: LoadedNetwork) -> Hyperparameters:
    """Return the hyperparameters of a network that can be pruned.

    Raises:
        UnsupportedNetworkError: If it is of another architecture or generation, was pruned before, or
            does not take RGB.
    """
    spec = network.spec
    hp = spec.structure.get("hyperparameters")
    if not isinstance(hp, Hyperparameters):
        kind = f"{spec.architecture} {spec.generation} {spec.variant}".strip()
        raise UnsupportedNetworkError(
            f"{network.checkpoint.path} is a {kind} network; prune is for Realtime, Stream, Photo and "
            "Pro of ParagonSR2 v9 to v11"
        )
    if hp.widths:
        raise UnsupportedNetworkError(
            f"{network.checkpoint.path} was pruned before; prune the network it was made from"
        )
    if hp.in_channels != 3:
        raise UnsupportedNetworkError(
            f"{network.checkpoint.path} has {hp.in_channels} to {hp.in_channels} channels; "
            "prune is for RGB"
        )
    return hp


def _module(network: LoadedNetwork) -> ParagonSR2:
    module = network.module
    assert isinstance(module, ParagonSR2)
    return module


def fitting_of(hp: Hyperparameters, photographs: Photographs, seed: int) -> Fitting:
    """Cut the crops that a network is fitted on.

    Raises:
        PlanError: If no photograph is large enough.
    """
    window = hp.window_size if hp.attention else 1
    side = -(-CROP_PX // window) * window
    pairs = list(photographs.crops(hp.scale, side, CROPS, seed))
    if not pairs:
        raise PlanError(
            f"no photograph to fit on is {side * hp.scale} pixels high and wide; give larger ones"
        )
    parts = [pairs[start : start + BATCH] for start in range(0, len(pairs), BATCH)]
    return Fitting(
        photographs, [torch.from_numpy(batch([p.small for p in part])) for part in parts]
    )


def pruned(
    network: ParagonSR2, hp: Hyperparameters, fitting: Fitting, keep: float, seed: int
) -> tuple[ParagonSR2, Hyperparameters]:
    """Return a smaller network and its hyperparameters; see :func:`prune`."""
    found = measure(network, fitting.crops, seed)
    return pruned_by(network, hp, fitting, keep, {(one.block, one.kind): one for one in found})


def pruned_by(
    network: ParagonSR2,
    hp: Hyperparameters,
    fitting: Fitting,
    keep: float,
    measured: Mapping[tuple[int, str], Measured],
) -> tuple[ParagonSR2, Hyperparameters]:
    """Return a network that was pruned by what was measured, and its hyperparameters."""
    orders = {
        key: removal_order(one, HEADS if key[1] == "heads" else len(one.weight))
        for key, one in measured.items()
    }
    options = _options(network, hp, orders, measured)
    widths: list[Widths] = [one.widths for one in choose(options, keep)]
    smaller, shape, blocks = cut(network, hp, widths, orders, measured)
    refit(network, smaller, blocks, fitting.crops)
    return smaller, shape


def _options(
    network: ParagonSR2,
    hp: Hyperparameters,
    orders: Mapping[tuple[int, str], Order],
    measured: Mapping[tuple[int, str], Measured],
) -> list[Sequence[Option]]:
    state = network.state_dict()
    options: list[Sequence[Option]] = []
    for index in range(hp.groups * hp.blocks):
        losses: dict[str, Sequence[float]] = {
            kind: order.loss for (block, kind), order in orders.items() if block == index
        }
        if hp.variant == "stream":
            prefix = block_prefix(hp, index)
            losses["context"] = context_loss(state, prefix, measured[index, "hidden"])
        options.append(options_of(hp, index, losses))
    return options
