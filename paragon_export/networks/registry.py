"""The network families, in the order in which they are asked whether a checkpoint is theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from paragon_export.checkpoints.load import listing
from paragon_export.errors import UnsupportedNetworkError
from paragon_export.networks.glyph import GlyphFamily
from paragon_export.networks.munet import MUNetFamily
from paragon_export.networks.paragonsr2 import ParagonSR2Family

if TYPE_CHECKING:
    from torch import nn

    from paragon_export.checkpoints.load import Checkpoint
    from paragon_export.specs.network import Port, Variant
    from paragon_export.specs.plans import Switches


class Family(Protocol):
    """What the flow needs to know of a family; importing one imports no PyTorch."""

    name: str

    def recognises(self, checkpoint: Checkpoint) -> bool:
        """Tell from tensor names whether the checkpoint is of this family."""

    def describe(self, checkpoint: Checkpoint, switches: Switches) -> Variant:
        """Work out the variant and check every tensor's name, shape and dtype.

        Raises:
            CheckpointError: If tensors are missing, extra, or of a wrong shape.
            UnsupportedNetworkError: If the generation is known and not served.
            PlanError: If a switch is impossible or contradicts the tensors.
        """

    def build(self, variant: Variant, checkpoint: Checkpoint, *, video: bool = False) -> nn.Module:
        """Return the network in eval mode, float32, on the CPU, loaded strictly.

        Its ``forward`` takes the inputs and returns the outputs of :meth:`ports` in order.
        """

    def ports(self, variant: Variant, *, video: bool) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
        """Return the inputs and outputs of the exported graph.

        Raises:
            PlanError: If ``video`` is asked of a family that has no temporal input.
        """


REGISTRY: tuple[Family, ...] = (ParagonSR2Family(), MUNetFamily(), GlyphFamily())


def family_of(checkpoint: Checkpoint) -> Family:
    """Return the family that a checkpoint belongs to.

    Raises:
        UnsupportedNetworkError: If no family recognises it.
    """
    for family in REGISTRY:
        if family.recognises(checkpoint):
            return family
    keys = list(checkpoint.tensors)
    raise UnsupportedNetworkError(
        f"{checkpoint.path}: no known network has these {len(keys)} tensors "
        f"({listing(keys, 4)}); served are: {', '.join(f.name for f in REGISTRY)}"
    )


def family_named(name: str) -> Family:
    """Return the family of a variant."""
    return next(family for family in REGISTRY if family.name == name)
