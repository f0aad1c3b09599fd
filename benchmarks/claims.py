"""The figures of the family's design notes, measured: v5 in all sizes, its attentions, and glyphs.

Random weights in the published sizes, float32 unless said, batch 1. PyTorch, ONNX Runtime and
OpenVINO take turns; a ratio is the median of the ratios within each round. Times are CPU times,
since the machine has other work: of all threads together, without pauses. Peak memory is that of a
PyTorch forward in a process of its own, beyond what it held before. For TensorRT there is the
estimate of the compiled kernels and the planned memory, both in float16 and without a card.

Writes ``claims_attention.json``, ``claims_glyphs.json``, ``claims_realtime.json`` and
``claims_sizes.json`` row by row, and keeps the rows that an earlier run on this machine left there;
``--again`` measures them anew. ``claims_verdicts.py`` then writes ``claims.json``.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # PyTorch's idle threads would spin while others run

import claims_verdicts
import torch
import typer
from common import (
    RESULTS,
    Exported,
    check_equal,
    interleave,
    kernel_plans,
    median,
    median_ratio,
    network,
    planned_megabytes,
    random_picture,
    rewritten,
    short_reason,
    write,
)
from glyphs import CELLS, CLASSES, IDS, VOCABULARY, in_parts, letters, phase_2, runners
from hybrids import FAST_BODY, SIZES, WHOLE_BODY, WITHOUT_ATTENTION, hybrid, published

from paragon_export.errors import ParagonExportError
from paragon_export.inputs.glyph_probes import glyph_batch
from paragon_export.networks.glyph.layout import CellHyperparameters
from paragon_export.networks.glyph.network import CellClassifier
from paragon_export.runtimes.openvino_runner import OpenVinoRunner
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.specs.types import Runtime, Size
from paragon_export.system.environment import environment

INPUT_PX = {"s": 96, "m": 64, "l": 64, "xl": 48}
"""Side of the picture that CPUs are timed with; 128 for smaller networks."""

ESTIMATED_AT = Size(256, 256)

CARD = "3060"

ESTIMATED = ("nano", "micro", "tiny", "xs", "s")
"""Sizes whose engine compiles within a minute or so."""

WEIGHED = ("nano", "micro", "tiny", "xs")
"""Sizes whose memory the notes call similar with attention and without."""

SIDES = (128, 256, 512)

GLYPHS = {"full": (17.8, 27.5), "light": (13.2, 10.8), "tiny": (9.5, 5.4)}
"""Milliseconds a glyph and megabytes on disk that the notes state."""


def main(
    sizes: Annotated[list[str] | None, typer.Argument(help="Default: nano to xl.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Rounds that are timed.")] = 5,
    again: Annotated[bool, typer.Option(help="Measure rows anew that are there.")] = False,
    memory_of: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    if memory_of:
        print(json.dumps(_measured_here(*memory_of.split("|"))))
        return
    for side in SIDES:
        for mode in ("local", "hierarchical"):
            if again or (mode, f"{side}x{side}") not in _known("claims_attention"):
                attention(mode, side)
    for variant in GLYPHS:
        if again or variant not in {row[0] for row in _known("claims_glyphs")}:
            glyph(variant, samples)
    if again or not _known("claims_realtime"):
        realtime()
    for size in sizes or SIZES:
        if again or not {(size, switch) for switch in switches_of(size)} <= _known("claims_sizes"):
            compare(size, samples)
    claims_verdicts.main()


def _known(name: str) -> set[tuple[str, str]]:
    """Return the first two values of the rows that this machine has measured."""
    file = RESULTS / f"{name}.json"
    document = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    here = environment()
    if not document or {**document["environment"], "time": here["time"]} != here:
        return set()
    return {tuple(list(row.values())[:2]) for row in document["rows"]}


def switches_of(size: str) -> dict[str, dict[str, Any]]:
    """Return the arguments of :func:`hybrid` by what is switched; the first one is the default."""
    found: dict[str, dict[str, Any]] = {"default": {}, "no content": {"content": False}}
    if size not in WITHOUT_ATTENTION:
        found["no attention"] = {"attention": ""}
    if size in WHOLE_BODY:
        found["no fast body"] = {"other_body": True}
    if size in FAST_BODY:
        found["fast body"] = {"other_body": True}
    return found


def compare(size: str, samples: int) -> None:
    """Time a size with every switch, all in the same rounds."""
    side = INPUT_PX.get(size, 128)
    picture = random_picture(Size(side, side))
    networks = {name: hybrid(size, **change) for name, change in switches_of(size).items()}
    contenders: dict[str, Callable[[], Any]] = {}
    for name, module in networks.items():
        runs = _runs(module, picture)
        truth = runs["PyTorch"]()
        for backend, run in runs.items():
            check_equal(f"{size}, {name}: {backend}", run(), truth)
            contenders[f"{name}|{backend}"] = run
    taken = interleave(contenders, samples, time.process_time)
    for name, module in networks.items():
        row: dict[str, Any] = {"size": size, "switch": name, "input": f"{side}x{side}"}
        row["parameters"] = sum(p.numel() for p in module.parameters())
        for backend in ("PyTorch", "ONNX Runtime", "OpenVINO"):
            times = taken[f"{name}|{backend}"]
            row[f"{backend} ms"] = median(times)
            row[f"{backend} / default"] = median_ratio(times, taken[f"default|{backend}"])
        row |= _memory(size, name) | _estimate(size, name)
        write("claims_sizes", [row], ("size", "switch"))


def _runs(module: torch.nn.Module, picture: Any) -> dict[str, Callable[[], Any]]:
    """Return a call of each runtime. PyTorch computes attention as the published code does."""
    data = {r: rewritten(module, 2, r).data for r in (Runtime.ONNXRUNTIME, Runtime.OPENVINO)}
    session = OnnxRunner(data[Runtime.ONNXRUNTIME]).session
    openvino = OpenVinoRunner(data[Runtime.OPENVINO])
    tensor, original = torch.from_numpy(picture), published(module)

    def in_torch() -> Any:
        with torch.inference_mode():
            return original(tensor).numpy()

    return {
        "PyTorch": in_torch,
        "ONNX Runtime": lambda: session.run(None, {"input": picture})[0],
        "OpenVINO": lambda: openvino.infer({"input": picture})["output"],
    }


def _estimate(size: str, switch: str) -> dict[str, Any]:
    """Return TensorRT-RTX's estimated milliseconds on ``CARD`` and planned megabytes, float16."""
    names = "TensorRT estimated ms", "TensorRT planned MB"
    if size not in ESTIMATED or switch not in ("default", "no attention"):
        return dict.fromkeys(names, "not estimated")
    model = rewritten(hybrid(size, **switches_of(size)[switch]), 2, Runtime.TENSORRT, half=True)
    try:
        found = _milliseconds(model, ESTIMATED_AT), planned_megabytes(model, ESTIMATED_AT)
        return dict(zip(names, found, strict=True))
    except ParagonExportError as error:
        return dict.fromkeys(names, short_reason(error))


