"""Measure the latency of every backend in one interleaved run.

The speed of a machine changes with temperature and load. So one sample of each backend is taken in
turn, and a change affects all of them. Each backend is warmed up at the measured size and its
output is checked once.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from paragon_export.bench.contenders import BLEND, FEATURES, STATE, Contender, contenders_of
from paragon_export.bench.report import BenchReport, BenchRow
from paragon_export.errors import OutOfMemoryError, ParagonExportError, PlanError, RunError
from paragon_export.inputs.glyph_probes import glyph_batch
from paragon_export.inputs.probes import photograph_crop
from paragon_export.networks.describe import LoadedNetwork
from paragon_export.parity.candidates import is_engine
from paragon_export.runtimes.base import Runner, prepared
from paragon_export.runtimes.isolated import IsolatedRunner
from paragon_export.runtimes.named import with_standard_names
from paragon_export.specs.network import Port
from paragon_export.specs.plans import NetworkOptions
from paragon_export.specs.types import OnnxBackend, Size
from paragon_export.system.environment import environment
from paragon_export.system.limits import peak_memory_bytes, reset_peak_memory
from paragon_export.system.progress import advance, step
from paragon_export.system.reading import parse_json, read_bytes

MIN_SAMPLES, MAX_SAMPLES = 5, 50

MAX_SECONDS_PER_BACKEND = 3.0
"""Time for the samples of one backend at one size. ``MIN_SAMPLES`` are taken even if they take
longer."""


BLEND_OF_FRAMES = 0.2
"""What ``alpha`` is while a video network is timed: a frame that follows another one."""

MAX_REPORT_BYTES = 2**24

DEFAULT_SIZES = (Size(270, 480),)

DEFAULT_BATCHES = (1, 32, 256)
"""Batch sizes of a glyph classifier."""


def benchmark(
    artifacts: Iterable[LoadedNetwork | str | Path],
    *,
    sizes: Iterable[str | Size] = (),
    batches: Iterable[int] = (),
    backends: Iterable[str] = ("onnxruntime",),
    options: NetworkOptions | None = None,
    video: bool = False,
) -> BenchReport:
    """Measure frames per second of every backend on every artifact in one interleaved run.

    Args:
        artifacts: Networks or checkpoints (PyTorch), ONNX files (``backends``) and engines
            (TensorRT).
        sizes: Input sizes as ``"720x1280"`` (height x width); empty takes 270x480.
        batches: Batch sizes of a glyph classifier; empty takes 1, 32 and 256.
        backends: What runs ONNX files: ``"onnxruntime"``, ``"openvino"`` or both.
        options: Values that the tensors do not determine, for the checkpoints.
        video: Time checkpoints as video networks. ONNX files and engines record it.

    Returns:
        The report: one row for each artifact, backend and size, with milliseconds or with the
        reason why the backend cannot run.

    Raises:
        PlanError: If there are sizes but no image network, or batches but no glyph classifier.
        ParagonExportError: If an artifact cannot be read.
    """
    options = options or NetworkOptions()
    runtimes = tuple(map(OnnxBackend, backends))
    contenders = [
        c for artifact in artifacts for c in contenders_of(artifact, options, runtimes, video)
    ]
    parsed = [size if isinstance(size, Size) else Size.parse(size) for size in sizes]
    return _bench(contenders, parsed, list(batches))


def _bench(
    contenders: Sequence[Contender], sizes: Sequence[Size], batches: Sequence[int]
) -> BenchReport:
    images = [contender for contender in contenders if contender.port is None]
    glyphs = [contender for contender in contenders if contender.port is not None]
    if (sizes and not images) or (batches and not glyphs):
        wrong, kind, right = (
            ("--size", "glyph classifiers", "--batch")
            if sizes and not images
            else ("--batch", "image networks", "--size")
        )
        raise PlanError(f"{wrong} does not suit these artifacts, all {kind}; give {right}")
    rows: list[BenchRow] = []
    for size, chosen in _by_size(images, sizes):
        rows += _bench_size(chosen, size)
    for batch in (batches or DEFAULT_BATCHES) if glyphs else ():
        for grid in dict.fromkeys(_grid(c.port) for c in glyphs if c.port):
            rows += _bench_size(
                [c for c in glyphs if c.port and _grid(c.port) == grid], grid, batch
            )
    return BenchReport(rows=tuple(rows), environment=environment())


def _by_size(
    images: Sequence[Contender], sizes: Sequence[Size]
) -> Iterable[tuple[Size, list[Contender]]]:
    """Yield the sizes, each with what is measured at it.

    By default a file that fixes its height or width is measured there, and not at the default size.
    """
    for size in sizes or DEFAULT_SIZES:
        own = dict.fromkeys(size if sizes else c.fixed.at(size) for c in images)
        for one in own:
            yield one, [c for c in images if sizes or c.fixed.at(size) == one]


def is_report(path: Path) -> bool:
    """Return whether a file is a JSON report that this tool wrote."""
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
    """Measure runners of one artifact.

    Args:
        artifact: Name of the artifact in the report.
        runners: Label of each backend, and a function that opens its runner.
        extent: Input size of an image network, or batch of a glyph classifier.
        port: Input of a glyph classifier; None for an image network.
        state: Input ``prev_feat`` of a video network; None for other networks.
    """
    contenders = [
        Contender(artifact, name, opened, 3, port, state) for name, opened in runners.items()
    ]
    where = (extent,) if isinstance(extent, Size) else (_grid(port), extent)
    return BenchReport(rows=tuple(_bench_size(contenders, *where)), environment=environment())


def _grid(port: Port | None) -> Size:
    """Return the height and width of a glyph classifier's input."""
    rows, columns = port.dims[-2:] if port else (1, 1)
    return Size(int(rows), int(columns))


