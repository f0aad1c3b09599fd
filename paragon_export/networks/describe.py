"""Reference: a checkpoint in, the untouched PyTorch network that every verdict stands on out."""

from __future__ import annotations

from pathlib import Path

from paragon_export.checkpoints.load import Checkpoint, load_checkpoint
from paragon_export.errors import CheckpointError
from paragon_export.networks.registry import family_of
from paragon_export.specs.network import (
    LARGEST_KERNEL,
    MOST_CHANNELS,
    MOST_LARGE_VALUES,
    MOST_OUTPUT_VALUES,
    MOST_PICTURE_CHANNELS,
    Variant,
)
from paragon_export.specs.plans import Switches

Described = tuple[Checkpoint, Variant]
"""A checkpoint and the network that it holds."""


def describe(path: Path, switches: Switches) -> Described:
    """Load a checkpoint and work out its network.

    Raises:
        ParagonExportError: If it cannot be loaded, or is none that is served.
    """
    checkpoint = load_checkpoint(path)
    _check_widths(checkpoint)
    variant = family_of(checkpoint).describe(checkpoint, switches)
    _check_growth(path, variant)
    return checkpoint, variant


def _check_widths(checkpoint: Checkpoint) -> None:
    """Refuse kernels so wide that maps between them would take gigabytes at any size.

    Raises:
        CheckpointError: Naming the first.
    """
    for name, array in checkpoint.tensors.items():
        if array.ndim != 4:
            continue
        if max(array.shape[:2]) > MOST_CHANNELS or max(array.shape[2:]) > LARGEST_KERNEL:
            raise CheckpointError(
                f"{checkpoint.path}: {name} is {list(array.shape)}; at most {MOST_CHANNELS} "
                f"channels and kernels of {LARGEST_KERNEL} are served"
            )


def _check_growth(path: Path, variant: Variant) -> None:
    """Refuse a network whose pictures would take gigabytes: a small file may hold it.

    Raises:
        CheckpointError: Saying what it has too much of.
    """
    channels, area = variant.in_channels, variant.scale**2
    features = getattr(variant.structure.get("hyperparameters"), "features", 0)
    if channels > MOST_PICTURE_CHANNELS or channels * area > MOST_OUTPUT_VALUES:
        what = f"{channels} channels"
    elif features * area > MOST_LARGE_VALUES:
        what = f"{features} features"
    else:
        return
    raise CheckpointError(
        f"{path}: a network of {what} at a scale of {variant.scale} is larger than any that is "
        "served"
    )
