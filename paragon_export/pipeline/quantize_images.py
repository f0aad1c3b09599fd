"""Quantize an image network to INT8 and measure the loss on photographs.

Two values are measured on photographs that were downscaled: the PSNR of the INT8 output against the
float64 output, and the loss of PSNR against the original photograph. Every loss is visible enough
that the user must accept it: otherwise the file is not written.
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
from paragon_export.parity.compare import BORDER_PX
from paragon_export.parity.metrics import NOT_COMPARED, difference, psnr_db
from paragon_export.parity.reference import TorchReference
from paragon_export.parity.report import ParityReport, ParityRow
from paragon_export.pipeline.export import with_tracer
from paragon_export.pipeline.float32_graph import finish, float32_graph
from paragon_export.pipeline.results import QuantizeResult
from paragon_export.precision.int8 import quantize_model
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.specs.network import NetworkSpec
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.tolerance import Tolerance
from paragon_export.specs.types import Precision, Quantization, Runtime, Size
from paragon_export.system.progress import counted

MAX_CROP_PX = 192
"""Largest side of a crop before downscaling; a multiple of the scale is taken."""

SHIPPED_CROPS = 12
"""Number of crops of the shipped photograph that are used if there is no folder."""

MIN_PHOTOGRAPHS = 4
"""Fewest photographs of a folder, calibrated and judged ones together."""


@dataclass(frozen=True)
class Pair:
    """A photograph and its downscaled version."""

    large: np.ndarray
    """(1, C, H, W), float32, in [0, 1]."""
    small: np.ndarray
    """(1, C, H / scale, W / scale), float32, in [0, 1]."""


def quantize_images(
    network: LoadedNetwork, plan: ExportPlan, folder: Path | None, accept_loss: bool
) -> QuantizeResult:
    """Quantize an image network and measure the loss, in memory.

    Args:
        network: The network of the plan's checkpoint.
        plan: What to export.
        folder: Folder of photographs; None takes crops of the shipped one. Every second one is
            calibrated on, the others are judged on.
        accept_loss: Whether the file passes whatever the loss.

    Raises:
        ParagonExportError: If a step could not run.
    """
    spec = network.spec
    pairs = photographs(spec, folder)
    as_trained = replace(plan, rewrite=False, runtime=Runtime.ANY)
    graph = float32_graph(network, with_tracer(network, as_trained))
    model = quantize_model(graph.model, [{"input": pair.small} for pair in pairs[::2]])
    file = finish(graph, model, plan, quantization=Quantization.INT8)
    rows, figures = _measure(plan, graph.reference, file.data, pairs[1::2], accept_loss)
    parity = ParityReport(rows=tuple(rows), notes=_notes(figures, accept_loss), spec=spec)
    return QuantizeResult(
        file=file, reference=graph.reference, fired={}, parity=parity, figures=figures
    )


def photographs(spec: NetworkSpec, folder: Path | None) -> list[Pair]:
    """Return crops of photographs with their downscaled versions.

    Raises:
        PlanError: If an image cannot be read, or the folder holds fewer than ``MIN_PHOTOGRAPHS``
            images that are large enough.
    """
    side = MAX_CROP_PX - MAX_CROP_PX % spec.scale
    if folder is None:
        size = Size(side, side)
        large = [photograph_crop(spec.in_channels, size, i)[None] for i in range(SHIPPED_CROPS)]
    else:
        if not folder.is_dir():
            raise PlanError(f"--calibrate {folder} is not a folder of photographs")
        probes = folder_probes(spec.in_channels, folder, "--calibrate")
        found = [probe.frames[0] for probe in probes]
        large = [image[:, :, :side, :side] for image in found if min(image.shape[2:]) >= side]
        if len(large) < MIN_PHOTOGRAPHS:
            raise PlanError(
                f"--calibrate {folder} holds {len(large)} images of {side}x{side} pixels or "
                f"more; give {MIN_PHOTOGRAPHS} or more"
            )
    return [Pair(image, _downscaled(image, spec.scale)) for image in large]


def _downscaled(large: np.ndarray, scale: int) -> np.ndarray:
    """Downscale an image (1, C, H, W) with bicubic filtering, channel by channel."""
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
    """Return a row for each pair, and the measured loss.

    Outputs are compared with those of the float64 network and with the photographs.
    """
    scale = reference.spec.scale
    exact, runner = reference.runner("float64"), OnnxRunner(data)
    rows, psnrs_db, before_db, after_db = [], [], [], []
    for index, pair in enumerate(counted("judging image", pairs)):
        truth = exact.infer({"input": pair.small})["output"]
        row = _row(plan, pair, f"photograph {index + 1}", accept_loss)
        try:
            found = runner.infer({"input": pair.small})["output"]
        except RunError as error:
            row = replace(row, fault=f"cannot run: {error}")
        else:
            row = replace(row, found=difference(found, truth, border=BORDER_PX * scale))
            psnrs_db.append(row.found.psnr_db)
            before_db.append(_fidelity_db(truth, pair.large, scale))
            after_db.append(_fidelity_db(found, pair.large, scale))
        rows.append(row)
    return rows, {
        "photographs": len(pairs),
        "psnr_to_float_db": min(psnrs_db, default=None),
        "fidelity_float_db": _mean(before_db),
        "fidelity_int8_db": _mean(after_db),
        "fidelity_lost_db": _mean(before_db) - _mean(after_db) if before_db else None,
        "accepted": accept_loss,
        "bytes_int8": len(data),
    }


def _row(plan: ExportPlan, pair: Pair, label: str, accept_loss: bool) -> ParityRow:
    """Return the row of a photograph, before anything is compared."""
    return ParityRow(
        candidate=plan.output.name,
        precision=Quantization.INT8,
        output="output",
        picture=label,
        size=Size(*pair.small.shape[2:]),
        batch=1,
        criteria=(Finite(), NotConstant(), AcceptedLoss(accept_loss)),
        found=NOT_COMPARED,
    )


def _fidelity_db(output: np.ndarray, truth: np.ndarray, border: int) -> float:
    """Return the PSNR in dB of an 8-bit output, without ``border`` pixels at each side."""
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
        f"{figures['fidelity_int8_db']:.2f} dB); its worst image is "
        f"{figures['psnr_to_float_db']:.1f} dB from the float output, and half precision needs "
        f"at least {Tolerance.for_precision(Precision.FP16).min_psnr_db:.0f}"
    )
    advice = (
        "accepted by --accept-loss" if accept_loss else "refused; --accept-loss writes the file"
    )
    return (f"{cost}; {advice}",)
