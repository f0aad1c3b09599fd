"""Errors of a portable file in OpenCV and ncnn, against the float64 network, on noise.

Takes the versions that are installed; run it once for each version of OpenCV. The network is the
one that ships with the tool. Winograd's convolutions are the default of both programs.

Writes ``clients.json``.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from common import random_picture, write

from paragon_export.assets import CHECKPOINT
from paragon_export.ncnn.convert import convert
from paragon_export.ncnn.runner import NcnnRunner
from paragon_export.networks.describe import load_network
from paragon_export.parity.reference import build_reference
from paragon_export.pipeline.export import export_onnx
from paragon_export.specs.types import Size
from paragon_export.testing.clients import OpenCv

SIZES = (Size(37, 53), Size(180, 320))


def run_in_ncnn(path: Path, *, winograd: bool) -> NcnnRunner:
    return NcnnRunner(convert(path.read_bytes(), 3, SIZES), winograd=winograd)


def main(only: Annotated[str, typer.Option(help="opencv or ncnn.")] = "") -> None:
    network = load_network(CHECKPOINT, upsampler_alpha=0.0)
    truth = build_reference(network).runner("float64")
    openers: dict[str, Callable[..., Any]] = {}
    if only != "ncnn":
        openers[f"OpenCV {cv2.__version__}"] = OpenCv
    if only != "opencv":
        openers[f"ncnn {importlib.metadata.version('ncnn')}"] = run_in_ncnn
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "net.onnx")
        assert export_onnx(network, path, runtime="portable").passed
        for name, opener in openers.items():
            for size in SIZES:
                feeds = {"input": random_picture(size)}
                right = truth.infer(feeds)["output"]
                found = [
                    opener(path, winograd=winograd).infer(feeds)["output"]
                    for winograd in (True, False)
                ]
                errors = [float(np.abs(picture - right).max()) for picture in found]
                row = {
                    "program": name,
                    "size": str(size),
                    "max error": f"{errors[0]:.1e}",
                    "max error without Winograd": f"{errors[1]:.1e}",
                }
                write("clients", [row], ("program", "size"))


if __name__ == "__main__":
    typer.run(main)
