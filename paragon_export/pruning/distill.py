"""Distill: train a smaller variant on what a network makes of photographs, and on the photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from paragon_export.engines.kernels.cards import find_card
from paragon_export.errors import PlanError, UnsupportedNetworkError
from paragon_export.networks.describe import LoadedNetwork, load_network
from paragon_export.networks.layers import LayerScale
from paragon_export.networks.paragonsr2.v9_v11.layout import WINDOW_SIZE, Hyperparameters
from paragon_export.networks.paragonsr2.v9_v11.network import ParagonSR2
from paragon_export.pruning.pictures import Photographs, pair_of, read_photographs
from paragon_export.pruning.report import SmallerResult, Target, judged, written
from paragon_export.pruning.train import (
    PATCH,
    Piece,
    Training,
    checked,
    settings_of,
    taught,
    train,
)
from paragon_export.specs.network import NetworkSpec, Task
from paragon_export.system.atomic_write import check_writable
from paragon_export.system.progress import counted

SIZES = {"realtime": (16, 1, 3), "stream": (32, 2, 3), "photo": (64, 4, 4)}
"""Features, groups and blocks of a group, as published."""

PIECE_PX = 192
"""Largest side of a piece of a photograph, of the network's input: what a teacher computes at once."""

SHARP = np.array([-1, 0, 9, 16, 9, 0, -1], np.float32) / 32
BLUR = np.array([1, 4, 6, 4, 1], np.float32) / 16
"""The frozen filters of the base."""


def distill(
    teacher: LoadedNetwork | str | Path,
    output: str | Path,
    *,
    to: str,
    data: str | Path,
    training: Training,
    card: str = "3060",
    named: bool = True,
) -> SmallerResult:
    """Train a smaller variant, measure it and its teacher, and write it.

    Args:
        teacher: An image network for RGB, or its checkpoint.
        output: The file to write. ``OUTPUT.training`` holds the state of a training that was
            stopped; the same call goes on from there.
        to: realtime, stream or photo.
        data: Folder of photographs. Three quarters are trained on, the rest is judged on.
        training: Minutes or steps, seed, share of the teacher.
        card: Graphics card that an engine's time is estimated for.
        named: Whether the user chose ``output``. If not, no file is replaced.

    Returns:
        The result; the teacher's figures are those before.

    Raises:
        ParagonExportError: If a step could not run; the output is not written then.
    """
    loaded = teacher if isinstance(teacher, LoadedNetwork) else load_network(teacher)
    if to not in SIZES:
        raise PlanError(f"--to {to}: choose from {', '.join(SIZES)}")
    spec, target = _of_rgb(loaded), Target(Path(output), find_card(card).name)
    check_writable(target.output, loaded.checkpoint.path, named=named)
    photographs = read_photographs(Path(data))
    hp = published(to, spec.scale)
    run = checked(training, target.output, [loaded.checkpoint.sha256, to, photographs.digest])
    network = new_network(hp, training.seed)
    train(network, pieces_of(loaded.module, photographs, spec.scale, run), spec.scale, run)
    made = {"to": to, **settings_of(training)}
    return finished(judged(loaded, network, hp, photographs, target, made), run)


def _of_rgb(teacher: LoadedNetwork) -> NetworkSpec:
    spec, path = teacher.spec, teacher.checkpoint.path
    if spec.task is not Task.IMAGE:
        raise UnsupportedNetworkError(
            f"{path} makes no pictures; distill needs a network that does"
        )
    if (spec.in_channels, spec.out_channels) != (3, 3):
        raise UnsupportedNetworkError(
            f"{path} has {spec.in_channels} to {spec.out_channels} channels; distill is for RGB"
        )
    return spec


def finished(result: SmallerResult, run: Training) -> SmallerResult:
    """Write a trained network if it passed, and remove the state of the training."""
    written(result)
    if result.passed and run.state is not None:
        run.state.unlink(missing_ok=True)
    return result


def published(variant: str, scale: int) -> Hyperparameters:
    """Return the hyperparameters of a variant in its published size, v11."""
    features, groups, blocks = SIZES[variant]
    return Hyperparameters(
        variant=variant, scale=scale, in_channels=3, features=features, groups=groups,
        blocks=blocks, attention=variant == "photo", layer_scale=variant != "photo",
        window_size=WINDOW_SIZE, upsampler_alpha=0.0,
    )  # fmt: skip


def new_network(hp: Hyperparameters, seed: int) -> ParagonSR2:
    """Return a network with random weights, ready for a short training: its gains are 1."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        network = ParagonSR2(hp)
        for name, taps in (("sharp", SHARP), ("blur", BLUR)):
            for conv in getattr(network.base, name).children():
                conv.weight.copy_(torch.from_numpy(taps).reshape(conv.weight.shape[2:]))
        network.detail_gain.fill_(1.0)
        for layer in network.modules():
            if isinstance(layer, LayerScale):
                layer.gamma.fill_(1.0)
    return network.requires_grad_(False)


def pieces_of(
    teacher: nn.Module, photographs: Photographs, scale: int, training: Training
) -> list[Piece]:
    """Cut the photographs to train on into pieces, with what the teacher makes of each.

    Raises:
        PlanError: If none is as large as a patch.
    """
    cut: list[np.ndarray] = []
    side = PIECE_PX * scale
    for image in photographs.fitted:
        for top in range(0, image.shape[0], side):
            for left in range(0, image.shape[1], side):
                part = image[top : top + side, left : left + side]
                height, width = (n // scale * scale for n in part.shape[:2])
                if min(height, width) >= PATCH * scale:
                    cut.append(part[:height, :width])
    if not cut:
        raise PlanError(
            f"no photograph to train on is {PATCH * scale} pixels high and wide; give larger ones"
        )
    pairs = [pair_of(part, scale) for part in cut]
    if training.teacher_share == 0:
        return [Piece(pair.small, pair.large, pair.large) for pair in pairs]
    teacher.to(training.device)
    found = [
        Piece(pair.small, pair.large, taught(teacher, pair.small, training.device))
        for pair in counted("asking the teacher", pairs)
    ]
    teacher.to("cpu")
    return found
