"""Demo: the main job from end to end on what ships with the package."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from paragon_export.assets import CHECKPOINT, photograph
from paragon_export.bench.measure import benchmark
from paragon_export.cli.show.bench import bench_markdown, bench_table
from paragon_export.cli.show.console import line, output_console, written
from paragon_export.cli.show.inspect import inspection_table
from paragon_export.cli.show.onnx import export_table
from paragon_export.cli.show.parity import parity_table
from paragon_export.cli.show.trt import build_table
from paragon_export.errors import MissingDependencyError, PlanError
from paragon_export.graph.onnx_io import is_our_onnx
from paragon_export.networks.describe import load_network
from paragon_export.parity.check import check_parity
from paragon_export.pipeline.build import build
from paragon_export.pipeline.export import export
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.specs.plans import EnginePlan, ExportPlan
from paragon_export.specs.profiles import Profile
from paragon_export.specs.types import Precision, Size
from paragon_export.system.atomic_write import to_json, write_files, write_texts

if TYPE_CHECKING:
    from PIL import Image

TARGET = "sm86"

PROFILE = Profile(smallest=Size(1, 1), optimal=Size(720, 1280), largest=Size(1080, 1920))

BENCH_SIZE = Size(180, 320)


def run(folder: Path) -> bool:
    """Inspect, export, convert, build, judge, time and upscale; everything lands in ``folder``.

    Returns:
        Whether every verdict passed.

    Raises:
        ParagonExportError: If a stage could not run.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PlanError(f"cannot make folder {folder}: {error.strerror or error}") from error
    float32, half = folder / "realtime_2x.onnx", folder / "realtime_2x_fp16.onnx"
    if any(folder.iterdir()) and not is_our_onnx(float32):
        raise PlanError(f"folder {folder} holds other files; give a new one with -o")
    console = output_console()

    _heading(console, "inspect: what the shipped checkpoint is")
    inspection_table(console, load_network(CHECKPOINT))

    _heading(console, "onnx: a dynamic-shape model, verified")
    exported = export(ExportPlan(checkpoint=CHECKPOINT, output=float32))
    export_table(console, exported)

    _heading(console, "onnx --fp16: strongly typed half precision, verified")
    halved = export(ExportPlan(checkpoint=CHECKPOINT, output=half, precision=Precision.FP16))
    export_table(console, halved)

    _heading(console, f"trt --fp16: a TensorRT-RTX engine for {TARGET}")
    engine_passed = _engine(console, folder / f"realtime_2x_fp16_{TARGET}.engine")

    parity_passed = _judge_again(console, [float32, half])
    _time(console, [CHECKPOINT, float32, half], folder)

    _heading(console, "the upscaled photograph")
    for image in _upscale(float32, folder):
        written(console, image, replaced=False)
    passed = [exported.parity.passed, halved.parity.passed, engine_passed, parity_passed]
    return all(passed)


def _judge_again(console: Console, files: list[Path]) -> bool:
    _heading(console, "parity: both files again, at other sizes")
    sizes = [Size(1, 1), Size(31, 57), Size(96, 54)]
    report = check_parity(CHECKPOINT, files, sizes=sizes)
    parity_table(console, report)
    return report.passed


def _time(console: Console, files: list[Path], folder: Path) -> None:
    _heading(console, "bench: images a second on this machine")
    measured = benchmark(files, sizes=[BENCH_SIZE])
    bench_table(console, measured)
    write_texts(
        {
            folder / "bench.md": bench_markdown(measured),
            folder / "bench.json": to_json(measured.to_json()),
        }
    )


def _heading(console: Console, text: str) -> None:
    if console.is_terminal:
        console.rule(text)
    else:
        line(console, f"--- {text}")


def _engine(console: Console, output: Path) -> bool:
    plan = EnginePlan(
        source=CHECKPOINT,
        output=output,
        precision=Precision.FP16,
        targets=(TARGET,),
        profile=PROFILE,
    )
    try:
        built = build(plan)
    except MissingDependencyError as error:
        line(console, f"no engine: {error}")
        return True
    build_table(console, built, with_parity=False)
    for text in built.notes:
        line(console, text)
    return built.passed is not False


def _upscale(onnx: Path, folder: Path) -> list[Path]:
    """Write the photograph upscaled, and a detail of it next to bicubic upscaling."""
    from PIL import Image

    source = photograph()
    output = OnnxRunner(onnx).infer({"input": source.transpose(2, 0, 1)[None]})["output"][0]
    pixels = (output.transpose(1, 2, 0).clip(0, 1) * 255).round().astype(np.uint8)
    upscaled = Image.fromarray(pixels)
    small = Image.fromarray((source * 255).round().astype(np.uint8))
    bicubic = small.resize(upscaled.size, Image.Resampling.BICUBIC)

    width, height = upscaled.size
    box = (width // 4, height // 6, width // 4 + 300, height // 6 + 300)
    side_by_side = Image.new("RGB", (1210, 600), "white")
    for index, picture in enumerate((bicubic, upscaled)):
        detail = picture.crop(box).resize((600, 600), Image.Resampling.NEAREST)
        side_by_side.paste(detail, (index * 610, 0))
    paths = [folder / "photograph_2x.png", folder / "bicubic_left_network_right.png"]
    write_files({p: _png(image) for p, image in zip(paths, (upscaled, side_by_side), strict=True)})
    return paths


def _png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()
