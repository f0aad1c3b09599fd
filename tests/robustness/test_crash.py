"""Crashes: killed anywhere, out of space, interrupted, two at once: nothing wrong is ever used.

``benchmarks/kills.py`` does the same to whole commands, a hundred times.
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from paragon_export.engines.manifest import manifest_bytes, read, read_engine, sealed
from paragon_export.engines.reuse import read_existing, why_rebuild
from paragon_export.errors import PlanError
from paragon_export.system.atomic_write import check_writable, write_files, write_text
from paragon_export.system.private_folder import PREFIX, scratch
from tests.conftest import LONGEST_RUN_S, RunCli, RunHere, shell_environment

pytestmark = pytest.mark.processes

NAMES = ("net.engine.onnx", "net.engine", "net.engine.json")

TOUCHING = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir"}
"""What Python tells an audit hook before it touches the file system."""

Writer = Callable[[Path, bytes], None]


def artifact_of(folder: Path, data: bytes) -> dict[Path, bytes]:
    """Return an engine, its ONNX file and the manifest that names the digests of both."""
    manifest = {"onnx": NAMES[0], "onnx_sha256": hashlib.sha256(data).hexdigest()}
    contents = (data, data, manifest_bytes(sealed(manifest, data)))
    return dict(zip((folder / name for name in NAMES), contents, strict=True))


def write_together(folder: Path, data: bytes) -> None:
    write_files(artifact_of(folder, data))


def write_one(folder: Path, data: bytes) -> None:
    write_files({folder / NAMES[1]: data})


def write_in_place(folder: Path, data: bytes) -> None:
    """What a writer does that thinks of no crash."""
    for path, content in artifact_of(folder, data).items():
        path.write_bytes(content)


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


def states_when_killed(write: Writer, folder: Path) -> list[tuple[bytes, bytes, bool]]:
    """Kill at every step over an old artifact.

    Returns:
        For each step the ONNX file and the engine that a reader finds, and whether it would use
        them.
    """
    states = []
    onnx, engine, manifest = (folder / name for name in NAMES)
    for step in range(1, 1000):
        write_in_place(folder, b"old")
        was_killed = killed_at(step, write, folder)
        states.append(
            (onnx.read_bytes(), engine.read_bytes(), not why_rebuild(read_existing(engine), {}))
        )
        assert manifest.exists()
        check_writable(onnx)
        left = list(folder.glob(PREFIX + "*"))
        assert all(list(path.iterdir()) in ([], [path / "lock"]) for path in left), step
        for path in left:  # killed before its lock file was complete: nobody can tell whose it is
            assert not (path / "lock").exists() or not (path / "lock").read_bytes()
            shutil.rmtree(path)
        if not was_killed:
            return states
    raise AssertionError("it never came to an end")


def test_killed_at_every_step_nothing_wrong_is_used(tmp_path: Path) -> None:
    """Between two renames there is a mixture; the digests refuse it, and the next run cleans."""
    states = states_when_killed(write_together, tmp_path)
    assert set(states) == {
        (b"old", b"old", True),
        (b"new", b"old", False),
        (b"new", b"new", False),
        (b"new", b"new", True),
    }
    assert sum(not used for *_, used in states) == 2  # one for each rename but the last


def test_killed_at_every_step_one_file_is_whole(tmp_path: Path) -> None:
    """A single file is the old one or the new one."""
    for _, engine, used in states_when_killed(write_one, tmp_path):
        assert (engine, used) in ((b"old", True), (b"new", False))


def test_without_digests_a_mixture_would_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the digests keeps a reader from the mixture, and the check says so."""
    monkeypatch.setattr("paragon_export.engines.manifest.EngineFile.mismatch", "")
    monkeypatch.setattr(
        "paragon_export.engines.reuse.sha256_of",
        lambda path: (read(path.with_name(NAMES[1])) or {})["onnx_sha256"],
    )
    assert (b"new", b"old", True) in states_when_killed(write_together, tmp_path)


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


WRITING = """
import ctypes, os, sys, time
from pathlib import Path
from paragon_export.system import atomic_write as artifact
from paragon_export.system import signals
signals.listen()

def wait(handle):
    print("ready", flush=True)
    if sys.argv[2] == "native":
        ctypes.CDLL(None).sleep(60)
    while True:
        time.sleep(0.001)

os.fsync = wait
artifact.write_files({Path(sys.argv[1]): b"half"})
"""
"""Stands in the middle of writing a file, in Python or in a long call of a library."""


