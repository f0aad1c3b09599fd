"""Speed and error on the GPU of this machine: engines, ONNX Runtime and PyTorch.

The contenders of a network and a size take turns in one run: PyTorch in float16, eager and compiled,
and the plain and the rewritten export in float16, compiled by TensorRT-RTX for that size or run by
ONNX Runtime with CUDA. Pictures stay in the memory of the GPU; a time is that of one run with a
synchronization before and after it. Each contender's picture is compared with PyTorch's in float32.
What cannot run here gives its reason instead. Random weights, batch 1.

Writes ``gpu.json``.
"""

from __future__ import annotations

import copy
import gc
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from common import (
    SIZES,
    Exported,
    interleave,
    median,
    median_ratio,
    network,
    plain,
    rewritten,
    write,
)

from paragon_export.engines.build import compile_engine
from paragon_export.errors import PlanError
from paragon_export.graph.onnx_io import OnnxFile, serialized
from paragon_export.inputs.probes import photograph_crop
from paragon_export.precision.half import to_precision
from paragon_export.runtimes.ort_runner import open_on_cuda
from paragon_export.runtimes.polygraphy import tensorrt
from paragon_export.specs.profiles import Profile
from paragon_export.specs.types import Backend, Precision, Runtime, Size
from paragon_export.system.environment import cuda_gpu

INPUTS = ("540x960", "1080x1920")

WITH_ERROR = ("PyTorch", "ONNX Runtime, rewritten", "TensorRT-RTX, rewritten")
"""Contenders whose PSNR is written."""

WARM_UPS = 10
"""Runs before the first that is timed. TensorRT-RTX compiles kernels for the card at the first."""

Call = Callable[[], torch.Tensor]

KEYS = ("variant", "scale", "input", "card")


def main(
    variants: Annotated[list[str] | None, typer.Argument(help="Default: all four.")] = None,
    scale: Annotated[int, typer.Option(help="Upscaling factor.")] = 2,
    sizes: Annotated[list[str] | None, typer.Option("--size", help="HEIGHTxWIDTH.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Rounds that are timed.")] = 30,
    with_compile: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Time torch.compile; can take minutes.")
    ] = True,
) -> None:
    if not torch.cuda.is_available():
        raise PlanError("PyTorch finds no GPU here; run this on a machine with one")
    torch.backends.cudnn.allow_tf32 = False  # what is called float32 must be float32
    for variant in variants or list(SIZES):
        module = network(variant, scale)
        files = {form: half(exported) for form, exported in exports(module, scale).items()}
        for size in map(Size.parse, sizes or INPUTS):
            key = {"variant": variant, "scale": scale, "input": str(size), "card": cuda_gpu()}
            write("gpu", [key | measure(module, files, size, samples, with_compile)], KEYS)
            torch.compiler.reset()
            gc.collect()
            torch.cuda.empty_cache()


def exports(module: torch.nn.Module, scale: int) -> dict[str, Exported]:
    """Return the plain export, and those that ``onnx`` and ``trt`` make."""
    return {
        "plain": plain(module, scale),
        "for every runtime": rewritten(module, scale, Runtime.ANY, half=True),
        "for TensorRT": rewritten(module, scale, Runtime.TENSORRT, half=True),
    }


def half(exported: Exported) -> OnnxFile:
    """Return an export in float16 with float32 inputs and outputs."""
    return serialized(
        to_precision(exported.model, Precision.FP16, Precision.FP32), Path("model.onnx")
    )


def measure(
    module: torch.nn.Module,
    files: dict[str, OnnxFile],
    size: Size,
    samples: int,
    with_compile: bool,
) -> dict[str, Any]:
    """Time everything that can run a network at one size, and compare its picture."""
    picture = torch.from_numpy(photograph_crop(3, size)[None]).cuda()
    exact = in_pytorch(copy.deepcopy(module).cuda(), picture)().double().cpu()
    row: dict[str, Any] = {}
    running: dict[str, Call] = {}
    errors: dict[str, float] = {}
    for name, opened in openers(module, files, picture, tuple(exact.shape), with_compile).items():
        try:
            run = opened()
            for _ in range(WARM_UPS):
                found = run()
        except Exception as error:  # noqa: BLE001 - a compiler or a driver that is missing
            row[f"{name}, ms"] = reason_of(error)
        else:
            running[name], row[f"{name}, ms"] = run, None
            errors[name] = psnr(found.double().cpu(), exact)
    taken = interleave({name: synchronized(run) for name, run in running.items()}, samples)
    row |= {f"{name}, ms": median(figures) for name, figures in taken.items()}
    for runtime in ("ONNX Runtime", "TensorRT-RTX"):
        over, under = (taken.get(f"{runtime}, {form}") for form in ("plain", "rewritten"))
        row[f"{runtime}, plain / rewritten"] = median_ratio(over, under) if over and under else None
    return row | {f"{name}, dB": errors.get(name) for name in WITH_ERROR}


