"""Reference: a checkpoint in, the untouched PyTorch network that every verdict stands on out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from paragon_export.checkpoint import Checkpoint, load_checkpoint
from paragon_export.errors import CheckpointError, PlanError
from paragon_export.families import family_named, family_of
from paragon_export.isolated import open_runner
from paragon_export.metrics import Difference, difference
from paragon_export.plan import Size, Switches
from paragon_export.probes import photograph_crop
from paragon_export.runners import Runner, TorchRunner
from paragon_export.variant import (
    LARGEST_KERNEL,
    MOST_CHANNELS,
    MOST_LARGE_VALUES,
    MOST_OUTPUT_VALUES,
    MOST_PICTURE_CHANNELS,
    Port,
    Variant,
)

if TYPE_CHECKING:
    from torch import nn

    from paragon_export.onnx_file import OnnxFile

DROP_SIZE = Size(128, 128)
"""Of the photograph on which the cost of dropping trained tensors is measured."""


class Reference(Protocol):
    """What candidates are compared with."""

    @property
    def inputs(self) -> tuple[Port, ...]: ...

    @property
    def outputs(self) -> tuple[Port, ...]: ...

    def runner(self, dtype: str) -> Runner:
        """Return a runner that computes in ``dtype``, a name of PyTorch's."""


@dataclass(frozen=True, kw_only=True)
class TorchReference:
    """The PyTorch network and the ports through which it is fed."""

    module: nn.Module
    """Float32, eval mode; never changed."""
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def runner(self, dtype: str, device: str = "cpu") -> TorchRunner:
        names = [port.name for port in self.inputs], [port.name for port in self.outputs]
        return TorchRunner(self.module, *names, dtype=dtype, device=device, ports=self.inputs)

    def fixed(self, size: Size, scale: int) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
        """Return the ports for one input size and batch 1."""
        extents = {"batch": 1, "height": size.height, "width": size.width}
        extents |= {f"{scale}*height": scale * size.height, f"{scale}*width": scale * size.width}
        return _at(self.inputs, extents), _at(self.outputs, extents)


@dataclass(frozen=True, kw_only=True)
class OnnxReference:
    """A float32 ONNX file, where no checkpoint is at hand: it stands for every dtype."""

    file: OnnxFile
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def runner(self, dtype: str) -> Runner:
        return open_runner(self.file.data, is_own=self.file.is_own, title=str(self.file.path))


def _at(ports: Sequence[Port], extents: dict[str, int]) -> tuple[Port, ...]:
    return tuple(port.at(extents) for port in ports)


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


def build_reference(
    checkpoint: Checkpoint, variant: Variant, *, video: bool = False
) -> TorchReference:
    """Build the network as trained; ``video`` adds the temporal ports.

    Raises:
        PlanError: If something that tensors cannot tell is still open.
    """
    if variant.needs:
        raise PlanError(
            f"{checkpoint.path}: the tensors of a {variant.family} {variant.generation} network do "
            f"not tell {'; nor '.join(variant.needs)}"
        )
    family = family_named(variant.family)
    inputs, outputs = family.ports(variant, video=video)
    module = family.build(variant, checkpoint, video=video)
    return TorchReference(module=module, inputs=inputs, outputs=outputs)


def measure_drop(checkpoint: Checkpoint, variant: Variant, switches: Switches) -> Difference:
    """Measure how far the picture moves when the switches drop trained tensors."""
    whole = {**switches.flags, "export_safe": False, "attention_mode": "sdpa"}
    everything = family_named(variant.family).describe(checkpoint, replace(switches, flags=whole))
    feeds = {"input": photograph_crop(variant.in_channels, DROP_SIZE)[None]}
    dropped, full = (
        build_reference(checkpoint, v).runner("float64").infer(feeds)["output"]
        for v in (variant, everything)
    )
    return difference(dropped, full, border=0)
