"""What every test file shares: seeds, tiny checkpoints and the command line as a subprocess."""

from __future__ import annotations

import functools
import gc
import itertools
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

from paragon_export.inputs import sizes
from paragon_export.runtimes.base import Runner
from paragon_export.specs.types import OnnxBackend, Size
from paragon_export.testing.tiny import tiny_checkpoint

ROOT = Path(__file__).parents[1]

LONGEST_RUN_S = 300

WINDOW_SIZES, RESIDUE_SIZES = sizes.window_sizes, sizes.residue_sizes

# Tiny networks gain nothing from threads, and threads that spin on a busy machine cost minutes.
# Set before PyTorch is imported; the command line inherits it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Test files import ONNX Runtime directly. Subprocesses do not inherit this variable.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# The same examples in every run: what fails here fails everywhere. benchmarks/fuzz.py draws others.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")

SET_BY_PROCESS = ("POLYGRAPHY_USE_TENSORRT_RTX", "ORT_DISABLE_TELEMETRY")
"""Environment variables that this process may have set for itself."""
# The libraries leave a million objects that never go; walking them over and over costs time.
gc.set_threshold(50_000, 20, 20)


def pytest_collection_finish() -> None:
    """Leave what the libraries hold out of every collection to come: a walk takes 0.3 s."""
    gc.collect()
    gc.freeze()


ON_CPU = (OnnxBackend.ONNXRUNTIME, OnnxBackend.OPENVINO)
"""Backends that need no GPU."""


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield paths that do not exist yet, one for each test: making a folder costs more."""
    folder = tmp_path_factory.mktemp("caches")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def empty_cache(caches: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what a test compiles out of the user's cache folder, and out of other tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(next(caches)))


def shell_environment(**changes: str) -> dict[str, str]:
    """Return the environment of a user's shell: without what this process set for itself."""
    inherited = {n: v for n, v in os.environ.items() if n not in SET_BY_PROCESS}
    return {**inherited, "COLUMNS": "200", "NO_COLOR": "1", **changes}


@pytest.fixture(autouse=True)
def seed() -> None:
    """Start every test from the same random state."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - for whatever still draws from the global generator
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.manual_seed(0)  # the CPU's: the others take longer


@dataclass(frozen=True)
class Finished:
    """What a run of the command line left behind."""

    code: int
    stdout: str
    stderr: str


RunCli = Callable[..., Finished]
RunIn = Callable[..., Finished]


def run_started(folder: Path, *args: str | Path, **environment: str) -> Finished:
    """Run ``paragon-export`` in a folder, as a shell starts it: no library is loaded before."""
    done = subprocess.run(
        [sys.executable, "-m", "paragon_export", *map(str, args)],
        cwd=folder,
        env=shell_environment(**environment),
        capture_output=True,
        encoding="utf-8",
        timeout=LONGEST_RUN_S,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def run_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunIn]:
    """Return a function that runs ``paragon-export`` in a folder, in a process of its own.

    The processes are forked from one that has loaded the large libraries (``tests/forked.py``).
    They share a cache folder and see the environment as it was when the first of them ran, and
    the variables that are given by name. ``terminal`` is the device that takes stderr.
    """
    folder = tmp_path_factory.mktemp("forked")
    servers: list[subprocess.Popen[str]] = []

    def server() -> subprocess.Popen[str]:
        if not servers:
            started = subprocess.Popen(
                [sys.executable, "-m", "tests.forked"],
                cwd=ROOT,
                env=shell_environment(XDG_CACHE_HOME=str(folder / "cache")),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                encoding="utf-8",
            )
            servers.append(started)
        return servers[0]

    def run(cwd: Path, *args: str | Path, terminal: str = "", **env: str) -> Finished:
        files = folder / "stdout", folder / "stderr"
        for file in files:
            file.write_bytes(b"")
        request = {
            "args": [str(arg) for arg in args],
            "cwd": str(cwd),
            "stdout": str(files[0]),
            "stderr": terminal or str(files[1]),
            "env": env,
            "fewer_sizes": sizes.residue_sizes is not RESIDUE_SIZES,
            "seconds": LONGEST_RUN_S,
        }
        stdin, stdout = server().stdin, server().stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        code = int(stdout.readline())
        return Finished(code, *(file.read_text(encoding="utf-8") for file in files))

    yield run
    for process in servers:
        process.communicate(timeout=LONGEST_RUN_S)


@pytest.fixture
def run_cli(tmp_path: Path, run_in: RunIn) -> RunCli:
    """Return a function that runs ``paragon-export`` in ``tmp_path``, in a process of its own."""
    return partial(run_in, tmp_path)


RunHere = Callable[..., Finished]


@pytest.fixture(scope="session", autouse=True)
def command_line_once() -> Iterator[None]:
    """Let Typer build the parsers of the commands once a session: 30 ms for each call of ``main``."""
    import typer.main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture
def run_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> RunHere:
    """Return a function like ``run_cli`` that stays in this process: PyTorch is loaded once."""

    def run(*args: str | Path) -> Finished:
        from paragon_export.cli.app import main

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["paragon-export", *map(str, args)])
        code: Any = 0
        try:
            main()
        except SystemExit as exit_:
            code = exit_.code or 0
        captured = capsys.readouterr()
        return Finished(code, captured.out, captured.err)

    return run


def four_sizes(window: int, smallest: int = 1) -> list[tuple[Size, int]]:
    """Return four of the sizes and batches around a window."""
    around = WINDOW_SIZES(window, smallest)
    return [*around[:2], *around[4:6]]


@pytest.fixture(scope="session", autouse=True)
def fewer_sizes() -> Iterator[pytest.MonkeyPatch]:
    """Judge at four sizes around a window only, which takes a fifth of the time of all.

    They are 1x1, one below half a window, one a pixel larger than a window, and one of two windows and a part.

    Tests of the verdict itself are marked ``all_sizes``. Fixtures of a module judge at fewer sizes
    there too. So do the processes of ``run_in``; those of ``run_started`` judge at all. The large
    size is 24x32; ``tests/parity/test_large.py`` names large sizes.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("paragon_export.inputs.sizes.window_sizes", four_sizes)
        patch.setattr("paragon_export.inputs.sizes.residue_sizes", lambda *_: [])
        patch.setattr("paragon_export.parity.candidates.LARGE", Size(24, 32))
        yield patch


