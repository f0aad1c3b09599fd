"""Reference: a checkpoint in, the untouched PyTorch network that every verdict stands on out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from paragon_export.checkpoints.load import Checkpoint
from paragon_export.errors import PlanError
from paragon_export.inputs.probes import photograph_crop
from paragon_export.networks.registry import architecture_named
from paragon_export.parity.metrics import Difference, difference
from paragon_export.runtimes.base import Runner
from paragon_export.runtimes.isolated import open_runner
from paragon_export.runtimes.torch_runner import TorchRunner
from paragon_export.specs.network import NetworkSpec, Port
from paragon_export.specs.plans import NetworkOptions
from paragon_export.specs.types import Size
from paragon_export.system.progress import step

if TYPE_CHECKING:
    from torch import nn

    from paragon_export.graph.onnx_io import OnnxFile


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


def build_reference(
    checkpoint: Checkpoint, spec: NetworkSpec, *, video: bool = False
) -> TorchReference:
    """BuildResult the network as trained; ``video`` adds the temporal ports.

    Raises:
        PlanError: If something that tensors cannot tell is still open.
    """
    if spec.needs:
        raise PlanError(
            f"{checkpoint.path}: the tensors of a {spec.architecture} {spec.generation} network do "
            f"not tell {'; nor '.join(spec.needs)}"
        )
    family = architecture_named(spec.architecture)
    inputs, outputs = family.ports(spec, video=video)
    module = family.build(spec, checkpoint, video=video)
    return TorchReference(module=module, inputs=inputs, outputs=outputs)


@step("measuring what dropped tensors cost")
def measure_drop(checkpoint: Checkpoint, spec: NetworkSpec, options: NetworkOptions) -> Difference:
    """Measure how far the picture moves when the switches drop trained tensors."""
    whole = {**options.flags, "export_safe": False, "attention_mode": "sdpa"}
    everything = architecture_named(spec.architecture).describe(
        checkpoint, replace(options, flags=whole)
    )
    feeds = {"input": photograph_crop(spec.in_channels, DROP_SIZE)[None]}
    dropped, full = (
        build_reference(checkpoint, v).runner("float64").infer(feeds)["output"]
        for v in (spec, everything)
    )
    return difference(dropped, full, border=0)
