"""INT8: phase 2 of the glyph classifier with 8-bit convolutions and linear layers.

Quantised after training by ONNX Runtime: weights per channel, activations unsigned, ranges from
real grids that the user gives. Eight bits change logits by a percent and more, so the verdict is
another one than for float: on grids that were held back from calibration, the best class has to
be that of the untouched network in a stated share of cases.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from paragon_export.checkpoints.pickle_scan import check_directory
from paragon_export.errors import PlanError, RunError
from paragon_export.graph.onnx_io import describe_in, is_our_onnx, serialized
from paragon_export.graph.simplify import simplify
from paragon_export.graph.trace import trace
from paragon_export.networks.describe import describe
from paragon_export.parity.metrics import Difference, difference, wrong_top1
from paragon_export.parity.reference import build_reference
from paragon_export.parity.report import ParityReport, ParityRow
from paragon_export.pipeline.glyph_chain import grids_of, logits_of, open_phase_1, read_raster
from paragon_export.pipeline.quantize_pictures import export_int8_pictures
from paragon_export.pipeline.results import ExportResult
from paragon_export.precision.int8 import quantize
from paragon_export.runtimes.base import Runner
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.runtimes.validate import checked
from paragon_export.specs.network import Port
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.tolerance import Tolerance
from paragon_export.specs.types import Quantization, Size
from paragon_export.system.atomic_write import check_writable, write_files
from paragon_export.system.images import pictures_in
from paragon_export.system.reading import read_bytes
from paragon_export.system.text import brief

MIN_GRIDS = 64

MAX_ARRAY_BYTES = 2**28
"""Of a file of grids, and of what an archive of them unpacks to."""

HELD_BACK = 4
"""Every fourth grid is not calibrated on but judged on."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What activation ranges are taken from, and how much may change."""

    path: Path | None
    """``.npy`` or ``.npz`` with grids (N, 16, 16) of IDs, or a folder of rasters. For pictures
    a folder of photographs; None takes the shipped one."""
    phase_1: Path | None = None
    """Turns rasters into grids."""
    agreement: float = 0.95
    """Share of held-back grids whose best class has to stay."""
    accept_loss: bool = False
    """Of pictures: whether the file is written however much is lost."""


