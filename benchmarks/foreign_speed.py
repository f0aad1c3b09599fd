"""Networks of others in the sizes that people run: our file against PyTorch's TorchScript export.

The networks have random weights and the hyperparameters that are usual. Latency is measured in ONNX
Runtime and OpenVINO on all cores, alternating. TensorRT-RTX compiles both files in float16 for RTX 30
cards without running them: the bytes that its kernels move, and their estimated time on an RTX 3060.

Writes ``foreign_speed.json`` and ``foreign_kernels.json``.
"""

from __future__ import annotations

import gc
import importlib
import io
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
import typer
from common import Exported, check_equal, gigabytes, interleave, kernel_plans, median_ratio, write

from paragon_export.errors import ParagonExportError, TraceError
from paragon_export.graph.simplify import simplify
from paragon_export.networks.describe import LoadedNetwork, load_network
from paragon_export.networks.spandrel.library import library
from paragon_export.parity.reference import build_reference
from paragon_export.pipeline.float32_graph import float32_graph
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.types import Precision, Runtime, Size, Tracer
from paragon_export.testing.foreign import Constructor

SMALL_SWIN = {"embed_dim": 60, "img_size": 64, "window_size": 8, "mlp_ratio": 2.0, "upscale": 2,
              "upsampler": "pixelshuffledirect"}  # fmt: skip

NETWORKS: Mapping[str, tuple[Constructor, Size, Size]] = {
    "Compact": (("Compact", "Compact", {"num_feat": 64, "num_conv": 16, "upscale": 2}),
                Size(180, 320), Size(540, 960)),
    "SPAN": (("SPAN", "SPAN", {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 48, "upscale": 2}),
             Size(180, 320), Size(540, 960)),
    "SPAN x4": (("SPAN", "SPAN", {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 48, "upscale": 4}),
                Size(180, 320), Size(540, 960)),
    "RealPLKSR": (("PLKSR", "RealPLKSR", {"dim": 64, "n_blocks": 28, "upscaling_factor": 2}),
                  Size(64, 96), Size(540, 960)),
    "ESRGAN x4": (("ESRGAN", "ESRGAN", {"num_filters": 64, "num_blocks": 23, "scale": 4}),
                  Size(48, 64), Size(270, 480)),
    "ESRGAN x4, six blocks": (("ESRGAN", "ESRGAN", {"num_filters": 64, "num_blocks": 6, "scale": 4}),
                              Size(96, 96), Size(270, 480)),
    "MoSR": (("MoSR", "MoSR", {"upscale": 2}), Size(64, 96), Size(540, 960)),
    "SwinIR-S": (("SwinIR", "SwinIR", {**SMALL_SWIN, "depths": [6] * 4, "num_heads": [6] * 4}),
                 Size(64, 64), Size(128, 128)),
    "DAT-light": (("DAT", "DAT", {"img_size": 64, "embed_dim": 60, "split_size": [8, 32], "depth": [18],
                                  "num_heads": [6], "expansion_factor": 2, "resi_connection": "3conv",
                                  "upscale": 2, "upsampler": "pixelshuffledirect"}),
                  Size(64, 64), Size(128, 128)),
    "HAT-S": (("HAT", "HAT", {"embed_dim": 144, "img_size": 64, "window_size": 16, "depths": [6] * 6,
                              "num_heads": [6] * 6, "compress_ratio": 24, "squeeze_factor": 24,
                              "conv_scale": 0.01, "overlap_ratio": 0.5, "mlp_ratio": 2, "upscale": 2,
                              "upsampler": "pixelshuffle"}),
              Size(64, 64), Size(128, 128)),
}  # fmt: skip
"""Constructor, the size that is timed, and the size that TensorRT compiles for."""

TRACED_AT = Size(64, 96)
"""The size at which PyTorch's exporter traces. It is right there, and may be wrong elsewhere."""

MADE_FOR = {
    "ours": (Runtime.ANY, Precision.FP32),
    "ours for ONNX Runtime": (Runtime.ONNXRUNTIME, Precision.FP32),
    "ours for OpenVINO": (Runtime.OPENVINO, Precision.FP32),
    "ours, half": (Runtime.ANY, Precision.FP16),
    "ours for TensorRT": (Runtime.TENSORRT, Precision.FP16),
}
"""The runtime and the precision that each of our files is rewritten for."""


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Default: all.")] = None,
    rounds: int = 7,
    engines: Annotated[bool, typer.Option(help="Whether TensorRT compiles, too.")] = True,
) -> None:
    warnings.simplefilter("ignore")
    for name in names or list(NETWORKS):
        with TemporaryDirectory() as folder:
            measure(name, Path(folder), rounds, engines)
        gc.collect()


