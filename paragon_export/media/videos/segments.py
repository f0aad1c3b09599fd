"""Segments: the parts of one video that are computed in any order, by several processes.

This is for networks that remember nothing of the frames before. The bytes of each segment are those
that ``upscale_video`` writes.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from paragon_export.media.overlap import WriteBehind, in_order, read_ahead
from paragon_export.media.videos.encode import encodable
from paragon_export.media.videos.frames import to_rgb
from paragon_export.media.videos.reading import Facts, TimedFrame, frames_of
from paragon_export.media.videos.resume import NEW, keep_segment, segment_path
from paragon_export.media.videos.writing import Encoding, Segment
from paragon_export.specs.types import Size

AHEAD = 3
"""Frames that wait to be computed, and that wait to be encoded."""


@dataclass(frozen=True)
class SegmentPlan:
    """What segments are made of."""

    source: Path
    folder: Path
    """Where they are kept; see ``Unfinished``."""
    facts: Facts
    encoding: Encoding
    size: Size
    """Of the frames before they are cut to even sizes."""
    frames: int
    """Of a segment; the last one may hold fewer."""


@dataclass(frozen=True)
class Made:
    """What became of one segment."""

    frames: int
    """0 if the video ends before it."""
    broken: int
    """Packets up to its end that could not be decoded."""


class SegmentMaker:
    """Makes segments. The video is decoded from its start, once if the numbers grow.

    Decoding does not begin amid the file, because then damaged frames and missing times would be
    taken otherwise than by a run over the whole video.
    """

    def __init__(
        self, plan: SegmentPlan, compute: Callable[[np.ndarray], np.ndarray], at_once: int = 1
    ) -> None:
        """Take the plan and the network, as ``Upscaler.compute`` and ``Upscaler.at_once``."""
        self.plan, self._compute, self._at_once = plan, compute, at_once
        self._restart()

    def _restart(self) -> None:
        self._place = self._broken = 0
        self._frames = frames_of(self.plan.source, self.plan.facts, self._count_broken)

    def _count_broken(self) -> None:
        self._broken += 1

    def make(self, number: int) -> Made:
        """Compute, encode and keep one segment.

        Raises:
            PlanError: If the video cannot be read.
            OSError: If the segment cannot be written.
            RunError: If the network cannot run.
        """
        first = number * self.plan.frames
        if first < self._place:
            self._restart()
        for _ in islice(self._frames, first - self._place):
            self._place += 1
        path = segment_path(self.plan.folder, number)
        new = path.with_suffix(f".{uuid.uuid4().hex}{NEW}")
        writer = _Writer(self.plan, new)
        with (
            closing(read_ahead(self._next(), AHEAD)) as frames,
            WriteBehind(writer.write, AHEAD) as written,
            closing(in_order(self._computed, frames, self._at_once)) as computed,
        ):
            for (_, timed), output in computed:
                written.put((output, timed.time, timed.duration))
        if writer.segment is None:
            return Made(0, self._broken)
        part = keep_segment(new, path, writer.segment, {})
        return Made(len(part.times), self._broken)

    def _computed(self, frame: tuple[np.ndarray, TimedFrame]) -> np.ndarray:
        return self._compute(frame[0])

    def _next(self) -> Iterator[tuple[np.ndarray, TimedFrame]]:
        """Yield the frames of one segment."""
        for timed in islice(self._frames, self.plan.frames):
            self._place += 1
            yield to_rgb(timed.frame, self.plan.facts.coding), timed


class _Writer:
    """Encodes the frames of one segment, which is created with the first."""

    def __init__(self, plan: SegmentPlan, path: Path) -> None:
        self._plan, self._path = plan, path
        self.segment: Segment | None = None

    def write(self, frame: tuple[np.ndarray, int, int]) -> None:
        rgb, time, duration = frame
        if self.segment is None:
            self.segment = Segment.create(self._path, self._plan.encoding, self._plan.facts)
        self.segment.write(encodable(rgb, self._plan.size, self._plan.encoding), time, duration)
