"""Kill real exports and builds at random moments, and look at what is left.

The shipped network is exported (``onnx``) and built (``trt``, TensorRT-RTX, ``--target sm86``) again
and again over yesterday's artifact, by a process that is killed: half of the kills are spread over
the whole run, half fall within milliseconds of the writing, for which the folder is watched. After
each the artifact must be yesterday's or today's, or its digests must refuse it: a kill between two
renames costs a build. The next run must clean up and leave the right bytes.

SIGINT and SIGTERM must besides end the process with 130 and 143, without a word or leftovers.
Moments count from the first at which the program listens: before it Python itself is starting,
and after the last line of the program Python ends it by the signal itself.

Every run is a process of its own, forked from this one, which has imported the libraries before:
importing PyTorch takes four times as long as the work, and writes nothing. ``--cold`` runs are
started by the shell's command instead, imports included.

A writer that opens its files in place is held to the same check, and has to be caught.

    python benchmarks/kills.py [--kills 100] [--signals 20] [--cold 10] [--seed 0]

Figures count for each command. Writes ``kills.json``. Takes about 20 minutes on one core.
"""

from __future__ import annotations

import importlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Annotated, Any

import typer
from common import write

import paragon_export.__main__
from paragon_export.assets import CHECKPOINT
from paragon_export.engines.manifest import read
from paragon_export.engines.reuse import read_existing, why_rebuild
from paragon_export.system.atomic_write import sha256_of
from paragon_export.system.private_folder import PREFIX

PROFILE = ("--target", "sm86", "--min", "1x1", "--opt", "16x16", "--max", "16x16")

ARTEFACTS = {"onnx": ("net.onnx",), "trt": ("net.engine", "net.engine.json", "net.engine.onnx")}

NAIVE = """
import pathlib, sys, time
source = pathlib.Path(sys.argv[1])
time.sleep(0.2)
for file in sorted(source.iterdir()):
    data = file.read_bytes()
    with open(file.name, "wb") as target:
        for start in range(0, len(data), len(data) // 50 + 1):
            target.write(data[start:start + len(data) // 50 + 1])
            target.flush()
            time.sleep(0.001)
"""
"""Copies today's files over yesterday's in place, on a disk that is not too quick."""

for _library in ("onnx", "onnxruntime", "onnxsim", "tensorrt_rtx", "typer", "rich"):
    importlib.import_module(_library)

State = dict[str, str]
"""File name to SHA-256."""


@dataclass
class Case:
    """A writer in a folder that holds yesterday's artefact."""

    name: str
    today: Sequence[str]
    """Arguments of Python that make today's."""
    kept: Path
    """Where both artefacts lie, in ``old`` and ``new``."""
    folder: Path
    seconds: float = 1.0
    """From the moment at which the program listens to its end."""

    def start(self, cold: bool = False) -> Run:
        return Started(self) if cold or self.name == "naive" else Forked(self)

    def reset(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.kept / "old", self.folder)

    def leftovers(self) -> list[str]:
        files = {path.name for path in (self.kept / "old").iterdir()}
        return [path.name for path in self.folder.iterdir() if path.name not in files]

    def kind(self) -> str:
        """Say what lies there: ``old``, ``new``, ``refused`` by its digests, or ``torn``.

        The last must never be seen: a file that is neither yesterday's nor today's, or a mixture
        that would be used.
        """
        old, new, found = map(state_of, (self.kept / "old", self.kept / "new", self.folder))
        if found in (old, new):
            return "old" if found == old else "new"
        engine = self.folder / ARTEFACTS["trt"][0]
        # TensorRT's bytes differ from build to build, and so does the manifest that names them.
        known = found if self.name == "naive" else [n for n in found if n.endswith(".onnx")]
        if any(found[name] not in (old.get(name), new.get(name)) for name in known):
            return "torn"
        if why_rebuild(read_existing(engine), {}):
            return "refused"
        onnx = ARTEFACTS["trt"][2]
        return "new" if (read(engine) or {})["onnx_sha256"] == new[onnx] else "torn"


