"""Default names, replaced files, orientation of sizes, and tables in pipes and terminals."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from paragon_export.cli.show.console import output_console
from paragon_export.cli.show.inspect import inspection_table
from paragon_export.cli.show.parity import parity_table
from paragon_export.errors import PlanError
from paragon_export.networks.describe import load_network
from paragon_export.parity.acceptance import default_criteria
from paragon_export.parity.metrics import Difference
from paragon_export.parity.report import ParityReport, ParityRow
from paragon_export.pipeline.export import export_onnx
from paragon_export.pipeline.glyph_chain import read_raster
from paragon_export.specs.types import Precision, Size
from tests.conftest import RunHere

# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["--static", "8x8"], "realtime_8x8.onnx"),
        (["--static", "08X8", "--video", "--fp16"], "realtime_video_fp16_8x8.onnx"),
        (["--static", "8x8", "--opset", "19"], "realtime_8x8_opset19.onnx"),
        (["--static", "8x8", "--no-rewrite"], "realtime_8x8_no-rewrite.onnx"),
        (["--static", "8x8", "--for", "openvino"], "realtime_8x8_openvino.onnx"),
        (["--static", "8x8", "--for", "portable"], "realtime_8x8_portable.onnx"),
    ],
)
def test_default_names_of_onnx_files(
    flags: list[str], name: str, tiny_realtime: Path, run_here: RunHere
) -> None:
    done = run_here("onnx", tiny_realtime, *flags, "--json")

    assert json.loads(done.stdout)["artifacts"] == [name]


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["--fp16", "--target", "sm86"], "c_fp16_sm86.engine"),
        (["--video", "--no-rewrite"], "c_video_no-rewrite.engine"),
        (["--min", "1x1", "--opt", "8x9", "--max", "9x9"], "c_1x1-8x9-9x9.engine"),
        (["--min", "1", "--opt", "2", "--max", "3"], "c_1-2-3.engine"),
        (["--recipe", "pro-720p"], "c_pro-720p.engine"),
        (["--backend", "tensorrt"], "c_tensorrt.engine"),
    ],
)
def test_default_names_of_engines(
    flags: list[str], name: str, tmp_path: Path, run_here: RunHere
) -> None:
    """A file of another program with the default name is refused, and so the name is shown."""
    (tmp_path / name).write_bytes(b"precious")

    done = run_here("trt", "c.onnx", *flags)

    assert done.code == 3
    assert f"{name} exists and was not written by this tool" in done.stderr


def test_replaced_is_said(tiny_realtime: Path, run_here: RunHere) -> None:
    """In the table, and as a note in the JSON."""
    command = ("onnx", tiny_realtime, "--static", "8x8", "-o", "o.onnx")
    first = run_here(*command)
    assert "wrote o.onnx\n" in first.stdout
    assert "replaced" not in first.stdout + first.stderr

    assert "wrote o.onnx (replaced)" in run_here(*command).stdout
    assert "replaced o.onnx" in json.loads(run_here(*command, "--json").stdout)["notes"]


# --- orientation -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tiny_realtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "c.onnx"
    assert export_onnx(tiny_realtime, path).passed
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ["onnx", "c.safetensors", "--static", "12x8", "-o", "o.onnx"],
        ["parity", "c.safetensors", "c.onnx", "--sizes", "8x8,12x8"],
        ["bench", "c.onnx", "--size", "12x8"],
        ["trt", "c.onnx", "--target", "sm86", "--min", "1x1", "--opt", "8x8", "--max", "12x8"],
    ],
)
@pytest.mark.usefixtures("foreign_files_here")
def test_portrait_sizes_are_noted(
    arguments: list[str], tiny_realtime: Path, exported: Path, tmp_path: Path, run_here: RunHere
) -> None:
    """They may be WIDTHxHEIGHT by mistake."""
    shutil.copy(tiny_realtime, tmp_path / "c.safetensors")
    shutil.copy(exported, tmp_path / "c.onnx")
    noted = run_here(*arguments)
    turned = run_here(*(word.replace("12x8", "8x12") for word in arguments))

    flag = next(word for word in arguments if word.startswith("--s") or word == "--max")
    assert (
        f"note: {flag} 12x8 is 12 pixels high, 8 wide: portrait; sizes are HEIGHTxWIDTH"
        in noted.stderr
    )
    assert "portrait" not in turned.stderr


def test_an_error_stays_one_line(run_here: RunHere) -> None:
    """A note that belongs to a result is not printed where there is none, nor later."""
    refused = run_here("onnx", "absent.pth", "--static", "12x8")

    assert len(refused.stderr.splitlines()) == 1
    assert "portrait" not in run_here("inspect", "absent.pth").stderr


# --- tables ----------------------------------------------------------------------------------


def verdict(label: str) -> ParityReport:
    row = ParityRow(
        candidate="model_of_a_long_name_that_goes_on_and_on_and_on_until_it_ends_at_last.onnx",
        precision=Precision.FP32,
        output="output",
        picture=label,
        size=Size(720, 1280),
        batch=1,
        found=Difference(1e-7, 120.0, 1e-8, 1e-7, True, False),
        reference_max_abs=2e-7,
        criteria=default_criteria(Precision.FP32),
    )
    return ParityReport(rows=(row, replace(row, fault="cannot run: " + "reason " * 20)))


def test_piped_tables_are_as_wide_as_they_need(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is folded or cropped where stdout is no terminal."""
    label = "a photograph with a long name " * 4

    parity_table(output_console(), verdict(label.strip()))

    text = capsys.readouterr().out
    assert f"{label.strip()} 720x1280" in text
    assert ("reason " * 20).strip() in text
    assert "model_of_a_long_name_that_goes_on_and_on_and_on_until_it_ends_at_last.onnx" in text
    assert max(len(line) for line in text.splitlines()) < 500


@pytest.mark.parametrize("width", [80, 140])
def test_tables_fit_a_terminal(width: int, tiny_photo: Path) -> None:
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=True, color_system=None)

    parity_table(console, verdict("a photograph with a long name " * 4))
    inspection_table(console, load_network(tiny_photo))

    assert max(len(line) for line in text.getvalue().splitlines()) <= width


# --- ink -------------------------------------------------------------------------------------


def test_rasters_with_dark_ink_are_refused(tmp_path: Path, run_here: RunHere) -> None:
    """One line names the file, what was found, and what to do; the inverse is read."""
    ink = np.zeros((128, 128), np.uint8)
    ink[30:90, 40:60] = 255
    dark, light = tmp_path / "dark.png", tmp_path / "light.png"
    Image.fromarray(255 - ink).save(dark)
    Image.fromarray(ink).save(light)

    assert (read_raster(light) == ink).all()
    with pytest.raises(PlanError, match="dark ink"):
        read_raster(dark)
    done = run_here("glyphs", "a.pt", "b.pt", light, dark)
    assert done.code == 3
    (line,) = done.stderr.splitlines()
    assert "dark.png has dark ink: 93% of its pixels are light" in line
    assert "expected light ink on a black background (0), so invert it" in line


@pytest.mark.parametrize("kind", ["blank", "bold", "ones", "touching the border"])
def test_unusual_rasters_with_light_ink_are_read(kind: str, tmp_path: Path) -> None:
    pixels = np.zeros((128, 128), np.uint8)
    if kind == "bold":
        pixels[4:124, 4:124] = 255
    elif kind == "ones":
        pixels[30:90, 40:60] = 1
    elif kind == "touching the border":
        pixels[:, :30] = 255
    Image.fromarray(pixels).save(tmp_path / "r.png")

    assert (read_raster(tmp_path / "r.png") == pixels).all()
