"""Demo: the main job from end to end on what ships with the package."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from paragon_export.assets import CHECKPOINT, photograph
from paragon_export.bench.measure import benchmark
from paragon_export.cli import render
from paragon_export.errors import MissingDependencyError, PlanError
from paragon_export.graph.onnx_io import is_our_onnx
from paragon_export.networks.describe import read_network
from paragon_export.parity.check import check_parity
from paragon_export.pipeline.build import build
from paragon_export.pipeline.export import export
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.specs.plans import EnginePlan, ExportPlan, NetworkOptions
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
    console = Console(highlight=False)
    options = NetworkOptions()

    console.rule("inspect: what the shipped checkpoint is")
    render.inspection_table(console, render.inspection(read_network(CHECKPOINT, options)))

    console.rule("onnx: a dynamic-shape model, verified")
    exported = export(ExportPlan(checkpoint=CHECKPOINT, output=float32))
    render.export_table(console, render.exported(exported))

    console.rule("onnx --fp16: strongly typed half precision, verified")
    halved = export(ExportPlan(checkpoint=CHECKPOINT, output=half, precision=Precision.FP16))
    render.export_table(console, render.exported(halved))

    console.rule(f"trt --fp16: a TensorRT-RTX engine for {TARGET}")
    engine_passed = _engine(console, folder / f"realtime_2x_fp16_{TARGET}.engine")

    console.rule("parity: both files again, at other sizes")
    sizes = [Size(1, 1), Size(31, 57), Size(96, 54)]
    report = check_parity(CHECKPOINT, [float32, half], sizes=sizes)
    render.parity_table(console, render.judged(report, [float32, half]))

    console.rule("bench: frames per second on this machine")
    measured = benchmark([CHECKPOINT, float32, half], sizes=[BENCH_SIZE])
    render.bench_table(console, measured.to_json())
    write_texts(
        {
            folder / "bench.md": render.bench_markdown(measured),
            folder / "bench.json": to_json(measured.to_json()),
        }
    )

    console.rule("the upscaled picture")
    for picture in _upscale(float32, folder):
        console.print(f"wrote {picture}")
    passed = [exported.parity.passed, halved.parity.passed, engine_passed, report.passed]
    return all(passed)


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
        console.print(f"no engine: {error}")
        return True
    document = render.built(built)
    render.build_table(console, document | {"parity": None})
    for note in built.notes:
        console.print(note)
    return built.passed is not False


def _upscale(onnx: Path, folder: Path) -> list[Path]:
    """Write the photograph upscaled, and a detail beside plain bicubic upscaling."""
    from PIL import Image

    source = photograph()
    output = OnnxRunner(onnx).infer({"input": source.transpose(2, 0, 1)[None]})["output"][0]
    pixels = (output.transpose(1, 2, 0).clip(0, 1) * 255).round().astype(np.uint8)
    upscaled = Image.fromarray(pixels)
    small = Image.fromarray((source * 255).round().astype(np.uint8))
    bicubic = small.resize(upscaled.size, Image.Resampling.BICUBIC)

    width, height = upscaled.size
    box = (width // 4, height // 6, width // 4 + 300, height // 6 + 300)
    beside = Image.new("RGB", (1210, 600), "white")
    for index, picture in enumerate((bicubic, upscaled)):
        detail = picture.crop(box).resize((600, 600), Image.Resampling.NEAREST)
        beside.paste(detail, (index * 610, 0))
    paths = [folder / "photograph_2x.png", folder / "bicubic_left_network_right.png"]
    write_files({p: _png(image) for p, image in zip(paths, (upscaled, beside), strict=True)})
    return paths


def _png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()