def export_int8(plan: ExportPlan, calibration: Calibration) -> tuple[ExportResult, dict[str, Any]]:
    """Turn a phase-2 checkpoint into a judged INT8 ONNX file.

    Returns:
        What became of it, and agreement, relative error and file sizes as figures.

    Raises:
        ParagonExportError: If a stage could not run; nothing is written then.
    """
    sources = (plan.checkpoint, calibration.path, calibration.phase_1)
    check_writable(plan.output, *sources, named=plan.is_named, is_ours=is_our_onnx)
    checkpoint, spec = describe(plan.checkpoint, plan.options)
    if spec.is_picture and not spec.is_classifier:
        return export_int8_pictures(plan, calibration.path, calibration.accept_loss)
    if "vocabulary" not in spec.contract:
        raise PlanError(
            f"--int8 is for pictures and phase 2 of a glyph classifier, not {spec.variant}"
        )
    if calibration.path is None or calibration.accept_loss:
        raise PlanError(
            "--int8 of a glyph classifier needs --calibrate with real grids, and knows no "
            "--accept-loss: --agreement is its bar"
        )
    reference = build_reference(checkpoint, spec)
    (port,) = reference.inputs
    grids = read_grids(calibration, port)
    judged = np.arange(len(grids)) % HELD_BACK == HELD_BACK - 1
    wide = simplify(trace(reference.module, (port,), reference.outputs, plan.operator_set))
    calibrated = np.array_split(grids[~judged], -(-int((~judged).sum()) // 32))
    model = quantize(wide, [{port.name: part} for part in calibrated])
    describe_in(model, spec, checkpoint, plan, {})
    model.metadata_props["precision"] = Quantization.INT8.value
    file = serialized(model, plan.output)
    truth = logits_of(grids[judged], reference.runner("float64"))
    runner = OnnxRunner(file.data)
    row = _row(plan.output.name, runner, grids[judged], truth, calibration.agreement)
    figures = {
        "held_back_grids": int(judged.sum()),
        "top1_agreement": 1 - (row.wrong_top1 or 0) / int(judged.sum()),
        "agreement_bar": calibration.agreement,
        "relative_logit_error": 10 ** (-row.found.psnr_db / 20) if not row.fault else None,
        "bytes_float32": len(ir.to_proto(wide).SerializeToString()),
        "bytes_int8": len(file.data),
    }
    parity = ParityReport(rows=(row,), notes=_notes(figures))
    if parity.passed:
        write_files({plan.output: file.data})
    exported = ExportResult(
        file=file,
        reference=reference,
        spec=spec,
        fired={},
        parity=parity,
        drop_cost=None,
    )
    return exported, figures


def read_grids(calibration: Calibration, port: Port) -> np.ndarray:
    """Return the grids to calibrate and judge on, (N, 16, 16) int64.

    Raises:
        PlanError: If they cannot be read, are too few, or hold what ``port`` does not take.
    """
    path = calibration.path
    assert path is not None  # the caller has refused to guess
    if path.is_dir():
        if calibration.phase_1 is None:
            raise PlanError(f"--calibrate {path} is a folder of rasters; give --phase-1 as well")
        rasters = pictures_in(path, "--calibrate")
        if len(rasters) < MIN_GRIDS:
            raise PlanError(_too_few(path, len(rasters)))
        pictures = np.stack([read_raster(raster) for raster in rasters])
        grids = grids_of(pictures, open_phase_1(calibration.phase_1))
    else:
        grids = _read_array(path)
    if grids.ndim and len(grids) < MIN_GRIDS:
        raise PlanError(_too_few(path, len(grids)))
    return checked([port], {port.name: grids})[port.name]


def _too_few(path: Path, found: int) -> str:
    return f"--calibrate {path} holds {found} grids; give {MIN_GRIDS} or more real ones"


def _read_array(path: Path) -> np.ndarray:
    data = read_bytes(path, MAX_ARRAY_BYTES, "--calibrate", PlanError)
    try:
        _check_unpacked(data)
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded as arrays:
            names = [name for name in ("grids", "ids") if name in arrays.files] or arrays.files
            if len(names) != 1:
                raise PlanError(
                    f"--calibrate {path} holds {brief(arrays.files)}; name one array grids"
                )
            loaded = arrays[names[0]]
            if not isinstance(loaded, np.ndarray):
                raise PlanError(f"--calibrate {path}: {brief(names[0])} is no array")
            return loaded
    except (OSError, ValueError, EOFError, KeyError, MemoryError, NotImplementedError,
            zipfile.BadZipFile, zlib.error) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:200]
        raise PlanError(
            f"--calibrate {path}: expected .npy, .npz or a folder of rasters; {reason}"
        ) from error


def _check_unpacked(data: bytes) -> None:
    """Refuse an archive that unpacks to more than such a file may hold.

    Raises:
        ValueError: If it does.
    """
    if data[:2] == b"PK":
        check_directory(data)
        size = sum(info.file_size for info in zipfile.ZipFile(io.BytesIO(data)).infolist())
        if size > MAX_ARRAY_BYTES:
            raise ValueError(f"it unpacks to {size} bytes; at most {MAX_ARRAY_BYTES} are read")


def _row(
    name: str, runner: Runner, grids: np.ndarray, truth: np.ndarray, agreement: float
) -> ParityRow:
    """Judge by the best class alone; a range of logits is shown and not judged."""
    gap, wrong, fault = None, len(grids), ""
    peak = max(1.0, float(np.abs(truth).max()))
    try:
        found = logits_of(grids, runner)
    except RunError as error:
        fault = f"cannot run: {error}"
    else:
        gap = difference(found[None] / _rms(truth), truth[None] / _rms(truth), border=0)
        wrong = wrong_top1(found, truth, allowed=-1.0)
    anything = Tolerance(
        max_abs=math.inf, times_reference=1, reference_floor=math.inf, min_psnr_db=-math.inf
    )
    return ParityRow(
        candidate=name,
        precision=Quantization.INT8,
        output="output",
        picture="held-back grids",
        size=Size(*grids.shape[1:]),
        batch=len(grids),
        found=gap or Difference(math.inf, -math.inf, math.inf, math.inf, False, False),
        reference_max_abs=0.0,
        tolerance=anything,
        reference_peak=peak,
        fault=fault,
        wrong_top1=wrong,
        allowed_wrong=math.floor((1 - agreement) * len(grids) + 1e-9),
    )


def _rms(logits: np.ndarray) -> float:
    return max(float(np.sqrt(np.mean(np.square(logits)))), 1e-30)


def _notes(figures: dict[str, Any]) -> tuple[str, ...]:
    error = figures["relative_logit_error"]
    return (
        f"INT8 keeps the best class of {figures['top1_agreement']:.1%} of "
        f"{figures['held_back_grids']} held-back grids (bar {figures['agreement_bar']:.1%}); "
        f"relative logit error {error if error is None else format(error, '.2%')}; "
        f"{figures['bytes_float32'] / 1e6:.2f} MB in float32, {figures['bytes_int8'] / 1e6:.2f} MB",
    )
