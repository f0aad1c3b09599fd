"""The reference that candidates are compared with: the unmodified PyTorch network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from paragon_export.inputs.probes import photograph_crop
from paragon_export.networks.describe import LoadedNetwork
from paragon_export.networks.registry import architecture_named
from paragon_export.parity.metrics import Difference, difference
from paragon_export.runtimes.base import Runner
from paragon_export.runtimes.isolated import open_runner
from paragon_export.runtimes.named import with_standard_names
from paragon_export.runtimes.torch_runner import TorchRunner
from paragon_export.specs.network import InputSpec, NetworkSpec, Port
from paragon_export.specs.types import Size
from paragon_export.system.progress import step

if TYPE_CHECKING:
    from torch import nn

    from paragon_export.graph.onnx_io import OnnxFile


DROP_SIZE = Size(128, 128)
"""Size of the photograph on which the effect of dropped tensors is measured."""


class Reference(Protocol):
    """What candidates are compared with."""

    @property
    def inputs(self) -> tuple[Port, ...]: ...

    @property
    def outputs(self) -> tuple[Port, ...]: ...

    @property
    def input_spec(self) -> InputSpec: ...

    def runner(self, dtype: str, *, nudge: int = 0, weights: str = "") -> Runner:
        """Return a runner that computes in ``dtype``, as ``"float64"``.

        In half precision each ``nudge`` is another rounding (``TorchRunner``). If ``weights`` is a
        half type, the weights are off by roundings to it (``rounded_weights``), and each ``nudge``
        is another rounding of them; ``dtype`` is float32 then.
        """


@dataclass(frozen=True, kw_only=True)
class TorchReference:
    """The PyTorch network as trained and its ports."""

    network: LoadedNetwork
    module: nn.Module
    """In float32 and eval mode; it is not modified."""
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    @property
    def spec(self) -> NetworkSpec:
        return self.network.spec

    @property
    def input_spec(self) -> InputSpec:
        return self.spec.input_spec

    @property
    def video(self) -> bool:
        """Whether the network has temporal ports."""
        return len(self.inputs) > 1

    def runner(
        self, dtype: str, device: str = "cpu", *, nudge: int = 0, weights: str = ""
    ) -> TorchRunner:
        if weights:
            import torch

            from paragon_export.runtimes.torch_arithmetic import rounded_weights

            module = rounded_weights(self.module, getattr(torch, weights), nudge)
            return replace(self, module=module).runner(dtype, device)
        return self._runner(dtype=dtype, device=device, nudge=nudge)

    def fast_runner(self) -> TorchRunner:
        """Return a runner in float32 for large images."""
        is_ours = self.spec.architecture == "ParagonSR2"  # others call ``view`` on maps
        return self._runner(channels_last=is_ours)

    def _runner(self, **options: Any) -> TorchRunner:
        names = [port.name for port in self.inputs], [port.name for port in self.outputs]
        return TorchRunner(self.module, *names, ports=self.inputs, **options)

    def fixed(self, size: Size) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
        """Return inputs and outputs for one input size and batch 1."""
        scale = self.spec.scale
        extents = {"batch": 1, "height": size.height, "width": size.width}
        extents |= {f"{scale}*height": scale * size.height, f"{scale}*width": scale * size.width}
        return _at(self.inputs, extents), _at(self.outputs, extents)


@dataclass(frozen=True, kw_only=True)
class OnnxReference:
    """A float32 ONNX file whose checkpoint is unknown. It computes in float32 for every dtype."""

    file: OnnxFile
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    @property
    def input_spec(self) -> InputSpec:
        return self.file.input_spec

    def runner(self, dtype: str, *, nudge: int = 0, weights: str = "") -> Runner:
        opened = open_runner(self.file.data, is_own=self.file.is_own, title=str(self.file.path))
        return with_standard_names(opened, self.file.names)


def _at(ports: Sequence[Port], extents: dict[str, int]) -> tuple[Port, ...]:
    return tuple(port.at(extents) for port in ports)


def build_reference(network: LoadedNetwork, *, video: bool = False) -> TorchReference:
    """Return the network as trained, with its ports; ``video`` adds the temporal ones.

    Raises:
        PlanError: If an option that the tensors do not determine has no value.
    """
    module = network.build(video=True) if video else network.module
    architecture = architecture_named(network.spec.architecture)
    inputs, outputs = architecture.ports(network.spec, video=video)
    return TorchReference(network=network, module=module, inputs=inputs, outputs=outputs)


@step("measuring what dropped tensors cost")
def measure_drop(network: LoadedNetwork) -> Difference:
    """Measure in float64 how the image changes if the options drop trained tensors."""
    flags = {**network.options.flags, "export_safe": False, "attention_mode": "sdpa"}
    complete = network.with_options(replace(network.options, flags=flags))
    feeds = {"input": photograph_crop(network.spec.in_channels, DROP_SIZE)[None]}
    dropped, full = (
        build_reference(each).runner("float64").infer(feeds)["output"]
        for each in (network, complete)
    )
    return difference(dropped, full, border=0)