@pytest.fixture
def sizes_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge at all seven sizes around a window: some wrong files differ at few of them."""
    monkeypatch.setattr("paragon_export.inputs.sizes.window_sizes", WINDOW_SIZES)


@pytest.fixture(autouse=True)
def all_sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge at every default size in tests that are marked so."""
    if request.node.get_closest_marker("all_sizes") is not None:
        monkeypatch.setattr("paragon_export.inputs.sizes.window_sizes", WINDOW_SIZES)
        monkeypatch.setattr("paragon_export.inputs.sizes.residue_sizes", RESIDUE_SIZES)


REMEMBERED = {
    "paragon_export.parity.compare": "play",
    "paragon_export.parity.parts": "play",
    "paragon_export.pipeline.audit_ranges": "float32_graph",
    "paragon_export.pipeline.export": "float32_graph",
}
"""Functions that ``tests/remembered.py`` replaces, by the modules that call them."""


@pytest.fixture(autouse=True)
def computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run and trace the same network once a session, in modules that are loaded already."""
    loaded = {name: sys.modules[name] for name in REMEMBERED if name in sys.modules}
    if loaded:
        from tests import remembered

        for name, module in loaded.items():
            monkeypatch.setattr(module, REMEMBERED[name], getattr(remembered, REMEMBERED[name]))


@pytest.fixture
def foreign_files_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run files of others in this process; starting one for each takes 0.5 s of processor time.

    For tests of good and of wrong files, all of them harmless: ``tests/runtimes/test_isolated.py``
    and ``tests/robustness`` are about the process of its own.
    """

    def open_here(
        data: bytes, backend: OnnxBackend = OnnxBackend.ONNXRUNTIME, **options: Any
    ) -> Runner:
        from paragon_export.runtimes.isolated import open_runner

        return open_runner(data, backend, is_own=True, **options)

    for module in ("runtimes.isolated", "bench.measure"):
        monkeypatch.setattr(f"paragon_export.{module}.IsolatedRunner", open_here)


@pytest.fixture(scope="session")
def compiled() -> dict[Any, Any]:
    """Return the engines that ``same_engines_once`` keeps."""
    return {}


@pytest.fixture
def same_engines_once(compiled: dict[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile the same file for the same targets and profile once a session, with TensorRT.

    For tests of what is written beside engines; ``tests/engines/test_build.py`` is about building.
    """
    from paragon_export.engines import build
    from paragon_export.pipeline import kernel_plan

    compile_engine, compile_kernels = build.compile_engine, kernel_plan.compile_kernels

    def compile_once(file: Any, *how: Any) -> Any:
        key = (file.data, *how)
        if key not in compiled:
            compiled[key] = compile_engine(file, *how)
        return compiled[key]

    def kernels_once(file: Any, *how: Any) -> Any:
        key = ("kernels", file.data, *how)
        if key not in compiled:
            compiled[key] = compile_kernels(file, *how)
        return compiled[key]

    monkeypatch.setattr(build, "compile_engine", compile_once)
    monkeypatch.setattr(kernel_plan, "compile_kernels", kernels_once)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the session's tiny checkpoints; tests do not write there."""
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="session")
def tiny_realtime(tiny_folder: Path) -> Path:
    """Return a small v11 Realtime 2x."""
    return tiny_checkpoint(tiny_folder / "realtime.safetensors", "realtime")


@pytest.fixture(scope="session")
def tiny_stream(tiny_folder: Path) -> Path:
    """Return a small v11 Stream 2x."""
    return tiny_checkpoint(tiny_folder / "stream.safetensors", "stream")


@pytest.fixture(scope="session")
def tiny_photo(tiny_folder: Path) -> Path:
    """Return a small v11 Photo 2x with attention in two blocks, the second of which rolls."""
    return tiny_checkpoint(tiny_folder / "photo.safetensors", "photo")


@pytest.fixture(scope="session")
def tiny_pro(tiny_folder: Path) -> Path:
    """Return a small v11 Pro 2x with attention in two blocks."""
    return tiny_checkpoint(tiny_folder / "pro.safetensors", "pro")


@pytest.fixture(scope="session")
def tiny_checkpoints(
    tiny_realtime: Path, tiny_stream: Path, tiny_photo: Path, tiny_pro: Path
) -> dict[str, Path]:
    """Return the small checkpoints by variant."""
    return {
        "realtime": tiny_realtime,
        "stream": tiny_stream,
        "photo": tiny_photo,
        "pro": tiny_pro,
    }
