"""Bench: how many frames a second each backend does, all of them in one interleaved run.

Machines drift: one sample is taken of every backend in turn, so that drift hits all alike.
Every backend is warmed up at the very size that is measured and its output is checked once.
"""

from __future__ import annotations

import gc
import io
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np

from paragon_export.bench.memory import peak_memory_mib, reset_peak_memory
from paragon_export.bench.report import BenchReport, BenchRow
from paragon_export.errors import OutOfMemoryError, ParagonExportError, PlanError, RunError
from paragon_export.graph.onnx_io import is_onnx, read_onnx_file
from paragon_export.inputs.glyph_probes import glyph_batch
from paragon_export.inputs.probes import photograph_crop
from paragon_export.networks.describe import LoadedNetwork, read_network
from paragon_export.parity.candidates import is_engine
from paragon_export.parity.reference import build_reference
from paragon_export.runtimes.base import Arrays, Runner
from paragon_export.runtimes.isolated import IsolatedRunner
from paragon_export.runtimes.openvino_runner import OpenVinoRunner
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.runtimes.torch_runner import TorchRunner
from paragon_export.specs.network import Port
from paragon_export.specs.plans import NetworkOptions
from paragon_export.specs.types import OnnxBackend, Size
from paragon_export.system.environment import environment
from paragon_export.system.optional import cuda_advice, import_without_telemetry
from paragon_export.system.progress import advance, step
from paragon_export.system.reading import parse_json, read_bytes
from paragon_export.system.text import utf_8

MIN_SAMPLES, MAX_SAMPLES = 5, 50

SECONDS_PER_BACKEND = 3.0
"""At one size; the fewest samples are taken even if they last longer."""


@dataclass(frozen=True)
class Contender:
    """A backend that may run an artifact; opening it may fail, with a reason."""

    artifact: str
    backend: str
    open: Callable[[], Runner]
    channels: int = 3
    """Of the input."""
    port: Port | None = None
    """The input of a glyph classifier; None for networks that take pictures."""
    state: Port | None = None
    """The input ``prev_feat`` of a video network; None for other networks."""
    foreign: bytes | None = None
    """A model of somebody else, which has to run once with limits before it is timed without."""


STATE, FEATURES, BLEND = "prev_feat", "feature_map", "alpha"
"""Ports of a video network: features in and out, and the share of those that come in."""

BLEND_OF_FRAMES = 0.2
"""What ``alpha`` is while a video network is timed: a frame that follows another one."""

MAX_REPORT_BYTES = 2**24

DEFAULT_SIZES = (Size(270, 480),)

DEFAULT_BATCHES = (1, 32, 256)
"""Glyphs or cells at a time."""


def benchmark(
    artifacts: Iterable[LoadedNetwork | str | Path],
    *,
    sizes: Iterable[str | Size] = (),
    batches: Iterable[int] = (),
    backends: Iterable[str] = ("onnxruntime",),
    options: NetworkOptions | None = None,
    video: bool = False,
) -> BenchReport:
    """Measure frames a second of every backend on every artifact, alternating in one run.

    Args:
        artifacts: Networks or checkpoints (PyTorch), ONNX files (``backends``) and engines
            (TensorRT).
        sizes: Input sizes as ``"720x1280"`` (height x width); empty takes 270x480.
        batches: Items at a time of a glyph classifier; empty takes 1, 32 and 256.
        backends: What runs ONNX files: ``"onnxruntime"``, ``"openvino"`` or both.
        options: What the tensors do not determine, for the checkpoints.
        video: Time checkpoints as video networks. ONNX files and engines say themselves.

    Returns:
        The report. A backend that cannot run is a row with the reason.

    Raises:
        PlanError: If sizes or batches do not suit any artifact.
        ParagonExportError: If an artifact cannot be read.
    """
    given = options or NetworkOptions()
    runtimes = tuple(map(OnnxBackend, backends))
    contenders = [
        c for artifact in artifacts for c in _contenders(artifact, given, runtimes, video)
    ]
    chosen = [size if isinstance(size, Size) else Size.parse(size) for size in sizes]
    return _bench(contenders, chosen, list(batches))


