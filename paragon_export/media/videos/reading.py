"""Reading: a video file, and its frames with their times."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from paragon_export.errors import PlanError
from paragon_export.media.videos.frames import coding_of
from paragon_export.system.optional import require
from paragon_export.system.text import one_line

if TYPE_CHECKING:
    from av.container.input import InputContainer
    from av.stream import Stream
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from paragon_export.media.videos.colors import Coding

USUAL_RATE = Fraction(25)
"""Frames a second of a file that states none."""

HDR_METADATA = (
    "MASTERING_DISPLAY_METADATA",
    "CONTENT_LIGHT_LEVEL",
    "DYNAMIC_HDR_PLUS",
    "DOVI_METADATA",
)
"""Metadata of frames for HDR displays, by PyAV's names."""


@dataclass(frozen=True)
class Facts:
    """What a video file says about its frames."""

    height: int
    width: int
    coding: Coding
    primaries: int
    transfer: int
    """Numbers of ITU-T H.273, tables 2 and 3."""
    rate: Fraction
    """Frames a second in the mean."""
    time_base: Fraction
    """Seconds of one unit of time."""
    aspect: Fraction | None
    """Width of a pixel divided by its height; None: not stated."""
    rotation: int
    """Degrees that players turn the frames by, as FFmpeg counts them."""
    count: int | None
    """Number of frames, if the file tells it."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class TimedFrame:
    """A decoded frame with its time and duration, in units of ``Facts.time_base``."""

    frame: VideoFrame
    time: int
    duration: int


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Name the file that FFmpeg cannot read in the block.

    Raises:
        PlanError: Instead of FFmpeg's error.
    """
    try:
        yield
    except require("av", "video").error.FFmpegError as error:
        raise PlanError(f"cannot read {path}: {one_line(error.strerror or str(error))}") from error


def url_of(path: Path) -> str:
    """Return a path as FFmpeg takes it: one with a colon would else name a protocol."""
    return f"file:{path}"


@contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """Open a media file; close it at the end.

    Raises:
        PlanError: If it cannot be opened, is empty, or is no regular file: a pipe might never end.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise PlanError(f"cannot read {path}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode) or not status.st_size:
        found = "it is empty" if stat.S_ISREG(status.st_mode) else "it is no regular file"
        raise PlanError(f"cannot read {path}: {found}")
    with readable(path):
        container = require("av", "video").open(url_of(path))
    with container:
        yield container


def main_stream(container: InputContainer, path: Path) -> VideoStream:
    """Return the first stream of frames that is no cover picture.

    Raises:
        PlanError: If there is none.
    """
    for stream in container.streams.video:
        if not is_cover(stream):
            return stream
    raise PlanError(f"{path} holds no video")


def is_cover(stream: Stream) -> bool:
    """Return whether a stream is a picture beside the video."""
    return "attached_pic" in (stream.disposition.name or "")


def facts_of(path: Path) -> Facts:
    """Read what a video says about its frames, from its first frame.

    Raises:
        PlanError: If it cannot be read, or its colors are not supported.
    """
    with opened(path) as container, readable(path):
        stream = main_stream(container, path)
        frame = next(_decoded(container, stream), None)
        if frame is None:
            raise PlanError(f"cannot read {path}: it holds no frame")
        try:
            coding, notes = coding_of(frame, stream.codec_context.name)
        except PlanError as error:
            raise PlanError(f"{path}: {error}") from error
        if frame.interlaced_frame:
            notes.append("the frames are interlaced, and were taken as they are")
        if any(frame.side_data.get(name) for name in HDR_METADATA):
            notes.append("metadata of HDR displays are left out")
        rate = stream.average_rate or stream.guessed_rate or USUAL_RATE
        aspect = stream.sample_aspect_ratio
        return Facts(
            height=frame.height, width=frame.width, coding=coding, primaries=frame.color_primaries,
            transfer=frame.color_trc, rate=rate, time_base=stream.time_base or 1 / rate,
            aspect=aspect if aspect and aspect != 1 else None, rotation=frame.rotation,
            count=_count(container, stream, rate), notes=tuple(notes),
        )  # fmt: skip


def _count(container: InputContainer, stream: VideoStream, rate: Fraction) -> int | None:
    """Return the number of frames: as stated, or by the duration."""
    if stream.frames:
        return stream.frames
    if stream.duration and stream.time_base:
        return round(stream.duration * stream.time_base * rate)
    return round(Fraction(container.duration, 10**6) * rate) if container.duration else None


def _decoded(
    container: InputContainer, stream: VideoStream, on_broken: Callable[[], None] = lambda: None
) -> Iterator[VideoFrame]:
    """Yield the frames that can be decoded; recordings may begin amid a group of frames."""
    broken = require("av", "video").error.InvalidDataError
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except broken:
            on_broken()
        else:
            yield from frames


def frames_of(path: Path, facts: Facts, on_broken: Callable[[], None]) -> Iterator[TimedFrame]:
    """Yield the frames of a video in the order of their times.

    Args:
        path: Video file.
        facts: What ``facts_of`` returned.
        on_broken: Called for each packet that cannot be decoded; the frames after it go on.

    Raises:
        PlanError: If the file cannot be read, or a frame has another size than the first one.
    """
    usual = max(1, round(1 / (facts.rate * facts.time_base)))
    latest: TimedFrame | None = None
    with opened(path) as container, readable(path):
        stream = main_stream(container, path)
        stream.thread_type = "AUTO"
        for number, frame in enumerate(_decoded(container, stream, on_broken)):
            if (frame.height, frame.width) != (facts.height, facts.width):
                raise PlanError(
                    f"{path} is not read: frame {number} is {frame.height}x{frame.width}, the first one "
                    f"{facts.height}x{facts.width}"
                )
            after = latest.time + latest.duration if latest else 0
            time = after if frame.pts is None else frame.pts
            if latest and time <= latest.time:  # a broken file; no two frames have one time
                time = latest.time + 1
            latest = TimedFrame(frame, time, frame.duration or usual)
            yield latest
