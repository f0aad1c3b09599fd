"""Whatever goes wrong is one line and exit code 3; the traceback stands behind ``--debug``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import LONGEST_RUN_S, RunHere, shell_environment

pytestmark = pytest.mark.processes

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


@pytest.mark.parametrize(
    "megabytes",
    [
        150,
        1000,
        pytest.param(2000, marks=pytest.mark.slow),  # ends as 1000 or as 4000
        pytest.param(4000, marks=pytest.mark.slow),  # is enough, as in every other test of exports
    ],
)
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


SUPERVISED = """
import mmap, os, resource, sys, time
from paragon_export.system import supervised

resource.setrlimit(resource.RLIMIT_AS, (200 * 10**6,) * 2)
supervised.LONGEST_FULL_S = {longest}
supervised.run_in_child_if_memory_is_limited()
"""

FILLED = """
held = []
for size in (2**22, 2**12):
    try:
        while True:
            held.append(mmap.mmap(-1, size))
    except (OSError, MemoryError):
        pass
"""


def supervised(code: str, longest: float = 0.5) -> tuple[int, str]:
    """Run code in a process with 200 MB; return its exit code and what it said."""
    done = subprocess.run(
        [sys.executable, "-c", SUPERVISED.format(longest=longest) + code],
        env=shell_environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize("code", [0, 1, 2])
def test_codes_of_libraries_are_not_taken_for_ours(code: int) -> None:
    """OpenBLAS ends the process with code 1 without memory: that is no failed verdict."""
    assert supervised(f"supervised.report_end({code}); os._exit({code})") == (code, "")
    ended, said = supervised(f"print('library: error', file=sys.stderr); sys.exit({code})")
    assert (ended, len(said.splitlines())) == (3, 1)
    assert "a library ended the process, and the system allows 0.2 GB (ulimit -v)" in said


def test_a_process_that_repeats_a_failed_allocation_is_ended() -> None:
    """As Python 3.11 does when it cannot allocate the integer of a line number."""
    code, said = supervised(FILLED + "while True: pass")
    assert (code, len(said.splitlines())) == (3, 1)
    assert "not enough memory" in said


def test_a_process_with_memory_left_may_take_long() -> None:
    """Also one that is out of memory for a moment, long after its start."""
    for_a_moment = "time.sleep(3.5)" + FILLED + "time.sleep(1.2); held.clear(); "
    ends = "supervised.report_end(0); os._exit(0)"
    assert supervised(for_a_moment + ends, longest=3.0) == (0, "")
    assert supervised("time.sleep(2); " + ends) == (0, "")
