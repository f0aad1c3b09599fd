"""Contenders: which backends run an artifact, and how each is opened."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from paragon_export.graph.onnx_io import OnnxFile, is_onnx, read_onnx_file
from paragon_export.networks.describe import LoadedNetwork, read_network
from paragon_export.parity.candidates import is_engine
from paragon_export.parity.reference import build_reference
from paragon_export.runtimes.base import Runner
from paragon_export.runtimes.openvino_runner import OpenVinoRunner
from paragon_export.runtimes.ort_runner import OnnxRunner, open_on_cuda
from paragon_export.runtimes.torch_runner import TorchRunner
from paragon_export.specs.network import Port
from paragon_export.specs.plans import NetworkOptions
from paragon_export.specs.ports import FixedExtents, PortNames
from paragon_export.specs.types import OnnxBackend, Size
from paragon_export.system.environment import cuda_gpu
from paragon_export.system.text import utf_8

STATE, FEATURES, BLEND = "prev_feat", "feature_map", "alpha"
"""Ports of a video network: features in and out, and the share of those that come in."""


@dataclass(frozen=True)
class Contender:
    """One backend on one artifact, not opened yet."""

    artifact: str
    """Name of the file."""
    backend: str
    """Label of the row."""
    open: Callable[[], Runner]
    """Opens the artifact. Fails if the backend is not installed or rejects it."""
    channels: int = 3
    """Number of channels of an image input."""
    port: Port | None = None
    """The input of a glyph classifier; None for networks that take images."""
    state: Port | None = None
    """The input ``prev_feat`` of a video network; None for other networks."""
    untrusted: bytes | None = None
    """An ONNX file. It runs once in an isolated process with limits before it is timed in this
    one."""
    onnx_backend: OnnxBackend = OnnxBackend.ONNXRUNTIME
    """What runs the ONNX file."""
    names: PortNames = field(default_factory=PortNames)
    """How the file calls its image input and its result."""
    fixed: FixedExtents = field(default_factory=FixedExtents)
    """The extents that the file fixes."""
    estimated_ms: Mapping[Size, float] = field(default_factory=dict)
    """Estimated milliseconds of an engine on the GPU here, by size, from its manifest; not run."""


def contenders_of(
    artifact: LoadedNetwork | str | Path,
    options: NetworkOptions,
    backends: Sequence[OnnxBackend],
    video: bool = False,
) -> list[Contender]:
    """Return the backends that an artifact is measured on.

    Args:
        artifact: A network or checkpoint (PyTorch), an ONNX file or an engine.
        options: Values that the tensors do not determine, for a checkpoint.
        backends: What runs an ONNX file.
        video: Measure a checkpoint as a video network.

    Raises:
        PlanError: If an ONNX file does not take pictures, glyphs or the frames of a video.
        ParagonExportError: If the artifact cannot be read.
    """
    if isinstance(artifact, LoadedNetwork):
        return _of_network(artifact, video)
    path = Path(artifact)
    if is_engine(path):
        return _of_engine(path)
    if is_onnx(path):
        return _of_onnx(read_onnx_file(path), backends)
    return _of_network(read_network(path, options), video)


def _of_engine(path: Path) -> list[Contender]:
    from paragon_export.engines.kernels.cards import card_of_gpu
    from paragon_export.engines.manifest import read_engine
    from paragon_export.engines.open import classifier_ports, open_engine

    engine = read_engine(path)
    card = card_of_gpu(cuda_gpu())
    estimates = engine.manifest.kernels if engine.manifest and card else ()
    estimated = {one.size: one.estimated_ms for one in estimates if card and one.card == card.name}
    port = next(iter(classifier_ports(engine.manifest)), None)
    is_video = engine.manifest is not None and engine.manifest.video
    state = Port(STATE, ("batch", "features", "height", "width")) if is_video else None
    opener = cache(lambda: open_engine(engine)[0])
    name = utf_8(path.name)
    return [Contender(name, "TensorRT", opener, 3, port, state, estimated_ms=estimated)]


def _of_onnx(file: OnnxFile, backends: Sequence[OnnxBackend]) -> list[Contender]:
    inputs, _ = file.ports
    channels = file.input_spec.channels
    port = inputs[0] if file.task.is_classifier else None
    openers: dict[OnnxBackend, tuple[str, Callable[[bytes], Runner]]] = {
        OnnxBackend.ONNXRUNTIME: ("ONNX Runtime CPU", OnnxRunner),
        OnnxBackend.CUDA: ("ONNX Runtime CUDA", partial(open_on_cuda, for_one_size=True)),
        OnnxBackend.OPENVINO: ("OpenVINO CPU", OpenVinoRunner),
    }
    wanted = set(backends)
    if OnnxBackend.ONNXRUNTIME in wanted:
        wanted.add(OnnxBackend.CUDA)
    return [
        Contender(
            utf_8(file.path.name),
            label,
            partial(opener, file.data),
            channels,
            port,
            state_of(inputs),
            untrusted=file.data,
            onnx_backend=backend,
            names=file.names,
            fixed=file.fixed,
        )
        for backend, (label, opener) in openers.items()
        if backend in wanted
    ]


def _of_network(network: LoadedNetwork, video: bool) -> list[Contender]:
    name, reference = utf_8(network.checkpoint.path.name), build_reference(network, video=video)
    channels = network.spec.in_channels
    port = reference.inputs[0] if network.spec.task.is_classifier else None
    state = state_of(reference.inputs)
    device = "cuda" if _torch_has_gpu() else "cpu"
    dtype = "float16" if device == "cuda" else "float32"

    def eager() -> TorchRunner:
        return reference.runner(dtype, device)

    label = f"{device} {dtype}"
    return [
        Contender(name, f"PyTorch eager ({label})", eager, channels, port, state),
        Contender(
            name, f"torch.compile ({label})", lambda: _compiled(eager()), channels, port, state
        ),
    ]


def state_of(inputs: Sequence[Port]) -> Port | None:
    """Return the input of a video network that takes the features of the previous frame."""
    return next((port for port in inputs if port.name == STATE), None)


def _torch_has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _compiled(runner: TorchRunner) -> TorchRunner:
    runner.module = copy.deepcopy(runner.module)  # compiling changes it
    runner.module.compile(dynamic=False)
    return runner