def measure(name: str, folder: Path, rounds: int, engines: bool) -> None:
    constructor, size, compiled_size = NETWORKS[name]
    network = load_network(checkpoint(folder / "net.pth", constructor))
    files = {"theirs": theirs(network)}
    files |= our_files(network)
    image = np.random.default_rng(0).random((1, 3, size.height, size.width), np.float32)
    start = {"network": name, "size": str(size)}
    write("foreign_speed", [start | latencies(files, image, rounds)], ("network",))
    if engines:
        start = {"network": name, "size": str(compiled_size)}
        start["rewrites"] = ", ".join(files["ours for TensorRT"].fired) or "none"
        write("foreign_kernels", [start | estimates(files, compiled_size)], ("network",))


def checkpoint(path: Path, constructor: Constructor) -> Path:
    """Write random weights; slopes and scales keep the values that they are created with."""
    library()
    package, cls, arguments = constructor
    torch.manual_seed(0)
    network = getattr(importlib.import_module(f"spandrel.architectures.{package}"), cls)(
        **arguments
    )
    torch.save(network.state_dict(), path)
    return path


def theirs(network: LoadedNetwork) -> Exported:
    """Export the network as spandrel calls it with PyTorch's TorchScript exporter."""
    start, data = time.perf_counter(), io.BytesIO()
    torch.onnx.export(
        build_reference(network).module,
        (torch.rand(1, network.spec.in_channels, TRACED_AT.height, TRACED_AT.width),), data, dynamo=False,
        opset_version=18, input_names=["input"], output_names=["output"],
        dynamic_axes={"input": {2: "height", 3: "width"}},
    )  # fmt: skip
    model = ir.from_proto(onnx.ModelProto.FromString(data.getvalue()))
    return Exported(simplify(model), {}, time.perf_counter() - start)


def our_files(network: LoadedNetwork) -> dict[str, Exported]:
    """Make our files by the first exporter that can; their verdict is the matter of foreign.py."""
    try:
        return {made: ours(network, Tracer.SYMBOLIC, *how) for made, how in MADE_FOR.items()}
    except TraceError:  # no rewrites then: all files are equal
        file = ours(network, Tracer.TORCHSCRIPT, *MADE_FOR["ours"])
        return dict.fromkeys(MADE_FOR, file)


def ours(
    network: LoadedNetwork, tracer: Tracer, runtime: Runtime, precision: Precision
) -> Exported:
    start = time.perf_counter()
    plan = ExportPlan(
        checkpoint=network.checkpoint.path,
        output=Path("net.onnx"),
        tracer=tracer,
        runtime=runtime,
        precision=precision,
    )
    graph = float32_graph(network, plan)
    return Exported(graph.model, graph.fired, time.perf_counter() - start)


def latencies(files: Mapping[str, Exported], image: np.ndarray, rounds: int) -> dict[str, Any]:
    """Return how many times as fast as theirs our files are, in each runtime."""
    import openvino

    core, runs = openvino.Core(), dict[str, Callable[[], np.ndarray]]()
    for made in ("theirs", "ours", "ours for ONNX Runtime"):
        session = OnnxRunner(files[made].data).session
        runs[f"{made}, ort"] = lambda s=session: s.run(None, {"input": image})[0]
    for made in ("theirs", "ours", "ours for OpenVINO"):
        model = core.compile_model(
            core.read_model(files[made].data), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )
        runs[f"{made}, ov"] = lambda m=model: m([image])[0]
    truth = runs["theirs, ort"]()
    for made, run in runs.items():
        check_equal(made, run(), truth)
    taken = interleave(runs, rounds)
    return {
        "theirs ort (ms)": float(np.median(taken["theirs, ort"])),
        "ort": median_ratio(taken["theirs, ort"], taken["ours, ort"]),
        "ort for it": median_ratio(taken["theirs, ort"], taken["ours for ONNX Runtime, ort"]),
        "theirs ov (ms)": float(np.median(taken["theirs, ov"])),
        "ov": median_ratio(taken["theirs, ov"], taken["ours, ov"]),
        "ov for it": median_ratio(taken["theirs, ov"], taken["ours for OpenVINO, ov"]),
    }


def estimates(files: Mapping[str, Exported], size: Size) -> dict[str, Any]:
    """Return what the kernels of float16 engines move (GB) and their estimated time (ms)."""
    found: dict[str, Any] = {}
    columns = {"theirs": "theirs", "ours": "ours, half", "ours for TensorRT": "ours for TensorRT"}
    for column, made in columns.items():
        try:
            (plan,) = kernel_plans(files[made], [size], ["RTX 3060"])
        except ParagonExportError:
            found |= {f"{column} GB": None, f"{column} ms": None}
            continue
        found |= {f"{column} GB": gigabytes(plan), f"{column} ms": plan.estimate.estimated_ms}
    return found


if __name__ == "__main__":
    typer.run(main)
