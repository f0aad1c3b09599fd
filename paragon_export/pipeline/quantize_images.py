"""INT8 for super-resolution: what eight bits cost on photographs, and a file only if accepted.

Two figures tell it: how far INT8's picture is from the untouched network's, and how many decibels
of fidelity are lost, on photographs that are made smaller and upscaled again. No loss is small
enough to be taken silently: the file is refused unless the user accepts it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from paragon_export.errors import PlanError, RunError
from paragon_export.inputs.probes import folder_probes, photograph_crop
from paragon_export.networks.describe import LoadedNetwork
from paragon_export.parity.acceptance import AcceptedLoss, Finite, NotConstant
from paragon_export.parity.metrics import NOT_COMPARED, difference, psnr_db
from paragon_export.parity.reference import TorchReference
from paragon_export.parity.report import ParityReport, ParityRow
from paragon_export.pipeline.float32_graph import finish, float32_graph
from paragon_export.pipeline.results import QuantizeResult
from paragon_export.precision.int8 import quantize_model
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.specs.network import NetworkSpec
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.tolerance import Tolerance
from paragon_export.specs.types import Precision, Quantization, Runtime, Size
from paragon_export.system.progress import counted

CROP_PX = 192
"""Side of a piece of a photograph, large."""

SHIPPED = 12
"""Pieces of the shipped photograph that are used where no folder is given."""

MIN_PHOTOGRAPHS = 4


@dataclass(frozen=True)
class Pair:
    """A photograph and the same made smaller."""

    large: np.ndarray
    """(1, C, H, W), float32, in [0, 1]."""
    small: np.ndarray


def quantize_images(
    network: LoadedNetwork, plan: ExportPlan, folder: Path | None, accept_loss: bool
) -> QuantizeResult:
    """Quantize an image network and measure the loss, in memory.

    Args:
        network: The network of the plan's checkpoint.
        plan: Of the file.
        folder: Photographs; None takes crops of the shipped one. Every other one calibrates, the
            rest is judged on.
        accept_loss: Whether the file passes however much is lost.

    Raises:
        ParagonExportError: If a step could not run.
    """
    spec = network.spec
    pairs = photographs(spec, folder)
    graph = float32_graph(network, replace(plan, rewrite=False, runtime=Runtime.ANY))
    model = quantize_model(graph.model, [{"input": pair.small} for pair in pairs[::2]])
    file = finish(graph, model, plan, quantization=Quantization.INT8)
    rows, figures = _measure(plan, graph.reference, file.data, pairs[1::2], accept_loss)
    parity = ParityReport(rows=tuple(rows), notes=_notes(figures, accept_loss), spec=spec)
    return QuantizeResult(
        file=file, reference=graph.reference, fired={}, parity=parity, figures=figures
    )


def photographs(spec: NetworkSpec, folder: Path | None) -> list[Pair]:
    """Return pieces of photographs, large and small.

    Raises:
        PlanError: If a picture cannot be read, or the folder holds fewer than ``MIN_PHOTOGRAPHS`` pictures
            of ``CROP_PX`` a side.
    """
    side = CROP_PX - CROP_PX % spec.scale
    if folder is None:
        size = Size(side, side)
        large = [photograph_crop(spec.in_channels, size, i)[None] for i in range(SHIPPED)]
    else:
        if not folder.is_dir():
            raise PlanError(f"--calibrate {folder} is not a folder of photographs")
        probes = folder_probes(spec.in_channels, folder, "--calibrate")
        found = [probe.frames[0] for probe in probes]
        large = [picture[:, :, :side, :side] for picture in found if min(picture.shape[2:]) >= side]
        if len(large) < MIN_PHOTOGRAPHS:
            raise PlanError(
                f"--calibrate {folder} holds {len(large)} pictures of {side}x{side} pixels or "
                f"more; give {MIN_PHOTOGRAPHS}"
            )
    return [Pair(picture, _smaller(picture, spec.scale)) for picture in large]


def _smaller(large: np.ndarray, scale: int) -> np.ndarray:
    """Make a picture smaller, bicubic, channel by channel."""
    from PIL import Image

    size = large.shape[3] // scale, large.shape[2] // scale
    resized = [
        np.asarray(Image.fromarray(channel).resize(size, Image.Resampling.BICUBIC), np.float32)
        for channel in large[0]
    ]
    return np.stack(resized).clip(0, 1)[None]


def _measure(
    plan: ExportPlan,
    reference: TorchReference,
    data: bytes,
    pairs: list[Pair],
    accept_loss: bool,
) -> tuple[list[ParityRow], dict[str, Any]]:
    """Compare with the float64 network and with the photograph, on each pair."""
    scale = reference.spec.scale
    exact, runner = reference.runner("float64"), OnnxRunner(data)
    rows, gaps, before, after = [], [], [], []
    for index, pair in enumerate(counted("judging image", pairs)):
        truth = exact.infer({"input": pair.small})["output"]
        fault, gap = "", NOT_COMPARED
        try:
            found = runner.infer({"input": pair.small})["output"]
        except RunError as error:
            fault = f"cannot run: {error}"
        else:
            gap = difference(found, truth, border=4 * scale)
            gaps.append(gap.psnr_db)
            before.append(_fidelity_db(truth, pair.large, scale))
            after.append(_fidelity_db(found, pair.large, scale))
        row = ParityRow(
            candidate=plan.output.name,
            precision=Quantization.INT8,
            output="output",
            picture=f"photograph {index + 1}",
            size=Size(*pair.small.shape[2:]),
            batch=1,
            criteria=(Finite(), NotConstant(), AcceptedLoss(accept_loss)),
            found=gap,
            fault=fault,
        )
        rows.append(row)
    return rows, {
        "photographs": len(pairs),
        "psnr_to_float_db": min(gaps, default=None),
        "fidelity_float_db": _mean(before),
        "fidelity_int8_db": _mean(after),
        "fidelity_lost_db": _mean(before) - _mean(after) if before else None,
        "accepted": accept_loss,
        "bytes_int8": len(data),
    }


def _fidelity_db(output: np.ndarray, truth: np.ndarray, border: int) -> float:
    """PSNR of an 8-bit picture against the photograph, a border of ``scale`` pixels left out."""
    rounded = (output.clip(0, 1) * 255).round() / 255
    inside = (rounded - truth)[..., border:-border, border:-border]
    return psnr_db(inside)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _notes(figures: dict[str, Any], accept_loss: bool) -> tuple[str, ...]:
    if figures["fidelity_lost_db"] is None:
        return ()
    cost = (
        f"INT8 loses {figures['fidelity_lost_db']:.2f} dB on {figures['photographs']} photographs "
        f"that were not calibrated on ({figures['fidelity_float_db']:.2f} to "
        f"{figures['fidelity_int8_db']:.2f} dB); its worst picture is "
        f"{figures['psnr_to_float_db']:.1f} dB from float's, where half precision has to stay "
        f"above {Tolerance.for_precision(Precision.FP16).min_psnr_db:.0f}"
    )
    advice = "accepted by --accept-loss" if accept_loss else "refused: --accept-loss writes it"
    return (f"{cost}; {advice}",)