def openers(
    module: torch.nn.Module,
    files: dict[str, OnnxFile],
    picture: torch.Tensor,
    shape: tuple[int, ...],
    with_compile: bool,
) -> dict[str, Callable[[], Call]]:
    """Return a function for each contender that opens it; its output has ``shape``."""
    in_half = copy.deepcopy(module).half().cuda()

    def into_its_own(opened: Callable[..., Call], form: str) -> Callable[[], Call]:
        return lambda: opened(files[form], picture, torch.full(shape, math.nan, device="cuda"))

    contenders: dict[str, Callable[[], Call]] = {
        "PyTorch": lambda: in_pytorch(in_half, picture.half()),
        "torch.compile": lambda: in_pytorch(torch.compile(in_half, dynamic=False), picture.half()),
        "ONNX Runtime, plain": into_its_own(in_onnx_runtime, "plain"),
        "ONNX Runtime, rewritten": into_its_own(in_onnx_runtime, "for every runtime"),
        "TensorRT-RTX, plain": into_its_own(in_tensorrt, "plain"),
        "TensorRT-RTX, rewritten": into_its_own(in_tensorrt, "for TensorRT"),
    }
    if not with_compile:
        contenders["torch.compile"] = not_asked_for
    return contenders


def not_asked_for() -> Call:
    raise PlanError("not asked for")


def reason_of(error: Exception) -> str:
    """Return why a contender does not run, short enough for a table."""
    words = " ".join(str(error).split())
    refused = re.search(r"Error \((.+?)\. ", words)  # how TensorRT words it
    return refused[1] if refused else f"{type(error).__name__}: {words[:80]}"


def in_pytorch(module: Callable[[torch.Tensor], torch.Tensor], picture: torch.Tensor) -> Call:
    def run() -> torch.Tensor:
        with torch.inference_mode():
            return module(picture)

    return run


def in_tensorrt(file: OnnxFile, picture: torch.Tensor, output: torch.Tensor) -> Call:
    """Compile a file for one size, and return a call that runs it on the GPU into ``output``.

    Raises:
        ParagonExportError: If it cannot be compiled.
        RuntimeError: If the GPU refuses it, with TensorRT's message.
    """
    trt = tensorrt("rtx")
    size = Size(*picture.shape[-2:])
    built = compile_engine(
        file, Backend.RTX, (), Profile(smallest=size, optimal=size, largest=size)
    )

    class Log(trt.ILogger):
        errors: list[str]

        def __init__(self) -> None:
            super().__init__()
            self.errors = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    log = Log()
    engine = trt.Runtime(log).deserialize_cuda_engine(built.data)
    context = engine.create_execution_context() if engine else None
    if context is None:
        raise RuntimeError("; ".join(log.errors) or "TensorRT refuses the engine without a message")
    context.set_input_shape("input", tuple(picture.shape))
    context.set_tensor_address("input", picture.data_ptr())
    context.set_tensor_address("output", output.data_ptr())
    stream = torch.cuda.Stream()

    def run() -> torch.Tensor:
        keep = engine, log  # the context needs them
        if not context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError("; ".join(keep[1].errors))
        stream.synchronize()
        return output

    return run


def in_onnx_runtime(file: OnnxFile, picture: torch.Tensor, output: torch.Tensor) -> Call:
    """Return a call of ONNX Runtime on the GPU, which writes into ``output``.

    Raises:
        ParagonExportError: If ONNX Runtime cannot run the file there.
    """
    session = open_on_cuda(file.data, for_one_size=True).session
    binding = session.io_binding()
    at = "cuda", 0, np.float32
    binding.bind_input("input", *at, tuple(picture.shape), picture.data_ptr())
    binding.bind_output("output", *at, tuple(output.shape), output.data_ptr())

    def run() -> torch.Tensor:
        session.run_with_iobinding(binding)
        return output

    return run


def psnr(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB of a picture whose full range is 1."""
    return -10 * math.log10(max(float((found - truth).square().mean()), 1e-20))


def synchronized(run: Call) -> Callable[[], None]:
    """Return a call that ends when the GPU has finished."""

    def wait() -> None:
        torch.cuda.synchronize()
        run()
        torch.cuda.synchronize()

    return wait


if __name__ == "__main__":
    typer.run(main)
