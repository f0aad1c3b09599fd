"""Import budget: what a command does not need it does not load, and what is missing is named."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from paragon_export.assets import PHOTOGRAPH
from tests.conftest import shell_environment

pytestmark = pytest.mark.processes

HEAVY = {
    "torch", "onnx", "onnx_ir", "onnxruntime", "onnxsim", "polygraphy", "tensorrt",
    "tensorrt_rtx", "openvino", "yaml", "PIL",
}  # fmt: skip

RUN_AND_REPORT = """
import json, sys
from paragon_export.cli.app import main
reports = []
for args in json.loads(sys.argv[1]):
    sys.argv = ["paragon-export", *args]
    code = 0
    try:
        main()
    except SystemExit as exit_:
        code = exit_.code or 0
    loaded = sorted({name.partition(".")[0] for name in sys.modules})
    reports.append({"code": code, "loaded": loaded})
print("\\n" + json.dumps(reports))
"""

WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
missing = sys.argv.pop(1).split(",")
sys.meta_path.insert(0, Missing())
"""
"""Makes the modules of the first argument as good as not installed."""

REQUIRE = (
    WITHOUT
    + """
from paragon_export.errors import MissingDependencyError
from paragon_export.runtimes.polygraphy import polygraphy_trt
try:
    polygraphy_trt(sys.argv[1])
except MissingDependencyError as error:
    print(error)
"""
)

RUN = (
    WITHOUT
    + """
from paragon_export.cli.app import main
main()
"""
)

JUDGE_IN_HALF = """
import sys
from paragon_export.networks.describe import load_network
from paragon_export.inputs.large import large_probe
from paragon_export.parity.parts import Parts
from paragon_export.parity.reference import build_reference
from paragon_export.specs.types import Size
reference = build_reference(load_network(sys.argv[1]))
reference.runner("float16").infer({"input": large_probe(3, Size(9, 9)).frames[0]})
assert Parts(reference).most_pixels > 0
print("torch._dynamo" in sys.modules)
"""

OPEN_ENGINE = """
import sys
from pathlib import Path
from paragon_export.errors import RunError
from paragon_export.runtimes.trt_runner import EngineRunner
try:
    EngineRunner(Path(sys.argv[1]).read_bytes(), "damaged.engine", "rtx")
except RunError:
    print("TensorRT was asked")
"""


def python(code: str, *args: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        cwd=cwd,
        env=shell_environment(),
        check=False,
    )


def loaded_by(*commands: Sequence[str | Path], cwd: Path) -> list[set[str]]:
    """Run command lines in one process; return the top-level modules that are loaded after each."""
    arguments = json.dumps([[str(arg) for arg in args] for args in commands])
    done = python(RUN_AND_REPORT, arguments, cwd=cwd)
    reports = json.loads(done.stdout.splitlines()[-1])
    assert [report["code"] for report in reports] == [0] * len(commands), done.stderr
    return [set(report["loaded"]) for report in reports]


COMMANDS = (
    "inspect",
    "onnx",
    "quantize",
    "audit",
    "trt",
    "parity",
    "plan",
    "bench",
    "glyphs",
    "script",
    "serve-config",
    "ncnn",
    "demo",
)


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    """Asking how to use the tool costs no import of what the tool works with."""
    helps = [["--help"], *([command, "--help"] for command in COMMANDS)]

    loaded = loaded_by(*helps, cwd=tmp_path)

    heavy = HEAVY | {"numpy", "rich"}
    assert {args[0]: found & heavy for args, found in zip(helps, loaded, strict=True)} == {
        args[0]: set() for args in helps
    }


def test_help_is_quick(tmp_path: Path) -> None:
    """``--help`` takes less than 0.3 s of processor time."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        python("from paragon_export.cli.app import main; main()", "--help", cwd=tmp_path)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

    assert min(seconds) < 0.3


def test_inspect_of_safetensors_loads_no_torch(
    tiny_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """Describing a safetensors file needs its tensors' names and shapes, not a framework."""
    commands = [("inspect", tiny_checkpoints[variant]) for variant in ("realtime", "pro")]

    for loaded in loaded_by(*commands, cwd=tmp_path):
        assert not loaded & HEAVY


def test_inspect_with_an_option_file_loads_yaml_alone(tiny_photo: Path, tmp_path: Path) -> None:
    """An option file brings YAML and nothing else."""
    config = tmp_path / "train.yml"
    config.write_text("network_g: {upsampler_alpha: 0.0}\n")

    (loaded,) = loaded_by(("inspect", tiny_photo, "--config", config), cwd=tmp_path)

    assert loaded & HEAVY == {"yaml"}


def test_upscaling_here_loads_no_ray(tiny_realtime: Path, tmp_path: Path) -> None:
    """A cluster is for those who ask for it."""
    (loaded,) = loaded_by(("upscale", tiny_realtime, PHOTOGRAPH, "-o", "b.png"), cwd=tmp_path)

    assert "PIL" in loaded
    assert "ray" not in loaded


FLAVOURS = {"rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}


def test_a_judgment_does_not_load_dynamo(tiny_realtime: Path, tmp_path: Path) -> None:
    """PyTorch imports it, for 2 s, where a mode that sees operators does not decline."""
    done = python(JUDGE_IN_HALF, tiny_realtime, cwd=tmp_path)
    assert done.stdout == "False\n", done.stderr


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_missing_tensorrt_names_its_extra(flavour: str, tmp_path: Path) -> None:
    """Without TensorRT the error says what is missing and which extra brings it."""
    done = python(REQUIRE, FLAVOURS[flavour], flavour, cwd=tmp_path)

    assert f"paragon-export[{flavour}]" in done.stdout
    assert FLAVOURS[flavour] in done.stdout


def test_a_missing_polygraphy_names_its_extra(tmp_path: Path) -> None:
    """TensorRT alone is not enough, and the error says so in the same way."""
    done = python(REQUIRE, "polygraphy", "rtx", cwd=tmp_path)

    assert "polygraphy" in done.stdout
    assert "paragon-export[rtx]" in done.stdout


@pytest.mark.parametrize("missing", ["tensorrt_rtx", "polygraphy"])
def test_trt_without_its_extra_is_one_line(
    missing: str, tiny_realtime: Path, tmp_path: Path
) -> None:
    """The command ends in exit code 3 with the extra to install, and writes nothing at all."""
    args = ("trt", tiny_realtime, "--min", "1x1", "--opt", "8x8", "--max", "8x8")

    done = python(RUN, missing, *args, "-o", "e.engine", cwd=tmp_path)

    assert done.returncode == 3
    assert done.stdout == ""
    assert "paragon-export[rtx]" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


OPTIONAL = "tensorrt,tensorrt_rtx,polygraphy,openvino"


def test_everything_but_engines_works_without_the_extras(
    tiny_realtime: Path, tmp_path: Path
) -> None:
    """Inspecting and exporting need no optional part."""
    args = ("onnx", tiny_realtime, "--static", "8x8", "-o", "o.onnx", "--json")

    done = python(RUN, OPTIONAL, *args, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["passed"] is True
    assert (tmp_path / "o.onnx").is_file()


def test_an_engine_can_be_the_first_thing_a_process_opens(tmp_path: Path) -> None:
    """Opening an engine binds Polygraphy to the right TensorRT, whatever was imported before."""
    path = tmp_path / "damaged.engine"
    path.write_bytes(b"no engine")

    done = python(OPEN_ENGINE, path, cwd=tmp_path)

    assert "TensorRT was asked" in done.stdout, done.stderr
