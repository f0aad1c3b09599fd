"""Nothing is fetched or installed at run time: every command works without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import LONGEST_RUN_S, shell_environment

pytestmark = pytest.mark.processes

WATCHED = """
import json, sys
seen = []
NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto",
           "urllib.Request", "http.client.connect")

def watch(event, args):
    if event in NETWORK:
        seen.append([event, repr(args)])
        raise OSError("this machine has no network")
    if event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system"):
        if any(word in repr(args) for word in ("pip", "conda", "apt", "curl", "wget")):
            seen.append([event, repr(args)])

sys.addaudithook(watch)
"""

WATCHED_CHILD = """
import sys
NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")

def watch(event, args):
    if event in NETWORK:
        with open({log!r}, "a") as file:
            print(event, repr(args), file=file)
        raise OSError("this machine has no network")
    if event == "import" and args[0].startswith("onnxruntime.") and "-c" in sys.argv:
        with open({log!r} + ".started", "a") as file:
            print("onnxruntime", file=file)

sys.addaudithook(watch)
"""
"""Imported by every Python that is started, the processes that run files of others among them."""

COMMANDS = """
from paragon_export.cli.app import main
from paragon_export.inputs import sizes
sizes.residue_sizes = lambda *_: []  # the verdict is not the subject
for command in json.loads(sys.argv[1]):
    sys.argv = ["paragon-export", *command]
    try:
        main()
    except SystemExit as end:
        assert not end.code, (command, end.code)
print(json.dumps(seen), file=sys.stderr)
"""


def watched(script: str, *args: str, cwd: Path) -> list[list[str]]:
    """Run a script under watch and return what it tried to reach or install."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED + script, *args],
        cwd=cwd,
        env=shell_environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=LONGEST_RUN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen: list[list[str]] = json.loads(done.stderr.splitlines()[-1])
    return seen


def test_no_command_reaches_for_the_network(
    tiny_realtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a library keep notes in the home folder, to send them another time."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME")
    c = str(tiny_realtime)
    both = ["--backend", "onnxruntime", "--backend", "openvino"]
    commands = [
        ["inspect", c],
        ["onnx", c, "-o", "a.onnx", "--static", "9x9"],
        ["trt", "a.onnx", "-o", "a.engine", "--target", "sm86"],
        ["parity", c, "a.onnx", *both],
        ["bench", "a.onnx", "--size", "9x9"],
    ]
    site, log = tmp_path / "site", tmp_path / "seen"
    site.mkdir()
    (site / "sitecustomize.py").write_text(WATCHED_CHILD.format(log=str(log)))
    known = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(site), known))))
    assert watched(COMMANDS, json.dumps(commands), cwd=tmp_path) == []
    assert (tmp_path / "a.engine").exists()
    assert (tmp_path / "seen.started").exists()
    assert not log.exists(), log.read_text()
    home = tmp_path / "home"
    left = {path.relative_to(home).parts[:2] for path in home.rglob("*") if path.is_file()}
    assert left == set()


@pytest.mark.parametrize(
    "attempt",
    [
        "import urllib.request\ntry: urllib.request.urlopen('http://192.0.2.1')\n"
        "except OSError: pass\n",
        "import socket\ntry: socket.create_connection(('localhost', 9))\nexcept OSError: pass\n",
        "import subprocess, sys\nsubprocess.run([sys.executable, '-m', 'pip', '--version'])\n",
    ],
)
def test_the_watch_sees_an_attempt(attempt: str, tmp_path: Path) -> None:
    assert watched(attempt + "print(json.dumps(seen), file=sys.stderr)\n", cwd=tmp_path)


IMPORT = """
import os, sys
before = dict(os.environ)
import paragon_export
import paragon_export.system.atomic_write
import paragon_export.system.optional
assert dict(os.environ) == before
assert sys.modules.get("openvino_telemetry", "absent") == "absent"
from paragon_export.system.optional import import_without_telemetry
import_without_telemetry("onnxruntime")
print(os.environ["ORT_DISABLE_TELEMETRY"])
assert "openvino_telemetry" not in sys.modules
"""


def test_telemetry_is_turned_off_with_the_library_that_has_it(tmp_path: Path) -> None:
    """Importing the package changes nothing; importing ONNX Runtime sets its variable."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT],
        cwd=tmp_path,
        env=shell_environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=LONGEST_RUN_S,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == "1\n"


def test_a_choice_of_the_user_is_kept(tmp_path: Path) -> None:
    """A user who sets the variable of ONNX Runtime to another value gets that value."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT],
        cwd=tmp_path,
        env=shell_environment(ORT_DISABLE_TELEMETRY="0"),
        capture_output=True,
        encoding="utf-8",
        timeout=LONGEST_RUN_S,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == "0\n"
