"""INT8 for super-resolution: what eight bits cost on photographs, and a file only if accepted.

Two figures tell it: how far INT8's picture is from the untouched network's, and how many decibels
of fidelity are lost, on photographs that are made smaller and upscaled again. No loss is small
enough to be taken silently: the file is refused unless the user accepts it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paragon_export.errors import PlanError, RunError
from paragon_export.graph.onnx_io import describe_in, serialized
from paragon_export.graph.simplify import simplify
from paragon_export.graph.trace import trace
from paragon_export.inputs.probes import folder_probes, photograph_crop
from paragon_export.networks.describe import describe
from paragon_export.parity.metrics import Difference, difference, psnr_db
from paragon_export.parity.reference import TorchReference, build_reference
from paragon_export.parity.report import ParityReport, ParityRow
from paragon_export.pipeline.results import ExportResult
from paragon_export.precision.int8 import quantize
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.specs.network import NetworkSpec
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.tolerance import Tolerance
from paragon_export.specs.types import Precision, Quantization, Size
from paragon_export.system.atomic_write import write_files
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


def export_int8_pictures(
    plan: ExportPlan, folder: Path | None, accept_loss: bool
) -> tuple[ExportResult, dict[str, Any]]:
    """Quantise a super-resolution network and measure what that costs.

    Args:
        plan: Of the file.
        folder: Photographs; None takes pieces of the shipped one. Every other picture calibrates,
            the rest is judged on.
        accept_loss: Whether the file is written however much is lost.

    Returns:
        What became of it, and the figures.

    Raises:
        ParagonExportError: If a stage could not run; nothing is written then.
    """
    checkpoint, spec = describe(plan.checkpoint, plan.options)
    reference = build_reference(checkpoint, spec)
    pairs = photographs(spec, folder)
    wide = simplify(trace(reference.module, reference.inputs, reference.outputs, plan.operator_set))
    model = quantize(wide, [{"input": pair.small} for pair in pairs[::2]])
    describe_in(model, spec, checkpoint, plan, {})
    model.metadata_props["precision"] = Quantization.INT8.value
    file = serialized(model, plan.output)
    rows, figures = _measure(plan, reference, spec, file.data, pairs[1::2], accept_loss)
    parity = ParityReport(rows=tuple(rows), notes=_notes(figures, accept_loss))
    if parity.passed:
        write_files({plan.output: file.data})
    result = ExportResult(
        file=file, reference=reference, spec=spec, fired={}, parity=parity,
        drop_cost=None,
    )  # fmt: skip
    return result, figures


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
    spec: NetworkSpec,
    data: bytes,
    pairs: list[Pair],
    accept_loss: bool,
) -> tuple[list[ParityRow], dict[str, Any]]:
    exact, runner = reference.runner("float64"), OnnxRunner(data)
    rows, gaps, before, after = [], [], [], []
    for index, pair in enumerate(counted("judging image", pairs)):
        truth = exact.infer({"input": pair.small})["output"]
        fault, gap = "", Difference(math.inf, -math.inf, math.inf, math.inf, False, False)
        try:
            found = runner.infer({"input": pair.small})["output"]
        except RunError as error:
            fault = f"cannot run: {error}"
        else:
            gap = difference(found, truth, border=4 * spec.scale)
            gaps.append(gap.psnr_db)
            before.append(_fidelity_db(truth, pair.large, spec.scale))
            after.append(_fidelity_db(found, pair.large, spec.scale))
        rows.append(
            ParityRow(
                candidate=plan.output.name,
                precision=Quantization.INT8,
                output="output",
                picture=f"photograph {index + 1}",
                size=Size(*pair.small.shape[2:]),
                batch=1,
                found=gap,
                reference_max_abs=0.0,
                tolerance=Tolerance(
                    max_abs=math.inf,
                    times_reference=1,
                    reference_floor=math.inf,
                    min_psnr_db=-math.inf if accept_loss else math.inf,
                ),
                fault=fault,
            )
        )
    figures = {
        "photographs": len(pairs),
        "psnr_to_float_db": min(gaps, default=None),
        "fidelity_float_db": _mean(before),
        "fidelity_int8_db": _mean(after),
        "fidelity_lost_db": _mean(before) - _mean(after) if before else None,
        "accepted": accept_loss,
        "bytes_int8": len(data),
    }
    return rows, figures


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
