"""Quantize a network to INT8: entry point, and phase 2 of the glyph classifier.

ONNX Runtime quantizes convolutions and linear layers after training: weights per channel,
activations unsigned, with ranges calibrated on real grids. INT8 changes logits by more than one
percent, so the rule of float exports does not apply. The best class must equal that of the float64
network on a given share of grids that were not calibrated on.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from paragon_export.checkpoints.archive import check_directory
from paragon_export.errors import PlanError, RunError
from paragon_export.graph.onnx_io import OnnxFile, is_our_onnx
from paragon_export.media.images import pictures_in
from paragon_export.networks.describe import LoadedNetwork, load_network, read_network
from paragon_export.parity.acceptance import Agreement, Finite, NotConstant
from paragon_export.parity.metrics import NOT_COMPARED, difference, wrong_top1
from paragon_export.parity.report import ParityReport, ParityRow
from paragon_export.pipeline.float32_graph import finish, float32_graph
from paragon_export.pipeline.glyph_chain import grids_of, logits_of, open_phase_1, read_raster
from paragon_export.pipeline.quantize_images import quantize_images
from paragon_export.pipeline.results import QuantizeResult
from paragon_export.precision.int8 import quantize_model
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.runtimes.validate import checked
from paragon_export.specs.network import Port, Task
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.types import Quantization, Runtime, Size
from paragon_export.system.atomic_write import check_writable, write_files
from paragon_export.system.reading import read_bytes
from paragon_export.system.text import brief

MIN_GRIDS = 64
"""Fewest grids, calibrated and judged ones together."""

MAX_ARRAY_BYTES = 2**28
"""Largest file of grids, and largest size that an archive unpacks to."""

JUDGED_STRIDE = 4
"""Every fourth grid is judged on and not calibrated on."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Inputs to calibrate on, and the criterion of the verdict."""

    path: Path | None
    """``.npy`` or ``.npz`` with grids (N, 16, 16) of IDs, or a folder of rasters. For image
    networks a folder of photographs; None takes the shipped one."""
    phase_1: Path | None = None
    """Checkpoint or ONNX file of phase 1, which turns rasters into grids."""
    agreement: float = 0.95
    """Smallest share of judged grids that keep their best class, in [0, 1]."""
    accept_loss: bool = False
    """For image networks: whether the file is written whatever the loss."""


def quantize(
    network: LoadedNetwork | str | Path,
    output: str | Path,
    *,
    calibrate: str | Path | None = None,
    phase_1: str | Path | None = None,
    agreement: float = 0.95,
    accept_loss: bool = False,
) -> QuantizeResult:
    """Quantize a network to INT8, judge it on inputs not calibrated on, and write it if it passes.

    Args:
        network: An image network or phase 2 of a glyph classifier, or the path of its checkpoint.
        output: The ``.onnx`` file to write.
        calibrate: Real inputs. For images a folder of photographs; None takes the shipped one. For
            glyphs a folder of rasters, or ``.npy`` or ``.npz`` with grids (N, 16, 16) of IDs.
        phase_1: Checkpoint or ONNX file that turns rasters into grids.
        agreement: Smallest share of judged grids that keep their best class, in [0, 1].
        accept_loss: Write an image network whatever the loss.

    Returns:
        The result. ``figures`` holds the measured loss; the file was written only if ``passed``.

    Raises:
        ParagonExportError: If a step could not run. Nothing is written then.
    """
    loaded = network if isinstance(network, LoadedNetwork) else load_network(network)
    plan = ExportPlan(
        checkpoint=loaded.checkpoint.path, output=Path(output), options=loaded.options
    )
    calibration = Calibration(
        path=None if calibrate is None else Path(calibrate),
        phase_1=None if phase_1 is None else Path(phase_1),
        agreement=agreement,
        accept_loss=accept_loss,
    )
    return export_int8(plan, calibration, loaded)


def export_int8(
    plan: ExportPlan, calibration: Calibration, network: LoadedNetwork | None = None
) -> QuantizeResult:
    """Carry out a plan in INT8.

    Args:
        plan: What to export.
        calibration: Inputs, and the criterion of the verdict.
        network: The network of the plan's checkpoint; None reads the checkpoint.

    Raises:
        ParagonExportError: As :func:`quantize`.
    """
    sources = (plan.checkpoint, calibration.path, calibration.phase_1)
    check_writable(plan.output, *sources, named=plan.is_named, is_ours=is_our_onnx)
    network = network or read_network(plan.checkpoint, plan.options)
    if network.spec.task is Task.IMAGE:
        result = quantize_images(network, plan, calibration.path, calibration.accept_loss)
    else:
        result = _quantize_grids(network, plan, calibration)
    if result.passed:
        write_files({plan.output: result.file.data})
    return result


