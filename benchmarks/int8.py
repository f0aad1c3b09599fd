"""What INT8 costs super-resolution networks: decibels on photographs that were not calibrated on.

Photographs are made smaller and upscaled again, in float and in INT8 (ONNX Runtime, weights per
channel); without ``--images``, pieces of the shipped photograph. Nothing is kept.

Writes ``int8.json``, and for the first network ``int8_weights.json``: other ways to quantize
weights, with the kernels that this processor gets and in float arithmetic between the
quantization steps, which is the same on every processor. With VNNI both are the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any
from unittest.mock import patch

import onnx_ir as ir
import typer
from common import interleave, median, random_picture, write

from paragon_export.assets import CHECKPOINT
from paragon_export.graph.simplify import simplify
from paragon_export.graph.trace import trace
from paragon_export.networks.describe import read_network
from paragon_export.parity.metrics import difference
from paragon_export.parity.reference import build_reference
from paragon_export.pipeline.quantize_images import Pair, photographs, quantize_images
from paragon_export.precision.int8 import quantize_model
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.specs.plans import ExportPlan, NetworkOptions
from paragon_export.specs.types import Size
from paragon_export.system.optional import import_without_telemetry

ort = import_without_telemetry("onnxruntime")
quantization = import_without_telemetry("onnxruntime.quantization")

SWITCHES = NetworkOptions(flags={"upsampler_alpha": 0.0})

WEIGHTS: dict[str, dict[str, Any]] = {
    "as exported": {},
    "signed, 8 bits": {"extra_options": {}},
    "signed, 7 bits (reduce_range)": {"extra_options": {}, "reduce_range": True},
    "unsigned, 8 bits": {"extra_options": {}, "weight_type": quantization.QuantType.QUInt8},
}
"""Settings of ONNX Runtime in place of the exporter's."""

SAMPLES = 20


def main(
    checkpoints: Annotated[
        list[Path] | None, typer.Argument(help="Default: the shipped one.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of photographs.")] = None,
) -> None:
    for checkpoint in checkpoints or [CHECKPOINT]:
        with TemporaryDirectory() as folder:
            plan = ExportPlan(
                checkpoint=checkpoint, output=Path(folder) / "int8.onnx", options=SWITCHES
            )
            network = read_network(checkpoint, SWITCHES)
            figures = quantize_images(network, plan, images, accept_loss=True).figures
        row = {
            "network": checkpoint.stem,
            "photographs": figures["photographs"],
            "float dB": figures["fidelity_float_db"],
            "INT8 dB": figures["fidelity_int8_db"],
            "lost dB": figures["fidelity_lost_db"],
            "INT8 to float dB (worst)": figures["psnr_to_float_db"],
        }
        write("int8", [row], ("network",))
    write("int8_weights", compare_weights((checkpoints or [CHECKPOINT])[0], images), ("weights",))


def compare_weights(checkpoint: Path, images: Path | None) -> list[dict[str, Any]]:
    """Return one row for each way to quantize weights, timed in turn."""
    network = read_network(checkpoint, SWITCHES)
    reference = build_reference(network)
    pairs = photographs(network.spec, images)
    wide = simplify(trace(reference.module, reference.inputs, reference.outputs, 20))
    exact = reference.runner("float64")
    truths = [exact.infer({"input": pair.small})["output"] for pair in pairs[1::2]]
    models = {name: _quantised(wide, pairs, options) for name, options in WEIGHTS.items()}
    picture = random_picture(Size(270, 480))
    float32 = OnnxRunner(ir.to_proto(wide).SerializeToString()).session
    runs: dict[str, Callable[[], object]] = {
        "float32": partial(float32.run, None, {"input": picture})
    }
    rows = []
    for name, model in models.items():
        session = OnnxRunner(model).session
        runs[name] = partial(session.run, None, {"input": picture})
        distances = [
            min(
                difference(
                    s.run(None, {"input": p.small})[0], truth, 4 * network.spec.scale
                ).psnr_db
                for p, truth in zip(pairs[1::2], truths, strict=True)
            )
            for s in (session, _in_float(model))
        ]
        rows.append({"weights": name, "dB, kernels of this processor": distances[0],
                     "dB, float arithmetic": distances[1]})  # fmt: skip
    milliseconds = {name: median(taken) for name, taken in interleave(runs, SAMPLES).items()}
    return [
        {**row, "ms": milliseconds[row["weights"]], "ms of float32": milliseconds["float32"]}
        for row in rows
    ]


def _quantised(wide: ir.Model, pairs: list[Pair], options: Mapping[str, Any]) -> bytes:
    """Quantise with other settings than the exporter's."""
    quantize_static = quantization.quantize_static

    def with_other_settings(*args: Any, **settings: Any) -> None:
        quantize_static(*args, **{**settings, **options})

    logging.getLogger().setLevel(logging.ERROR)
    with patch("onnxruntime.quantization.quantize_static", with_other_settings):
        model = quantize_model(wide, [{"input": pair.small} for pair in pairs[::2]])
    return ir.to_proto(model).SerializeToString()


def _in_float(model: bytes) -> ort.InferenceSession:
    """Return a session without graph optimizations: it has no integer kernels."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    typer.run(main)