def _bench(
    contenders: Sequence[Contender], sizes: Sequence[Size], batches: Sequence[int]
) -> BenchReport:
    pictures = [contender for contender in contenders if contender.port is None]
    glyphs = [contender for contender in contenders if contender.port is not None]
    if (sizes and not pictures) or (batches and not glyphs):
        wrong, right = ("--size", "--batch") if sizes and not pictures else ("--batch", "--size")
        raise PlanError(f"{wrong} does not suit these artifacts; give {right}")
    rows: list[BenchRow] = []
    for size in (sizes or DEFAULT_SIZES) if pictures else ():
        rows += _bench_size(pictures, size)
    for batch in (batches or DEFAULT_BATCHES) if glyphs else ():
        for grid in dict.fromkeys(_grid(c.port) for c in glyphs if c.port):
            rows += _bench_size(
                [c for c in glyphs if c.port and _grid(c.port) == grid], grid, batch
            )
    return BenchReport(rows=tuple(rows), environment=environment())


def is_report(path: Path) -> bool:
    """Tell whether a file is the JSON of a benchmark of this tool."""
    try:
        document = parse_json(read_bytes(path, MAX_REPORT_BYTES, "report", PlanError))
    except (PlanError, ValueError):
        return False
    return isinstance(document, dict) and {"rows", "environment"} <= set(document)


def bench_runners(
    artifact: str,
    runners: Mapping[str, Callable[[], Runner]],
    extent: Size | int,
    port: Port | None = None,
    state: Port | None = None,
) -> BenchReport:
    """Measure runners that are opened when called, under the names given.

    ``extent`` is the size of a picture, or a batch for the glyph classifier with input ``port``;
    ``state`` is the input ``prev_feat`` of a video network.
    """
    contenders = [
        Contender(artifact, name, opened, 3, port, state) for name, opened in runners.items()
    ]
    where = (extent,) if isinstance(extent, Size) else (_grid(port), extent)
    return BenchReport(rows=tuple(_bench_size(contenders, *where)), environment=environment())


def _grid(port: Port | None) -> Size:
    rows, columns = port.dims[-2:] if port else (1, 1)
    return Size(int(rows), int(columns))


def _contenders(
    artifact: LoadedNetwork | str | Path,
    options: NetworkOptions,
    backends: Sequence[OnnxBackend],
    video: bool,
) -> list[Contender]:
    if isinstance(artifact, LoadedNetwork):
        return _of_network(artifact, video)
    path = Path(artifact)
    if is_engine(path):
        return [_engine_contender(path, utf_8(path.name))]
    if is_onnx(path):
        return _onnx_contenders(path, utf_8(path.name), backends)
    return _of_network(read_network(path, options), video)


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


def _engine_contender(artifact: Path, name: str) -> Contender:
    from paragon_export.engines.manifest import read_engine
    from paragon_export.engines.open import classifier_ports, open_engine

    engine = read_engine(artifact)
    port = next(iter(classifier_ports(engine.manifest)), None)
    is_video = engine.manifest is not None and engine.manifest.video
    state = Port(STATE, ("batch", "features", "height", "width")) if is_video else None
    opens = cache(lambda: open_engine(engine)[0])
    return Contender(name, "TensorRT", opens, 3, port, state)


def _onnx_contenders(artifact: Path, name: str, backends: Sequence[OnnxBackend]) -> list[Contender]:
    file = read_onnx_file(artifact)
    inputs, outputs = file.ports
    channels = inputs[0].dims[1] if inputs and len(inputs[0].dims) > 1 else None
    if not isinstance(channels, int) or not outputs:
        raise PlanError(f"{artifact}: the number of input channels must be fixed")
    port = inputs[0] if file.task.is_classifier else None
    opened: dict[str, Callable[[], Runner]] = {}
    if OnnxBackend.ONNXRUNTIME in backends:
        opened |= {f"ONNX Runtime {d}": partial(_open_onnx, file.data, d) for d in ("CPU", "CUDA")}
    if OnnxBackend.OPENVINO in backends:
        opened["OpenVINO CPU"] = partial(OpenVinoRunner, file.data)
    return [
        Contender(name, label, run, channels, port, state_of(inputs), foreign=file.data)
        for label, run in opened.items()
    ]


def state_of(inputs: Sequence[Port]) -> Port | None:
    """Return the input of a video network that takes the features of the frame before."""
    return next((port for port in inputs if port.name == STATE), None)


def _torch_has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _compiled(runner: TorchRunner) -> TorchRunner:
    runner.module.compile(dynamic=False)
    return runner


