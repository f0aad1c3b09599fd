"""The supported architectures, and the interface that each implements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from paragon_export.checkpoints.load import listing
from paragon_export.errors import UnsupportedNetworkError
from paragon_export.networks.glyph import GlyphArchitecture
from paragon_export.networks.munet import MUNetArchitecture
from paragon_export.networks.paragonsr2 import ParagonSR2Architecture
from paragon_export.networks.spandrel import SpandrelArchitecture
from paragon_export.networks.spandrel.library import is_installed

if TYPE_CHECKING:
    from torch import nn

    from paragon_export.checkpoints.load import Checkpoint
    from paragon_export.specs.network import NetworkSpec, Port
    from paragon_export.specs.plans import NetworkOptions


class Architecture(Protocol):
    """Interface of an architecture. Importing its module must not import PyTorch."""

    name: str

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        """Return whether a checkpoint is of this architecture, by the names of its tensors."""

    def describe(self, checkpoint: Checkpoint, options: NetworkOptions) -> NetworkSpec:
        """Determine the network of a checkpoint; check the name, shape and dtype of every tensor.

        Raises:
            CheckpointError: If tensors are missing, unexpected, or of a wrong shape or dtype.
            UnsupportedNetworkError: If the generation is known but not supported.
            PlanError: If an option is invalid or contradicts the tensors.
        """

    def build(self, spec: NetworkSpec, checkpoint: Checkpoint, *, video: bool = False) -> nn.Module:
        """Return the network with all tensors loaded: eval mode, float32, on the CPU.

        Its ``forward`` takes the inputs and returns the outputs of :meth:`ports`, in order.

        Raises:
            CheckpointError: If a tensor has an unusable value.
        """

    def exportable(self, module: nn.Module) -> nn.Module:
        """Return the module to make the graph from: the built one, or one that exporters follow."""

    def ports(self, spec: NetworkSpec, *, video: bool) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
        """Return the inputs and the outputs of the exported graph.

        Raises:
            PlanError: If ``video`` is set and the network has no temporal input.
        """


REGISTRY: tuple[Architecture, ...] = (
    ParagonSR2Architecture(),
    MUNetArchitecture(),
    GlyphArchitecture(),
    SpandrelArchitecture(),
)
"""In order of detection."""


def architecture_of(checkpoint: Checkpoint) -> Architecture:
    """Return the architecture of a checkpoint: the first one that recognizes it.

    Raises:
        UnsupportedNetworkError: If none does.
    """
    for architecture in REGISTRY:
        if architecture.recognizes(checkpoint):
            return architecture
    names = list(checkpoint.tensors)
    own = ", ".join(a.name for a in REGISTRY if not isinstance(a, SpandrelArchitecture))
    others = "what spandrel loads"
    if not is_installed():
        others += " (not installed: pip install 'paragon-export[spandrel]')"
    raise UnsupportedNetworkError(
        f"{checkpoint.path}: no supported network has these {len(names)} tensors "
        f"({listing(names, 4)}); supported are: {own}, and {others}"
    )


def architecture_named(name: str) -> Architecture:
    """Return the architecture with a name, as in ``NetworkSpec.architecture``.

    Other names than those of the registry are names of spandrel.
    """
    named = {architecture.name: architecture for architecture in REGISTRY}
    return named.get(name, named[SpandrelArchitecture.name])
