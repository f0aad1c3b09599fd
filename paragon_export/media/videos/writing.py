"""Writing: frames are encoded in segments, each a file of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paragon_export.errors import PlanError
from paragon_export.media.videos.colors import BT709, RGB, Coding
from paragon_export.media.videos.reading import Facts, url_of
from paragon_export.specs.types import Size
from paragon_export.system.optional import require

if TYPE_CHECKING:
    from av.container.output import OutputContainer
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

FORMATS = {".mkv": "matroska", ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".webm": "webm"}
"""Formats of files that are written, by suffix, as FFmpeg calls them."""

CODECS_OF = {
    "matroska": ("h264", "hevc", "vp9", "ffv1"),
    "mp4": ("h264", "hevc"),
    "mov": ("h264", "hevc"),
    "webm": ("vp9",),
}
"""Codecs of frames that are written, by format."""

WORST = 51
"""Largest factor of quantization of H.264 and HEVC; 0 is lossless."""

VP9_WORST = 63

MIN_HEVC_PX = 64
"""Least width and height. libx265 4.2 writes beyond its memory for frames of 48x32 and 40x128."""

GLOBAL_HEADER = 1 << 22
"""Flag of FFmpeg: parameters of the codec are stored once, not in each keyframe."""

MAX_THREADS = 16
"""Threads of an encoder. Their number changes what H.264 encoders write."""


@dataclass(frozen=True)
class Codec:
    """An encoder of FFmpeg with its options."""

    encoder: str
    options: Mapping[str, str]
    default_quality: int
    worst: int = WORST


CODECS = {
    "h264": Codec("libx264", {"preset": "fast"}, 68),
    "hevc": Codec("libx265", {"preset": "fast", "x265-params": "log-level=none"}, 65),
    "vp9": Codec(
        "libvpx-vp9", {"b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}, 65, VP9_WORST
    ),
    "ffv1": Codec("ffv1", {"level": "3", "slicecrc": "1"}, 100, 0),
}


@dataclass(frozen=True)
class Encoding:
    """How the frames of an output are encoded."""

    codec: str
    quality: int
    size: Size
    coding: Coding
    pixel_format: str
    threads: int = field(default_factory=lambda: min(os.cpu_count() or 1, MAX_THREADS))


def encoding_for(
    facts: Facts, size: Size, suffix: str, codec: str | None, quality: int | None
) -> tuple[Encoding, list[str]]:
    """Choose how frames are encoded, and say what is converted.

    Depth and sampling of chroma are those of the input, where the encoder takes them. 10 bits become HEVC, 8 bits
    H.264.

    Raises:
        PlanError: If files of this suffix do not hold the codec.
    """
    notes = []
    source = facts.coding
    bits = 8 if source.bits == 8 else 10
    if source.bits > 10:
        notes.append(f"{source.bits} bits were converted to 10")
    across, down = source.across, source.down
    if (across, down) not in ((1, 1), (2, 1)):
        across, down = 2, 2
    matrix, is_full = source.matrix, source.is_full
    if matrix == RGB:
        matrix, is_full = BT709, False
        notes.append("RGB was converted to 4:4:4 of BT.709")
    if (cut := _cut(size, across, down)) != size:
        notes.append(f"cut to {cut}: shared chroma samples need even sizes")
        size = cut
    chosen = _codec_for(size, suffix, codec, bits)
    sampling = {(1, 1): "444", (2, 1): "422", (2, 2): "420"}[across, down]
    name = f"yuv{sampling}p{'' if bits == 8 else '10le'}"
    if bits > 8 and name not in _formats_of(CODECS[chosen].encoder):
        notes.append(f"{bits} bits were converted to 8: this encoder of {chosen} takes no more")
        bits, name = 8, f"yuv{sampling}p"
    coding = Coding(matrix, is_full, bits, across, down)
    wanted = CODECS[chosen].default_quality if quality is None else quality
    return Encoding(chosen, wanted, size, coding, name), notes


def _codec_for(size: Size, suffix: str, codec: str | None, bits: int) -> str:
    """Return the codec that was asked for, or the usual one.

    Raises:
        PlanError: If it does not take the size, or files of this suffix do not hold it.
    """
    is_small = min(size.height, size.width) < MIN_HEVC_PX
    chosen = codec or ("vp9" if suffix == ".webm" else "h264" if bits == 8 or is_small else "hevc")
    if chosen == "hevc" and is_small:
        raise PlanError(
            f"{size} is too small for HEVC, which takes {MIN_HEVC_PX}x{MIN_HEVC_PX}; use h264"
        )
    if chosen not in (held := CODECS_OF[FORMATS[suffix]]):
        raise PlanError(f"frames in {suffix} files are coded as {', '.join(held)}, not as {chosen}")
    return chosen


def _cut(size: Size, across: int, down: int) -> Size:
    """Return the largest size of whole chroma samples, as ``Coding`` has them.

    Raises:
        PlanError: If there is none.
    """
    if size.height < down or size.width < across:
        raise PlanError(f"{size} is too small: {down}x{across} pixels share a chroma sample")
    return Size(size.height - size.height % down, size.width - size.width % across)


def _formats_of(encoder: str) -> set[str]:
    """Return the pixel formats that an encoder takes."""
    return {one.name for one in require("av", "video").Codec(encoder, "w").video_formats or ()}


@dataclass
class Segment:
    """One segment that is being written: a file of frames that are encoded without those before.

    The file does not keep times. ``times`` does, in the order of showing; ``order`` has the place in
    that order of each packet in the file.
    """

    container: OutputContainer
    stream: VideoStream
    times: list[tuple[int, int]] = field(default_factory=list)
    """Time and duration of each frame, in units of ``Facts.time_base``."""
    _encoded: list[int] = field(default_factory=list)

    @classmethod
    def create(cls, path: Path, encoding: Encoding, facts: Facts) -> Segment:
        """Create the file."""
        container = require("av", "video").open(url_of(path), "w", format="nut")
        return cls(container, _add_stream(container, encoding, facts))

    def write(self, frame: VideoFrame, time: int, duration: int) -> None:
        """Encode the next frame."""
        frame.pts, frame.duration = time, duration
        frame.time_base = self.stream.codec_context.time_base
        self.times.append((time, duration))
        self._mux(frame)

    def close(self) -> None:
        """Write what the encoder still holds, and end the file."""
        self._mux(None)
        self.container.close()

    @property
    def order(self) -> list[int]:
        """Place of each packet in the order of showing."""
        place = {time: number for number, time in enumerate(sorted(self._encoded))}
        return [place[time] for time in self._encoded]

    def _mux(self, frame: VideoFrame | None) -> None:
        for packet in self.stream.encode(frame):
            assert packet.pts is not None
            self._encoded.append(packet.pts)
            self.container.mux(packet)


def _add_stream(container: OutputContainer, encoding: Encoding, facts: Facts) -> VideoStream:
    codec = CODECS[encoding.codec]
    options = {**codec.options, **(_without_avx512() if codec.encoder == "libx264" else {})}
    if codec.worst:
        options["crf"] = str(round(codec.worst * (100 - encoding.quality) / 100))
    stream: Any = container.add_stream(codec.encoder, rate=facts.rate, options=options)
    stream.width, stream.height = encoding.size.width, encoding.size.height
    stream.pix_fmt = encoding.pixel_format
    stream.time_base = facts.time_base
    context = stream.codec_context
    context.time_base = facts.time_base
    context.thread_count = encoding.threads
    context.flags |= GLOBAL_HEADER
    describe_colors(context, encoding, facts)
    return stream


def _without_avx512() -> dict[str, str]:
    """Return options that keep libx264 from the processor's AVX-512.

    With it libx264 165 writes other bytes now and then, of the same frames and with one thread. The
    option is not given to processors without AVX-512: libx264 would use AVX2 even if they lack it.
    """
    core = getattr(np, "_core", None) or np.core
    has_avx512 = core._multiarray_umath.__cpu_features__.get("AVX512F", False)
    return {"x264-params": "asm=AVX2"} if has_avx512 else {}


def describe_colors(context: VideoCodecContext, encoding: Encoding, facts: Facts) -> None:
    """State the meaning of colors and the shape of pixels in a codec's context."""
    context.colorspace = encoding.coding.matrix
    context.color_range = 2 if encoding.coding.is_full else 1
    context.color_primaries, context.color_trc = facts.primaries, facts.transfer
    context.sample_aspect_ratio = facts.aspect or Fraction(1)
