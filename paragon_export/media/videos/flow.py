"""The flow: a video in, an upscaled video out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from paragon_export.errors import PlanError
from paragon_export.media.overlap import WriteBehind, in_order, read_ahead
from paragon_export.media.videos.cuts import CutFinder
from paragon_export.media.videos.encode import encodable
from paragon_export.media.videos.frames import planes_in, to_rgb
from paragon_export.media.videos.joining import join, left_out
from paragon_export.media.videos.reading import Facts, facts_of, frames_of, opened
from paragon_export.media.videos.resume import Unfinished
from paragon_export.media.videos.segments import AHEAD, SegmentPlan
from paragon_export.media.videos.writing import FORMATS, Encoding, Segment, encoding_for
from paragon_export.specs.types import Size
from paragon_export.system.atomic_write import check_writable, writing
from paragon_export.system.optional import require
from paragon_export.system.progress import advance, step
from paragon_export.system.text import one_line

SUFFIXES = (".mkv", ".mp4", ".m4v", ".mov", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".wmv",
            ".flv", ".ogv", ".3gp", ".y4m", ".nut")  # fmt: skip
"""Ends of the names of video files that are read."""

SEGMENT_FRAMES = 240
"""Frames of a segment: so many at most are computed again after an interruption."""

Remembered = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Upscaler:
    """A network that upscales frames, and what it remembers of those before."""

    compute: Callable[[np.ndarray], np.ndarray]
    """(1, 3, H, W), float32 RGB in [0, 1], to (1, 3, sH, sW) or, gray, (1, 1, sH, sW)."""
    reset: Callable[[], None] | None = None
    """Forget all frames; called before the first frame of each scene. None: it remembers none, and no scenes
    are looked for."""
    state: Callable[[], Remembered] = field(default=dict)
    """Return what it remembers, arrays that do not change later."""
    restore: Callable[[Remembered], None] = field(default=lambda state: None)
    """Remember what ``state`` returned."""
    at_once: int = 1
    """Frames that may be computed at a time; 1 if it remembers anything."""


@dataclass(frozen=True)
class VideoForm:
    """What is asked of the output."""

    codec: str | None = None
    """``"h264"``, ``"hevc"``, ``"vp9"`` or ``"ffv1"``; None: H.264, HEVC for 10 bits, VP9 in WebM."""
    quality: int | None = None
    """1 to 100."""
    fit: Size | None = None
    """Reduce larger frames to fit into this size, keeping their aspect ratio."""
    segment_frames: int = SEGMENT_FRAMES


@dataclass(frozen=True)
class VideoResult:
    """What became of a video."""

    frames: int
    resumed: int
    """Frames that an interrupted run had finished."""
    size: Size
    output_size: Size
    codec: str
    notes: tuple[str, ...]
    """What was converted, assumed or left out."""


def upscale_video(
    source: Path,
    output: Path,
    upscaler: Upscaler,
    *,
    scale: int,
    run: str,
    form: VideoForm | None = None,
) -> VideoResult:
    """Upscale a video file. Sound, subtitles, chapters, metadata and times are copied.

    Reading, computing and encoding overlap. A run that was interrupted is continued by the next one
    after its last whole segment, if ``run`` and ``form`` are the same; the frames are those of a run
    without an interruption.

    Args:
        source: Video file.
        output: File to be written, ``.mkv``, ``.mp4``, ``.m4v``, ``.mov`` or ``.webm``.
        upscaler: The network.
        scale: Its scale.
        run: Names the network and everything that its results depend on, as its SHA-256 and options.
        form: What is asked of the output.

    Raises:
        PlanError: If the source cannot be read, or the output not written or unable to hold it.
    """
    opened = opened_work(source, output, scale=scale, run=run, form=form or VideoForm())
    with opened as work, writable(output):
        resumed = work.unfinished.frames
        computing = _Run(work.plan, upscaler, work.unfinished)
        computing.all()
        return work.finish(resumed, computing.broken)


@dataclass(frozen=True)
class Work:
    """A video that is being made."""

    output: Path
    plan: SegmentPlan
    unfinished: Unfinished
    notes: tuple[str, ...]

    def finish(self, resumed: int, broken: int) -> VideoResult:
        """Join the segments, all of which are finished.

        Args:
            resumed: Frames that an interrupted run had finished.
            broken: Packets that could not be decoded.

        Raises:
            PlanError: If the output cannot be written.
        """
        plan, unfinished, output = self.plan, self.unfinished, self.output
        with writable(output), writing([output]) as folder:
            join(unfinished.parts, plan.source, plan.facts, plan.encoding, folder / output.name)
        frames = unfinished.frames
        unfinished.remove()
        read, notes = Size(plan.facts.height, plan.facts.width), [*self.notes, *unfinished.notes]
        if broken:
            notes.append(f"{broken} packets cannot be decoded, and are left out")
        encoding = plan.encoding
        return VideoResult(frames, resumed, read, encoding.size, encoding.codec, tuple(notes))


@contextmanager
def opened_work(
    source: Path, output: Path, *, scale: int, run: str, form: VideoForm
) -> Iterator[Work]:
    """Check a video, and lock what is finished of its output.

    Arguments and errors are those of :func:`upscale_video`.
    """
    check_writable(output, source)
    facts, encoding, size, notes = _plan(source, output, scale, form)
    with Unfinished(output, _record(run, source, encoding, form)) as unfinished:
        plan = SegmentPlan(source, unfinished.folder, facts, encoding, size, form.segment_frames)
        yield Work(output, plan, unfinished, tuple(notes))


def _plan(
    source: Path, output: Path, scale: int, form: VideoForm
) -> tuple[Facts, Encoding, Size, list[str]]:
    """Return facts, the encoding, the size before it is cut to even numbers, and notes.

    Raises:
        PlanError: If the output cannot hold what is asked.
    """
    suffix = output.suffix.lower()
    if suffix not in FORMATS:
        raise PlanError(f"{output} is not written: videos are {', '.join(FORMATS)} files")
    facts = facts_of(source)
    with opened(source) as container:
        missing = left_out(container, source, suffix)
    size = _output_size(Size(facts.height * scale, facts.width * scale), form.fit)
    encoding, converted = encoding_for(facts, size, suffix, form.codec, form.quality)
    return facts, encoding, size, [*facts.notes, *missing, *converted]


def _record(run: str, source: Path, encoding: Encoding, form: VideoForm) -> dict[str, object]:
    """Return everything that the encoded frames depend on."""
    status = source.stat()
    return {
        "run": run,
        "source": [str(source.resolve()), status.st_size, status.st_mtime_ns],
        "encoding": asdict(encoding),
        "segment_frames": form.segment_frames,
        "encoder": list(require("av", "video").library_versions["libavcodec"]),
    }


@contextmanager
def writable(output: Path) -> Iterator[None]:
    """Name the output that FFmpeg cannot write in the block."""
    try:
        yield
    except (require("av", "video").error.FFmpegError, OSError) as error:
        raise PlanError(
            f"cannot write {output}: {one_line(error.strerror or str(error))}"
        ) from error


def _output_size(size: Size, fit: Size | None) -> Size:
    """Return the size of the output: reduced to fit, never enlarged."""
    if fit is None or (size.height <= fit.height and size.width <= fit.width):
        return size
    share = min(fit.height / size.height, fit.width / size.width)
    return Size(max(1, round(size.height * share)), max(1, round(size.width * share)))


@dataclass(frozen=True)
class _Read:
    """A frame to be computed."""

    rgb: np.ndarray
    time: int
    duration: int
    begins_scene: bool


@dataclass(frozen=True)
class _Computed:
    """A frame to be encoded; ``state`` is of the last frame of a segment."""

    rgb: np.ndarray
    time: int
    duration: int
    state: Remembered | None


@dataclass
class _Run:
    """The frames that are still to be computed."""

    plan: SegmentPlan
    upscaler: Upscaler
    unfinished: Unfinished
    broken: int = 0
    """Packets that could not be decoded."""
    _segment: Segment | None = None

    def all(self) -> None:
        """Compute all frames but the first ones, which are finished."""
        total = self.plan.facts.count
        if skipped := self.unfinished.frames:
            self.upscaler.restore(self.unfinished.state())
        count = total - skipped if total else None
        with (
            step(f"upscaling {self.plan.source.name}", count, "frames"),
            closing(read_ahead(self._read(skipped), AHEAD)) as frames,
            WriteBehind(self._write, AHEAD) as written,
            closing(in_order(self._computed, frames, self.upscaler.at_once)) as computed,
        ):
            for number, (frame, output) in enumerate(computed, skipped + 1):
                advance()
                is_last = number % self.plan.frames == 0
                state = self.upscaler.state() if is_last else None
                written.put(_Computed(output, frame.time, frame.duration, state))
        if self._segment:
            self.unfinished.add(self._segment, {})  # no frame follows that needs a state

    def _computed(self, frame: _Read) -> np.ndarray:
        if frame.begins_scene and self.upscaler.reset:
            self.upscaler.reset()
        return self.upscaler.compute(frame.rgb)

    def _read(self, skipped: int) -> Iterator[_Read]:
        """Yield the frames after the skipped ones. Scenes are looked for in all of them, if they matter."""
        cuts, coding = CutFinder() if self.upscaler.reset else None, self.plan.facts.coding
        frames = frames_of(self.plan.source, self.plan.facts, self._count_broken)
        for number, timed in enumerate(frames):
            begins_scene = cuts is not None and cuts.begins(
                planes_in(timed.frame, coding)[0], coding.bits
            )
            if number >= skipped:
                yield _Read(to_rgb(timed.frame, coding), timed.time, timed.duration, begins_scene)

    def _count_broken(self) -> None:
        self.broken += 1

    def _write(self, frame: _Computed) -> None:
        """Encode a frame; at the end of a segment, keep it."""
        plan = self.plan
        if self._segment is None:
            path = self.unfinished.create_path()
            self._segment = Segment.create(path, plan.encoding, plan.facts)
        encoded = encodable(frame.rgb, plan.size, plan.encoding)
        self._segment.write(encoded, frame.time, frame.duration)
        if frame.state is not None:
            self.unfinished.add(self._segment, frame.state)
            self._segment = None
