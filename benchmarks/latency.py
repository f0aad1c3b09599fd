"""Latency of the plain and the rewritten export, in ONNX Runtime and OpenVINO, beside PyTorch.

All contenders of a network take turns in one run, and each has first to give the plain export's
picture. A ratio is the median of the ratios within each round. Random weights, batch 1, float32.

Writes ``latency_onnxruntime.json``, ``latency_openvino.json`` and ``export_size.json``.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import Annotated, Any

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # PyTorch's idle threads would spin while others run

import numpy as np
import torch
import typer
from common import (
    MEASURED_AT,
    SCALES,
    SIZES,
    Exported,
    check_equal,
    interleave,
    median,
    median_ratio,
    network,
    onnx_runtime,
    plain,
    random_picture,
    rewritten,
    short_reason,
    write,
)

from paragon_export.specs.types import Runtime

Call = Callable[[], np.ndarray]

KEYS = ("variant", "scale")

EAGER, COMPILED = "PyTorch eager", "torch.compile"


def main(
    variants: Annotated[list[str] | None, typer.Argument(help="Default: all four.")] = None,
    scales: Annotated[list[int] | None, typer.Option("--scale", help="Default: 2 and 4.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Rounds that are timed.")] = 7,
    with_compile: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Time torch.compile; can take minutes.")
    ] = True,
) -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    for variant in variants or list(SIZES):
        for scale in scales or SCALES:
            module = network(variant, scale)
            exports = {"plain": plain(module, scale)}
            for runtime in (Runtime.ANY, Runtime.ONNXRUNTIME, Runtime.OPENVINO):
                exports[runtime.value] = rewritten(module, scale, runtime)
            told = {"variant": variant, "scale": scale, "size": str(MEASURED_AT[variant])}
            taken, failure = measure(variant, module, exports, samples, with_compile)
            write("latency_onnxruntime", [{**told, **onnxruntime_row(taken, failure)}], KEYS)
            write("latency_openvino", [{**told, **openvino_row(taken)}], KEYS)
            size = {"variant": variant, "scale": scale, **size_row(exports)}
            write("export_size", [size], KEYS)
            torch.compiler.reset()
            gc.collect()


def measure(
    variant: str,
    module: torch.nn.Module,
    exports: dict[str, Exported],
    samples: int,
    with_compile: bool,
) -> tuple[dict[str, list[float]], str]:
    """Time everything that can run a network.

    Returns:
        Contender to milliseconds a round, and why torch.compile is not among them.
    """
    picture = random_picture(MEASURED_AT[variant])
    contenders: dict[str, Call] = {EAGER: in_pytorch(module, picture)}
    for name in ("plain", Runtime.ANY, Runtime.ONNXRUNTIME):
        contenders[f"ort {name}"] = onnx_runtime(exports[name], picture)
    for name in ("plain", Runtime.ANY, Runtime.OPENVINO):
        contenders[f"ov {name}"] = in_openvino_f32(exports[name], picture)
    failure = "not asked for"
    if with_compile:
        try:
            compiled = in_pytorch(torch.compile(module, dynamic=False), picture)
            compiled()
        except Exception as error:  # noqa: BLE001 - a compiler that is missing or gives up
            failure = short_reason(error)
        else:
            contenders[COMPILED] = compiled
    truth = contenders["ort plain"]()
    for name, run in contenders.items():
        check_equal(f"{variant}: {name}", run(), truth)
    return interleave(contenders, samples), failure


def in_pytorch(module: Callable[[torch.Tensor], Any], picture: np.ndarray) -> Call:
    tensor = torch.from_numpy(picture)

    def run() -> np.ndarray:
        with torch.inference_mode():
            return module(tensor).numpy()

    return run


def in_openvino_f32(exported: Exported, picture: np.ndarray) -> Call:
    """Return a call of OpenVINO in float32; by default it may pick bfloat16."""
    import openvino as ov

    core = ov.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(
        core.read_model(exported.data), "CPU", settings
    ).create_infer_request()
    return lambda: request.infer({"input": picture})[0]


def onnxruntime_row(taken: dict[str, list[float]], failure: str) -> dict[str, Any]:
    best = taken[f"ort {Runtime.ONNXRUNTIME}"]
    return {
        "PyTorch ms": median(taken[EAGER]),
        "torch.compile ms": median(taken[COMPILED]) if COMPILED in taken else failure,
        "plain ms": median(taken["ort plain"]),
        "rewritten ms": median(taken[f"ort {Runtime.ANY}"]),
        "rewritten for it ms": median(best),
        "plain / rewritten": median_ratio(taken["ort plain"], taken[f"ort {Runtime.ANY}"]),
        "plain / rewritten for it": median_ratio(taken["ort plain"], best),
        "PyTorch / rewritten for it": median_ratio(taken[EAGER], best),
    }


def openvino_row(taken: dict[str, list[float]]) -> dict[str, Any]:
    best = taken[f"ov {Runtime.OPENVINO}"]
    return {
        "plain ms": median(taken["ov plain"]),
        "rewritten ms": median(taken[f"ov {Runtime.ANY}"]),
        "rewritten for it ms": median(best),
        "plain / rewritten": median_ratio(taken["ov plain"], taken[f"ov {Runtime.ANY}"]),
        "plain / rewritten for it": median_ratio(taken["ov plain"], best),
    }


def size_row(exports: dict[str, Exported]) -> dict[str, Any]:
    return {
        "nodes plain": exports["plain"].nodes,
        "nodes rewritten": exports[Runtime.ANY].nodes,
        "nodes for ONNX Runtime": exports[Runtime.ONNXRUNTIME].nodes,
        "seconds plain": exports["plain"].seconds,
        "seconds rewritten": exports[Runtime.ANY].seconds,
    }


if __name__ == "__main__":
    typer.run(main)
