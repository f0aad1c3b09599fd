"""Model: a checkpoint, ONNX file or engine, opened to upscale pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from threading import Semaphore

import numpy as np

from paragon_export.engines.manifest import EngineFile
from paragon_export.engines.open import open_engine
from paragon_export.errors import PlanError, RunError
from paragon_export.graph.onnx_io import OnnxFile, is_onnx, read_onnx_file
from paragon_export.media.images import luma
from paragon_export.networks.describe import LoadedNetwork, read_network
from paragon_export.parity.candidates import is_engine, read_artifact
from paragon_export.parity.reference import build_reference
from paragon_export.runtimes.base import Arrays, Runner
from paragon_export.runtimes.isolated import IsolatedRunner, open_runner
from paragon_export.runtimes.named import with_standard_names
from paragon_export.specs.network import Port, Task
from paragon_export.specs.plans import NetworkOptions
from paragon_export.specs.profiles import Profile
from paragon_export.specs.types import OnnxBackend, Size
from paragon_export.system.limits import peak_memory_bytes, reset_peak_memory
from paragon_export.system.progress import step
from paragon_export.tiling.field import Field
from paragon_export.tiling.open import field_of_file, field_of_network

TRIAL = Size(16, 16)
"""Size of the picture that tells the scale of an ONNX file."""

TRIALS = (Size(128, 128), Size(256, 256))
"""Sizes whose runs tell the memory for a pixel."""

MAX_CALLERS = 4
"""Most runs of a network at a time, each of which needs memory."""


def cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Limited:
    """A runner that runs a few times at once, and lets further threads wait."""

    def __init__(self, runner: Runner, count: int) -> None:
        """Take a runner, and how often it may run at a time."""
        self.name = runner.name
        self._runner, self._free = runner, Semaphore(count)

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Run the network once (see ``Runner.infer``)."""
        with self._free:
            return self._runner.infer(feeds)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A network that upscales pictures, opened."""

    name: str
    runner: Runner
    """Takes ``input`` and gives ``output``."""
    inputs: tuple[Port, ...]
    channels: int
    """Of the picture: 1 luma, 3 RGB."""
    out_channels: int
    """Of the output; the same number."""
    scale: int
    find_field: Callable[[], Field]
    """Measures how far pixels reach.

    Raises:
        PlanError: If the network cannot be computed in tiles."""
    fixed: Size | None = None
    """The only size that it takes."""
    largest: Size | None = None
    """Largest size that it takes."""
    step: int = 1
    """Blended tiles begin at multiples of this many pixels, as attention windows do."""
    open_again: Callable[[int], Runner] | None = None
    """Opens it once more, with this many threads for one run, to run several times at once. None: it runs
    once at a time."""
    open_apart: Callable[[], tuple[Runner, int]] | None = None
    """Opens it in a child process, and gives its ID. The memory of a new process tells what a run takes: a
    runtime keeps what earlier runs took. None: for PyTorch, which does not, and for GPUs."""
    threads: int = 0
    """Most threads of all of its runs together; 0: as many as this process has cores."""
    notes: tuple[str, ...] = field(default=())

    @property
    def cores(self) -> int:
        """Cores that its runs may use."""
        return self.threads or cores()

    @cached_property
    def field(self) -> Field:
        """What the pixels of its output are computed from."""
        return self.find_field()

    @property
    def callers(self) -> int:
        """Runs of ``shared`` at a time."""
        return min(self.cores, MAX_CALLERS) if self.open_again else 1

    @cached_property
    def shared(self) -> Runner:
        """The network for several pictures, tiles or frames, from any number of threads.

        Runs of one thread each, side by side, take less time of the processor than those of ``runner``, which
        wait for their slowest thread at every operator.
        """
        if self.open_again is None or self.callers == 1:
            return Limited(self.runner, 1)
        return Limited(self.open_again(self.cores // self.callers), self.callers)

    @cached_property
    def bytes_per_pixel(self) -> float | None:
        """Memory of a run for one pixel of its input in bytes. None if it is not known: it is measured on Linux only."""
        with step("measuring memory"):
            return self._measured_bytes()

    def _measured_bytes(self) -> float | None:
        """Return the difference of the memory of two runs, over the difference of their pixels."""
        runner, process = self.open_apart() if self.open_apart else (self.runner, "self")
        before, peaks = reset_peak_memory(process), []
        for size in TRIALS:
            black = np.zeros((1, self.channels, size.height, size.width), np.float32)
            runner.infer(self.feeds(black))
            peaks.append(peak_memory_bytes(before, process))
        low, high = peaks
        if low is None or high is None:
            return None
        pixels = [size.height * size.width for size in TRIALS]
        return max(0, high - low) / (pixels[1] - pixels[0])

    def feeds(self, picture: np.ndarray) -> Arrays:
        """Return the inputs for a picture, (1, C, H, W): a video network takes it for a first frame."""
        feeds: Arrays = {"input": picture}
        for port in self.inputs:
            if port.name == "input":
                continue
            is_map = len(port.dims) == 4
            shape = (1, int(port.dims[1]), *picture.shape[2:]) if is_map else ()
            feeds[port.name] = np.zeros(shape, np.float32)
        return feeds


def open_model(
    path: LoadedNetwork | Path, backend: OnnxBackend, options: NetworkOptions, threads: int = 0
) -> Model:
    """Open a network to upscale pictures.

    Args:
        path: A network, or a checkpoint, an ONNX file or an engine.
        backend: What runs an ONNX file.
        options: Values that the tensors do not determine, for a checkpoint.
        threads: Of an ONNX file on the processor; 0: as many as its runtime chooses.

    Raises:
        PlanError: If it does not upscale pictures of 1 channel to 1, or of 3 to 3.
        ParagonExportError: If it cannot be read or run.
    """
    if isinstance(path, LoadedNetwork):
        return _checked(_of_network(path))
    if is_engine(path):
        artifact = read_artifact(path)
        assert isinstance(artifact, EngineFile)
        return _checked(_of_engine(artifact))
    if is_onnx(path):
        return _checked(_of_file(read_onnx_file(path), backend, threads))
    return _checked(_of_network(read_network(path, options)))


def _checked(model: Model) -> Model:
    if (model.channels, model.out_channels) not in ((1, 1), (3, 3)):
        raise PlanError(
            f"{model.name} maps {model.channels} channels to {model.out_channels}; upscale takes networks of "
            "1 to 1 (luma) and 3 to 3 (RGB)"
        )
    return model


def _check_task(name: str, task: Task) -> None:
    if task is not Task.IMAGE:
        raise PlanError(f"{name} does not upscale pictures: it makes a {task.value}")


def _of_network(network: LoadedNetwork) -> Model:
    import torch

    name, spec = network.checkpoint.path.name, network.spec
    _check_task(name, spec.task)
    reference = build_reference(network)
    on_cpu = not torch.cuda.is_available()
    hint = f"{name} runs in PyTorch; the file that `paragon-export onnx` makes of it usually runs faster"
    return Model(
        name=name,
        runner=reference.fast_runner() if on_cpu else reference.runner("float32", "cuda"),
        inputs=reference.inputs,
        channels=spec.in_channels,
        out_channels=spec.out_channels,
        scale=spec.scale,
        find_field=lambda: field_of_network(
            reference.runner("float32"), reference.inputs, spec.input_spec
        ),
        step=max(spec.excerpt_step, 1),
        notes=(*spec.notes, hint) if on_cpu else spec.notes,
    )


def _of_file(file: OnnxFile, backend: OnnxBackend, threads: int) -> Model:
    """Open an ONNX file. It runs once in a child process with limits before it runs in this one."""
    _check_task(file.path.name, file.task)
    size = file.static or TRIAL
    inputs, _ = file.ports

    def opened_apart() -> tuple[Runner, int]:
        isolated = IsolatedRunner(file.data, backend, title=str(file.path))
        return with_standard_names(isolated, file.names), isolated.process

    model = Model(
        name=file.path.name,
        runner=opened_apart()[0],
        inputs=inputs,
        channels=file.input_spec.channels,
        out_channels=0,
        scale=1,
        find_field=partial(field_of_file, file),
        step=file.input_spec.window,
        fixed=file.static,
    )
    black = np.zeros((1, model.channels, size.height, size.width), np.float32)
    output = model.runner.infer(model.feeds(black))["output"]
    scale = output.shape[-1] // size.width
    if output.shape[2:] != (scale * size.height, scale * size.width):
        raise RunError(
            f"{file.path} makes {list(output.shape)} of {size}: that is no upscaled picture"
        )

    def opened(count: int) -> Runner:
        runner = open_runner(file.data, backend, is_own=True, title=str(file.path), threads=count)
        return with_standard_names(runner, file.names)

    can_share = backend is OnnxBackend.ONNXRUNTIME
    return replace(
        model, runner=opened(threads), out_channels=output.shape[1], scale=scale, threads=threads,
        open_again=opened if can_share else None,
        open_apart=None if backend is OnnxBackend.CUDA else opened_apart,
    )  # fmt: skip


def _of_engine(engine: EngineFile) -> Model:
    manifest = engine.manifest
    runner, _, profile = open_engine(engine)
    assert manifest is not None  # or the engine is not opened
    metadata = manifest.onnx_metadata
    if not isinstance(profile, Profile) or not metadata.scale:
        raise PlanError(f"{engine.path} does not upscale pictures")
    inputs = [Port("input", (1, metadata.in_channels or 3, "height", "width"))]
    return Model(
        name=engine.path.name,
        runner=runner,
        inputs=tuple(inputs),
        channels=metadata.in_channels or 3,
        out_channels=metadata.out_channels or metadata.in_channels or 3,
        scale=metadata.scale,
        find_field=lambda: _field_beside(engine),
        step=metadata.window,
        fixed=profile.largest if profile.smallest == profile.largest else None,
        largest=profile.largest,
    )


def _field_beside(engine: EngineFile) -> Field:
    """Return the field of the ONNX file that an engine was built from."""
    manifest = engine.manifest
    assert manifest is not None
    file = engine.path.with_name(str(manifest.onnx))
    if not file.is_file():
        raise PlanError(
            f"tiles of {engine.path} need the ONNX file that it was built from, {file}; it is not there"
        )
    return field_of_file(read_onnx_file(file))


class OnIntegers:
    """A network on pictures of integers: a :class:`~paragon_export.runtimes.base.Runner`.

    Gray is repeated for a network that takes RGB, and the mean of its result is taken. Of RGB a network that
    takes one channel is given the luma (ITU-R BT.601).
    """

    def __init__(self, model: Model, runner: Runner, largest: int) -> None:
        """Take a model, its ``runner`` or ``shared``, and the value of white."""
        self.name, self.model, self.runner, self.largest = model.name, model, runner, largest

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Run the network once; ``output`` is in [0, 1], with one channel or three."""
        given = feeds["input"]
        image = given.astype(np.float32, order="C")
        if self.largest != 1:
            image /= np.float32(self.largest)
        if image.shape[1] == 3 and self.model.channels == 1:
            image = luma(image)
        if image.shape[1] < self.model.channels:
            image = np.repeat(image, self.model.channels, axis=1)
        output = self.runner.infer({**feeds, "input": np.ascontiguousarray(image)})["output"]
        if given.shape[1] == 1:
            output = output.mean(axis=1, keepdims=True)
        return {"output": output}
