"""Run: pictures and videos through one opened model, while others are read and written."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

from paragon_export.errors import MissingDependencyError, ParagonExportError, PlanError
from paragon_export.media.pictures import Picture, read_picture
from paragon_export.media.videos import VideoForm
from paragon_export.specs.types import Size
from paragon_export.system.progress import advance, step
from paragon_export.upscaling.background import WrittenBehind, read_ahead
from paragon_export.upscaling.jobs import Job
from paragon_export.upscaling.model import Model
from paragon_export.upscaling.pictures import Form, layout_of, rows_of
from paragon_export.upscaling.results import NotUpscaled, Upscaled
from paragon_export.upscaling.tiles import Tiling
from paragon_export.upscaling.videos import upscale_one


@dataclass
class Run:
    """One run over all pictures and videos."""

    tiling: Tiling
    form: Form
    makes_folders: bool
    """Whether the folders of outputs are made; else there is one output, a named file."""
    done: list[Upscaled] = field(default_factory=list)
    failed: list[NotUpscaled] = field(default_factory=list)

    @property
    def model(self) -> Model:
        return self.tiling.model

    def pictures(self, wanted: Sequence[Job]) -> None:
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

    def videos(self, wanted: Sequence[Job], form: VideoForm, run: str) -> None:
        """Make the videos, one after the other; ``run`` is that of :func:`upscale_one`."""
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
