"""ParagonSR2 and its predecessor ParagonSR: determine the network of a checkpoint and build it.

There is one folder for each range of generations; each has the functions ``describe`` and
``build``. ``generations`` lists the generations and the folder of each.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from paragon_export.checkpoints.load import Checkpoint
from paragon_export.errors import CheckpointError, PlanError, UnsupportedNetworkError
from paragon_export.networks.paragonsr2.generations import Generation, generation_of
from paragon_export.networks.state_dict import shapes_of, with_path
from paragon_export.specs.network import NetworkSpec, Port
from paragon_export.specs.plans import NetworkOptions

if TYPE_CHECKING:
    from torch import nn


class ParagonSR2Architecture:
    """All generations from ParagonSR to v11, except those without a folder in ``GENERATIONS``."""

    name = "ParagonSR2"

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        return _generation_of(checkpoint) is not None

    def describe(self, checkpoint: Checkpoint, options: NetworkOptions) -> NetworkSpec:
        generation = _generation_of(checkpoint)
        if generation is None or not generation.folder:
            name = f"{generation.name} {generation.variant}".strip() if generation else "unknown"
            raise UnsupportedNetworkError(
                f"{checkpoint.path} is a {self.name} {name} network, which is not supported; do not "
                "rename its tensors to those of another generation, which computes another picture"
            )
        requested = options.flags.get("generation")
        if requested is not None and requested not in generation.name.split("/"):
            raise PlanError(
                f"--set generation={requested}, but the tensors of {checkpoint.path} are those of "
                f"{generation.name}; leave it out"
            )
        try:
            return _module(generation.folder).describe(checkpoint, generation, options)
        except CheckpointError as error:
            raise with_path(error, checkpoint.path) from error

    def build(self, spec: NetworkSpec, checkpoint: Checkpoint, *, video: bool = False) -> nn.Module:
        network = _module(spec.structure["folder"]).build(spec, checkpoint, video=video)
        return network.requires_grad_(False).eval()

    def exportable(self, module: nn.Module) -> nn.Module:
        return module

    def ports(self, spec: NetworkSpec, *, video: bool) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
        features = spec.structure["hyperparameters"].features
        s = spec.scale
        image = Port("input", ("batch", spec.in_channels, "height", "width"))
        output = Port("output", ("batch", spec.out_channels, f"{s}*height", f"{s}*width"))
        if not video:
            return (image,), (output,)
        if spec.structure["folder"] != "v9_v11":
            raise PlanError(
                f"--video is for v10 and later; {spec.generation} has no temporal input: leave "
                "--video out"
            )
        map_dims = ("batch", features, "height", "width")
        return (
            (image, Port("prev_feat", map_dims), Port("alpha", ())),
            (output, Port("feature_map", map_dims)),
        )


def _generation_of(checkpoint: Checkpoint) -> Generation | None:
    return generation_of(shapes_of(checkpoint))


def _module(folder: str) -> Any:
    """Return the module of a range of generations, which has ``describe`` and ``build``."""
    return import_module(f"paragon_export.networks.paragonsr2.{folder}")
