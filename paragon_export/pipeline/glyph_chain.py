"""Classify glyph rasters with both networks of the glyph classifier.

Phase 1 turns each 8x8 cell into a primitive ID; it runs once for equal cells and skips empty ones.
Phase 2 turns each 16x16 grid of IDs into logits, in batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paragon_export.errors import PlanError
from paragon_export.graph.onnx_io import is_onnx, read_onnx_file
from paragon_export.media.images import open_picture
from paragon_export.networks.describe import LoadedNetwork, read_network
from paragon_export.networks.glyph.layout import CELL, GRID
from paragon_export.runtimes.base import Runner
from paragon_export.runtimes.isolated import open_runner
from paragon_export.specs.network import Task
from paragon_export.specs.plans import ExportPlan, NetworkOptions
from paragon_export.specs.types import OnnxBackend
from paragon_export.system.progress import counted
from paragon_export.system.reading import parse_json, read_bytes
from paragon_export.system.text import brief

RASTER = GRID * CELL
"""Side of a raster in pixels."""

CELLS_AT_A_TIME = 4096

GLYPHS_AT_A_TIME = 256

PHASES = {Task.CELLS: 1, Task.GRID: 2}
"""Phase of the classifier, by the task of a network."""

MAX_LABEL_MAP_BYTES = 2**24


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Both networks, opened, and the label map."""

    cells: Runner
    """Phase 1."""
    glyphs: Runner
    """Phase 2."""
    labels: Mapping[int, str]
    """Label of each class index; a class may have none."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Named:
    """One of the likeliest classes of a glyph."""

    rank: int
    """1 is the likeliest."""
    index: int
    """Class index."""
    label: str
    """Label from the label map; ``class INDEX`` if it has none."""
    probability: float
    """Softmax of the logits, in [0, 1]."""


@dataclass(frozen=True)
class _Opened:
    phase: int
    runner: Runner
    classes: int
    label_map: Any = None
    notes: tuple[str, ...] = ()


def open_chain(
    paths: Sequence[Path],
    options: NetworkOptions,
    label_map: Path | None = None,
    backend: OnnxBackend = OnnxBackend.ONNXRUNTIME,
) -> Chain:
    """Open phase 1 and phase 2. Their contents show which is which.

    Args:
        paths: Two checkpoints or ONNX files, in any order. Checkpoints are exported in memory.
        options: Option values for the checkpoints.
        label_map: JSON file {label: class index}; None takes that of the phase 2 checkpoint, if it
            has one.
        backend: What runs both networks.

    Raises:
        ParagonExportError: If they are not one of each phase, or the label map does not fit.
    """
    opened = sorted((_open(path, options, backend) for path in paths), key=lambda o: o.phase)
    if [o.phase for o in opened] != [1, 2]:
        raise PlanError(
            f"{' and '.join(map(str, paths))} are both of phase {opened[0].phase}; give one of "
            "phase 1 and one of phase 2"
        )
    first, second = opened
    indices = _read_json(label_map) if label_map else second.label_map
    labels = {} if indices is None else _labels(indices, second.classes, label_map)
    return Chain(cells=first.runner, glyphs=second.runner, labels=labels, notes=second.notes)


def name_glyphs(
    chain: Chain, rasters: np.ndarray, top: int = 5
) -> tuple[np.ndarray, list[list[Named]]]:
    """Return the likeliest classes of the glyph on every raster.

    Args:
        chain: Both networks.
        rasters: (N, 128, 128) uint8, light ink on a background of 0.
        top: Number of classes to return for each raster.

    Returns:
        The grids of primitive IDs, (N, 16, 16) int64; and for each raster its likeliest classes,
        best first.
    """
    grids = grids_of(rasters, chain.cells)
    logits = logits_of(grids, chain.glyphs).astype(np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :top]
    named = [
        [
            Named(rank, int(i), chain.labels.get(int(i), f"class {i}"), float(row[i]))
            for rank, i in enumerate(best, start=1)
        ]
        for row, best in zip(probabilities, order, strict=True)
    ]
    return grids, named


def grids_of(rasters: np.ndarray, phase_1: Runner) -> np.ndarray:
    """Return the primitive ID of every cell; 0 for empty cells.

    Args:
        rasters: (N, 128, 128) uint8; cell (r, c) is rows 8r to 8r+7 and columns 8c to 8c+7.
        phase_1: Network that takes cells (N, 1, 8, 8) in [0, 1].

    Returns:
        (N, 16, 16) int64. Of equally likely IDs the first is taken.

    Raises:
        PlanError: If the rasters have another shape or dtype.
    """
    if rasters.shape[1:] != (RASTER, RASTER) or rasters.dtype != np.uint8:
        raise PlanError(
            f"rasters are {rasters.dtype} {list(rasters.shape)}; expected uint8 "
            f"[N, {RASTER}, {RASTER}]"
        )
    split = rasters.reshape(-1, GRID, CELL, GRID, CELL).transpose(0, 1, 3, 2, 4)
    cells = split.reshape(-1, CELL * CELL)
    occupied = cells.any(axis=1)
    whole = np.ascontiguousarray(cells[occupied]).view(np.dtype((np.void, CELL * CELL))).ravel()
    unique, which = np.unique(whole, return_inverse=True)
    pixels = np.frombuffer(unique.tobytes(), np.uint8).reshape(-1, 1, CELL, CELL)
    id_chunks = [
        phase_1.infer({"input": scaled(chunk)})["output"].argmax(axis=1)
        for chunk in counted("phase 1 on part", _chunks(pixels, CELLS_AT_A_TIME))
    ]
    ids = np.zeros(len(cells), np.int64)
    if id_chunks:
        ids[occupied] = np.concatenate(id_chunks)[which]
    return ids.reshape(-1, GRID, GRID)


def scaled(cells: np.ndarray) -> np.ndarray:
    """Scale cells to [0, 1]: a cell with a value above 1 is divided by 255.

    Args:
        cells: (N, 1, 8, 8) uint8.

    Returns:
        (N, 1, 8, 8) float32 in [0, 1]. A cell of zeros and ones keeps its values.
    """
    divisor = np.where(cells.max(axis=(1, 2, 3), keepdims=True) > 1, 255, 1)
    return cells.astype(np.float32) / divisor.astype(np.float32)


def logits_of(grids: np.ndarray, phase_2: Runner) -> np.ndarray:
    """Return the logits (N, classes), float32, of grids (N, 16, 16) of IDs; N is at least 1."""
    chunks = _chunks(grids, GLYPHS_AT_A_TIME)
    parts = [
        phase_2.infer({"input": chunk})["output"] for chunk in counted("phase 2 on part", chunks)
    ]
    return np.concatenate(parts)


def read_raster(path: Path) -> np.ndarray:
    """Read an 8-bit gray image of 128x128 pixels with light ink: (128, 128) uint8.

    Raises:
        PlanError: If it cannot be read, has another size or another kind of pixels, or its ink is
            dark.
    """
    with open_picture(path, "raster") as image:
        mode, size = image.mode, image.size
        if size == (RASTER, RASTER) and mode in ("L", "1"):
            return _checked_ink(path, np.asarray(image.convert("L"), np.uint8))
    found = f"{size[1]}x{size[0]}, mode {mode}"
    raise PlanError(f"raster {path} is {found}; expected {RASTER}x{RASTER}, 8-bit gray (mode L)")


def _checked_ink(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Return a raster, unless its ink is dark: the networks know light ink on a background of 0.

    Raises:
        PlanError: If more than half of all pixels and of those at the border are light.
    """
    light = pixels > pixels.max() / 2
    border = np.concatenate([light[0], light[-1], light[:, 0], light[:, -1]])
    if light.mean() > 0.5 and border.mean() > 0.5:
        raise PlanError(
            f"raster {path} has dark ink: {light.mean():.0%} of its pixels are light; expected "
            "light ink on a black background (0), so invert it"
        )
    return pixels


