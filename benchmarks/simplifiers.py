"""Which simplifier leaves the fewest nodes and the fastest graph, on traced networks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import typer
from common import network, ports, write

from paragon_export.bench.report import percentile
from paragon_export.graph.trace import trace
from paragon_export.system.optional import import_without_telemetry

ort = import_without_telemetry("onnxruntime")

SIZES = {"realtime": (270, 480), "stream": (135, 240), "photo": (96, 128)}


def unchanged(model: onnx.ModelProto) -> onnx.ModelProto:
    return model


def with_onnxsim(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxsim

    return onnxsim.simplify(model)[0]


def with_onnxslim(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxslim

    return onnxslim.slim(model)


def with_onnxscript(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxscript import optimizer

    return optimizer.optimize(model)


SIMPLIFIERS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "none": unchanged,
    "onnxsim": with_onnxsim,
    "onnxslim": with_onnxslim,
    "onnxscript": with_onnxscript,
}


def main(rounds: int = 11) -> None:
    rows: list[dict[str, Any]] = []
    for variant, size in SIZES.items():
        inputs, outputs = ports(2)
        proto = ir.to_proto(trace(network(variant), inputs, outputs, 20))
        models = {}
        for name, run in SIMPLIFIERS.items():
            copy = onnx.ModelProto()
            copy.CopyFrom(proto)
            models[name] = run(copy)
        sessions = {n: ort.InferenceSession(m.SerializeToString()) for n, m in models.items()}
        feeds = {"input": np.random.default_rng(0).random((1, 3, *size), dtype=np.float32)}
        samples: dict[str, list[float]] = {name: [] for name in sessions}
        for step in range(rounds + 1):
            for name, session in sessions.items():
                start = time.perf_counter()
                session.run(None, feeds)
                if step:  # the first round warms up
                    samples[name].append((time.perf_counter() - start) * 1000)
        plain = percentile(samples["none"], 50)
        for name, model in models.items():
            median = percentile(samples[name], 50)
            rows.append(
                {
                    "variant": variant,
                    "simplifier": name,
                    "nodes": len(model.graph.node),
                    "median ms": median,
                    "of none": median / plain,
                }
            )
    write("simplifiers", rows, ("variant", "simplifier"))


if __name__ == "__main__":
    typer.run(main)
