"""Crashes: killed anywhere, out of space, interrupted, two at once - whole artefacts and no traces.

``benchmarks/kills.py`` does the same to whole commands, a hundred times.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from paragon_export.artifact import (
    COMMIT,
    PREFIX,
    check_writable,
    settle,
    staged,
    sweep,
    write_text,
)
from paragon_export.errors import PlanError
from tests.conftest import LONGEST_RUN_S, RunCli, RunHere, shell_environment

NAMES = ("net.engine", "net.engine.json", "net.engine.onnx")

TOUCHING = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir"}
"""What Python tells an audit hook before it touches the file system."""

Writer = Callable[[Path, bytes], None]


def write_staged(folder: Path, data: bytes) -> None:
    first, *others = (folder / name for name in NAMES)
    with staged(first, *others) as file:
        for path in (first, *others):
            file.beside(path).write_bytes(data)


def write_one(folder: Path, data: bytes) -> None:
    with staged(folder / NAMES[0]) as file:
        file.path.write_bytes(data)


def write_in_place(folder: Path, data: bytes) -> None:
    """What a writer does that thinks of no crash."""
    for name in NAMES:
        (folder / name).write_bytes(data)


def killed_at(step: int, write: Writer, folder: Path) -> bool:
    """Write in a process that is killed before it touches the disk for the ``step``-th time.

    Returns:
        Whether it was; there are only so many steps.
    """
    child = os.fork()
    if child == 0:
        steps = iter(range(1, step + 1))

        def hook(event: str, args: object) -> None:
            if event in TOUCHING and next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        write(folder, b"new")
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def states_when_killed(write: Writer, folder: Path) -> list[set[bytes]]:
    """Kill at every step over an old artefact; return what a reader then finds, and clean up."""
    states = []
    import filelock  # noqa: F401 - in the parent, so that importing it is no step

    for step in range(1, 1000):
        write_in_place(folder, b"old")
        was_killed = killed_at(step, write, folder)
        settle(folder)
        states.append({(folder / name).read_bytes() for name in NAMES if (folder / name).exists()})
        sweep(folder)
        assert not list(folder.glob(PREFIX + "*")), step
        if not was_killed:
            return states
    raise AssertionError("it never came to an end")


def test_killed_at_every_step_the_files_are_of_one_kind(tmp_path: Path) -> None:
    """Three files: before the commit all are old, after it all are new, and the next run cleans."""
    states = states_when_killed(write_staged, tmp_path)
    first_new = states.index({b"new"})
    assert set(map(frozenset, states[:first_new])) == {frozenset({b"old"})}
    assert set(map(frozenset, states[first_new:])) == {frozenset({b"new"})}
    assert 5 < first_new < len(states) - 5


def test_killed_at_every_step_one_file_is_whole(tmp_path: Path) -> None:
    """A single file needs no reader to finish it."""
    for state in states_when_killed(write_one, tmp_path):
        assert state in ({b"old"}, {b"old", b"new"})


def test_writing_in_place_is_caught(tmp_path: Path) -> None:
    """The same check sees mixtures where files are written as they come."""
    assert {b"old", b"new"} in states_when_killed(write_in_place, tmp_path)


def test_without_the_journal_a_mixture_would_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renaming file by file is not enough, and the check says so."""

    def one_by_one(made: Path, commit: Path) -> None:
        for file in made.iterdir():
            os.replace(file, commit.parent / file.name)

    monkeypatch.setattr("paragon_export.artifact._rename_when_free", one_by_one)
    assert {b"old", b"new"} in states_when_killed(write_staged, tmp_path)


# --- leftovers -----------------------------------------------------------------------------


def _listen_to_interrupts() -> None:
    """A shell that starts something in the background tells it to ignore them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def another_process(code: str, *args: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run Python code until it prints a line; kill it in the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=shell_environment(),
        preexec_fn=_listen_to_interrupts,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


STAGING = """
import ctypes, sys, time
from pathlib import Path
from paragon_export import signals
signals.listen()
from paragon_export.artifact import staged
with staged(Path(sys.argv[1])) as file:
    file.path.write_text("half")
    print("ready", flush=True)
    if sys.argv[2] == "native":
        ctypes.CDLL(None).sleep(60)
    while True:
        time.sleep(0.001)