def state_of(folder: Path) -> State:
    return {path.name: sha256_of(path) for path in folder.iterdir() if path.is_file()}


class Started:
    """A run that is started as a user starts it."""

    def __init__(self, case: Case) -> None:
        self.said = TemporaryFile("w+")  # noqa: SIM115 - read at the end
        self.process = subprocess.Popen(
            [sys.executable, *case.today],
            cwd=case.folder,
            stdout=subprocess.DEVNULL,
            stderr=self.said,
        )
        self.pid = self.process.pid

    def code(self, wait: bool = False) -> int | None:
        return self.process.wait(300) if wait else self.process.poll()


class Forked:
    """A run with this process's imports and nothing else of it."""

    def __init__(self, case: Case) -> None:
        self.said = TemporaryFile("w+")  # noqa: SIM115 - read at the end
        self.ended: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        os.chdir(case.folder)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(self.said.fileno(), 2)
        sys.argv = list(case.today[1:])
        try:
            paragon_export.__main__.main()
        except SystemExit as exit_:
            os._exit(int(exit_.code or 0))
        os._exit(0)

    def code(self, wait: bool = False) -> int | None:
        if self.ended is None:
            pid, status = os.waitpid(self.pid, 0 if wait else os.WNOHANG)
            self.ended = os.waitstatus_to_exitcode(status) if pid else None
        return self.ended


Run = Started | Forked

Wait = Callable[[Case, Run, random.Random], None]


def until_it_listens(run: Run) -> None:
    """Wait for a handler of SIGTERM."""
    status = Path(f"/proc/{run.pid}/status")
    while run.code() is None:
        caught = next(line for line in status.read_text().splitlines() if "SigCgt" in line)
        if int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.001)


def anywhere(case: Case, run: Run, rng: random.Random) -> None:
    if case.name != "naive":
        until_it_listens(run)
    time.sleep(rng.uniform(0, case.seconds))


def around_the_commit(case: Case, run: Run, rng: random.Random) -> None:
    """Wait until files take their places, or for some moment between staging and that.

    The ONNX file is renamed first.
    """
    folder = str(case.folder)
    first = next(name for name in state_of(case.kept / "old") if name.endswith(".onnx"))
    before, early = os.stat(f"{folder}/{first}").st_ino, rng.random() < 0.3
    while run.code() is None:
        staged = [name for name in os.listdir(folder) if name.startswith(PREFIX)]
        if early and any(os.path.exists(f"{folder}/{name}/{first}") for name in staged):
            time.sleep(rng.uniform(0, 0.02))
            return
        if os.stat(f"{folder}/{first}").st_ino != before:
            time.sleep(rng.choice((0.0, rng.uniform(0, 0.0005))))
            return


def stop(
    case: Case, number: signal.Signals, wait: Wait, rng: random.Random, cold: bool = False
) -> tuple[int | None, str]:
    """Run the case, stop it, and return its exit code and what it said."""
    case.reset()
    run = case.start(cold)
    wait(case, run, rng)
    if run.code() is None:
        os.kill(run.pid, number)
    code = run.code(wait=True)
    run.said.seek(0)
    return code, run.said.read()


KILLS: dict[str, Wait] = {
    "SIGKILL, any moment": anywhere,
    "SIGKILL, commit": around_the_commit,
}


def killed(case: Case, wait: Wait, rng: random.Random, cold: bool = False) -> Counter[str]:
    """Kill once; return what was seen."""
    seen: Counter[str] = Counter()
    code, _ = stop(case, signal.SIGKILL, wait, rng, cold)
    seen["too late"] += code == 0
    seen["folder left behind"] += bool(case.leftovers())
    kind = case.kind()
    seen[kind] += 1
    if case.name != "naive" and (case.leftovers() or kind == "refused"):
        code = case.start(cold).code(wait=True)
        seen["next run"] += 1
        after = (code, case.kind(), case.leftovers())
        if after != (0, "new", []):
            seen["next run wrong"] += 1
            print(f"next run wrong: {kind}, then exit code, kind and leftovers {after}")
    return seen


