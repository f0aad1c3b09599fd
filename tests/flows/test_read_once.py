"""Every command reads a checkpoint, an ONNX file and an engine from disk once."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from paragon_export.pipeline.export import export_onnx
from paragon_export.testing.tiny import (
    save_shards,
    tiny_checkpoint,
    tiny_hyperparameters,
    tiny_tensors,
)
from tests.conftest import RunHere

pytestmark = pytest.mark.usefixtures("foreign_files_here", "same_engines_once")

SIZES = ("--sizes", "5x7")

BUILD = ("--target", "sm86", "--min", "1x1", "--opt", "5x7", "--max", "8x8")

_counters: list[Counter[str]] = []
_last: list[str] = [""]


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    """Count files that are opened for reading.

    ``open`` with an opener raises two events, its own and that of ``os.open``, which has no mode.
    """
    if event != "open" or not _counters or not isinstance(arguments[0], (str, bytes, os.PathLike)):
        return
    path, mode, flags = os.path.realpath(os.fsdecode(arguments[0])), arguments[1], arguments[2]
    is_second_event = mode is None and _last[0] == path
    _last[0] = path if mode is not None else ""
    if not is_second_event and not int(flags) & (os.O_WRONLY | os.O_RDWR):
        _counters[-1][path] += 1


sys.addaudithook(_hook)  # hooks cannot be removed: it counts only within ``reads``


@contextmanager
def reads() -> Iterator[Counter[str]]:
    """Count how often each file is opened for reading."""
    _counters.append(Counter())
    try:
        yield _counters[-1]
    finally:
        _counters.pop()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return a checkpoint of one block and the ONNX file that was made from it."""
    path = tmp_path_factory.mktemp("once")
    tiny_checkpoint(path / "net.safetensors", blocks=1, features=4)
    assert export_onnx(path / "net.safetensors", path / "net.onnx").passed
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture
def folder(made: dict[str, bytes], tmp_path: Path) -> Path:
    """Return the working folder with both files in it."""
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


COMMANDS: dict[str, tuple[list[str], set[str]]] = {
    "inspect": (["inspect", "net.safetensors"], {"net.safetensors"}),
    "inspect --probe": (["inspect", "net.safetensors", "--probe"], {"net.safetensors"}),
    "onnx": (["onnx", "net.safetensors", "-o", "out.onnx"], {"net.safetensors"}),
    "onnx --fp16": (["onnx", "net.safetensors", "--fp16", "-o", "o.onnx"], {"net.safetensors"}),
    "audit": (["audit", "net.safetensors"], {"net.safetensors"}),
    "audit of a file": (["audit", "net.onnx"], {"net.onnx"}),
    "parity": (
        ["parity", "net.safetensors", "net.onnx", *SIZES], {"net.safetensors", "net.onnx"},
    ),
    "parity without a reference": (
        ["parity", "net.onnx", *SIZES], {"net.safetensors", "net.onnx"},
    ),
    "bench": (
        ["bench", "net.safetensors", "net.onnx", "--size", "5x7"], {"net.safetensors", "net.onnx"},
    ),
    "trt": (["trt", "net.onnx", "-o", "a.engine", *BUILD], {"net.onnx", "net.safetensors"}),
}  # fmt: skip
"""Name, command line, and the files that it has to read."""


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_reads_each_file_once(
    command: str, folder: Path, run_here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contents and digest come from the same reading."""
    # torch.compile reads none of these files, and takes seconds
    monkeypatch.setattr("paragon_export.bench.contenders._compiled", lambda runner: runner)
    arguments, wanted = COMMANDS[command]
    with reads() as counted:
        done = run_here(*arguments)
    assert done.code == 0, done.stderr
    found = {name: counted[os.path.realpath(folder / name)] for name in wanted}
    assert found == dict.fromkeys(wanted, 1)


def test_each_shard_is_read_once(tmp_path: Path, run_here: RunHere) -> None:
    """So is the index, also when an ONNX file names it."""
    index = save_shards(tiny_tensors(tiny_hyperparameters(blocks=1)), tmp_path)
    files = {os.path.realpath(path) for path in tmp_path.iterdir()}
    assert len(files) == 3
    for command in (["onnx", str(index), "-o", "o.onnx"], ["parity", "o.onnx", *SIZES]):
        with reads() as counted:
            done = run_here(*command)
        assert done.code == 0, done.stderr
        assert {name: counted[name] for name in files} == dict.fromkeys(files, 1)


@pytest.mark.parametrize("source", ["net.onnx", "net.safetensors"])
def test_a_reused_engine_is_read_once(source: str, folder: Path, run_here: RunHere) -> None:
    """So are its manifest, its source and the ONNX file that was compiled."""
    build = ("trt", source, "-o", "b.engine", *BUILD)
    assert run_here(*build).code == 0
    with reads() as counted:
        done = run_here(*build)
    assert done.code == 0
    assert "reused" in done.stdout
    files = [source, "b.engine", "b.engine.json"]
    files += ["b.engine.onnx"] if (folder / "b.engine.onnx").exists() else []
    found = {name: counted[os.path.realpath(folder / name)] for name in files}
    assert found == dict.fromkeys(files, 1)


def test_a_second_reading_would_be_counted(folder: Path) -> None:
    """The counter sees both ways of opening a file."""
    path = folder / "net.onnx"
    with reads() as counted:
        os.close(os.open(path, os.O_RDONLY))
        path.read_bytes()
    assert counted[os.path.realpath(path)] == 2
