"""What all generations have in common: a checkpoint must hold its network's tensors exactly."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping

from paragon_export.checkpoints.load import Checkpoint, listing
from paragon_export.errors import CheckpointError, PlanError
from paragon_export.specs.network import MAX_SCALE
from paragon_export.specs.plans import NetworkOptions

Shapes = Mapping[str, tuple[int, ...]]

MAX_BLOCKS = 256
"""Of a network; trained ones have 144 at most."""

NOT_FLOATING = ("relative_position_index", "tracked_initialized")
"""Tensors that hold whole numbers or a flag, by the last part of their name."""


def shapes_in(checkpoint: Checkpoint, ignored: Collection[str]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors but those whose last name is ignored."""
    found = checkpoint.tensors.items()
    return {n: a.shape for n, a in found if n.rpartition(".")[2] not in ignored}


def dims(shapes: Shapes, name: str, rank: int) -> tuple[int, ...]:
    """Return the shape of a tensor.

    Raises:
        CheckpointError: If it is missing or has another rank.
    """
    shape = shapes.get(name)
    if shape is None or len(shape) != rank or 0 in shape:
        found = "missing" if shape is None else f"of shape {list(shape)}"
        raise CheckpointError(f"{name} is {found}; expected {rank} dimensions")
    return shape


def counted(shapes: Shapes, pattern: re.Pattern[str]) -> tuple[int, int]:
    """Return how many groups and blocks there are.

    Counted, not the largest index: a stray name must not conjure up a billion blocks.

    Raises:
        CheckpointError: If there cannot be as many, because each has tensors of its own.
    """
    indices = [match for name in shapes if (match := pattern.match(name))]
    groups, blocks = (len({m[what] for m in indices}) for what in ("group", "block"))
    if groups * blocks > len(shapes):
        raise CheckpointError(
            f"{groups} groups of {blocks} blocks are named and there are {len(shapes)} tensors"
        )
    if groups * blocks > MAX_BLOCKS:
        raise CheckpointError(
            f"{groups} groups of {blocks} blocks; served are {MAX_BLOCKS} blocks at most"
        )
    return groups, blocks


def square_root(shapes: Shapes, name: str, features: int) -> int:
    """Return the scale of a convolution before a shuffle.

    Raises:
        CheckpointError: If its rows are no square number of times the features.
    """
    rows = dims(shapes, name, 4)[0]
    scale = math.isqrt(rows // features)
    if scale < 1 or scale * scale * features != rows:
        raise CheckpointError(
            f"{name} has {rows} rows: not a square number of times the {features} features"
        )
    if scale > MAX_SCALE:
        raise CheckpointError(f"{name} has {rows} rows, for a scale of {scale}; served is up to 16")
    return scale


def check_layout(
    checkpoint: Checkpoint, found: Shapes, expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse a checkpoint whose tensors are not exactly those of the network.

    Raises:
        CheckpointError: Listing missing, extra and wrongly shaped tensors.
    """
    missing = sorted(set(expected) - set(found))
    extra = sorted(set(found) - set(expected))
    wrong = [
        f"{name} is {list(found[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        # A scalar may come as one element, as PyTorch itself accepts it.
        if name in found and found[name] not in (shape, shape or (1,))
    ]
    wrong += [
        f"{name} holds {checkpoint.tensors[name].dtype}, expected floating point"
        for name in expected
        if name in found
        and name.rpartition(".")[2] not in NOT_FLOATING
        and checkpoint.tensors[name].dtype.kind != "f"
    ]
    faults = {"missing": missing, "unexpected": extra, "wrong": wrong}
    told = [f"{len(names)} {kind}: {listing(names)}" for kind, names in faults.items() if names]
    if told:
        raise CheckpointError(
            f"{checkpoint.path} does not hold the tensors of its network; {'; '.join(told)}"
        )


def check_scale(options: NetworkOptions, told: int) -> None:
    """Refuse a scale that contradicts the tensors.

    Raises:
        PlanError: If a flag names another scale than the tensors tell.
    """
    asked = options.flags.get("scale", told)
    if asked != told:
        raise PlanError(
            f"--scale {asked}, but the checkpoint's tensors say {told}; leave --scale out"
        )