def _open_onnx(data: bytes, device: str) -> OnnxRunner:
    if device == "CPU":
        return OnnxRunner(data)
    ort = import_without_telemetry("onnxruntime")
    provider = f"{device}ExecutionProvider"
    if provider not in ort.get_available_providers():
        raise PlanError(f"this ONNX Runtime has no {device}; {cuda_advice()}")
    if hasattr(ort, "preload_dlls"):  # ONNX Runtime 1.21 or later
        with redirect_stdout(io.StringIO()):  # it prints what it does not find
            ort.preload_dlls()
    ort.set_default_logger_severity(4)  # the row says what is missing
    return OnnxRunner(data, provider)


def _bench_size(
    contenders: Sequence[Contender], size: Size, batch: int | None = None
) -> list[BenchRow]:
    rows = [
        BenchRow(artifact=c.artifact, backend=c.backend, size=size, batch=batch) for c in contenders
    ]
    running: dict[int, Callable[[], Arrays]] = {}
    extent = size if batch is None else f"batch {batch}"
    for index, contender in enumerate(contenders):
        try:
            with step(f"warming up {contender.backend} at {extent}"):
                run, peak = _warm_up(contender, size, batch)
        except ParagonExportError as error:
            rows[index] = replace(rows[index], reason=str(error))
        except Exception as error:  # a compiler or driver that is missing on this machine
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            rows[index] = replace(rows[index], reason=reason)
        else:
            running[index] = run
            rows[index] = replace(rows[index], peak_memory_mib=peak)
    samples: dict[int, list[float]] = {index: [] for index in running}
    with step(f"timing {len(running)} backends at {extent}: round", MAX_SAMPLES):
        while wanting := [i for i in running if _wants_more(samples[i])]:
            advance()
            for index in wanting:
                try:
                    samples[index].append(_timed_ms(running[index]))
                except (RunError, OutOfMemoryError) as error:
                    rows[index] = replace(rows[index], reason=str(error))
                    del running[index], samples[index]
    return [replace(row, samples_ms=tuple(samples.get(i, ()))) for i, row in enumerate(rows)]


def _wants_more(samples_ms: Sequence[float]) -> bool:
    if len(samples_ms) < MIN_SAMPLES:
        return True
    return len(samples_ms) < MAX_SAMPLES and sum(samples_ms) < SECONDS_PER_BACKEND * 1000


def _warm_up(
    contender: Contender, size: Size, batch: int | None
) -> tuple[Callable[[], Arrays], float | None]:
    """Open a backend, run it twice at the size or batch, and look at what comes out."""
    fed = _feeds(contender, size, batch)
    if contender.foreign is not None:
        backend = OnnxBackend.OPENVINO if "OpenVINO" in contender.backend else None
        IsolatedRunner(contender.foreign, backend or OnnxBackend.ONNXRUNTIME).infer(fed)
    gc.collect()
    before = reset_peak_memory()
    runner = contender.open()

    def run() -> Arrays:
        return runner.infer(fed)

    for _ in range(2):
        found = run()
        if FEATURES in found and STATE in fed:  # a frame in the middle of a video
            fed |= {STATE: found[FEATURES], BLEND: np.array(BLEND_OF_FRAMES, np.float32)}
    output = found["output"]
    if contender.port is None:
        height, width = output.shape[-2:]
        fits = not (height % size.height or width % size.width)
    else:
        fits = output.ndim == 2 and len(output) == batch
    if not np.isfinite(output).all() or not fits:
        kind = "picture" if contender.port is None else "set of logits"
        raise RunError(f"{contender.backend} gives a wrong {kind} {list(output.shape)}")
    return run, peak_memory_mib(before)


def _feeds(contender: Contender, size: Size, batch: int | None) -> dict[str, np.ndarray]:
    """Return what a backend is fed first; a video network gets the first frame of a video."""
    if contender.port is not None:
        return {"input": glyph_batch(contender.port, batch or 1)}
    fed = {"input": photograph_crop(contender.channels, size)[None]}
    if contender.state is not None:
        features = contender.state.dims[1]
        if is_engine(Path(contender.artifact)):  # which alone knows how many there are
            features = contender.open().channels_of(STATE)  # type: ignore[attr-defined]
        if not isinstance(features, int):
            raise PlanError(f"{contender.artifact}: the channels of {STATE} must be fixed")
        shape = (1, features, size.height, size.width)
        fed |= {STATE: np.zeros(shape, np.float32), BLEND: np.array(0, np.float32)}
    return fed


def _timed_ms(run: Callable[[], Arrays]) -> float:
    start = time.perf_counter()
    run()  # every runner returns arrays on the host: the device has finished
    return (time.perf_counter() - start) * 1000