def _quantize_grids(
    network: LoadedNetwork, plan: ExportPlan, calibration: Calibration
) -> QuantizeResult:
    """Quantize phase 2 of a glyph classifier and measure the agreement, in memory."""
    if network.spec.task is not Task.GRID:
        raise PlanError(
            f"{network.checkpoint.path} is a {network.spec.variant} network; quantize is for image "
            "networks and phase 2 of a glyph classifier; export it with onnx"
        )
    if calibration.path is None or calibration.accept_loss:
        raise PlanError(
            "quantize of a glyph classifier needs --calibrate with real grids, and has no "
            "--accept-loss; give --calibrate, and --agreement for another limit"
        )
    graph = float32_graph(network, replace(plan, rewrite=False, runtime=Runtime.ANY))
    (port,) = graph.reference.inputs
    grids = read_grids(calibration, port)
    judged = np.arange(len(grids)) % JUDGED_STRIDE == JUDGED_STRIDE - 1
    calibrated = np.array_split(grids[~judged], -(-int((~judged).sum()) // 32))
    model = quantize_model(graph.model, [{port.name: part} for part in calibrated])
    file = finish(graph, model, plan, quantization=Quantization.INT8)
    truth = logits_of(grids[judged], graph.reference.runner("float64"))
    row = _row(file, grids[judged], truth, calibration.agreement)
    figures = {
        "held_back_grids": int(judged.sum()),
        "top1_agreement": 1 - (row.wrong_top1 or 0) / int(judged.sum()),
        "agreement_bar": calibration.agreement,
        "relative_logit_error": 10 ** (-row.found.psnr_db / 20) if not row.fault else None,
        "bytes_float32": len(ir.to_proto(graph.model).SerializeToString()),
        "bytes_int8": len(file.data),
    }
    parity = ParityReport(rows=(row,), notes=_notes(figures), spec=network.spec)
    return QuantizeResult(
        file=file, reference=graph.reference, fired={}, parity=parity, figures=figures
    )


def read_grids(calibration: Calibration, port: Port) -> np.ndarray:
    """Return the grids to calibrate and judge on, (N, 16, 16) int64.

    Raises:
        PlanError: If they cannot be read, are too few, or hold IDs that ``port`` does not accept.
    """
    path = calibration.path
    assert path is not None  # the caller has checked it
    if path.is_dir():
        if calibration.phase_1 is None:
            raise PlanError(f"--calibrate {path} is a folder of rasters; give --phase-1 as well")
        rasters = pictures_in(path, "--calibrate")
        if len(rasters) < MIN_GRIDS:
            raise PlanError(_too_few(path, len(rasters)))
        images = np.stack([read_raster(raster) for raster in rasters])
        grids = grids_of(images, open_phase_1(calibration.phase_1))
    else:
        grids = _read_array(path)
    if grids.ndim and len(grids) < MIN_GRIDS:
        raise PlanError(_too_few(path, len(grids)))
    return checked([port], {port.name: grids})[port.name]


def _too_few(path: Path, found: int) -> str:
    return f"--calibrate {path} holds {found} grids; give {MIN_GRIDS} or more real ones"


def _read_array(path: Path) -> np.ndarray:
    """Read the one array of a ``.npy`` or ``.npz`` file; pickled objects are refused."""
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
                    f"--calibrate {path} holds the arrays {brief(arrays.files)}; "
                    "expected one named grids"
                )
            loaded = arrays[names[0]]
            if not isinstance(loaded, np.ndarray):
                raise PlanError(f"--calibrate {path}: {brief(names[0])} is not an array")
            return loaded
    except (OSError, ValueError, EOFError, KeyError, MemoryError, NotImplementedError,
            zipfile.BadZipFile, zlib.error) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:200]
        raise PlanError(
            f"--calibrate {path}: expected .npy, .npz or a folder of rasters: {reason}"
        ) from error


def _check_unpacked(data: bytes) -> None:
    """Check the unpacked size of an archive.

    Raises:
        ValueError: If it is larger than ``MAX_ARRAY_BYTES``.
    """
    if data[:2] == b"PK":
        check_directory(data)
        size = sum(info.file_size for info in zipfile.ZipFile(io.BytesIO(data)).infolist())
        if size > MAX_ARRAY_BYTES:
            raise ValueError(f"it unpacks to {size} bytes; at most {MAX_ARRAY_BYTES} are read")


def _row(file: OnnxFile, grids: np.ndarray, truth: np.ndarray, agreement: float) -> ParityRow:
    """Judge by the best class; the error of the logits is reported but not judged."""
    gap, wrong, fault = NOT_COMPARED, len(grids), ""
    try:
        found = logits_of(grids, OnnxRunner(file.data))
    except RunError as error:
        fault = f"cannot run: {error}"
    else:
        gap = difference(found[None] / _rms(truth), truth[None] / _rms(truth), border=0)
        wrong = wrong_top1(found, truth, allowed=-1.0)
    allowed = math.floor((1 - agreement) * len(grids) + 1e-9)
    return ParityRow(
        candidate=file.path.name,
        precision=Quantization.INT8,
        output="output",
        picture="held-back grids",
        size=Size(*grids.shape[1:]),
        batch=len(grids),
        criteria=(Finite(), NotConstant(), Agreement(allowed)),
        found=gap,
        reference_peak=max(1.0, float(np.abs(truth).max())),
        fault=fault,
        wrong_top1=wrong,
    )


def _rms(logits: np.ndarray) -> float:
    return max(float(np.sqrt(np.mean(np.square(logits)))), 1e-30)


def _notes(figures: dict[str, Any]) -> tuple[str, ...]:
    error = figures["relative_logit_error"]
    return (
        f"INT8 keeps the best class of {figures['top1_agreement']:.1%} of "
        f"{figures['held_back_grids']} held-back grids (minimum {figures['agreement_bar']:.1%}); "
        f"relative logit error {error if error is None else format(error, '.2%')}; "
        f"{figures['bytes_float32'] / 1e6:.2f} MB in float32, {figures['bytes_int8'] / 1e6:.2f} MB",
    )
