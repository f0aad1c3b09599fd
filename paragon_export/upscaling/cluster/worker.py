"""Worker: what one process of a cluster does, without a word about Ray.

A task may be done twice, if the first worker is lost after it: it then replaces its files by the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from paragon_export.errors import ParagonExportError
from paragon_export.media.videos.flow import writable
from paragon_export.media.videos.segments import Made, SegmentMaker, SegmentPlan
from paragon_export.upscaling.jobs import Job
from paragon_export.upscaling.model import open_model
from paragon_export.upscaling.pictures import Form
from paragon_export.upscaling.plan import UpscalePlan
from paragon_export.upscaling.results import NotUpscaled, Upscaled
from paragon_export.upscaling.run import Run
from paragon_export.upscaling.tiles import SHARE, Tiling, check_tile
from paragon_export.upscaling.videos import carries_features, check_video, upscaler_of


@dataclass(frozen=True)
class Task:
    """Files to be made by one worker."""

    jobs: tuple[Job, ...]

    @property
    def parts(self) -> Sequence[Task]:
        """Tasks of one file each."""
        return [Task((job,)) for job in self.jobs]


@dataclass(frozen=True)
class SegmentTask(Task):
    """A segment of the one video in ``jobs``."""

    plan: SegmentPlan
    number: int

    @property
    def parts(self) -> Sequence[Task]:
        """Itself: a segment is the least."""
        return [self]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a task."""

    done: tuple[Upscaled, ...] = ()
    failed: tuple[NotUpscaled, ...] = ()
    made: Made | None = None
    """Of a segment."""
    notes: tuple[str, ...] = ()
    """What is to be said of tiles."""


@dataclass(frozen=True, kw_only=True)
class About:
    """What a worker says of its model."""

    scale: int
    has_features: bool
    """Whether it carries features from frame to frame."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What all workers are told. Paths are absolute."""

    plan: UpscalePlan
    form: Form
    """Of pictures."""
    makes_folders: bool
    has_videos: bool


@dataclass
class Worker:
    """A model that is opened once, and the tasks that are done with it."""

    setup: Setup
    neighbors: int = 1
    """Workers that share the memory of its machine, itself included."""
    _maker: SegmentMaker | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Open the model.

        Raises:
            ParagonExportError: If it cannot be opened or does not do what is asked.
        """
        plan = self.setup.plan
        model = open_model(plan.model, plan.backend, plan.options, plan.ray_cores)
        self._tiling = Tiling(model, plan.tile, SHARE / self.neighbors)
        check_tile(self._tiling)
        if self.setup.has_videos:
            check_video(self._tiling)

    @property
    def about(self) -> About:
        model = self._tiling.model
        has_features = carries_features(self._tiling)
        return About(scale=model.scale, has_features=has_features, notes=model.notes)

    def do(self, task: Task) -> Outcome:
        """Do a task. What fails is in the outcome."""
        if isinstance(task, SegmentTask):
            return self._segment(task)
        setup, plan = self.setup, self.setup.plan
        run = Run(self._tiling, setup.form, setup.makes_folders)
        run.pictures([job for job in task.jobs if not job.is_video])
        run.videos([job for job in task.jobs if job.is_video], plan.video_form, plan.run)
        notes = self._tiling.notes
        return Outcome(done=tuple(run.done), failed=tuple(run.failed), notes=notes)

    def _segment(self, task: SegmentTask) -> Outcome:
        """Make a segment. The video stays open, as the next one is probably of the same."""
        if self._maker is None or self._maker.plan != task.plan:
            upscaler = upscaler_of(self._tiling)
            self._maker = SegmentMaker(task.plan, upscaler.compute, upscaler.at_once)
        self._tiling.several = True  # frames, too; a task of one picture may have changed it
        (job,) = task.jobs
        try:
            with writable(job.output):
                made = self._maker.make(task.number)
                return Outcome(made=made, notes=self._tiling.notes)
        except (ParagonExportError, OSError) as error:
            self._maker = None
            return Outcome(failed=(NotUpscaled(source=job.source, reason=str(error)),))