def stopped(case: Case, number: signal.Signals, rng: random.Random) -> Counter[str]:
    """Stop once by a signal that the program answers; return what was seen."""
    code, said = stop(case, number, anywhere, rng)
    words = [line for line in said.splitlines() if not line.startswith("note: ")]
    right = code in (128 + number, 0) or (code == -number and case.kind() == "new")
    return Counter(
        {
            case.kind(): 1,
            "too late": int(code in (0, -number)),
            "wrong exit code": int(not right),
            "words": int(bool(words)),
            "folder left behind": int(bool(case.leftovers())),
        }
    )


COUNTED = (
    "old", "new", "refused", "torn", "too late", "folder left behind", "next run",
    "next run wrong", "wrong exit code", "words",
)  # fmt: skip


def measure(case: Case, how: str, runs: int, once: Callable[..., Counter[str]]) -> dict[str, Any]:
    total: Counter[str] = Counter()
    for _ in range(runs):
        total += once(case)
    return {"writer": case.name, "stopped by": how, "runs": runs} | {k: total[k] for k in COUNTED}


def prepare(name: str, folder: Path) -> Case:
    """Make both artefacts of a command, and measure how long it runs."""
    output = ARTEFACTS[name][0]
    shutil.copy(CHECKPOINT, folder / "net.safetensors")
    source = str(folder / "net.safetensors")
    profile = PROFILE if name == "trt" else ()
    base = ("-m", "paragon_export", name, source, "-o", output, *profile, "--upsampler-alpha")
    case = Case(name, (*base, "0"), folder / "kept", folder / "work")
    for age, alpha in (("old", "0.1"), ("new", "0")):
        made = case.kept / age
        made.mkdir(parents=True)
        subprocess.run([sys.executable, *base, alpha], cwd=made, check=True, capture_output=True)
    case.reset()
    case.seconds = duration(case, cold=False)
    return case


def duration(case: Case, cold: bool) -> float:
    """Measure how long a run takes from the moment at which it listens."""
    case.reset()
    run = case.start(cold)
    until_it_listens(run)
    begun = time.monotonic()
    run.code(wait=True)
    return time.monotonic() - begun


def naive(trt: Case) -> Case:
    """A writer that does it wrong, on the same files."""
    return Case("naive", ("-c", NAIVE, str(trt.kept / "new")), trt.kept, trt.folder, 0.5)


def main(
    kills: Annotated[int, typer.Option(help="Half anywhere, half around the commit.")] = 100,
    signals: Annotated[int, typer.Option(help="SIGINTs, and as many SIGTERMs.")] = 20,
    cold: Annotated[int, typer.Option(help="Kills of runs that import all they need.")] = 10,
    seed: int = 0,
) -> None:
    # A shell that starts this in the background tells it, and so its runs, to ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as name:
        for command in ARTEFACTS:
            folder = Path(name) / command
            folder.mkdir()
            case = prepare(command, folder)
            for how, wait in KILLS.items():
                once = partial(killed, wait=wait, rng=rng)
                rows.append(measure(case, how, kills // 2, once))
            for number in (signal.SIGINT, signal.SIGTERM):
                once = partial(stopped, number=number, rng=rng)
                rows.append(measure(case, number.name, signals, once))
            write("kills", rows, ("writer", "stopped by"))
            slow = replace(case, seconds=duration(case, cold=True))
            once = partial(killed, wait=anywhere, rng=rng, cold=True)
            rows.append(measure(slow, "SIGKILL, imports included", cold, once))
            write("kills", rows, ("writer", "stopped by"))
        case = naive(case)
        rows.append(
            measure(case, "SIGKILL, any moment", kills, partial(killed, wait=anywhere, rng=rng))
        )
    write("kills", rows, ("writer", "stopped by"))
    wrong = ("torn", "next run wrong", "wrong exit code", "words")
    ours = [row for row in rows if row["writer"] != "naive"]
    if any(row[what] for row in ours for what in wrong) or not rows[-1]["torn"]:
        sys.exit("an artefact was torn or a run ended wrongly, or the naive writer was not caught")


if __name__ == "__main__":
    typer.run(main)
