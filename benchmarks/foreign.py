"""Networks of others: small random networks of spandrel's architectures, exported and judged.

Each is exported in float32 and float16 and judged at all default sizes from 1x1 on; TensorRT-RTX compiles
the float16 file for RTX 30 cards, without running it. The float32 file takes turns with PyTorch's
TorchScript export in ONNX Runtime and with PyTorch itself, on one thread each: speeds are ratios of the
processor's time, so that other programs do not count.

Writes ``foreign.json``.
"""

from __future__ import annotations

import gc
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import onnxruntime
import torch
import typer
from common import RESULTS, Exported, check_equal, interleave, median_ratio, write
from foreign_speed import TRACED_AT, ours, theirs

from paragon_export.engines.build import compile_engine
from paragon_export.errors import ParagonExportError, TraceError
from paragon_export.graph.onnx_io import OnnxFile
from paragon_export.networks.describe import LoadedNetwork, load_network
from paragon_export.parity.reference import build_reference
from paragon_export.pipeline.export import make_onnx
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.profiles import Profile
from paragon_export.specs.types import Backend, Precision, Runtime, Size, Tracer
from paragon_export.testing.foreign import ALL, foreign_checkpoint

PROFILE = Profile(smallest=Size(1, 1), optimal=Size(64, 64), largest=Size(128, 128))

ROUNDS = 15

COLUMNS = ("exporter", "seconds", "nodes", "error", "over export", "over PyTorch")
"""Those that have no value where a network is refused."""


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Default: all.")] = None,
    speed_alone: Annotated[bool, typer.Option(help="Keep the verdicts of an earlier run.")] = False,
) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in names or list(ALL):
        with TemporaryDirectory() as folder:
            found = earlier(name) if speed_alone else row(name, Path(folder))
            if found["exporter"]:
                network = load_network(foreign_checkpoint(Path(folder) / "net.pth", name))
                found |= speed(network, Tracer(found["exporter"]))
            write("foreign", [found], ("network",))
        gc.collect()


def earlier(name: str) -> dict[str, Any]:
    """Return the row of a network in the result file."""
    rows = json.loads((RESULTS / "foreign.json").read_text(encoding="utf-8"))["rows"]
    return next(dict(found) for found in rows if found["network"] == name)


def row(name: str, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"network": name, "architecture": "", "scale": None}
    found |= dict.fromkeys(COLUMNS)
    found |= {"float32": "", "float16": "", "engine": ""}
    try:
        network = load_network(foreign_checkpoint(folder / "net.pth", name))
    except ParagonExportError as error:
        return found | {"float32": f"refused: {reason(error)}"}
    found |= {"architecture": network.spec.architecture, "scale": network.spec.scale}
    start = time.perf_counter()
    made, file = exported(network, folder, Precision.FP32)
    found |= made | {"seconds": time.perf_counter() - start}
    if made["float32"] != "passed":
        return found
    half, file = exported(network, folder, Precision.FP16)
    found["float16"] = half["float16"]
    if file is not None:
        found["engine"] = engine(file)
    return found


def exported(
    network: LoadedNetwork, folder: Path, precision: Precision
) -> tuple[dict[str, Any], OnnxFile | None]:
    """Export and judge; return what the table says of it, and the file."""
    column = "float16" if precision.is_half else "float32"
    plan = ExportPlan(
        checkpoint=network.checkpoint.path, output=folder / "net.onnx", precision=precision
    )
    try:
        result = make_onnx(network, plan)
    except ParagonExportError as error:
        return {column: f"refused: {reason(error)}"}, None
    worst = result.parity.worst
    columns = {
        "exporter": None if result.tracer is None else result.tracer.value,
        "nodes": result.file.model.graph.num_nodes(),
        "error": worst.found.max_abs if worst else None,
        column: "passed" if result.passed else "failed",
    }
    return columns, result.file


def engine(file: OnnxFile) -> str:
    try:
        compile_engine(file, Backend.RTX, ("sm86",), PROFILE)
    except ParagonExportError as error:
        return f"failed: {reason(error)}"
    return "built"


def speed(network: LoadedNetwork, tracer: Tracer) -> dict[str, float | None]:
    """Return how many times as fast the default file is as PyTorch's export, and as PyTorch."""
    image = np.random.default_rng(0).random(
        (1, network.spec.in_channels, TRACED_AT.height, TRACED_AT.width), np.float32
    )
    module, given = build_reference(network).module, torch.from_numpy(image)
    with torch.inference_mode():
        truth = module(given).numpy()
        runs = {"ours": session(ours(network, tracer, Runtime.ANY, Precision.FP32), image)}
        check_equal("ours", runs["ours"](), truth)
        try:
            runs["export"] = exported_by_torch(network, image, truth)
        except TraceError as error:
            print(error)
        runs["PyTorch"] = lambda: module(given).numpy()
        taken = interleave(runs, ROUNDS, time.process_time)
    return {
        f"over {name}": median_ratio(taken[name], taken["ours"]) if name in taken else None
        for name in ("export", "PyTorch")
    }


def exported_by_torch(
    network: LoadedNetwork, image: np.ndarray, truth: np.ndarray
) -> Callable[[], np.ndarray]:
    """Return a call of PyTorch's export.

    Raises:
        TraceError: If there is none that computes what the network computes.
    """
    try:
        run = session(theirs(network), image)
        check_equal("PyTorch's export", run(), truth)
    except Exception as error:  # the exporter, and ONNX Runtime on what it writes
        raise TraceError(f"PyTorch's export: {' '.join(str(error).split())[:200]}") from error
    return run


def session(exported: Exported, image: np.ndarray) -> Callable[[], np.ndarray]:
    """Return a call of ONNX Runtime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    loaded = onnxruntime.InferenceSession(exported.data, options)
    return lambda: np.asarray(loaded.run(None, {"input": image})[0])


def reason(error: ParagonExportError) -> str:
    return " ".join(str(error).rpartition(": ")[2].split()).replace("|", "/")[:100]


if __name__ == "__main__":
    typer.run(main)
