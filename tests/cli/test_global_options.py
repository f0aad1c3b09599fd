"""Global options, completion, and the command ``quantize`` with its alias."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import paragon_export
from paragon_export.networks.options import FLAGS
from paragon_export.specs.profiles import recipe_names
from paragon_export.specs.types import TARGETS
from tests.conftest import RunHere, run_started


def test_version(run_here: RunHere) -> None:
    done = run_here("--version")

    assert (done.code, done.stdout) == (0, f"paragon-export {paragon_export.__version__}\n")


@pytest.mark.parametrize("place", ["first", "last"])
def test_quiet_prints_no_notes(place: str, tiny_photo: Path, run_here: RunHere) -> None:
    """--quiet stands anywhere; the document keeps its notes."""
    command = ["inspect", tiny_photo, "--json"]
    assert "note: " in run_here(*command).stderr

    done = run_here(*(["--quiet", *command] if place == "first" else [*command, "--quiet"]))

    assert (done.code, done.stderr) == (0, "")
    assert json.loads(done.stdout)["notes"]
    assert "note: " in run_here(*command).stderr


def test_quiet_still_prints_errors(run_here: RunHere) -> None:
    done = run_here("inspect", "absent.pth", "--quiet")

    assert done.code == 3
    assert "absent.pth" in done.stderr


def test_verbose_and_quiet_exclude_each_other(tiny_photo: Path, run_here: RunHere) -> None:
    done = run_here("inspect", tiny_photo, "--quiet", "--verbose")

    assert done.code == 2
    assert "--verbose or --quiet, not both" in done.stderr


def test_debug_anywhere_prints_the_traceback(run_here: RunHere) -> None:
    assert "Traceback" in run_here("inspect", "absent.pth", "--debug").stderr
    assert "Traceback" not in run_here("inspect", "absent.pth").stderr


def test_what_follows_two_dashes_is_left_alone(run_here: RunHere) -> None:
    done = run_here("inspect", "--", "--quiet")

    assert done.code == 3
    assert "--quiet" in done.stderr


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("onnx --fp", ["--fp16"]),
        ("trt m.onnx --recipe ", recipe_names()),
        ("trt m.onnx --target sm8", [t for t in TARGETS if t.startswith("sm8")]),
        ("onnx m.pth --io ", ["fp32", "fp16", "bf16"]),
        ("onnx m.pth --set wind", ["window_size="]),
        ("quan", ["quantize"]),
    ],
)
def test_completion(words: str, wanted: list[str], tmp_path: Path) -> None:
    """Commands, options, recipes, targets and precisions are completed."""
    line = f"paragon-export {words}"
    asked = {
        "_PARAGON_EXPORT_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - (not line.endswith(" "))),
    }
    done = run_started(tmp_path, **asked)

    assert done.stdout.split() == wanted


# --- --set -----------------------------------------------------------------------------------


def test_set_takes_every_option(tiny_photo: Path, run_here: RunHere) -> None:
    """Options that have a flag of their own as well."""
    values = {"upsampler_alpha": 0.25, "window_size": 8, "attention_mode": "flex"}
    given = [word for name, value in values.items() for word in ("--set", f"{name}={value}")]

    done = run_here("inspect", tiny_photo, *given, "--json")

    options = json.loads(done.stdout)["switches"]
    assert {n: options[n] for n in values} == {
        name: {"value": value, "source": "flag"} for name, value in values.items()
    }


def test_set_against_a_flag_is_refused(tiny_photo: Path, run_here: RunHere) -> None:
    done = run_here("inspect", tiny_photo, "--window-size", "16", "--set", "window_size=8")

    assert done.code == 3
    assert "window_size is given twice" in done.stderr


def test_set_of_nothing_known_lists_the_options(tiny_photo: Path, run_here: RunHere) -> None:
    done = run_here("inspect", tiny_photo, "--set", "size=8")

    assert done.code == 3
    assert all(name in done.stderr for name in FLAGS)


# --- quantize --------------------------------------------------------------------------------


def test_quantize_and_its_alias_write_the_same(
    tmp_path: Path, tiny_realtime: Path, run_here: RunHere
) -> None:
    """``onnx --int8`` is hidden, says what to use, and does the same under the same name."""
    done = run_here("quantize", tiny_realtime, "--accept-loss", "--json")
    assert done.code == 0, done.stderr
    output = tmp_path / "realtime_int8.onnx"
    first, found = output.read_bytes(), json.loads(done.stdout)
    assert found["artifacts"] == [output.name]
    assert found["int8"]["accepted"] is True
    assert "--int8 is now the command quantize" not in done.stderr

    again = run_here("onnx", tiny_realtime, "--int8", "--accept-loss", "--json")

    assert again.code == 0, again.stderr
    assert output.read_bytes() == first
    assert "onnx --int8 is now the command quantize" in again.stderr
    assert "replaced realtime_int8.onnx" in json.loads(again.stdout)["notes"]
    assert "--int8" not in run_here("onnx", "--help").stdout


def test_calibration_without_int8_is_refused(tiny_realtime: Path, run_here: RunHere) -> None:
    done = run_here("onnx", tiny_realtime, "--calibrate", "x")

    assert done.code == 3
    assert "need --int8; better, use the command quantize" in done.stderr
