"""ParagonSR2: describe a checkpoint and build its network, in any generation that is served."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from paragon_export.checkpoints.load import Checkpoint
from paragon_export.errors import CheckpointError, PlanError, UnsupportedNetworkError
from paragon_export.networks.paragonsr2.generations import Generation, generation_of
from paragon_export.specs.network import NetworkSpec, Port
from paragon_export.specs.plans import NetworkOptions

if TYPE_CHECKING:
    from torch import nn


class ParagonSR2Architecture:
    """The generations from ParagonSR to v11; what ``GENERATIONS`` gives no line is refused."""

    name = "ParagonSR2"

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        return _generation_of(checkpoint) is not None

    def describe(self, checkpoint: Checkpoint, options: NetworkOptions) -> NetworkSpec:
        found = _generation_of(checkpoint)
        if found is None or not found.line:
            told = f"{found.name} {found.variant}".strip() if found else "unknown"
            raise UnsupportedNetworkError(
                f"{checkpoint.path} is a {self.name} {told} network, which is not served; renaming "
                "its tensors to another generation would load and compute another picture"
            )
        asked = options.flags.get("generation")
        if asked is not None and asked not in found.name.split("/"):
            raise PlanError(
                f"--set generation={asked}, but the tensors of {checkpoint.path} are those of "
                f"{found.name}; leave it out"
            )
        try:
            return _line(found.line).describe(checkpoint, found, options)
        except CheckpointError as error:
            path = str(checkpoint.path)
            raise error if path in str(error) else CheckpointError(f"{path}: {error}") from error

    def build(self, spec: NetworkSpec, checkpoint: Checkpoint, *, video: bool = False) -> nn.Module:
        network = _line(spec.structure["line"]).build(spec, checkpoint, video=video)
        return network.requires_grad_(False).eval()

    def ports(self, spec: NetworkSpec, *, video: bool) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
        features = spec.structure["hyperparameters"].features
        s = spec.scale
        image = Port("input", ("batch", spec.in_channels, "height", "width"))
        output = Port("output", ("batch", spec.out_channels, f"{s}*height", f"{s}*width"))
        if not video:
            return (image,), (output,)
        if spec.structure["line"] != "v9_v11":
            raise PlanError(
                f"--video is for v10 and later; {spec.generation} has no temporal input"
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
