"""The network families, in the order in which they are asked whether a checkpoint is theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from paragon_export.checkpoints.load import listing
from paragon_export.errors import UnsupportedNetworkError
from paragon_export.networks.glyph import GlyphArchitecture
from paragon_export.networks.munet import MUNetArchitecture
from paragon_export.networks.paragonsr2 import ParagonSR2Architecture

if TYPE_CHECKING:
    from torch import nn

    from paragon_export.checkpoints.load import Checkpoint
    from paragon_export.specs.network import NetworkSpec, Port
    from paragon_export.specs.plans import NetworkOptions


class Architecture(Protocol):
    """What the flow needs to know of a family; importing one imports no PyTorch."""

    name: str

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        """Tell from tensor names whether the checkpoint is of this family."""

    def describe(self, checkpoint: Checkpoint, options: NetworkOptions) -> NetworkSpec:
        """Work out the variant and check every tensor's name, shape and dtype.

        Raises:
            CheckpointError: If tensors are missing, extra, or of a wrong shape.
            UnsupportedNetworkError: If the generation is known and not served.
            PlanError: If a switch is impossible or contradicts the tensors.
        """

    def build(self, spec: NetworkSpec, checkpoint: Checkpoint, *, video: bool = False) -> nn.Module:
        """Return the network in eval mode, float32, on the CPU, loaded strictly.

        Its ``forward`` takes the inputs and returns the outputs of :meth:`ports` in order.
        """

    def ports(self, spec: NetworkSpec, *, video: bool) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
        """Return the inputs and outputs of the exported graph.

        Raises:
            PlanError: If ``video`` is asked of a family that has no temporal input.
        """


REGISTRY: tuple[Architecture, ...] = (
    ParagonSR2Architecture(),
    MUNetArchitecture(),
    GlyphArchitecture(),
)


def architecture_of(checkpoint: Checkpoint) -> Architecture:
    """Return the family that a checkpoint belongs to.

    Raises:
        UnsupportedNetworkError: If no family recognises it.
    """
    for family in REGISTRY:
        if family.recognizes(checkpoint):
            return family
    keys = list(checkpoint.tensors)
    raise UnsupportedNetworkError(
        f"{checkpoint.path}: no known network has these {len(keys)} tensors "
        f"({listing(keys, 4)}); served are: {', '.join(f.name for f in REGISTRY)}"
    )


def architecture_named(name: str) -> Architecture:
    """Return the family of a variant."""
    return next(family for family in REGISTRY if family.name == name)
