"""The environment of the clients: programs of others that run what this tool writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CLIENTS = Path(os.environ.get("CLIENTS", Path(sys.prefix, "clients")))
"""Their virtual environment, made by ``make test-clients``."""

PLAYER = Path(__file__).with_name("play.py")

LONGEST_RUN_S = 300


@dataclass(frozen=True)
class Played:
    """The first frame of a script's result."""

    planes: list[np.ndarray]
    format: str
    props: dict[str, int]


def run_client(*args: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a Python file in the environment of the clients, without this process's packages."""
    python = CLIENTS / "bin" / "python"
    assert python.exists(), f"{python} is missing: run make test-clients"
    environment = {n: v for n, v in os.environ.items() if not n.startswith("PYTHON")}
    return subprocess.run(
        [python, *map(str, args)],
        cwd=cwd, env=environment, capture_output=True, encoding="utf-8", timeout=LONGEST_RUN_S,
        check=False,
    )  # fmt: skip


@dataclass(frozen=True)
class Player:
    """VapourSynth, run on one frame in a folder."""

    folder: Path

    def play(self, script: Path, planes: Any, form: str, **props: int) -> Played:
        """Return the first frame that a script makes of a clip.

        Args:
            script: The script.
            planes: Of the frame, as floats or integers.
            form: Name of its format in VapourSynth, as ``YUV420P8``.
            props: Its frame properties.
        """
        source, target = self.folder / "in.npz", self.folder / "out.npz"
        named = {str(number): plane for number, plane in enumerate(planes)}
        np.savez(source, format=form, props=json.dumps(props), **named)
        done = run_client(PLAYER, script, source, target, cwd=self.folder)
        if done.returncode:
            raise RuntimeError(done.stderr)
        with np.load(target) as found:
            kept = [found[str(number)] for number in range(3) if str(number) in found]
            return Played(kept, str(found["format"]), json.loads(str(found["props"])))


@pytest.fixture
def player(tmp_path: Path) -> Player:
    """Return VapourSynth."""
    return Player(tmp_path)
