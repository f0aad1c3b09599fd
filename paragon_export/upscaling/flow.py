"""The flow: pictures and videos in, upscaled ones out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paragon_export.errors import MissingDependencyError, ParagonExportError, PlanError
from paragon_export.media.pictures import Picture, read_picture
from paragon_export.media.saving import format_of
from paragon_export.media.videos import VideoForm
from paragon_export.networks.describe import LoadedNetwork
from paragon_export.specs.plans import NetworkOptions
from paragon_export.specs.types import OnnxBackend, Size
from paragon_export.system.atomic_write import sha256_of
from paragon_export.system.progress import advance, step
from paragon_export.tiling.plan import least_tile
from paragon_export.upscaling.background import WrittenBehind, read_ahead
from paragon_export.upscaling.jobs import Job, Jobs, jobs_of
from paragon_export.upscaling.model import Model, open_model
from paragon_export.upscaling.pictures import Form, layout_of, rows_of
from paragon_export.upscaling.results import NotUpscaled, Upscaled, UpscaleResult
from paragon_export.upscaling.tiles import Tiling
from paragon_export.upscaling.videos import check_video, upscale_one

TILE_WORDS = ("auto", "none")


@dataclass(frozen=True, kw_only=True)
class UpscalePlan:
    """What to upscale, and how."""

    model: LoadedNetwork | Path
    """A network, or a checkpoint, ONNX file or engine."""
    inputs: tuple[Path, ...]
    """Pictures, videos and folders. Subfolders are searched and appear in the output."""
    output: Path
    """A folder, which is made; or a file, for one input file."""
    tile: str | Size = "auto"
    """``auto``: tiles where the picture does not fit into memory; ``none``; or their size."""
    backend: OnnxBackend = OnnxBackend.ONNXRUNTIME
    """What runs an ONNX file."""
    fit: Size | None = None
    """Size to reduce larger results to; their aspect ratio is kept."""
    format: str | None = None
    """Of pictures, ``png``, ``jpg``, ``webp``, ``tiff`` or ``avif``; or of videos, ``mkv``, ``mp4``, ``mov``
    or ``webm``. None: that of the output's name, or PNG and that of each video."""
    quality: int | None = None
    """1 to 100, of JPEG, WebP and AVIF, and of videos."""
    skip_existing: bool = False
    """Leave out what is there already."""
    options: NetworkOptions = field(default_factory=NetworkOptions)
    """Values that the tensors do not determine, if the model is a checkpoint."""


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
        how: ``format``, ``quality``, ``skip_existing`` and ``options``.

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
    return _upscaled(open_model(plan.model, plan.backend, plan.options), plan, found)


def upscale_with(model: Model, plan: UpscalePlan) -> UpscaleResult:
    """Do what a plan says with a model that is opened already."""
    return _upscaled(model, plan, jobs_of(plan.inputs, plan.output, plan.format))


def _upscaled(model: Model, plan: UpscalePlan, found: Jobs) -> UpscaleResult:
    if isinstance(plan.tile, Size):
        _check_tile(model, plan.tile)
    kinds = {format_of(job.output.suffix) for job in found.jobs if not job.is_video}
    form = Form(kind=kinds.pop() if kinds else "png", quality=plan.quality, fit=plan.fit)
    run = _Run(Tiling(model, plan.tile), form, found.folders)
    if any(job.is_video for job in found.jobs):
        check_video(run.tiling)
    run.all(found, plan)
    return run.result(found)


def _check_tile(model: Model, tile: Size) -> None:
    """Refuse a tile that would be all margin, before anything is read."""
    least = least_tile(model.field)
    if least > min(tile.height, tile.width):
        raise PlanError(
            f"--tile {tile} is too small for {model.name}; use at least {least}x{least}"
        )


def _digest(model: LoadedNetwork | Path) -> str:
    """Return the SHA-256 of the file of a network."""
    return model.checkpoint.sha256 if isinstance(model, LoadedNetwork) else sha256_of(model)


