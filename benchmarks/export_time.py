"""Tracing here against PyTorch's dynamo exporter, on the published variants' full sizes."""

from __future__ import annotations

import logging
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import onnx_ir as ir
import torch
import typer
from common import SIZES, network, ports, write

from paragon_export.errors import RunError
from paragon_export.graph.simplify import simplify
from paragon_export.graph.trace import trace
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.runtimes.torch_runner import TorchRunner

CHECKED = [(1, 1), (9, 11), (33, 17), (37, 53), (64, 64), (100, 60)]


def ours(module: torch.nn.Module) -> bytes:
    inputs, outputs = ports(2)
    return ir.to_proto(simplify(trace(module, inputs, outputs, 20))).SerializeToString()


def dynamo(module: torch.nn.Module) -> bytes:
    """PyTorch's exporter at its defaults, traced at a size that is no multiple of the window."""
    dynamic = {
        0: torch.export.Dim.DYNAMIC,
        2: torch.export.Dim.DYNAMIC,
        3: torch.export.Dim.DYNAMIC,
    }
    program = torch.onnx.export(
        module,
        (torch.rand(2, 3, 37, 53),),
        dynamo=True,
        dynamic_shapes=(dynamic,),
        input_names=["input"],
        output_names=["output"],
        verbose=False,
    )
    assert program is not None
    return program.model_proto.SerializeToString()


def right_sizes(model: bytes, module: torch.nn.Module) -> int:
    """Count the checked sizes at which the model is within 1e-5 of float64 PyTorch."""
    truth = TorchRunner(module, ["input"], ["output"], "float64")
    rng, right = np.random.default_rng(0), 0
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model)
        runner = OnnxRunner(path)
        for size in CHECKED:
            feeds = {"input": rng.random((1, 3, *size), dtype=np.float32)}
            try:
                error = np.abs(runner.infer(feeds)["output"] - truth.infer(feeds)["output"]).max()
            except RunError:
                continue
            right += bool(error <= 1e-5)
    return right


def main(
    variants: Annotated[list[str] | None, typer.Argument()] = None,
    exporters: Annotated[list[str] | None, typer.Option("--exporter")] = None,
) -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    known = {"paragon-export": ours, "torch dynamo": dynamo}
    rows: list[dict[str, Any]] = []
    for variant in variants or list(SIZES):
        for name in exporters or list(known):
            module = network(variant)
            start = time.perf_counter()
            model = known[name](module)
            seconds = time.perf_counter() - start
            rows.append(
                {
                    "variant": variant,
                    "exporter": name,
                    "seconds": round(seconds, 2),
                    "nodes": len(ir.from_proto(_proto(model)).graph),
                    "sizes right": f"{right_sizes(model, module)} of {len(CHECKED)}",
                }
            )
    write("export_time", rows, ("variant", "exporter"))


def _proto(model: bytes) -> Any:
    import onnx

    return onnx.load_model_from_string(model)


if __name__ == "__main__":
    typer.run(main)
