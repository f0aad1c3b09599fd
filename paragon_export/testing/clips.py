"""Clips: short videos that tests and benchmarks make, with sound, subtitles and chapters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

TIME_BASE = Fraction(1, 15360)

SAMPLE_RATE = 48000

CHAPTERS: list[Any] = [
    {"id": 1, "start": 0, "end": 300, "time_base": Fraction(1, 1000), "metadata": {"title": "one"}},
    {
        "id": 2,
        "start": 300,
        "end": 600,
        "time_base": Fraction(1, 1000),
        "metadata": {"title": "two"},
    },
]

ATTACHMENT = ("font.ttf", "application/x-truetype-font", b"a font")


def write_clip(
    path: Path,
    frames: Iterable[Sequence[np.ndarray]],
    *,
    pixel_format: str = "yuv420p",
    codec: str = "ffv1",
    options: dict[str, str] | None = None,
    matrix: int = 1,
    is_full: bool = False,
    times: Sequence[int] | None = None,
    sound: str = "",
    extras: bool = False,
    rotation: int = 0,
) -> None:
    """Write a clip of 30 frames a second.

    Args:
        path: The file.
        frames: Planes of each frame, as the pixel format has them.
        pixel_format: As FFmpeg calls it.
        codec: An encoder of FFmpeg; the default one is lossless.
        options: Of the encoder.
        matrix: Number of the color matrix (ITU-T H.273), which is also that of primaries and transfer.
        is_full: Range of values.
        times: Of frames, in units of ``TIME_BASE``.
        sound: Encoder of a tone of one second in German; none if empty.
        extras: Add a title, chapters and, in Matroska, an attached file.
        rotation: Degrees that players turn the frames by.
    """
    with av.open(str(path), "w") as file:
        video: Any = None
        audio: Any = file.add_stream(sound, rate=SAMPLE_RATE) if sound else None
        if audio is not None:
            audio.metadata["language"] = "ger"
        if extras:
            file.metadata["title"] = "A title"
            file.set_chapters(CHAPTERS)
        if extras and path.suffix == ".mkv":
            file.add_attachment(*ATTACHMENT)
        for number, planes in enumerate(frames):
            height, width = planes[0].shape
            if video is None:
                video = _video(file, codec, pixel_format, (height, width), options)
                _state_colors(video.codec_context, matrix, is_full)
                if rotation:
                    video.set_display_rotation(rotation)
            frame = frame_of(planes, pixel_format, (height, width))
            _state_colors(frame, matrix, is_full)
            frame.pts, frame.time_base = (times[number] if times else 512 * number), TIME_BASE
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        if audio is not None:
            file.mux([packet for frame in _tone() for packet in audio.encode(frame)])
            file.mux(audio.encode(None))


def frame_of(
    planes: Sequence[np.ndarray], pixel_format: str, size: tuple[int, int]
) -> av.VideoFrame:
    """Return planes, or one plane of interleaved values, as a frame."""
    frame = av.VideoFrame(size[1], size[0], pixel_format)
    for target, plane in zip(frame.planes, planes, strict=True):
        rows = np.frombuffer(memoryview(target), plane.dtype).reshape(target.height, -1)
        rows[:, : plane.shape[1]] = plane
    return frame


def _video(
    file: Any, codec: str, pixel_format: str, size: tuple[int, int], options: dict[str, str] | None
) -> Any:
    video = file.add_stream(codec, rate=30, options=options or {})
    video.height, video.width = size
    video.pix_fmt = pixel_format
    video.time_base = video.codec_context.time_base = TIME_BASE
    return video


def _state_colors(target: Any, matrix: int, is_full: bool) -> None:
    target.colorspace = target.color_primaries = target.color_trc = matrix
    target.color_range = 2 if is_full else 1


def _tone() -> Iterable[av.AudioFrame]:
    """Yield one second of 440 Hz, stereo."""
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    tone = np.sin(2 * np.pi * 440 * time).astype(np.float32) * np.float32(0.1)
    for start in range(0, SAMPLE_RATE, 1000):
        block = np.stack([tone[start : start + 1000]] * 2)
        frame = av.AudioFrame.from_ndarray(block, "fltp", "stereo")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
        yield frame
