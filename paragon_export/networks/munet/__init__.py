"""MUNet, a discriminator: determine the version of a checkpoint and build the network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from paragon_export.checkpoints.load import Checkpoint
from paragon_export.errors import CheckpointError, PlanError
from paragon_export.networks.munet.layout import Hyperparameters, folded, infer, stored_shapes
from paragon_export.networks.munet.versions import SLOPE, VERSIONS, one_of, versions_of
from paragon_export.networks.options import FLAGS, Resolver
from paragon_export.networks.state_dict import (
    Shapes,
    check_tensors,
    shapes_built_by,
    shapes_of,
    with_path,
)
from paragon_export.specs.network import NetworkSpec, Port, ResolvedOption, Task
from paragon_export.specs.plans import NetworkOptions
from paragon_export.system.text import brief

if TYPE_CHECKING:
    from torch import nn

TWO_WINDOW_BOTTLENECK = (41, 5)
"""Rows and columns of a bottleneck that has two attention windows, the second one shorter."""


class MUNetArchitecture:
    """MUNet, the discriminator in the training of ParagonSR2, from munet1 to munet6."""

    name = "MUNet"

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        names = checkpoint.tensors
        return all(any(n.startswith(p) for n in names) for p in ("down_blocks.", "mid_conv."))

    def describe(self, checkpoint: Checkpoint, options: NetworkOptions) -> NetworkSpec:
        possible = versions_of(checkpoint.tensors)
        resolver = Resolver(options, checkpoint.metadata, ("network_d", "network_g"))
        _check_options(resolver)
        generation = _resolve_generation(resolver, possible)
        shapes = shapes_of(checkpoint)
        try:
            hyperparameters = infer(shapes, generation.value if generation else possible[0])
            _check_tensors(checkpoint, hyperparameters)
        except CheckpointError as error:
            raise with_path(error, checkpoint.path) from error
        smallest = hyperparameters.smallest
        attention = VERSIONS[generation.value].attention if generation else ""
        # munet4 and munet5 are equal on maps of one window: a larger probe tells them apart.
        needs_large_probe = attention in ("tokens", "windows")
        rows, columns = (extent * smallest for extent in TWO_WINDOW_BOTTLENECK)
        named = one_of(possible)
        return NetworkSpec(
            architecture=self.name,
            generation=generation.value if generation else named,
            variant="discriminator",
            scale=1,
            in_channels=hyperparameters.in_channels,
            out_channels=1,
            parameters=_parameters(shapes),
            window=1,
            options={"generation": generation} if generation else {},
            structure={"hyperparameters": hyperparameters},
            needs=() if generation else (f"generation (--set generation={named})",),
            notes=_notes_on_unused_flags(options),
            task=Task.MAP,
            smallest=smallest,
            also_probed=((rows, columns),) if needs_large_probe else (),
            excerpt_step=0,
        )

    def build(self, spec: NetworkSpec, checkpoint: Checkpoint, *, video: bool = False) -> nn.Module:
        import torch

        from paragon_export.networks.munet.network import MUNet

        network = MUNet(spec.structure["hyperparameters"])
        try:
            folded_tensors = dict(folded(checkpoint.tensors, list(network.state_dict())))
        except CheckpointError as error:
            raise with_path(error, checkpoint.path) from error
        tensors = {name: torch.tensor(array) for name, array in folded_tensors.items()}
        network.load_state_dict(tensors, strict=True)
        return network.requires_grad_(False).eval()

    def exportable(self, module: nn.Module) -> nn.Module:
        return module

    def ports(self, spec: NetworkSpec, *, video: bool) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
        if video:
            raise PlanError(f"--video: a {self.name} has no temporal input; leave --video out")
        image = Port("input", ("batch", spec.in_channels, "height", "width"))
        return (image,), (Port("output", ("batch", 1, "height", "width")),)


def _resolve_generation(resolver: Resolver, possible: tuple[str, ...]) -> ResolvedOption | None:
    """Return the generation and its source; None if neither tensors nor options determine it.

    Args:
        resolver: Source of the option ``generation``.
        possible: Generations that the tensors allow.

    Raises:
        PlanError: If the option names a generation that does not exist or that the tensors
            exclude.
    """

    def check(value: Any) -> str:
        if value not in VERSIONS:
            raise ValueError(f"it must be one of {', '.join(VERSIONS)}")
        if value not in possible:
            raise ValueError(f"the tensors are those of {one_of(possible)}")
        return str(value)

    option = resolver.resolve("generation", None, check)
    if len(possible) == 1:
        return ResolvedOption(possible[0], "tensors")
    return None if option.is_assumed else option


def _check_options(resolver: Resolver) -> None:
    """Check that an option file was written for a MUNet.

    Raises:
        PlanError: If its type or its slope is another.
    """
    kind = resolver.options.get("type", "munet")
    if not isinstance(kind, str) or kind.lower() != "munet":
        raise PlanError(
            f"the option file is for {brief(kind)}, the checkpoint is a munet; "
            "give the option file it was trained with"
        )
    slope = resolver.options.get("slope", SLOPE)
    if slope != SLOPE:
        raise PlanError(
            f"slope = {brief(slope)} in the option file is not supported; only {SLOPE} is"
        )


def _check_tensors(checkpoint: Checkpoint, hyperparameters: Hyperparameters) -> None:
    """Check that a checkpoint holds exactly the tensors of its network.

    Raises:
        CheckpointError: If it does not.
    """
    from paragon_export.networks.munet.network import MUNet

    built, _ = shapes_built_by(lambda: MUNet(hyperparameters))
    expected = stored_shapes(built, hyperparameters.version)
    check_tensors(checkpoint, shapes_of(checkpoint), expected)


def _parameters(shapes: Shapes) -> int:
    """Return the number of elements of all tensors except the vectors of spectral norms."""
    return sum(math.prod(s) for name, s in shapes.items() if not name.endswith(("._u", "._v")))


def _notes_on_unused_flags(options: NetworkOptions) -> tuple[str, ...]:
    """Return a note for each flag that a MUNet does not have. ``--scale 1`` is right."""
    return tuple(
        f"{name} has no effect: a MUNet has no such option"
        for name in FLAGS
        if name in options.flags
        and name != "generation"
        and (name, options.flags[name]) != ("scale", 1)
    )