def test_what_a_live_run_is_writing_is_left_alone(tmp_path: Path) -> None:
    """Only what nobody writes any more is removed."""
    with another_process(WRITING, tmp_path / "a.onnx", "python") as process:
        write_text(tmp_path / "b.onnx", "whole")
        check_writable(tmp_path / "a.onnx")
        (half,) = tmp_path.glob(PREFIX + "*/a.onnx")
        assert half.read_bytes() == b"half"
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
    with another_process(WRITING, tmp_path / "a.onnx", where) as process:
        time.sleep(0.05)
        begun = time.monotonic()
        process.send_signal(number)
        assert process.communicate(timeout=30) == ("", "")
        assert time.monotonic() - begun < 10
    assert process.returncode == 128 + number
    assert list(tmp_path.iterdir()) == []


QUANTIZING = """
import os, sys, tempfile, time
from paragon_export.system import signals
signals.listen()
from paragon_export.system.private_folder import scratch
with scratch() as folder:
    (folder / "int8.onnx").write_text("half")
    tempfile.mkdtemp()
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_stopped_run_leaves_no_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its own nor those that a library made meanwhile."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with another_process(QUANTIZING) as process:
        assert list(tmp_path.rglob("int8.onnx"))
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_scratch_of_a_library_leaves_tempfile_alone() -> None:
    """Only a process that a signal ends at once redirects the temporary files of libraries."""
    before = tempfile.tempdir
    with scratch() as folder:
        assert tempfile.tempdir == before
        assert folder.is_dir()
    assert not folder.exists()


# --- two at once ---------------------------------------------------------------------------


def write_often(folder: Path, data: bytes) -> None:
    for _ in range(40):
        write_together(folder, data)


def test_two_runs_at_once_leave_nothing_wrong_that_is_used(tmp_path: Path) -> None:
    """Both succeed; what lies there in the end is all of one of them, or is not used."""
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
    assert {path.name for path in tmp_path.iterdir()} == set(NAMES)
    onnx, engine = tmp_path / NAMES[0], tmp_path / NAMES[1]
    if not why_rebuild(read_existing(engine), {}):
        assert onnx.read_bytes() == engine.read_bytes() == read_engine(engine).data


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


def test_one_file_too_many_keeps_all_old_ones(tmp_path: Path) -> None:
    """Where the last of three files does not fit, none of the three changes."""
    write_in_place(tmp_path, b"old")
    before = {name: (tmp_path / name).read_bytes() for name in NAMES}
    files = dict(zip((tmp_path / name for name in NAMES), (b"1", b"2", bytes(10000)), strict=True))
    with no_file_larger_than(1000), pytest.raises(PlanError, match="cannot write"):
        write_files(files)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def _becomes_a_folder(folder: Path) -> None:
    (folder / NAMES[1]).unlink()
    (folder / NAMES[1]).mkdir()


def _is_removed(folder: Path) -> None:
    shutil.rmtree(folder)


def _is_renamed(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


@pytest.mark.parametrize(
    ("happens", "words"),
    [
        (_becomes_a_folder, "a folder of that name exists"),
        (_is_removed, "its folder was removed or renamed during the run"),
        (_is_renamed, "its folder was removed or renamed during the run"),
    ],
)
def test_what_happens_midway_is_one_line(
    happens: Callable[[Path], None],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The output's place is lost while the files are written."""
    folder = tmp_path / "out"
    folder.mkdir()
    write_in_place(folder, b"old")
    synced = iter([lambda _: None, lambda _: None, lambda _: happens(folder)])
    monkeypatch.setattr(
        "paragon_export.system.atomic_write.os.fsync", lambda handle: next(synced)(handle)
    )
    with pytest.raises(PlanError, match=words) as caught:
        write_together(folder, b"new")
    assert "\n" not in str(caught.value)
    if happens is _becomes_a_folder:
        assert (folder / NAMES[0]).read_bytes() == b"old"
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


def test_a_killed_export_leaves_the_old_file(
    tiny_realtime: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    """Killed while it works: the old file stays, and the next run writes the new one."""
    output = tmp_path / "net.onnx"
    output.write_bytes(b"old")
    args = ("onnx", tiny_realtime, "-o", output, "--static", "8x8")
    process = python_m(*args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(1)
    process.kill()
    assert process.wait(LONGEST_RUN_S) == -signal.SIGKILL
    assert output.read_bytes() == b"old"
    assert run_cli(*args).code == 0
    assert output.read_bytes() != b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.slow
def test_two_commands_at_once(tiny_realtime: Path, tmp_path: Path) -> None:
    """Two builds of one engine at once, of different profiles: both succeed, one is there."""
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
    assert why_rebuild(read_existing(engine), {}) == ""
    assert {path.name for path in tmp_path.iterdir()} == set(NAMES)
