"""Whatever goes wrong is one line and exit code 3; the traceback stands behind ``--debug``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from paragon_export.pipeline.export import export
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.types import Size
from tests.conftest import LONGEST_RUN_S, RunHere, shell_environment

ERRORS = [
    RuntimeError("a\nfault"),
    KeyError("name"),
    RecursionError(),
    AssertionError(),
    OSError(5, "x"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_that_nobody_foresaw_is_one_line(
    error: Exception, tiny_realtime: Path, run_here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr("paragon_export.networks.describe.describe", fail)
    done = run_here("inspect", tiny_realtime)
    assert (done.code, done.stdout) == (3, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"paragon-export: unexpected {type(error).__name__}: ")
    assert "--debug" in line
    for place in (("--debug", "inspect"), ("inspect", "--debug")):
        done = run_here(*place, tiny_realtime)
        assert done.code == 3
        assert "Traceback" in done.stderr
        assert done.stderr.splitlines()[-1] == line


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
    ids=["Python", "PyTorch", "loader"],
)
def test_lack_of_memory_is_said(
    error: Exception, tiny_realtime: Path, run_here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another error was made of it on the way."""

    def fail(*args: object) -> None:
        raise RuntimeError("tracing failed") from error

    monkeypatch.setattr("paragon_export.networks.describe.describe", fail)
    done = run_here("inspect", tiny_realtime)
    assert done.code == 3
    (line,) = done.stderr.splitlines()
    assert line.startswith("paragon-export: not enough memory (")


# --- the system allows little memory -------------------------------------------------------


def with_memory(megabytes: int, *args: str | Path, folder: Path) -> tuple[int, str]:
    """Run the command line as under ``ulimit -v``; return its exit code and what it said."""
    code = (
        "import os, resource, sys; n = int(sys.argv[1]) * 10**6; "
        "resource.setrlimit(resource.RLIMIT_AS, (n, n)); "
        "os.execv(sys.executable, [sys.executable, '-m', 'paragon_export', *sys.argv[2:]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(megabytes), *map(str, args)],
        cwd=folder, env=shell_environment(), capture_output=True, text=True,
        timeout=LONGEST_RUN_S, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize("megabytes", [150, 1000, 2000, 4000])
def test_short_memory_ends_right_or_in_one_line(
    megabytes: int, tiny_realtime: Path, tmp_path: Path
) -> None:
    """Libraries in C++ abort where Python raises; 1 would say that a verdict failed."""
    output = tmp_path / "net.onnx"
    code, said = with_memory(
        megabytes, "onnx", tiny_realtime, "-o", output, "--static", "9x12", folder=tmp_path
    )
    lines = [line for line in said.splitlines() if not line.startswith("note: ")]
    assert (code, len(lines)) in ((0, 0), (3, 1)), said
    assert output.exists() == (code == 0)
    if megabytes == 150:
        assert code == 3
        assert "the system allows 0.1 GB (ulimit -v)" in lines[0]
    if megabytes == 4000:
        assert code == 0


def test_a_size_that_does_not_fit_is_one_line(tiny_realtime: Path, tmp_path: Path) -> None:
    """The commonest case: the export is right, and the picture it is judged on is too large."""
    args = ("onnx", tiny_realtime, "-o", "net.onnx", "--static", "2160x3840")
    code, said = with_memory(1500, *args, folder=tmp_path)
    lines = [line for line in said.splitlines() if not line.startswith("note: ")]
    assert (code, len(lines)) == (3, 1), said
    assert list(tmp_path.iterdir()) == []


def test_exit_codes_and_output_pass_through(tiny_realtime: Path, tmp_path: Path) -> None:
    """With enough memory nothing is different: usage errors, refusals and results."""
    assert with_memory(8000, "inspect", folder=tmp_path)[0] == 2
    code, said = with_memory(8000, "inspect", "missing.pth", folder=tmp_path)
    assert (code, len(said.splitlines())) == (3, 1)
    assert with_memory(8000, "inspect", tiny_realtime, folder=tmp_path)[0] == 0


# --- names ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tiny_realtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an ONNX file that names ``net.safetensors`` as its checkpoint."""
    folder = tmp_path_factory.mktemp("exported")
    checkpoint = Path(shutil.copy(tiny_realtime, folder / "net.safetensors"))
    plan = ExportPlan(checkpoint=checkpoint, output=folder / "net.onnx", static=Size(9, 12))
    assert export(plan).passed
    return plan.output


ODD = os.fsdecode(b"n\xff\xfe")

LONG = "n" * 300


@pytest.mark.usefixtures("foreign_files_here")
@pytest.mark.parametrize("name", [ODD, LONG], ids=["no UTF-8", "too long"])
@pytest.mark.parametrize(
    "args",
    [
        ("inspect", "{n}.safetensors"),
        ("onnx", "{n}.safetensors", "--static", "9x12"),
        ("onnx", "net.safetensors", "-o", "{n}.onnx", "--static", "9x12"),
        ("trt", "net.safetensors", "-o", "{n}.engine", "--target", "sm86"),
        ("trt", "{n}.safetensors", "--target", "sm86"),
        ("parity", "net.safetensors", "{n}.onnx"),
        ("parity", "{n}.onnx", "--json"),
        ("audit", "{n}.onnx"),
        ("bench", "{n}.onnx", "--report", "{n}.md"),
        ("bench", "out.onnx", "--size", "9x12", "--report", "{n}.md"),
    ],
    ids=" ".join,
)
def test_names_of_any_kind(
    args: tuple[str, ...],
    name: str,
    tiny_realtime: Path,
    exported: Path,
    tmp_path: Path,
    run_here: RunHere,
) -> None:
    """A name that is no UTF-8 works like any other; one that is too long is refused."""
    data = tiny_realtime.read_bytes()
    (tmp_path / "net.safetensors").write_bytes(data)
    if name == ODD:
        (tmp_path / f"{name}.safetensors").write_bytes(data)
    if any(arg.endswith(".onnx") for arg in args) and "-o" not in args:
        made = "out" if args[1] == "out.onnx" else ODD
        shutil.copy(exported, tmp_path / f"{made}.onnx")
    done = run_here(*(arg.format(n=name) for arg in args))
    if name == LONG:
        assert done.code == 3
        assert len(done.stderr.splitlines()) == 1
        assert "unexpected" not in done.stderr
    else:
        assert done.code in (0, 1), done.stderr  # 1: parity assumes another alpha
        assert "Traceback" not in done.stderr


def test_a_user_without_a_home(tiny_realtime: Path, tmp_path: Path, run_here: RunHere) -> None:
    """As in a container with a number for a user."""
    flags = ("--static", "9x12", "--upsampler-alpha", "0")
    assert run_here("onnx", tiny_realtime, "-o", "net.onnx", *flags).code == 0
    args = ("parity", tiny_realtime, "net.onnx", "--backend", "openvino", *flags[2:])
    gone = {"HOME", "XDG_CACHE_HOME", "USER", "LOGNAME"}
    environment = {n: v for n, v in shell_environment().items() if n not in gone}
    code = (
        "import pathlib, sys, runpy\n"
        "def homeless(): raise RuntimeError('Could not determine home directory.')\n"
        "pathlib.Path.home = homeless\n"
        "sys.argv = ['paragon-export', *sys.argv[1:]]\n"
        "runpy.run_module('paragon_export', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
