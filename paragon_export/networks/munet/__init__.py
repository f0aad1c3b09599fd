"""MUNet: describe a checkpoint of the discriminator and build its network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paragon_export.checkpoints.load import Checkpoint, listing
from paragon_export.errors import CheckpointError, PlanError
from paragon_export.networks.munet.layout import Hyperparameters, folded, infer, stored_shapes
from paragon_export.networks.munet.versions import SLOPE, VERSIONS, one_of, versions_of
from paragon_export.networks.options import FLAGS, Resolver
from paragon_export.specs.network import NetworkSpec, Port, ResolvedOption, Task
from paragon_export.specs.plans import NetworkOptions
from paragon_export.system.text import brief

if TYPE_CHECKING:
    from torch import nn

CUT = (41, 5)
"""Rows and columns of a bottleneck that is cut into two windows, the second of them short."""


class MUNetArchitecture:
    """The discriminator trained beside ParagonSR2, from munet1 to munet6."""

    name = "MUNet"

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        names = checkpoint.tensors
        return all(any(n.startswith(p) for n in names) for p in ("down_blocks.", "mid_conv."))

    def describe(self, checkpoint: Checkpoint, options: NetworkOptions) -> NetworkSpec:
        possible = versions_of(checkpoint.tensors)
        resolver = Resolver(options, checkpoint.metadata, ("network_d", "network_g"))
        _check_options(resolver)
        generation = _settle(resolver, possible)
        shapes = {name: array.shape for name, array in checkpoint.tensors.items()}
        try:
            hyperparameters = infer(shapes, generation.value if generation else possible[0])
        except CheckpointError as error:
            raise CheckpointError(f"{checkpoint.path}: {error}") from error
        _check_layout(checkpoint, hyperparameters)
        smallest = hyperparameters.smallest
        attention = VERSIONS[generation.value].attention if generation else ""
        # Below one window munet4 and munet5 are equal, so neither is judged there alone.
        cut = attention in ("tokens", "windows")
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
            notes=_without_effect(options),
            task=Task.MAP,
            smallest=smallest,
            also_probed=((CUT[0] * smallest, CUT[1] * smallest),) if cut else (),
        )

    def build(self, spec: NetworkSpec, checkpoint: Checkpoint, *, video: bool = False) -> nn.Module:
        import torch

        from paragon_export.networks.munet.network import MUNet

        network = MUNet(spec.structure["hyperparameters"])
        try:
            folded_tensors = dict(folded(checkpoint.tensors, list(network.state_dict())))
        except CheckpointError as error:
            raise CheckpointError(f"{checkpoint.path}: {error}") from error
        tensors = {name: torch.tensor(array) for name, array in folded_tensors.items()}
        network.load_state_dict(tensors, strict=True)
        return network.requires_grad_(False).eval()

    def ports(self, spec: NetworkSpec, *, video: bool) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
        if video:
            raise PlanError(f"--video: a {self.name} carries nothing from frame to frame")
        image = Port("input", ("batch", spec.in_channels, "height", "width"))
        return (image,), (Port("output", ("batch", 1, "height", "width")),)


def _settle(resolver: Resolver, possible: tuple[str, ...]) -> ResolvedOption | None:
    """Return the generation and who said so; None where tensors leave it open and nobody did.

    Raises:
        PlanError: If the one that is told does not exist or is not one that the tensors allow.
    """

    def check(value: Any) -> str:
        if value not in VERSIONS:
            raise ValueError(f"it must be one of {', '.join(VERSIONS)}")
        if value not in possible:
            raise ValueError(f"the tensors are those of {one_of(possible)}")
        return str(value)

    told = resolver.settle("generation", None, check)
    if len(possible) == 1:
        return ResolvedOption(possible[0], "tensors")
    return None if told.is_assumed else told


def _check_options(resolver: Resolver) -> None:
    """Refuse an option file that was written for another network.

    Raises:
        PlanError: If its type is another or it asks for a slope that is not served.
    """
    told = resolver.options.get("type", "munet")
    if not isinstance(told, str) or told.lower() != "munet":
        raise PlanError(
            f"the option file is for {brief(told)}, the checkpoint is a munet; "
            "give the option file it was trained with"
        )
    slope = resolver.options.get("slope", SLOPE)
    if slope != SLOPE:
        raise PlanError(f"slope = {brief(slope)} is not served; only {SLOPE} is")


def _check_layout(checkpoint: Checkpoint, hyperparameters: Hyperparameters) -> None:
    """Refuse a checkpoint whose tensors are not exactly those of the network.

    Raises:
        CheckpointError: Listing missing, extra and wrongly shaped tensors.
    """
    import torch

    from paragon_export.networks.munet.network import MUNet

    with torch.device("meta"):
        built = MUNet(hyperparameters).state_dict()
    expected = stored_shapes(
        {name: tuple(tensor.shape) for name, tensor in built.items()}, hyperparameters.version
    )
    found = checkpoint.tensors
    wrong = [
        f"{name} is {found[name].dtype} {list(found[name].shape)}, expected floats {list(shape)}"
        for name, shape in expected.items()
        if name in found and (found[name].shape != shape or found[name].dtype.kind != "f")
    ]
    faults: Mapping[str, list[str]] = {
        "missing": sorted(set(expected) - set(found)),
        "unexpected": sorted(set(found) - set(expected)),
        "wrong": wrong,
    }
    told = [f"{len(names)} {kind}: {listing(names)}" for kind, names in faults.items() if names]
    if told:
        raise CheckpointError(
            f"{checkpoint.path} does not hold the tensors of its network; {'; '.join(told)}"
        )


def _parameters(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Count elements, without the vectors of spectral norms."""
    return sum(math.prod(s) for name, s in shapes.items() if not name.endswith(("._u", "._v")))


def _without_effect(options: NetworkOptions) -> tuple[str, ...]:
    return tuple(
        f"{name} has no effect: a MUNet has no such switch"
        for name in FLAGS
        if name in options.flags
        and name != "generation"
        and (name, options.flags[name]) != ("scale", 1)
    )
