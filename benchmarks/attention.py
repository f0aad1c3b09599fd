"""Memory and time of v5's attentions at growing sizes: is local attention's memory constant?

A v5 nano network, random weights, float32, batch 1: peak memory of the process beyond that before
the first run, and milliseconds of the second, in PyTorch and in ONNX Runtime (the plain export,
which holds the scores of all windows at once, the file for everywhere and the one made for it),
each in a process of its own; and the device memory that TensorRT-RTX plans in float16 for the plain
export, the file for everywhere and the one made for TensorRT. What needs more than the limit of
memory is a row with that reason.

Writes ``attention.json``.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from common import (
    Exported,
    plain,
    planned_megabytes,
    random_picture,
    rewritten,
    short_reason,
    write,
)

from paragon_export.errors import ParagonExportError
from paragon_export.networks.paragonsr2.v0_v5.layout import TRAITS, Hyperparameters
from paragon_export.networks.paragonsr2.v0_v5.network import TAILS
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.specs.types import Runtime, Size

SIDES = (128, 256, 512, 1024)

MODES = ("local", "hierarchical")

BACKENDS = ("PyTorch", "ONNX Runtime, plain", "ONNX Runtime", "ONNX Runtime, made for it")

PLANNED = {
    "TensorRT-RTX FP16, planned, plain": None,
    "TensorRT-RTX FP16, planned": Runtime.ANY,
    "TensorRT-RTX FP16, planned, made for it": Runtime.TENSORRT,
}
"""Runtimes that the files of planned memory are made for; None for the plain export."""

LARGEST_GB = 12
"""Address space that a process may take for its tensors."""

LONGEST_S = 180


def nano(mode: str) -> torch.nn.Module:
    """Return v5 nano at 2x with one kind of attention."""
    torch.manual_seed(0)
    hp = Hyperparameters(
        traits=TRAITS["v5"], scale=2, in_channels=3, features=12, groups=1, blocks=1, hidden=14,
        part=1, band=7, upsampler_alpha=0.4, norm="none", flat_gains=False, is_fused=False,
        has_generator=False, cheap=0, head_blocks=0, head_norm=False, dense=False, squeeze=0,
        queries=1, attention=mode, content=(3, 6, 6), obeys_flag=False, dynamic_inference=False,
    )  # fmt: skip
    return TAILS[hp.traits.tail](hp).requires_grad_(False).eval()


def exported(mode: str, backend: str) -> Exported:
    if "plain" in backend:
        return plain(nano(mode), 2)
    return rewritten(nano(mode), 2, Runtime.ONNXRUNTIME if "made" in backend else Runtime.ANY)


def main(
    modes: Annotated[list[str] | None, typer.Option("--mode", help="Default: both.")] = None,
    sides: Annotated[list[int] | None, typer.Option("--side", help="Default: all.")] = None,
    measure: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    if measure:
        print(json.dumps(_measure(*measure.split("|"))))
        return
    for mode in modes or MODES:
        for side in sides or SIDES:
            rows = []
            for backend in BACKENDS:
                rows.append(_row(mode, side, backend, _apart(mode, str(side), backend)))
            for backend, runtime in PLANNED.items():
                rows.append(_row(mode, side, backend, _planned(mode, side, runtime)))
            write("attention", rows, ("attention", "size", "backend"))


def _row(mode: str, side: int, backend: str, found: dict[str, Any]) -> dict[str, Any]:
    size = {"attention": mode, "size": f"{side}x{side}", "backend": backend}
    return {**size, "MB": found.get("MB", "-"), "ms": found.get("ms", "-"),
            "reason": found.get("reason", "")}  # fmt: skip


def _apart(*what: str) -> dict[str, Any]:
    """Measure in a process of its own, whose peak is that of this one thing."""
    command = [sys.executable, __file__, "--measure", "|".join(what)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_S)
    except subprocess.TimeoutExpired:
        return {"reason": f"over {LONGEST_S} s"}
    if done.returncode:
        return {"reason": f"more than {LARGEST_GB} GB"}
    return json.loads(done.stdout.splitlines()[-1])


def _measure(mode: str, side: str, backend: str) -> dict[str, Any]:
    limit = LARGEST_GB * 10**9
    picture = random_picture(Size(int(side), int(side)))
    if backend == "PyTorch":
        network, tensor = nano(mode), torch.from_numpy(picture)

        def run() -> Any:
            with torch.inference_mode():
                return network(tensor)
    else:
        runner = OnnxRunner(exported(mode, backend).data)

        def run() -> Any:
            return runner.infer({"input": picture})

    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before = start_of_peak()
    run()
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    return {"MB": megabytes("VmHWM") - before, "ms": seconds * 1000}


def start_of_peak() -> float:
    """Forget the high-water mark of memory so far (Linux); return what is resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return megabytes("VmRSS")


def megabytes(field: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6


def _planned(mode: str, side: int, runtime: Runtime | None) -> dict[str, Any]:
    network = nano(mode)
    file = rewritten(network, 2, runtime, half=True) if runtime else plain(network, 2)
    try:
        return {"MB": planned_megabytes(file, Size(side, side))}
    except ParagonExportError as error:
        return {"reason": short_reason(error)}


if __name__ == "__main__":
    typer.run(main)
