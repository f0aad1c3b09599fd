"""Names that are too long or no UTF-8, and users without a home: it works, or is one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from paragon_export.pipeline.export import export
from paragon_export.specs.plans import ExportPlan
from paragon_export.system.text import utf_8
from tests.cli.test_errors import assert_one_helpful_line, listing
from tests.conftest import LONGEST_RUN_S, RunHere, shell_environment

pytestmark = pytest.mark.processes

ODD = os.fsdecode(b"n\xff\xe9")
"""A name as another system wrote it, in Latin-1."""

LONG = "n" * 300
"""File systems take 255 bytes."""

PROFILE = ("--target", "sm86", "--min", "1x1", "--opt", "8x8", "--max", "8x8")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_realtime: Path) -> Path:
    """Return a folder with a checkpoint and its export under both a plain and an odd name."""
    folder = tmp_path_factory.mktemp("exported")
    shutil.copy(tiny_realtime, folder / "c.safetensors")
    export(ExportPlan(checkpoint=folder / "c.safetensors", output=folder / "c.onnx"))
    for suffix in (".safetensors", ".onnx"):
        shutil.copy(folder / f"c{suffix}", folder / f"{ODD}{suffix}")
    return folder


@pytest.fixture
def folder(tmp_path: Path, exported: Path) -> Path:
    """Return a copy of the exported files."""
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_the_name_of_a_checkpoint_is_written_as_text(folder: Path, run_here: RunHere) -> None:
    """Protobuf's texts are UTF-8, so bytes that are none are escaped."""
    done = run_here("onnx", f"{ODD}.safetensors", "-o", "m.onnx")

    assert done.code == 0
    (entry,) = [e for e in onnx.load(folder / "m.onnx").metadata_props if e.key == "checkpoint"]
    assert entry.value == utf_8(f"{ODD}.safetensors") == r"n\xff\xe9.safetensors"
    assert utf_8("Bär.pth") == "Bär.pth"


@pytest.mark.usefixtures("foreign_files_here")
@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", f"{ODD}.safetensors"],
        ["inspect", f"{ODD}.safetensors", "--json"],
        ["onnx", f"{ODD}.safetensors"],
        ["onnx", "c.safetensors", "--fp16", "-o", f"{ODD}o.onnx", "--audit", f"{ODD}.json"],
        ["parity", "c.safetensors", f"{ODD}.onnx", "--sizes", "5x7"],
        ["parity", "c.safetensors", "c.onnx", "--sizes", "5x7", "--junit", f"{ODD}.xml"],
        ["audit", f"{ODD}.onnx"],
        ["bench", f"{ODD}.onnx", "--size", "8x8", "--report", f"{ODD}.md"],
        ["bench", f"{ODD}.engine"],
        ["trt", f"{ODD}.onnx", "-o", f"{ODD}.engine", *PROFILE],
        ["parity", f"{ODD}.onnx", "--sizes", "5x7", "--json"],
        ["trt", f"{ODD}.safetensors", *PROFILE],
        ["trt", f"{ODD}.onnx", "--checkpoint", "c.safetensors", "--fp16", *PROFILE],
    ],
    ids=lambda arguments: ascii(" ".join(arguments[:4])),
)
def test_names_that_are_no_text_work_or_are_one_line(
    arguments: list[str], folder: Path, run_here: RunHere
) -> None:
    """Whatever is read, written and printed."""
    done = run_here(*arguments)

    assert done.code in (0, 3)
    if done.code == 3:
        assert_one_helpful_line(done, "")
    assert all(line.isprintable() for line in (done.stdout + done.stderr).split("\n"))
    assert "--json" not in arguments or json.loads(done.stdout)
    if "--report" in arguments:
        assert r"n\xff\xe9.onnx" in (folder / f"{ODD}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", f"{LONG}.safetensors"],
        ["onnx", f"{LONG}.safetensors"],
        ["onnx", "c.safetensors", "-o", f"{LONG}.onnx"],
        ["onnx", "c.safetensors", "-o", f"{LONG}/m.onnx"],
        ["onnx", "c.safetensors", "--fp16", "--audit", f"{LONG}.json"],
        ["onnx", "c.safetensors", "--config", f"{LONG}.yml"],
        ["parity", "c.safetensors", f"{LONG}.onnx"],
        ["parity", "c.safetensors", "c.onnx", "--junit", f"{LONG}.xml"],
        ["parity", f"{LONG}.onnx", "--json"],
        ["parity", f"{LONG}.engine"],
        ["audit", f"{LONG}.onnx"],
        ["bench", "c.onnx", "--report", f"{LONG}.md"],
        ["trt", f"{LONG}.safetensors"],
        ["trt", "c.onnx", "-o", f"{LONG}.engine"],
        ["trt", "c.onnx", "-o", f"{'n' * 245}.engine"],
        ["trt", "c.onnx", "--recipe", f"{LONG}.toml"],
    ],
    ids=lambda arguments: " ".join(arguments)[:30],
)
def test_names_that_are_too_long_are_one_line(
    arguments: list[str], folder: Path, run_here: RunHere
) -> None:
    """Inputs and outputs, and what is written beside them; nothing is left."""
    before = listing(folder)

    done = run_here(*arguments)

    assert_one_helpful_line(done, "")
    assert listing(folder) == before


HOMELESS = """
import json, pwd, sys

def unknown(*_):
    raise KeyError("no such user")

pwd.getpwuid = pwd.getpwnam = unknown
from paragon_export.cli.app import main
from paragon_export.inputs import sizes
sizes.residue_sizes = lambda *_: []  # the verdict is not the subject
for command in json.loads(sys.argv[1]):
    sys.argv = ["paragon-export", *command]
    try:
        main()
    except SystemExit as end:
        assert not end.code, (command, end.code)
"""


def test_a_user_without_a_home_is_served(folder: Path) -> None:
    """As in a container that runs under a number alone."""
    small = ["--sizes", "5x7"]
    commands = [
        ["inspect", "c.safetensors"],
        ["onnx", "c.safetensors", "--fp16", "--static", "5x7", "-o", "m.onnx"],
        ["parity", "c.safetensors", "c.onnx", *small],
        ["parity", "c.safetensors", "c.onnx", *small, "--backend", "openvino"],
        ["audit", "c.onnx"],
        ["bench", "c.onnx", "--size", "8x8"],
        ["trt", "c.onnx", "-o", "e.engine", *PROFILE],
    ]
    environment = shell_environment()
    for name in ("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME"):
        environment.pop(name, None)

    done = subprocess.run(
        [sys.executable, "-c", HOMELESS, json.dumps(commands)],
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=LONGEST_RUN_S,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
