"""The glyph classifier: throughput of phase 2 in three runtimes, and the chain against naive ones.

Random weights in the published sizes, float32. All contenders take turns in one run, and each has
first to give what PyTorch gives. A ratio is the median of the ratios within each round.

Writes ``glyph_throughput.json`` and ``glyph_chain.json``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated, Any

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # PyTorch's idle threads would spin while others run

import numpy as np
import onnx_ir as ir
import torch
import typer
from common import OPSET, check_equal, interleave, median, median_ratio, write
from PIL import Image, ImageDraw, ImageFont

from paragon_export.graph.simplify import simplify
from paragon_export.graph.trace import trace
from paragon_export.inputs.glyph_probes import glyph_batch
from paragon_export.networks.glyph.layout import VARIANTS, CellHyperparameters, Hyperparameters
from paragon_export.networks.glyph.network import CellClassifier, GlyphClassifier
from paragon_export.pipeline.glyph_chain import grids_of, logits_of, scaled
from paragon_export.runtimes.base import Runner
from paragon_export.runtimes.openvino_runner import OpenVinoRunner
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.runtimes.torch_runner import TorchRunner
from paragon_export.specs.network import Port

CLASSES, VOCABULARY = 1197, 1024

IDS = Port("input", ("batch", 16, 16), "int64", span=(0, VOCABULARY - 1))

CELLS = Port("input", ("batch", 1, 8, 8), span=(0, 1))

BATCHES = (1, 32, 256)

PUBLISHED = {
    "full": ("29.1 / 3.5 / 3.7", "2.8 / 2.5 / 2.3", "3.0 / 2.9 / 2.5"),
    "light": ("16.0 / 1.1 / 1.1", "0.97 / 0.98 / 0.78", "0.97 / 0.85 / 0.82"),
    "tiny": ("2.8 / 0.72 / 0.72", "0.62 / 0.47 / 0.42", "0.63 / 0.56 / 0.48"),
}
"""Milliseconds a glyph of PyTorch, ONNX Runtime and OpenVINO at the three batches, from another
machine of two cores with other work on it."""

LETTERS = "aegknrsxyABGQRS&"


def main(
    variants: Annotated[list[str] | None, typer.Argument(help="Default: all three.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Rounds that are timed.")] = 7,
) -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    for variant in variants or list(VARIANTS.values()):
        throughput(variant, phase_2(variant), samples)
    chain(samples)


def phase_2(variant: str) -> torch.nn.Module:
    (embedding, stages, blocks, hidden), *_ = (k for k, name in VARIANTS.items() if name == variant)
    h = Hyperparameters(
        vocabulary=VOCABULARY,
        embedding=embedding,
        stages=stages,
        blocks=blocks,
        kernel=3,
        stem_kernel=3,
        downsample="conv",
        hidden=hidden,
        classes=CLASSES,
    )
    return GlyphClassifier(h).requires_grad_(False).eval()


def runners(module: torch.nn.Module, port: Port, classes: int) -> dict[str, Runner]:
    model = simplify(trace(module, [port], [Port("output", ("batch", classes))], OPSET))
    data = ir.to_proto(model).SerializeToString()
    return {
        "PyTorch": TorchRunner(module, ["input"], ["output"]),
        "ONNX Runtime": OnnxRunner(data),
        "OpenVINO": OpenVinoRunner(data),
    }


def throughput(variant: str, module: torch.nn.Module, samples: int) -> None:
    opened = runners(module, IDS, CLASSES)
    for batch, published in zip(BATCHES, PUBLISHED[variant], strict=True):
        ids = glyph_batch(IDS, batch)
        truth = opened["PyTorch"].infer({"input": ids})["output"]
        contenders: dict[str, Callable[[], object]] = {}
        for name, runner in opened.items():
            check_equal(f"{variant}: {name}", runner.infer({"input": ids})["output"], truth)
            contenders[name] = lambda runner=runner, ids=ids: runner.infer({"input": ids})
        taken = interleave(contenders, samples * (4 if batch == 1 else 1))
        row = {"variant": variant, "batch": batch}
        for name, times in taken.items():
            row[f"{name} ms a glyph"] = median(times) / batch
        for name in ("ONNX Runtime", "OpenVINO"):
            row[f"PyTorch / {name}"] = median_ratio(taken["PyTorch"], taken[name])
        row["published PyTorch / ONNX Runtime / OpenVINO ms"] = published
        write("glyph_throughput", [row], ("variant", "batch"))


def chain(samples: int) -> None:
    """Time rasters to logits: one cell at a time, one raster at a time, and all at once."""
    rasters = letters()
    cells = CellClassifier(CellHyperparameters(widths=(32, 64), hidden=128, classes=VOCABULARY))
    first = runners(cells.requires_grad_(False).eval(), CELLS, VOCABULARY)
    second = runners(phase_2("light"), IDS, CLASSES)
    torch_pair = first["PyTorch"], second["PyTorch"]
    contenders: dict[str, Callable[[], np.ndarray]] = {
        "PyTorch, a cell at a time": lambda: in_parts(rasters, *torch_pair, 1),
        "PyTorch, a raster at a time": lambda: in_parts(rasters, *torch_pair, 256),
    }
    for name in first:
        pair = first[name], second[name]
        contenders[f"{name}, all at once"] = lambda pair=pair: logits_of(
            grids_of(rasters, pair[0]), pair[1]
        )
    naive, *others = contenders
    truth = contenders[naive]()
    for name in others:
        check_equal(name, contenders[name](), truth)
    taken = interleave(contenders, samples)
    empty = 1 - rasters.reshape(-1, 16, 8, 16, 8).any(axis=(2, 4)).mean()
    rows: list[dict[str, Any]] = [
        {
            "chain": name,
            "variant of phase 2": "light",
            "rasters": len(rasters),
            "empty cells": float(empty),
            "ms a glyph": median(times) / len(rasters),
            "naive / it": median_ratio(taken[naive], times),
        }
        for name, times in taken.items()
    ]
    write("glyph_chain", rows, ("chain",))


def in_parts(rasters: np.ndarray, phase_1: Runner, phase_2: Runner, cells: int) -> np.ndarray:
    """Return logits of rasters, one after the other, with ``cells`` cells in a run."""
    logits = []
    for raster in rasters:
        split = raster.reshape(16, 8, 16, 8).transpose(0, 2, 1, 3).reshape(-1, 1, 8, 8)
        parts = [scaled(split[i : i + cells]) for i in range(0, 256, cells)]
        ids = np.concatenate([phase_1.infer({"input": p})["output"].argmax(1) for p in parts])
        ids[~split.any(axis=(1, 2, 3))] = 0
        logits.append(phase_2.infer({"input": ids.reshape(1, 16, 16)})["output"])
    return np.concatenate(logits)


def letters() -> np.ndarray:
    """Return letters of Pillow's own font as rasters, (N, 128, 128) uint8 of 0 and 255."""
    font = ImageFont.load_default(size=96)
    rasters = []
    for letter in LETTERS:
        image = Image.new("L", (128, 128))
        ImageDraw.Draw(image).text((64, 64), letter, fill=255, font=font, anchor="mm")
        rasters.append((np.asarray(image) > 127).astype(np.uint8) * 255)
    return np.stack(rasters)


if __name__ == "__main__":
    typer.run(main)
