"""ParagonSR2: describe a checkpoint and build its network, in any generation that is served."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from paragon_export.checkpoints.load import Checkpoint
from paragon_export.errors import CheckpointError, PlanError, UnsupportedNetworkError
from paragon_export.networks.paragonsr2.generations import Generation, generation_of
from paragon_export.specs.network import Port, Variant
from paragon_export.specs.plans import Switches

if TYPE_CHECKING:
    from torch import nn


class ParagonSR2Family:
    """The generations from ParagonSR to v11; what ``GENERATIONS`` gives no line is refused."""

    name = "ParagonSR2"

    def recognises(self, checkpoint: Checkpoint) -> bool:
        return _generation_of(checkpoint) is not None

    def describe(self, checkpoint: Checkpoint, switches: Switches) -> Variant:
        found = _generation_of(checkpoint)
        if found is None or not found.line:
            told = f"{found.name} {found.variant}".strip() if found else "unknown"
            raise UnsupportedNetworkError(
                f"{checkpoint.path} is a {self.name} {told} network, which is not served; renaming "
                "its tensors to another generation would load and compute another picture"
            )
        asked = switches.flags.get("generation")
        if asked is not None and asked not in found.name.split("/"):
            raise PlanError(
                f"--set generation={asked}, but the tensors of {checkpoint.path} are those of "
                f"{found.name}; leave it out"
            )
        try:
            return _line(found.line).describe(checkpoint, found, switches)
        except CheckpointError as error:
            path = str(checkpoint.path)
            raise error if path in str(error) else CheckpointError(f"{path}: {error}") from error

    def build(self, variant: Variant, checkpoint: Checkpoint, *, video: bool = False) -> nn.Module:
        network = _line(variant.structure["line"]).build(variant, checkpoint, video=video)
        return network.requires_grad_(False).eval()

    def ports(self, variant: Variant, *, video: bool) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
        features = variant.structure["hyperparameters"].features
        s = variant.scale
        image = Port("input", ("batch", variant.in_channels, "height", "width"))
        output = Port("output", ("batch", variant.out_channels, f"{s}*height", f"{s}*width"))
        if not video:
            return (image,), (output,)
        if variant.structure["line"] != "v9_v11":
            raise PlanError(
                f"--video is for v10 and later; {variant.generation} has no temporal input"
            )
        map_dims = ("batch", features, "height", "width")
        return (
            (image, Port("prev_feat", map_dims), Port("alpha", ())),
            (output, Port("feature_map", map_dims)),
        )


def _generation_of(checkpoint: Checkpoint) -> Generation | None:
    return generation_of({name: array.shape for name, array in checkpoint.tensors.items()})


def _line(name: str) -> Any:
    """Return the folder of a line of generations: a module with ``describe`` and ``build``."""
    return import_module(f"paragon_export.networks.paragonsr2.{name}")
