"""Networks of others: small random networks of spandrel's architectures, exported and judged.

Each is exported in float32 and float16 and judged at all default sizes from 1x1 on; TensorRT-RTX compiles
the float16 file for RTX 30 cards, without running it.

Writes ``foreign.json``.
"""

from __future__ import annotations

import gc
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from common import write

from paragon_export.engines.build import compile_engine
from paragon_export.errors import ParagonExportError
from paragon_export.graph.onnx_io import OnnxFile
from paragon_export.networks.describe import LoadedNetwork, load_network
from paragon_export.pipeline.export import make_onnx
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.profiles import Profile
from paragon_export.specs.types import Backend, Precision, Size
from paragon_export.testing.foreign import ALL, foreign_checkpoint

PROFILE = Profile(smallest=Size(1, 1), optimal=Size(64, 64), largest=Size(128, 128))


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Default: all.")] = None,
) -> None:
    for name in names or list(ALL):
        with TemporaryDirectory() as folder:
            write("foreign", [row(name, Path(folder))], ("network",))
        gc.collect()


def row(name: str, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"network": name, "architecture": "", "scale": None}
    found |= dict.fromkeys(("exporter", "seconds", "nodes", "error"))
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


def reason(error: ParagonExportError) -> str:
    return " ".join(str(error).rpartition(": ")[2].split()).replace("|", "/")[:100]


if __name__ == "__main__":
    typer.run(main)
