"""Run: pictures and videos through one opened model, several at a time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from paragon_export.errors import MissingDependencyError, ParagonExportError, RunError
from paragon_export.media.overlap import WriteBehind, in_order
from paragon_export.media.pictures import Picture, read_picture
from paragon_export.media.saving import saving
from paragon_export.media.videos import VideoForm
from paragon_export.specs.types import Size
from paragon_export.system.private_folder import remove_leftovers
from paragon_export.system.progress import advance, step
from paragon_export.upscaling.jobs import Job
from paragon_export.upscaling.model import Model
from paragon_export.upscaling.pictures import Form, layout_of, rows_of
from paragon_export.upscaling.results import NotUpscaled, Upscaled
from paragon_export.upscaling.tiles import Tiling
from paragon_export.upscaling.videos import upscale_one

MAX_PICTURES = 9
"""Pictures in work at a time, at most."""

BLOCKS = 4
"""Blocks of rows of a picture that wait to be written."""


@dataclass
class Run:
    """One run over all pictures and videos."""

    tiling: Tiling
    form: Form
    makes_folders: bool
    """Whether the folders of outputs are made; else there is one output, a named file."""
    done: list[Upscaled] = field(default_factory=list)
    failed: list[NotUpscaled] = field(default_factory=list)
    _tidied: set[Path] = field(default_factory=set)
    """Folders without leftovers of killed runs."""
    _is_over: Event = field(default_factory=Event)
    """Set if the run ends early, as when it is interrupted: threads stop at their next rows."""

    @property
    def model(self) -> Model:
        return self.tiling.model

    def pictures(self, wanted: Sequence[Job]) -> None:
        """Make every picture, several at a time: one is read or written while others are computed."""
        count = min(len(wanted), MAX_PICTURES, self.model.cores + 1)
        self.tiling.several = count > 1
        made = in_order(self._picture, wanted, max(count, 1), self._is_over.set)
        with step("upscaling", len(wanted), "pictures"), closing(made):
            for _, one in made:
                advance()
                if isinstance(one, Upscaled):
                    self.done.append(one)
                else:
                    self.failed.append(one)

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
        """Make the folder of an output, and remove what killed runs left there."""
        folder = job.output.parent
        if self.makes_folders:
            folder.mkdir(parents=True, exist_ok=True)
        if folder not in self._tidied:
            self._tidied.add(folder)
            remove_leftovers(folder)

    def _picture(self, job: Job) -> Upscaled | NotUpscaled:
        """Make one picture, or say why it could not be made."""
        try:
            self._make_folder(job)
            return self._one(job, read_picture(job.source))
        except MissingDependencyError:
            raise
        except (ParagonExportError, OSError) as error:
            return NotUpscaled(source=job.source, reason=str(error))

    def _one(self, job: Job, picture: Picture) -> Upscaled:
        """Compute one picture; another thread writes it."""
        size = Size(*picture.color.shape[1:])
        layout, notes = layout_of(picture, self.model.scale, self.model.channels, self.form)
        with (
            closing(rows_of(picture, self.tiling, layout, self.form)) as rows,
            saving(job.output, layout) as file,
            WriteBehind(file.write, BLOCKS) as written,
        ):
            for block in rows:
                if self._is_over.is_set():
                    raise RunError("stopped")
                written.put(block)
        return Upscaled(
            source=job.source, output=job.output, size=size, notes=notes,
            tile=self.tiling.tile_for(size), output_size=Size(layout.height, layout.width),
        )  # fmt: skip