"""
"""Stands in the middle of making a file, in Python or in a long call of a library."""


def test_what_a_live_run_is_making_is_left_alone(tmp_path: Path) -> None:
    """Only what nobody makes any more is deleted."""
    with another_process(STAGING, tmp_path / "a.onnx", "python") as process:
        write_text(tmp_path / "b.onnx", "whole")
        check_writable(tmp_path / "a.onnx")
        (half,) = tmp_path.glob(PREFIX + "*/files/a.onnx")
        assert half.read_text() == "half"
        process.kill()
        process.wait()
        check_writable(tmp_path / "c.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["b.onnx"]


@pytest.mark.parametrize("where", ["python", "native"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_is_quiet_and_leaves_nothing(
    where: str, number: signal.Signals, tmp_path: Path
) -> None:
    """Ctrl-C ends with 130 and a kill with 143, at once, also in a call that lasts a minute."""
    with another_process(STAGING, tmp_path / "a.onnx", where) as process:
        time.sleep(0.05)
        begun = time.monotonic()
        process.send_signal(number)
        assert process.communicate(timeout=30) == ("", "")
        assert time.monotonic() - begun < 10
    assert process.returncode == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_a_commit_that_nothing_can_finish_is_told(tmp_path: Path) -> None:
    """A folder in the way of a file that is whole: one line, and the file waits."""
    (tmp_path / COMMIT).mkdir()
    (tmp_path / COMMIT / "net.engine").write_bytes(b"new")
    (tmp_path / "net.engine").mkdir()
    with pytest.raises(PlanError, match="nothing is in the way"):
        write_text(tmp_path / "other.json", "{}")
    (tmp_path / "net.engine").rmdir()
    write_text(tmp_path / "other.json", "{}")
    assert (tmp_path / "net.engine").read_bytes() == b"new"
    assert {path.name for path in tmp_path.iterdir()} == {"net.engine", "other.json"}


# --- two at once ---------------------------------------------------------------------------


def write_often(folder: Path, data: bytes) -> None:
    for _ in range(40):
        write_staged(folder, data)


def test_two_runs_at_once_end_with_one_whole_artefact(tmp_path: Path) -> None:
    """Both succeed; what lies there in the end is all of one of them, and nothing else."""
    children = []
    for data in (b"one", b"two"):
        if (child := os.fork()) == 0:
            try:
                write_often(tmp_path, data)
            except BaseException:  # noqa: BLE001 - the child may not run on into pytest
                os._exit(1)
            os._exit(0)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0, 0]
    assert len({(tmp_path / name).read_bytes() for name in NAMES}) == 1
    assert {path.name for path in tmp_path.iterdir()} == set(NAMES)


# --- disks that fail -----------------------------------------------------------------------


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """Let the system refuse to write on, as a full disk does."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


def test_a_full_disk_is_one_line(tmp_path: Path, tiny_realtime: Path, run_here: RunHere) -> None:
    """The file does not fit: exit code 3, the old one keeps its bytes, no traces."""
    output = tmp_path / "net.onnx"
    output.write_bytes(b"old")
    with no_file_larger_than(8192):
        done = run_here("onnx", tiny_realtime, "-o", output, "--static", "8x8")
    assert (done.code, done.stdout) == (3, "")
    assert done.stderr == f"paragon-export: cannot write {output}: File too large\n"
    assert output.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def write_all(folder: Path, last: bytes = b"new") -> None:
    """Write three files, the last of which may be what the disk has no room for."""
    with staged(*(folder / name for name in NAMES)) as file:
        for name, data in zip(NAMES, (b"new", b"new", last), strict=True):
            file.beside(Path(name)).write_bytes(data)


def test_one_file_too_many_keeps_all_old_ones(tmp_path: Path) -> None:
    """Where the last of three files does not fit, none of the three changes."""
    write_in_place(tmp_path, b"old")
    with no_file_larger_than(100), pytest.raises(PlanError, match="cannot write"):
        write_all(tmp_path, bytes(1000))
    assert {(tmp_path / name).read_bytes() for name in NAMES} == {b"old"}
    assert {path.name for path in tmp_path.iterdir()} == set(NAMES)


def _becomes_a_folder(folder: Path) -> None:
    (folder / NAMES[1]).unlink()
    (folder / NAMES[1]).mkdir()


