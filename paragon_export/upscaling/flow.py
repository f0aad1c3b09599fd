"""The flow: pictures and videos in, upscaled ones out."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from paragon_export.networks.describe import LoadedNetwork
from paragon_export.specs.types import OnnxBackend, Size
from paragon_export.upscaling.jobs import Jobs, jobs_of
from paragon_export.upscaling.model import Model, open_model
from paragon_export.upscaling.plan import TILE_WORDS, UpscalePlan
from paragon_export.upscaling.results import UpscaleResult, result_of
from paragon_export.upscaling.run import Run
from paragon_export.upscaling.tiles import Tiling, check_tile
from paragon_export.upscaling.videos import check_video


def upscale(
    model: LoadedNetwork | str | Path,
    inputs: str | Path | Iterable[str | Path],
    output: str | Path,
    *,
    tile: str | Size = "auto",
    backend: str = "onnxruntime",
    fit: str | Size | None = None,
    **how: Any,
) -> UpscaleResult:
    """Upscale pictures and videos. Inputs that fail are listed in the result, and the others go on.

    Args:
        model: As for ``UpscalePlan``, like all arguments.
        inputs: One path, or several.
        output: A folder or a file.
        tile: ``"auto"``, ``"none"`` or a size, height x width, as ``"512x512"``.
        backend: ``"onnxruntime"``, ``"openvino"`` or ``"cuda"``.
        fit: A size, too.
        how: ``blend``, ``format``, ``quality``, ``skip_existing``, ``options``, ``ray`` and ``ray_cores``.

    Returns:
        What became of each input; ``passed``: all have their outputs.

    Raises:
        ParagonExportError: If the request contradicts itself, or the model cannot be opened.

    Example:
        >>> from paragon_export.assets import CHECKPOINT, PHOTOGRAPH
        >>> upscale(CHECKPOINT, PHOTOGRAPH, "larger.png", fit="256x256").done[0].output_size
        Size(height=256, width=256)
    """
    paths = [inputs] if isinstance(inputs, str | Path) else inputs
    plan = UpscalePlan(
        model=model if isinstance(model, LoadedNetwork) else Path(model),
        inputs=tuple(map(Path, paths)),
        output=Path(output),
        **{"tile": _size(tile), "fit": _size(fit), "backend": OnnxBackend(backend), **how},
    )
    return upscale_files(plan)


def _size(text: str | Size | None) -> Any:
    """Read a size; ``auto``, ``none`` and None stay as they are."""
    return Size.parse(text) if isinstance(text, str) and text not in TILE_WORDS else text


def upscale_files(plan: UpscalePlan) -> UpscaleResult:
    """Do what a plan says (see :func:`upscale`)."""
    found = jobs_of(plan.inputs, plan.output, plan.format)
    if plan.ray:
        from paragon_export.upscaling.cluster.flow import upscale_on_ray

        return upscale_on_ray(plan, found)
    return _upscaled(open_model(plan.model, plan.backend, plan.options), plan, found)


def upscale_with(model: Model, plan: UpscalePlan) -> UpscaleResult:
    """Do what a plan says with a model that is opened already."""
    return _upscaled(model, plan, jobs_of(plan.inputs, plan.output, plan.format))


def _upscaled(model: Model, plan: UpscalePlan, found: Jobs) -> UpscaleResult:
    tiling = Tiling(model, plan.tile, blend=plan.blend)
    check_tile(tiling)
    start = time.monotonic()
    run = Run(tiling, plan.picture_form(found), found.folders)
    if any(job.is_video for job in found.jobs):
        check_video(tiling)
    wanted, skipped = found.wanted(skip_existing=plan.skip_existing)
    run.pictures([job for job in wanted if not job.is_video])
    if any(job.is_video for job in wanted):
        run.videos([job for job in wanted if job.is_video], plan.video_form, plan.run)
    notes = (*model.notes, *found.notes, *tiling.notes)
    seconds = time.monotonic() - start
    return result_of(run.done, run.failed, skipped, seconds, notes, tiling.difference)
