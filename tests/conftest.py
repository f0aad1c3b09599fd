"""What every test file shares: seeds, tiny checkpoints and the command line as a subprocess."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny import tiny_checkpoint

LONGEST_RUN_S = 300

# Tiny networks gain nothing from threads, and threads that spin on a busy machine cost minutes.
# Set before PyTorch is imported; the command line inherits it.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what a test compiles out of the user's cache folder, and out of other tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def shell_environment(**changes: str) -> dict[str, str]:
    """Return the environment of a user's shell: without what this process set for itself."""
    inherited = {n: v for n, v in os.environ.items() if n != "POLYGRAPHY_USE_TENSORRT_RTX"}
    return {**inherited, "COLUMNS": "200", "NO_COLOR": "1", **changes}


@pytest.fixture(autouse=True)
def seed() -> None:
    """Start every test from the same random state."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - for whatever still draws from the global generator
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@dataclass(frozen=True)
class Finished:
    """What a run of the command line left behind."""

    code: int
    stdout: str
    stderr: str


RunCli = Callable[..., Finished]


@pytest.fixture
def run_cli(tmp_path: Path) -> RunCli:
    """Return a function that runs ``paragon-export`` in ``tmp_path``, as a user would."""

    def run(
        *args: str | Path, cwd: Path = tmp_path, env: Mapping[str, str] | None = None
    ) -> Finished:
        done = subprocess.run(
            [sys.executable, "-m", "paragon_export", *map(str, args)],
            cwd=cwd,
            env=shell_environment(**(env or {})),
            capture_output=True,
            encoding="utf-8",
            timeout=LONGEST_RUN_S,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


RunHere = Callable[..., Finished]


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
