"""Videos on a cluster: one by segments, or whole where the network remembers the frames before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property

from paragon_export.errors import ParagonExportError, PlanError
from paragon_export.media.videos.flow import VideoResult, Work, opened_work
from paragon_export.upscaling.cluster.nodes import SHOWN
from paragon_export.upscaling.cluster.worker import About, Outcome, SegmentTask, Task
from paragon_export.upscaling.jobs import Job
from paragon_export.upscaling.plan import UpscalePlan
from paragon_export.upscaling.results import NotUpscaled, Upscaled
from paragon_export.upscaling.videos import run_of

MORE = 8
"""Segments that are tried at a time where a video is longer than it says."""


@dataclass
class _Video:
    """A video whose segments are made by several workers."""

    job: Job
    work: Work
    resumed: int
    asked: int = 0
    """Segments that were asked for: all below this number."""
    end: int | None = None
    """Number of the segment in which the video ends."""
    frames: dict[int, int] = field(default_factory=dict)
    """Frames of each segment that is finished."""
    broken: int = 0
    """Packets that could not be decoded."""
    reason: str | None = None
    """Why it failed."""

    def tasks(self) -> Iterator[SegmentTask]:
        """Yield the segments that are missing and were not asked for."""
        if self.reason is not None or self.end is not None:
            return
        plan, first = self.work.plan, self.asked
        told = plan.facts.count
        expected = told // plan.frames + 1 if told else MORE
        self.asked = expected if first == 0 else first + MORE
        for number in range(first, self.asked):
            frames = self.work.unfinished.frames_in(number)
            if frames is None:
                yield SegmentTask((self.job,), plan, number)
                continue
            self.frames[number] = frames
            if frames < plan.frames:
                self.end = number
                return

    def take(self, number: int, outcome: Outcome) -> None:
        """Take the outcome of a segment."""
        if outcome.failed:
            self.reason = self.reason or outcome.failed[0].reason
        elif made := outcome.made:
            self.frames[number] = made.frames
            self.broken = max(self.broken, made.broken)
            if made.frames < self.work.plan.frames:
                self.end = number if self.end is None else min(number, self.end)

    def join(self) -> VideoResult:
        """Join the segments.

        Raises:
            PlanError: If one that was finished is not there, or the output cannot be written.
        """
        unfinished = self.work.unfinished
        unfinished.find()
        if missing := sum(self.frames.values()) - unfinished.frames:
            raise PlanError(
                f"{missing} finished frames of {self.job.source} are not in {unfinished.folder}; {SHOWN}"
            )
        return self.work.finish(self.resumed, self.broken)


@dataclass
class Videos:
    """All videos of a run."""

    plan: UpscalePlan
    model: str
    """Name of the model."""
    about: About
    stack: ExitStack
    """Holds the locks of what is unfinished."""
    _whole: list[Job] = field(default_factory=list)
    _divided: dict[Job, _Video] = field(default_factory=dict)
    _has_whole: bool = False

    @cached_property
    def _run(self) -> str:
        return self.plan.run

    def open(self, job: Job) -> None:
        """Check a video, and find what an interrupted run has finished of it.

        Raises:
            PlanError: If it cannot be read or written.
        """
        if self.about.has_features:
            self._whole.append(job)
            self._has_whole = True
            return
        run, form = run_of(self._run, self.plan.tile), self.plan.video_form
        opened = opened_work(job.source, job.output, scale=self.about.scale, run=run, form=form)
        work = self.stack.enter_context(opened)
        self._divided[job] = _Video(job, work, work.unfinished.frames)

    def tasks(self) -> list[Task]:
        """Return what is to be done next: all that was not asked for before."""
        whole, self._whole = self._whole, []
        segments = [task for video in self._divided.values() for task in video.tasks()]
        return [*(Task((job,)) for job in whole), *segments]

    def take(self, task: SegmentTask, outcome: Outcome) -> None:
        """Take the outcome of a segment."""
        self._divided[task.jobs[0]].take(task.number, outcome)

    def finish(self, failed: list[NotUpscaled]) -> Iterator[Upscaled]:
        """Join the videos, and yield them; add those that fail to ``failed``."""
        for job, video in self._divided.items():
            try:
                if video.reason is not None:
                    failed.append(NotUpscaled(source=job.source, reason=video.reason))
                    continue
                yield self._joined(job, video)
            except (ParagonExportError, OSError) as error:
                failed.append(NotUpscaled(source=job.source, reason=str(error)))

    def _joined(self, job: Job, video: _Video) -> Upscaled:
        result = video.join()
        return Upscaled(
            source=job.source, output=job.output, notes=result.notes, frames=result.frames,
            size=result.size, output_size=result.output_size,
        )  # fmt: skip

    @property
    def notes(self) -> list[str]:
        """Why a video was not divided."""
        if not self._has_whole:
            return []
        said = f"{self.model} carries features from frame to frame"
        return [f"{said}, so each video stayed on one worker"]