def _milliseconds(model: Exported, size: Size) -> float:
    (plan,) = kernel_plans(model, [size], [CARD])
    return plan.milliseconds


def realtime() -> None:
    """Estimate the Realtime network of v11 on a card."""
    for size in (Size(720, 1280), Size(1080, 1920)):
        model = rewritten(network("realtime"), 2, Runtime.TENSORRT, half=True)
        ms = _milliseconds(model, size)
        row = {"size": str(size), "card": CARD, "estimated ms": ms, "estimated fps": 1e3 / ms}
        write("claims_realtime", [row], ("size", "card"))


def glyph(variant: str, samples: int) -> None:
    """Time phase 2 of a glyph classifier at batch 1, and both phases, one raster at a time."""
    torch.manual_seed(0)
    module, rasters = phase_2(variant), letters()
    opened = runners(module, IDS, CLASSES)
    cells = CellClassifier(CellHyperparameters(widths=(32, 64), hidden=128, classes=VOCABULARY))
    first = runners(cells.requires_grad_(False).eval(), CELLS, VOCABULARY)["PyTorch"]
    ids = glyph_batch(IDS, 1)
    contenders: dict[str, Callable[[], Any]] = {
        name: lambda runner=opened[name]: runner.infer({"input": ids})
        for name in ("PyTorch", "OpenVINO")
    }
    contenders["chain"] = lambda: in_parts(rasters, first, opened["PyTorch"], 256)
    taken = interleave(contenders, 2 * samples, time.process_time)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    ms, megabytes = GLYPHS[variant]
    row = {
        "variant": variant,
        "published ms": ms,
        "both phases, PyTorch (ms/glyph)": median(taken["chain"]) / len(rasters),
        "phase 2, PyTorch (ms)": median(taken["PyTorch"]),
        "phase 2, OpenVINO (ms)": median(taken["OpenVINO"]),
        "phase 2, PyTorch / OpenVINO": median_ratio(taken["PyTorch"], taken["OpenVINO"]),
        "published MB": megabytes,
        "on disk (MiB)": file.tell() / 2**20,
    }
    write("claims_glyphs", [row], ("variant",))


def _memory(size: str, switch: str) -> dict[str, Any]:
    wanted = size in WEIGHED and switch in ("default", "no attention")
    return {"PyTorch MB at 256x256": _apart(size, switch, "256")["MB"] if wanted else "-"}


def attention(mode: str, side: int) -> None:
    """Measure nano with one kind of attention, and without, each in a process of its own."""
    size = f"{side}x{side}"
    row = {"attention": mode, "size": size} | _apart("nano", mode, str(side))
    write("claims_attention", [row], ("attention", "size"))


def _apart(*what: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--memory-of", "|".join(what)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _measured_here(size: str, what: str, side: str) -> dict[str, Any]:
    from attention import megabytes, start_of_peak

    torch.set_num_threads(1)  # CPU time of one core does not count the time of other processes
    change = switches_of(size).get(what, {"attention": what})
    module = published(hybrid(size, **change))
    picture = torch.from_numpy(random_picture(Size(int(side), int(side))))
    with torch.inference_mode():
        before = start_of_peak()
        module(picture)
        peak = megabytes("VmHWM") - before
        taken = interleave({"it": lambda: module(picture)}, 3, time.process_time)["it"]
    return {"MB": peak, "CPU ms": median(taken)}


if __name__ == "__main__":
    typer.run(main)