def _bench_size(
    contenders: Sequence[Contender], size: Size, batch: int | None = None
) -> list[BenchRow]:
    """Measure all contenders at one size, or at one batch of a glyph classifier."""
    rows = [_row(contender, size, batch) for contender in contenders]
    running: dict[int, Callable[[], object]] = {}
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


def _row(contender: Contender, size: Size, batch: int | None) -> BenchRow:
    return BenchRow(
        artifact=contender.artifact,
        backend=contender.backend,
        size=size,
        batch=batch or _batch_of(contender),
        estimated_ms=contender.estimated_ms.get(size),
    )


def _batch_of(contender: Contender) -> int | None:
    """Return the batch that a file fixes; None if it takes single images."""
    batch = contender.fixed.batch
    return None if batch in (None, 1) else batch


def _wants_more(samples_ms: Sequence[float]) -> bool:
    if len(samples_ms) < MIN_SAMPLES:
        return True
    return len(samples_ms) < MAX_SAMPLES and sum(samples_ms) < MAX_SECONDS_PER_BACKEND * 1000


def _warm_up(
    contender: Contender, size: Size, batch: int | None
) -> tuple[Callable[[], object], float | None]:
    """Open a backend, run it and check its output.

    Returns:
        A function that runs it (see ``runtimes.base.prepared``), and its peak memory in MiB, or None
        if unknown.

    Raises:
        RunError: If the output has a wrong shape or is not finite.
        PlanError: If the file does not accept the size.
    """
    contender.fixed.check(size)
    feeds = _feeds(contender, size, batch)
    if contender.untrusted is not None:
        isolated = IsolatedRunner(contender.untrusted, contender.onnx_backend)
        with_standard_names(isolated, contender.names).infer(feeds)
    gc.collect()
    before = reset_peak_memory()
    runner = with_standard_names(contender.open(), contender.names)
    for _ in range(2):
        found = runner.infer(feeds)
        if FEATURES in found and STATE in feeds:  # a frame in the middle of a video
            feeds |= {STATE: found[FEATURES], BLEND: np.array(BLEND_OF_FRAMES, np.float32)}
    output = found["output"]
    if contender.port is None:
        height, width = output.shape[-2:] if output.ndim == 4 else (0, 1)
        fits = height > 0 and not (height % size.height or width % size.width)
    else:
        fits = output.ndim == 2 and len(output) == batch
    if not np.isfinite(output).all() or not fits:
        kind = "image" if contender.port is None else "set of logits"
        raise RunError(f"{contender.backend} gives a wrong {kind} {list(output.shape)}")
    run = prepared(runner, feeds)
    run()
    peak = peak_memory_bytes(before)
    return run, None if peak is None else peak / 2**20


def _feeds(contender: Contender, size: Size, batch: int | None) -> dict[str, np.ndarray]:
    """Return what a backend is fed first; a video network gets the first frame of a video."""
    if contender.port is not None:
        return {"input": glyph_batch(contender.port, batch or 1)}
    count = _batch_of(contender) or 1
    image = photograph_crop(contender.channels, size)[None]
    fed = {"input": image.repeat(count, axis=0)}
    if contender.state is not None:
        features = contender.state.dims[1]
        if is_engine(Path(contender.artifact)):  # the number is in the engine, not in its manifest
            features = contender.open().channels_of(STATE)  # type: ignore[attr-defined]
        if not isinstance(features, int):
            raise PlanError(f"{contender.artifact}: the channels of {STATE} must be fixed")
        shape = (count, features, size.height, size.width)
        fed |= {STATE: np.zeros(shape, np.float32), BLEND: np.array(0, np.float32)}
    return fed


def _timed_ms(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()  # returns when a GPU has finished
    return (time.perf_counter() - start) * 1000