def _is_removed(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def _is_renamed(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def write_while(folder: Path, happens: Callable[[Path], None]) -> None:
    with staged(*(folder / name for name in NAMES)) as file:
        for name in NAMES:
            file.beside(Path(name)).write_bytes(b"new")
        happens(folder)


@pytest.mark.parametrize(
    ("happens", "words"),
    [
        (_becomes_a_folder, "a folder of that name is in the way"),
        (_is_removed, "its folder was removed or renamed meanwhile"),
        (_is_renamed, "its folder was removed or renamed meanwhile"),
    ],
)
def test_what_happens_midway_is_one_line(
    happens: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    """The output's place is lost while the files are made."""
    folder = tmp_path / "out"
    folder.mkdir()
    write_in_place(folder, b"old")
    with pytest.raises(PlanError, match=words) as caught:
        write_while(folder, happens)
    assert "\n" not in str(caught.value)
    if happens is _becomes_a_folder:
        assert (folder / NAMES[0]).read_bytes() == (folder / NAMES[2]).read_bytes() == b"old"
        assert {path.name for path in folder.iterdir()} == set(NAMES)


# --- what is printed -----------------------------------------------------------------------


def python_m(*args: str | Path, **streams: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "paragon_export", *map(str, args)],
        env=shell_environment(),
        text=True,
        **streams,  # type: ignore[call-overload]
    )


@pytest.mark.parametrize("args", [("--json",), ()], ids=["JSON", "table"])
def test_a_full_stdout_is_one_line(args: tuple[str, ...], tiny_pro: Path) -> None:
    """What could not be printed is said, with exit code 3."""
    flags = ("--upsampler-alpha", "0", "--window-size", "8", *args)
    with open("/dev/full", "w") as full:
        process = python_m("inspect", tiny_pro, *flags, stdout=full, stderr=subprocess.PIPE)
        _, said = process.communicate(timeout=LONGEST_RUN_S)
    told = "paragon-export: cannot write to standard output: No space left on device\n"
    assert (process.returncode, said) == (3, told)


@pytest.mark.parametrize("args", [("inspect", "{c}", "--json"), ("--help",)], ids=["JSON", "help"])
def test_a_reader_that_has_gone_is_no_error(args: tuple[str, ...], tiny_realtime: Path) -> None:
    """``| head -1`` ends the program as it ends any other."""
    flags = ("--upsampler-alpha", "0") if len(args) > 1 else ()
    command = [arg.format(c=tiny_realtime) for arg in args]
    process = python_m(*command, *flags, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(LONGEST_RUN_S) == 141


def test_a_closed_stdout_is_not_taken_by_a_file(tiny_realtime: Path, tmp_path: Path) -> None:
    """With stdout and stdin closed nothing that is printed lands in what is written."""
    code = "import sys, os; os.close(0); os.close(1); os.execv(sys.executable, sys.argv[1:])"
    command = [sys.executable, "-m", "paragon_export", "inspect", tiny_realtime, "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, command)],
        env=shell_environment(),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


# --- reports -------------------------------------------------------------------------------


def test_a_report_of_another_kind_is_refused(
    tmp_path: Path, tiny_realtime: Path, run_here: RunHere
) -> None:
    """``--report x.txt`` was written as x.md before, which nobody had asked for."""
    done = run_here("bench", tiny_realtime, "--report", tmp_path / "x.txt")
    assert done.code == 3
    assert "must end in .md" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_empty_list_of_sizes_is_refused(
    tmp_path: Path, tiny_realtime: Path, run_here: RunHere
) -> None:
    """``--sizes ''`` says nothing, and is not taken for the default."""
    done = run_here("parity", tiny_realtime, tmp_path / "x.onnx", "--sizes", "")
    assert done.code == 3
    assert "size ''" in done.stderr


# --- real commands -------------------------------------------------------------------------


def test_a_killed_export_is_cleaned_up_by_the_next(
    tiny_realtime: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    """Killed while its file is judged: yesterday's stays; the next run leaves its file alone."""
    output = tmp_path / "net.onnx"
    output.write_bytes(b"old")
    args = ("onnx", tiny_realtime, "-o", output, "--static", "8x8")
    process = python_m(*args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(tmp_path.glob(PREFIX + "*/files/net.onnx")):
        time.sleep(0.001)
    process.kill()
    assert process.wait(LONGEST_RUN_S) == -signal.SIGKILL
    assert output.read_bytes() == b"old"
    assert list(tmp_path.glob(PREFIX + "*"))
    assert run_cli(*args).code == 0
    assert output.read_bytes() != b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.slow
def test_two_commands_at_once(tiny_realtime: Path, tmp_path: Path) -> None:
    """Two builds of one engine at once, of different profiles: both succeed, one is there."""
    from paragon_export.manifest import read, why_not_believed

    engine = tmp_path / "net.engine"
    results: list[int] = []

    def build(largest: str) -> None:
        profile = ("--min", "1x1", "--opt", largest, "--max", largest, "--target", "sm86")
        process = python_m(
            "trt", tiny_realtime, "-o", engine, *profile,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        results.append(process.wait(LONGEST_RUN_S))

    threads = [threading.Thread(target=build, args=(size,)) for size in ("16x16", "24x24")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [0, 0]
    manifest = read(engine)
    assert manifest is not None
    assert why_not_believed(engine, manifest) == ""
    assert {path.name for path in tmp_path.iterdir()} == set(NAMES)