def open_phase_1(path: Path) -> Runner:
    """Open a checkpoint or ONNX file of phase 1 in ONNX Runtime.

    Raises:
        ParagonExportError: If it is not phase 1.
    """
    opened = _open(path, NetworkOptions(), OnnxBackend.ONNXRUNTIME)
    if opened.phase != 1:
        raise PlanError(f"{path} is of phase {opened.phase}; expected phase 1")
    return opened.runner


def _chunks(array: np.ndarray, size: int) -> list[np.ndarray]:
    return [array[start : start + size] for start in range(0, len(array), size)]


def _open(path: Path, options: NetworkOptions, backend: OnnxBackend) -> _Opened:
    if is_onnx(path):
        file = read_onnx_file(path)
        inputs, outputs = file.ports
        port, classes = inputs[0] if inputs else None, outputs[0].dims[-1:] if outputs else ()
        if port is None or port.span is None or not classes or not isinstance(classes[0], int):
            raise PlanError(f"{path} is not phase 1 or 2 of a glyph classifier")
        runner = open_runner(file.data, backend, is_own=False, title=str(path))
        return _Opened(PHASES[file.task], runner, classes[0])
    network = read_network(path, options)
    spec = network.spec
    if not spec.task.is_classifier:
        raise PlanError(f"{path} is {spec.architecture}, not phase 1 or 2 of a glyph classifier")
    return _Opened(
        PHASES[spec.task],
        open_runner(_exported(network), backend, is_own=True),
        spec.out_channels,
        network.checkpoint.extra.get("label_map"),
        spec.notes,
    )


def _exported(network: LoadedNetwork) -> bytes:
    """Export a network and return the bytes of the ONNX model."""
    import onnx_ir as ir

    from paragon_export.pipeline.float32_graph import float32_graph

    plan = ExportPlan(
        checkpoint=network.checkpoint.path, output=Path("unwritten.onnx"), rewrite=False
    )
    graph = float32_graph(network, plan)
    return ir.to_proto(graph.model).SerializeToString(deterministic=True)


def _read_json(path: Path) -> Any:
    data = read_bytes(path, MAX_LABEL_MAP_BYTES, "label map", PlanError)
    try:
        return parse_json(data)
    except ValueError as error:
        raise PlanError(f"label map {path} is not JSON: {error}") from error


def _labels(indices: Any, classes: int, path: Path | None) -> dict[int, str]:
    """Return {index: label} of a label map {label: index}.

    Args:
        indices: The parsed JSON.
        classes: Number of the network's classes.
        path: File of the label map; None if it is the checkpoint's.

    Raises:
        PlanError: If it is not such a map, or an index is not a class of the network.
    """
    where = f"label map {path}" if path else "the checkpoint's label map"
    if not isinstance(indices, Mapping) or not all(
        isinstance(index, int) and not isinstance(index, bool) for index in indices.values()
    ):
        raise PlanError(f"{where} is not an object of label: class index")
    outside = [index for index in indices.values() if not 0 <= index < classes]
    if outside:
        raise PlanError(
            f"{where} has index {outside[0]}, and the network has {classes} classes; give the "
            "label map it was trained with"
        )
    labels = {
        index: label if isinstance(label, str) else brief(label) for label, index in indices.items()
    }
    if len(labels) != len(indices):
        raise PlanError(f"{where} gives one index to several labels")
    return labels
