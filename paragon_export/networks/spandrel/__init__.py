"""Networks of others: whatever spandrel detects and loads."""

from __future__ import annotations

import importlib.metadata
import math
from typing import TYPE_CHECKING, Any

from paragon_export.checkpoints.load import Checkpoint
from paragon_export.errors import PlanError, UnsupportedNetworkError
from paragon_export.networks.spandrel import library
from paragon_export.networks.spandrel.traits import LARGEST_REDUCTION, Traits, traits_of
from paragon_export.specs.network import NetworkSpec, Port
from paragon_export.specs.plans import NetworkOptions
from paragon_export.specs.ports import Padding
from paragon_export.specs.types import Tracer

if TYPE_CHECKING:
    from torch import nn

PURPOSES = ("SR", "Restoration")
"""What spandrel calls networks that map an image to an image."""


RELATIVE = {"DySample"}
"""Layers that compute positions relative to the size of the image. They lose digits as it grows."""

REFUSED_LAYERS = {"LDA_AQU": "PyTorch runs its LDA upsampling for one image at a time only"}
"""Layers of networks that are not exported, and why."""


class SpandrelArchitecture:
    """All architectures of spandrel that map one image to another."""

    name = "spandrel"

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        return library.is_installed() and library.find(checkpoint) is not None

    def describe(self, checkpoint: Checkpoint, options: NetworkOptions) -> NetworkSpec:
        found = library.find(checkpoint)
        traits = traits_of(found.id)
        _check_supported(checkpoint, found.name, traits.refused)
        descriptor = library.describe(found, checkpoint)
        if descriptor.purpose not in PURPOSES:
            _check_supported(checkpoint, found.name, f"it is made for {descriptor.purpose}")
        for kind in _kinds(descriptor.model) & set(REFUSED_LAYERS):
            _check_supported(checkpoint, found.name, REFUSED_LAYERS[kind])
        return NetworkSpec(
            architecture=found.name,
            generation=self.name,
            variant=" ".join(descriptor.tags) or str(found.id),
            scale=int(descriptor.scale),
            in_channels=int(descriptor.input_channels),
            out_channels=int(descriptor.output_channels),
            parameters=sum(p.numel() for p in descriptor.model.parameters()),
            window=max(traits.window, 1),
            options={},
            structure={"traits": traits},
            excerpt_step=_excerpt_step(descriptor, traits),
            padding=Padding(
                multiple=descriptor.size_requirements.multiple_of,
                least=max(descriptor.size_requirements.minimum, 1),
                step=_step(descriptor, traits, LARGEST_REDUCTION),
            ),
            notes=_notes(found, descriptor, options, traits.note),
            tracers=(Tracer.SYMBOLIC, Tracer.TORCHSCRIPT, Tracer.DYNAMO),
        )

    def build(self, spec: NetworkSpec, checkpoint: Checkpoint, *, video: bool = False) -> nn.Module:
        from paragon_export.networks.spandrel.module import ReferenceNetwork

        found = library.find(checkpoint)
        return ReferenceNetwork(library.describe(found, checkpoint)).eval()

    def exportable(self, module: nn.Module) -> nn.Module:
        from paragon_export.networks.spandrel.module import ReferenceNetwork

        assert isinstance(module, ReferenceNetwork)
        return module.padded()

    def ports(self, spec: NetworkSpec, *, video: bool) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
        if video:
            raise PlanError(
                f"--video: a {spec.architecture} network has no temporal input; leave --video out"
            )
        traits: Traits = spec.structure["traits"]
        batch = "batch" if traits.takes_batches else 1
        rows, columns = (
            f"{spec.scale}*{axis}" if spec.scale > 1 else axis for axis in ("height", "width")
        )
        image = Port("input", (batch, spec.in_channels, "height", "width"))
        return (image,), (Port("output", (batch, spec.out_channels, rows, columns)),)


def _excerpt_step(descriptor: Any, traits: Traits) -> int:
    """Return the step of parts of a picture (see ``NetworkSpec``)."""
    requirements = descriptor.size_requirements
    if requirements.square or _kinds(descriptor.model) & RELATIVE:
        return 0
    return _step(descriptor, traits, traits.reduction)


def _step(descriptor: Any, traits: Traits, reduction: int) -> int:
    """Return a multiple of all sides of windows and of a factor by which maps are reduced."""
    multiple: int = descriptor.size_requirements.multiple_of
    return math.lcm(multiple, max(traits.window, 1), reduction)


def _kinds(model: nn.Module) -> set[str]:
    """Return the names of the classes of a network's layers."""
    return {type(part).__name__ for part in model.modules()}


def _check_supported(checkpoint: Checkpoint, name: str, reason: str) -> None:
    """Refuse an architecture that spandrel loads and that is not exported.

    Raises:
        UnsupportedNetworkError: If there is a reason.
    """
    if reason:
        raise UnsupportedNetworkError(
            f"{checkpoint.path}: {name}, which spandrel loads, is not exported: {reason}"
        )


def _notes(found: Any, descriptor: Any, options: NetworkOptions, note: str) -> tuple[str, ...]:
    version = importlib.metadata.version("spandrel")
    notes = [f"{found.name} is loaded by spandrel {version}"]
    if type(found).__module__.startswith(library.EXTRA):
        notes.append(
            f"{found.name} comes from {library.EXTRA}: its license may forbid commercial use"
        )
    if not descriptor.supports_half:
        notes.append(f"spandrel says that {found.name} does not support float16")
    if note:
        notes.append(f"{found.name}: {note}")
    unused = sorted(options.flags)
    if unused:
        notes.append(f"{', '.join(unused)} has no effect on {found.name}")
    return tuple(notes)
