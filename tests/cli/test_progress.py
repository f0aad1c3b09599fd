"""Progress: steps are named on a terminal's stderr; single results are printed in a pipe too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from paragon_export.system.progress import Reporter, advance, counted, reporting, step, tell
from tests.conftest import Finished, RunCli, RunHere, shell_environment

pytestmark = pytest.mark.processes

pty = pytest.importorskip("pty", reason="pseudo-terminals are POSIX")

OnTerminal = Callable[..., Finished]


@pytest.fixture
def on_terminal(run_cli: RunCli) -> OnTerminal:
    """Return a function that runs the command line with stderr on a pseudo-terminal."""

    def run(*args: str | Path) -> Finished:
        master, slave = pty.openpty()
        seen: list[bytes] = []

        def read() -> None:
            try:
                while data := os.read(master, 65536):
                    seen.append(data)
            except OSError:  # the other end is closed
                return

        reader = threading.Thread(target=read)
        reader.start()
        done = run_cli(*args, terminal=os.ttyname(slave), TERM="xterm")
        os.close(slave)
        reader.join(timeout=30)
        os.close(master)
        return Finished(done.code, done.stdout, b"".join(seen).decode())

    return run


@pytest.mark.skipif(not hasattr(os, "setsid"), reason="POSIX signals")
def test_ctrl_c_restores_the_terminal(tiny_photo: Path, tmp_path: Path) -> None:
    """The command ends at once; the cursor, which the moving line hides, is shown again."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "paragon_export", "onnx", str(tiny_photo)],
        cwd=tmp_path,
        env={**shell_environment(), "TERM": "xterm"},
        stdout=subprocess.DEVNULL,
        stderr=slave,
        # A suite that a shell runs in the background ignores Ctrl-C, and so would this process.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    os.close(slave)
    seen = b""
    while b"judging image" not in seen:
        seen += os.read(master, 65536)
    process.send_signal(signal.SIGINT)
    try:
        while data := os.read(master, 65536):
            seen += data
    except OSError:  # the other end is closed
        pass
    os.close(master)

    assert process.wait(timeout=60) == 128 + signal.SIGINT
    assert seen.endswith(b"\x1b[K\x1b[?25h")
    assert b"Traceback" not in seen


def small(checkpoint: Path) -> tuple[str | Path, ...]:
    return ("onnx", checkpoint, "--static", "8x8", "-o", "o.onnx")


def test_a_terminal_sees_the_steps(tiny_realtime: Path, on_terminal: OnTerminal) -> None:
    """Each step is named on stderr, images are counted, and the cursor is shown again."""
    done = on_terminal(*small(tiny_realtime))

    assert done.code == 0
    for words in ("tracing", "simplifying the graph", "judging image 1 of ", "float64 reference"):
        assert words in done.stderr
        assert words not in done.stdout
    assert done.stderr.rfind("\x1b[?25h") > done.stderr.rfind("\x1b[?25l") >= 0
    assert "PASSED" in done.stdout


@pytest.mark.parametrize("option", ["--json", "--quiet"])
def test_json_and_quiet_show_no_progress(
    option: str, tiny_realtime: Path, on_terminal: OnTerminal
) -> None:
    done = on_terminal(*small(tiny_realtime), option)

    assert done.code == 0
    assert "judging" not in done.stderr
    assert "\x1b[?25l" not in done.stderr
    if option == "--quiet":
        assert done.stderr == ""
        assert "PASSED" in done.stdout
    else:
        assert json.loads(done.stdout)["passed"] is True
        assert "note: " in done.stderr


def test_a_pipe_sees_no_progress(tiny_realtime: Path, run_cli: RunCli) -> None:
    done = run_cli(*small(tiny_realtime))

    assert done.code == 0
    assert all(line.startswith("note: ") for line in done.stderr.splitlines())


def test_verbose_logs_the_steps_in_a_pipe(tiny_realtime: Path, run_cli: RunCli) -> None:
    """One line for each step, with its seconds, beside the notes; stdout stays JSON."""
    done = run_cli(*small(tiny_realtime), "--json", "--verbose")

    lines = done.stderr.splitlines()
    assert any(line.startswith("tracing: ") and line.endswith(" s") for line in lines)
    assert any(line.startswith("judging image ") for line in lines)
    assert json.loads(done.stdout)["passed"] is True


class Recorded:
    """A reporter that writes down what it is called with."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def begin(self, name: str, total: int | None, unit: str = "") -> None:
        self.calls.append(f"begin {name} {total}")

    def advance(self) -> None:
        self.calls.append("advance")

    def end(self) -> None:
        self.calls.append("end")

    def tell(self, text: str) -> None:
        self.calls.append(text)


@pytest.mark.parametrize(
    ("options", "is_printed"),
    [(("--images", "in"), True), (("--images", "in", "--quiet"), False), ((), False)],
)
def test_results_of_slow_images_are_printed_before_the_table(
    options: tuple[str, ...], is_printed: bool, tiny_realtime: Path, run_here: RunHere, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """On stderr, in a pipe too; those of images that are quickly judged are not printed."""
    run_here(*small(tiny_realtime)[:2], "-o", "o.onnx")
    (tmp_path / "in").mkdir()
    Image.new("RGB", (20, 12)).save(tmp_path / "in" / "black.png")
    monkeypatch.setattr("paragon_export.parity.compare.MIN_PRINTED_SECONDS", 0.0)
    done = run_here("parity", tiny_realtime, "o.onnx", *options)

    printed = [
        line for line in done.stderr.splitlines() if "black.png 12x20, o.onnx: output: " in line
    ]
    assert len(printed) == is_printed
    assert done.code == 0
    monkeypatch.undo()
    assert "black.png" not in run_here("parity", tiny_realtime, "o.onnx", *options).stderr


def test_without_a_reporter_nothing_happens() -> None:
    with step("alone"):
        advance()
        tell("nothing")
    assert list(counted("items", iter("ab"))) == ["a", "b"]


def test_steps_reach_the_reporter() -> None:
    """Steps nest, decorate functions, count items, and end where an error leaves them."""
    recorded: Reporter = Recorded()

    @step("decorated")
    def fails() -> None:
        raise KeyError

    with reporting(recorded):
        assert list(counted("items", iter("ab"))) == ["a", "b"]
        tell("what was found")
        with pytest.raises(KeyError):
            fails()
    with step("after"):
        pass
    assert recorded.calls == [  # type: ignore[attr-defined]
        "begin items 2", "advance", "advance", "end", "what was found", "begin decorated None", "end",
    ]  # fmt: skip
