"""Demo: the main job from end to end on what ships with the package."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from paragon_export import console as shown
from paragon_export.artifact import to_json, write_files, write_texts
from paragon_export.assets import CHECKPOINT, photograph
from paragon_export.bench import bench
from paragon_export.errors import MissingDependencyError, PlanError
from paragon_export.judge import judge_files
from paragon_export.onnx_file import is_our_onnx
from paragon_export.pipeline import build, export
from paragon_export.plan import EnginePlan, ExportPlan, Precision, Profile, Size, Switches
from paragon_export.reference import describe
from paragon_export.runners import OnnxRunner

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
    switches = Switches()

    console.rule("inspect: what the shipped checkpoint is")
    shown.inspection_table(console, shown.inspection(*describe(CHECKPOINT, switches)))

    console.rule("onnx: a dynamic-shape model, verified")
    exported = export(ExportPlan(checkpoint=CHECKPOINT, output=float32))
    shown.export_table(console, shown.exported(exported))

    console.rule("onnx --fp16: strongly typed half precision, verified")
    halved = export(ExportPlan(checkpoint=CHECKPOINT, output=half, precision=Precision.FP16))
    shown.export_table(console, shown.exported(halved))

    console.rule(f"trt --fp16: a TensorRT-RTX engine for {TARGET}")
    engine_passed = _engine(console, folder / f"realtime_2x_fp16_{TARGET}.engine")

    console.rule("parity: both files again, at other sizes")
    sizes = [Size(1, 1), Size(31, 57), Size(96, 54)]
    report, variant = judge_files(CHECKPOINT, switches, [float32, half], sizes)
    shown.parity_table(console, shown.judged(report, variant, [float32, half]))

    console.rule("bench: frames per second on this machine")
    measured = bench([CHECKPOINT, float32, half], [BENCH_SIZE], switches)
    shown.bench_table(console, measured.to_json())
    write_texts(
        {
            folder / "bench.md": shown.bench_markdown(measured),
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
    document = shown.built(built)
    shown.build_table(console, document | {"parity": None})
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
