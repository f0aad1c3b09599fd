"""Load a checkpoint, determine its network and build the unmodified PyTorch module."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paragon_export.checkpoints.load import Checkpoint, load_checkpoint
from paragon_export.errors import CheckpointError, PlanError
from paragon_export.networks.options import FLAGS, notes_on_option_file
from paragon_export.networks.registry import architecture_named, architecture_of
from paragon_export.specs.network import (
    MAX_CHANNELS,
    MAX_FULL_SIZE_VALUES,
    MAX_IMAGE_CHANNELS,
    MAX_KERNEL,
    MAX_OUTPUT_VALUES,
    NetworkSpec,
)
from paragon_export.specs.plans import NetworkOptions

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class LoadedNetwork:
    """A checkpoint that was read once, and the network that it holds."""

    checkpoint: Checkpoint
    spec: NetworkSpec
    options: NetworkOptions = field(default_factory=NetworkOptions)
    """As the user gave them; ``spec.options`` holds what they resolved to."""

    @cached_property
    def module(self) -> nn.Module:
        """The network as trained: float32, eval mode, on the CPU. Do not change it.

        It maps an image (N, C, H, W), RGB in [0, 1], to (N, C, s*H, s*W) with the upscaling
        factor s; other tasks are described by :class:`~paragon_export.specs.network.Task`.

        Raises:
            PlanError: If an option that the tensors do not determine was not given.
        """
        return self.build()

    def build(self, *, video: bool = False) -> nn.Module:
        """Return a new module; ``video`` adds ``prev_feat`` and ``alpha`` and ``feature_map``.

        Raises:
            PlanError: As :attr:`module`, or if the network has no temporal input.
        """
        if self.spec.needs:
            raise PlanError(
                f"{self.checkpoint.path}: the tensors of a {self.spec.architecture} "
                f"{self.spec.generation} network do not tell {'; nor '.join(self.spec.needs)}"
            )
        architecture = architecture_named(self.spec.architecture)
        return architecture.build(self.spec, self.checkpoint, video=video)

    def with_options(self, options: NetworkOptions) -> LoadedNetwork:
        """Return the same checkpoint with other options, without reading the file again.

        Raises:
            PlanError: If an option is impossible or contradicts the tensors.
        """
        return describe(self.checkpoint, options)


def load_network(
    path: str | Path, *, config: str | Path | None = None, **options: Any
) -> LoadedNetwork:
    """Load a checkpoint and determine the network that it holds.

    Args:
        path: A ``.safetensors``, ``.pth`` or ``.pt`` file, or the index of several shards.
        config: The trainer's option file, if there is one.
        options: What the tensors do not determine, as ``upsampler_alpha=0.0`` or ``window_size=16``;
            the names are those of the command line's options, with underscores.

    Returns:
        The network. Its ``module`` is built when it is first used.

    Raises:
        PlanError: If an option does not exist, is impossible, or contradicts the tensors.
        CheckpointError: If the file cannot be read or is damaged.
        UnsupportedNetworkError: If no architecture has these tensors.

    Example:
        >>> from paragon_export.assets import CHECKPOINT
        >>> network = load_network(CHECKPOINT, upsampler_alpha=0.0)
        >>> network.spec.architecture, network.spec.variant, network.spec.scale
        ('ParagonSR2', 'realtime', 2)
    """
    unknown = sorted(set(options) - set(FLAGS))
    if unknown:
        raise PlanError(f"unknown option {unknown[0]}; choose from {', '.join(FLAGS)}")
    given = NetworkOptions(flags=options, config=None if config is None else Path(config))
    return read_network(Path(path), given)


def read_network(path: Path, options: NetworkOptions) -> LoadedNetwork:
    """Load a checkpoint and determine its network.

    Raises:
        ParagonExportError: As :func:`load_network`.
    """
    return describe(load_checkpoint(path), options)


def describe(checkpoint: Checkpoint, options: NetworkOptions) -> LoadedNetwork:
    """Determine the network that a checkpoint holds.

    Raises:
        ParagonExportError: As :func:`load_network`.
    """
    _check_widths(checkpoint)
    spec = architecture_of(checkpoint).describe(checkpoint, options)
    if checkpoint.also_in_file:
        others = " and ".join(checkpoint.also_in_file)
        note = f"the weights are those of {checkpoint.container}; {others} of the file are not used"
        spec = replace(spec, notes=(note, *spec.notes))
    if options.config:
        spec = replace(spec, notes=(*notes_on_option_file(options.config), *spec.notes))
    _check_growth(checkpoint.path, spec)
    return LoadedNetwork(checkpoint=checkpoint, spec=spec, options=options)


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
                f"channels and kernels of {MAX_KERNEL} are supported"
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
        f"{path}: a network of {what} at a scale of {spec.scale} is larger than any that is supported"
    )
