"""Reference: a checkpoint in, the untouched PyTorch network that every verdict stands on out."""

from __future__ import annotations

from pathlib import Path

from paragon_export.checkpoints.load import Checkpoint, load_checkpoint
from paragon_export.errors import CheckpointError
from paragon_export.networks.registry import architecture_of
from paragon_export.specs.network import (
    MAX_CHANNELS,
    MAX_FULL_SIZE_VALUES,
    MAX_IMAGE_CHANNELS,
    MAX_KERNEL,
    MAX_OUTPUT_VALUES,
    NetworkSpec,
)
from paragon_export.specs.plans import NetworkOptions

Described = tuple[Checkpoint, NetworkSpec]
"""A checkpoint and the network that it holds."""


def describe(path: Path, options: NetworkOptions) -> Described:
    """Load a checkpoint and work out its network.

    Raises:
        ParagonExportError: If it cannot be loaded, or is none that is served.
    """
    checkpoint = load_checkpoint(path)
    _check_widths(checkpoint)
    spec = architecture_of(checkpoint).describe(checkpoint, options)
    _check_growth(path, spec)
    return checkpoint, spec


def _check_widths(checkpoint: Checkpoint) -> None:
    """Refuse kernels so wide that maps between them would take gigabytes at any size.

    Raises:
        CheckpointError: Naming the first.
    """
    for name, array in checkpoint.tensors.items():
        if array.ndim != 4:
            continue
        if max(array.shape[:2]) > MAX_CHANNELS or max(array.shape[2:]) > MAX_KERNEL:
            raise CheckpointError(
                f"{checkpoint.path}: {name} is {list(array.shape)}; at most {MAX_CHANNELS} "
                f"channels and kernels of {MAX_KERNEL} are served"
            )


def _check_growth(path: Path, spec: NetworkSpec) -> None:
    """Refuse a network whose pictures would take gigabytes: a small file may hold it.

    Raises:
        CheckpointError: Saying what it has too much of.
    """
    channels, area = spec.in_channels, spec.scale**2
    features = getattr(spec.structure.get("hyperparameters"), "features", 0)
    if channels > MAX_IMAGE_CHANNELS or channels * area > MAX_OUTPUT_VALUES:
        what = f"{channels} channels"
    elif features * area > MAX_FULL_SIZE_VALUES:
        what = f"{features} features"
    else:
        return
    raise CheckpointError(
        f"{path}: a network of {what} at a scale of {spec.scale} is larger than any that is served"
    )
