"""Whatever lies in the folder: no command moves, overwrites or removes what is the user's.

A cloned repository or an unpacked archive may hold files, folders, links and pipes of any name.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tests.conftest import RunHere
from tests.system.test_atomic_write import contents

pytestmark = pytest.mark.processes

NAMES = (
    ".paragon-commit", ".paragon-abcd1234", ".paragon-", "lock", "files", "scratch", "int8.onnx",
    "unwritten.onnx", "model.onnx", "openvino",
)  # fmt: skip
"""Names that this version and earlier ones use for something, or might."""

Plant = Callable[[Path, Path], None]


def a_file(path: Path, outside: Path) -> None:
    path.write_text("kept")


def a_folder(path: Path, outside: Path) -> None:
    """Files in it have the names of outputs, and of what the tool keeps in its own folders."""
    path.mkdir(mode=0o700)
    (path / "files").mkdir()
    for name in ("lock", "out.onnx", "out.engine", "out.engine.json", "files/out.onnx"):
        (path / name).write_text("kept")


def a_link(path: Path, outside: Path) -> None:
    path.symlink_to(outside)


def a_link_to_nowhere(path: Path, outside: Path) -> None:
    path.symlink_to("nowhere")


def a_pipe(path: Path, outside: Path) -> None:
    os.mkfifo(path)


PLANTS = (a_folder, a_link, a_file, a_link_to_nowhere, a_pipe)

SIZE = ("--static", "9x12", "--upsampler-alpha", "0")

COMMANDS = (
    (0, ("inspect", "net.safetensors", "--probe")),
    (0, ("onnx", "net.safetensors", "-o", "out.onnx", *SIZE)),
    (0, ("onnx", "net.safetensors", "-o", "half.onnx", "--fp16", "--audit", "audit.json", *SIZE)),
    (0, ("onnx", "net.safetensors", "-o", "eight.onnx", "--int8", "--accept-loss",
         "--upsampler-alpha", "0")),
    (0, ("audit", "out.onnx")),
    (0, ("trt", "out.onnx", "-o", "out.engine", "--fp16", "--target", "sm86")),
    (0, ("trt", "out.onnx", "-o", "out.engine", "--fp16", "--target", "sm86")),
    (0, ("parity", "out.onnx", "--junit", "junit.xml", "--backend", "openvino")),
    (3, ("parity", "out.engine")),  # no GPU here, or no checkpoint that fits
    (0, ("bench", "out.onnx", "--size", "9x12", "--report", "bench.md")),
    (0, ("bench", "out.onnx", "--size", "9x12", "--report", "bench.md")),
)  # fmt: skip

WRITTEN = {
    "out.onnx", "half.onnx", "audit.json", "eight.onnx", "out.engine", "out.engine.json",
    "out.engine.onnx", "junit.xml", "bench.md", "bench.json",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, tiny_realtime: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder, with a checkpoint in it; beside it lies ``outside``."""
    monkeypatch.setattr("paragon_export.engines.build.cuda_gpu", lambda: None)
    here = tmp_path / "here"
    here.mkdir()
    shutil.copy(tiny_realtime, here / "net.safetensors")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "id_rsa").write_text("kept")
    (tmp_path / "outside" / "out.onnx").write_text("kept")
    return here


@pytest.fixture
def run(folder: Path, run_here: RunHere, monkeypatch: pytest.MonkeyPatch) -> RunHere:
    """Return ``run_here`` in the folder."""
    change = os.chdir
    monkeypatch.setattr(os, "chdir", lambda path: change(folder))
    return run_here


@pytest.mark.usefixtures("same_engines_once")
@pytest.mark.parametrize("turn", [0, 1])
def test_every_command_leaves_everything_alone(
    turn: int, folder: Path, run: RunHere, request: pytest.FixtureRequest
) -> None:
    """Every name is once a folder or a link, and once something else.

    The first turn starts the processes that run files of others, the second does without them.
    """
    if turn:
        request.getfixturevalue("foreign_files_here")
    outside = folder.parent / "outside"
    for index, name in enumerate(NAMES):
        PLANTS[(2 * turn + index) % len(PLANTS)](folder / name, outside)
    before = contents(folder.parent)
    for code, args in COMMANDS:
        done = run(*args)
        assert done.code == code, (args, done.stderr)
    after = contents(folder.parent)
    assert {name: after.get(name) for name in before} == before
    assert set(after) - set(before) == {f"here/{name}" for name in WRITTEN}


CHOSEN = {
    "net_9x12.onnx": ("onnx", "net.safetensors", *SIZE),
    "net_fp16_9x12.onnx": ("onnx", "net.safetensors", "--fp16", *SIZE),
    "net_int8.onnx": ("onnx", "net.safetensors", "--int8", "--accept-loss"),
    "net_sm86.engine": ("trt", "net.safetensors", "--target", "sm86"),
    "x.engine.json": ("trt", "net.safetensors", "--target", "sm86", "-o", "x.engine"),
    "x.engine.onnx": ("trt", "net.safetensors", "--target", "sm86", "-o", "x.engine"),
    "r.json": ("bench", "net.safetensors", "--size", "9x12", "--report", "r.md"),
    "demo/notes.md": ("demo",),
}
"""Names that the user did not give, and commands that would write there."""


@pytest.mark.parametrize(("name", "args"), CHOSEN.items(), ids=CHOSEN.keys())
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_names_that_the_tool_chooses_replace_nothing(
    plant: Plant, name: str, args: tuple[str, ...], folder: Path, run: RunHere
) -> None:
    """They are refused in one line before any work is done."""
    (folder / name).parent.mkdir(exist_ok=True)
    plant(folder / name, folder.parent / "outside" / "out.onnx")
    before = contents(folder.parent)
    done = run(*args)
    assert done.code == 3
    assert len(done.stderr.splitlines()) == 1
    assert contents(folder.parent) == before


def test_an_onnx_file_of_another_kind_is_not_replaced(folder: Path, run: RunHere) -> None:
    """A file that this tool cannot read is not one that it wrote."""
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 7]) for name in ("in", "out")
    ]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["in"], ["out"])], "g", ports[:1], ports[1:]
    )
    onnx.save(helper.make_model(graph), folder / "net_9x12.onnx")
    before = contents(folder)
    done = run(*CHOSEN["net_9x12.onnx"])
    assert (done.code, contents(folder)) == (3, before)
    assert "was not written by this tool" in done.stderr


@pytest.mark.parametrize("name", ["net_9x12.onnx", "x.engine.json"])
def test_files_of_its_own_are_replaced(name: str, folder: Path, run: RunHere) -> None:
    """The same command twice, with another result: what the tool wrote it may write again."""
    args = CHOSEN[name]
    more = ("--min", "1x1", "--opt", "9x12", "--max", "9x12") if args[0] == "trt" else ()
    assert run(*args).code == 0
    before = (folder / name).read_bytes()
    kept = (arg for arg in args if arg not in ("--upsampler-alpha", "0"))
    done = run(*kept, "--upsampler-alpha", "0.25", *more)
    assert done.code == 0, done.stderr
    assert (folder / name).read_bytes() != before