@dataclass
class _Run:
    """One run over all pictures and videos."""

    tiling: Tiling
    form: Form
    makes_folders: bool
    """Whether the folders of outputs are made; else there is one output, a named file."""
    done: list[Upscaled] = field(default_factory=list)
    failed: list[NotUpscaled] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    start: float = field(default_factory=time.monotonic)

    @property
    def model(self) -> Model:
        return self.tiling.model

    def all(self, found: Jobs, plan: UpscalePlan) -> None:
        """Make every picture, and then every video."""
        wanted = [job for job in found.jobs if not (plan.skip_existing and job.output.exists())]
        self.skipped = [job.output for job in found.jobs if job not in wanted]
        self._pictures([job for job in wanted if not job.is_video])
        self._videos([job for job in wanted if job.is_video], plan)

    def _pictures(self, wanted: list[Job]) -> None:
        """Read, compute and write every picture, each while others are read and written."""
        ahead = read_ahead(wanted, lambda job: read_picture(job.source))
        written: list[tuple[Job, Upscaled, WrittenBehind]] = []
        with ThreadPoolExecutor(1) as pool, step("upscaling", len(wanted), "pictures"):
            for job, read in ahead:
                advance()
                try:
                    self._make_folder(job)
                    written.append((job, *self._one(pool, job, read())))
                except MissingDependencyError:
                    raise
                except (ParagonExportError, OSError) as error:
                    self.failed.append(NotUpscaled(source=job.source, reason=str(error)))
                while len(written) > 1:
                    self._ended(*written.pop(0))
            for one in written:
                self._ended(*one)

    def _videos(self, wanted: list[Job], plan: UpscalePlan) -> None:
        """Make the videos, one after the other."""
        if not wanted:
            return
        form = VideoForm(quality=plan.quality, fit=plan.fit)
        run = f"{_digest(plan.model)} {plan.backend} {plan.options}"
        for job in wanted:
            try:
                self._make_folder(job)
                self.done.append(upscale_one(job.source, job.output, self.tiling, form, run))
            except MissingDependencyError:
                raise
            except (ParagonExportError, OSError) as error:
                self.failed.append(NotUpscaled(source=job.source, reason=str(error)))

    def _make_folder(self, job: Job) -> None:
        if self.makes_folders:
            job.output.parent.mkdir(parents=True, exist_ok=True)

    def _one(
        self, pool: ThreadPoolExecutor, job: Job, picture: Picture
    ) -> tuple[Upscaled, WrittenBehind]:
        """Compute one picture; another thread writes it."""
        size = Size(*picture.color.shape[1:])
        layout, notes = layout_of(picture, self.model.scale, self.model.channels, self.form)
        tile = self.tiling.tile_for(size)
        output = WrittenBehind(pool, job.output, layout)
        is_whole = False
        try:
            with closing(rows_of(picture, self.tiling, layout, self.form)) as rows:
                for block in rows:
                    output.write(block)
            is_whole = True
        finally:
            output.end(failed=not is_whole)
        done = Upscaled(
            source=job.source, output=job.output, size=size, tile=tile, notes=notes,
            output_size=Size(layout.height, layout.width),
        )  # fmt: skip
        return done, output

    def _ended(self, job: Job, done: Upscaled, output: WrittenBehind) -> None:
        """Wait until a picture is written."""
        try:
            output.done.result()
        except (PlanError, OSError) as error:
            self.failed.append(NotUpscaled(source=job.source, reason=str(error)))
        else:
            self.done.append(done)

    def result(self, found: Jobs) -> UpscaleResult:
        """Return what became of all inputs. Each conversion is noted once."""
        kinds = Counter(
            text if one.frames else f"converted {text}" for one in self.done for text in one.notes
        )
        converted = [f"{text} ({count} of {len(self.done)})" for text, count in kinds.items()]
        ignored = (
            [f"{found.ignored} files are neither pictures nor videos by their names"]
            if found.ignored
            else []
        )
        return UpscaleResult(
            done=tuple(self.done),
            failed=tuple(self.failed),
            skipped=tuple(self.skipped),
            seconds=time.monotonic() - self.start,
            notes=(*self.model.notes, *ignored, *converted),
        )
