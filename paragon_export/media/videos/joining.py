"""Joining: segments become one stream, beside everything else that the source holds."""

from __future__ import annotations

import heapq
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paragon_export.errors import PlanError
from paragon_export.media.videos.reading import (
    Facts,
    is_cover,
    main_stream,
    opened,
    readable,
    url_of,
)
from paragon_export.media.videos.writing import FORMATS, Encoding, describe_colors
from paragon_export.system.optional import require

if TYPE_CHECKING:
    from av.container.input import InputContainer
    from av.container.output import OutputContainer
    from av.stream import Stream

CLOCK_FORMATS = ("mpegts", "mpeg")
"""Formats whose times are those of a sender's clock. They are counted from the start of the file."""

MOVIE_FORMATS = ("mp4", "mov")

WITH_ATTACHMENTS = "matroska"
"""The format whose cover pictures are attached files. As a stream it holds few kinds of them."""

SUFFIX_OF_JPEG = {"mjpeg": "jpeg"}
"""Names of files of a picture codec, where they are not that of the codec."""

OF_THE_FILE = ("major_brand", "minor_version", "compatible_brands", "encoder")
"""Metadata that tell how the file itself was written."""

Entry = tuple[Fraction, int, Any]
"""Second at which a packet is decoded, number of its stream, and the packet."""


@dataclass(frozen=True)
class Part:
    """A segment that is written; see ``Segment``."""

    path: Path
    times: Sequence[tuple[int, int]]
    order: Sequence[int]


def join(
    parts: Sequence[Part], source: Path, facts: Facts, encoding: Encoding, output: Path
) -> None:
    """Write the output: the encoded frames; sound, subtitles, chapters and metadata as they are.

    Args:
        parts: Encoded frames, in order.
        source: Where everything else is copied from.
        facts: What the source says about its frames.
        encoding: How the frames were encoded.
        output: The file to be written, a new one.

    Raises:
        PlanError: If the source cannot be read.
    """
    kind = FORMATS[output.suffix.lower()]
    with ExitStack() as stack:
        container = stack.enter_context(opened(source))
        first = stack.enter_context(opened(parts[0].path)).streams.video[0]
        written = stack.enter_context(_created(output, kind))
        main = main_stream(container, source)
        copies = {
            stream.index: _copy(written, stream, first if stream is main else stream)
            for stream in container.streams
            if is_copied(stream, main) and not _is_attached(stream, kind)
        }
        frames = copies.pop(main.index)
        _describe_frames(frames, encoding, facts)
        _copy_descriptions(container, written)
        _attach_covers(source, written, kind)
        shift = _shift(container)
        entries = heapq.merge(
            _frames(parts, frames, facts.time_base, shift),
            _others(container, source, copies, shift),
            key=lambda entry: entry[:2],
        )
        for _, _, packet in entries:
            written.mux_one(packet)


def _created(output: Path, kind: str) -> OutputContainer:
    """Create a file of a format, with options with which equal contents are equal bytes."""
    options = {"movflags": "+faststart"} if kind in MOVIE_FORMATS else {"fflags": "+bitexact"}
    created: OutputContainer = require("av", "video").open(
        url_of(output), "w", format=kind, options=options
    )
    return created


def left_out(container: InputContainer, source: Path, suffix: str) -> list[str]:
    """Return notes of streams that are not copied.

    Raises:
        PlanError: If files of this suffix do not hold a stream that would be copied.
    """
    main = main_stream(container, source)
    notes = []
    for stream in container.streams:
        if stream is main or stream.type == "attachment":
            continue
        if _is_attached(stream, FORMATS[suffix]):
            continue
        if is_copied(stream, main):
            _check_held(stream, source, suffix)
        elif stream.type == "video":
            notes.append("the second video in the file is left out")
    return notes


def _check_held(stream: Stream, source: Path, suffix: str) -> None:
    """Check that files of a suffix hold a stream.

    Raises:
        PlanError: If they do not; it names those that do.
    """
    codec = stream.codec_context.codec if stream.codec_context else None
    name = codec.name if codec else None
    if name in _codecs_in(suffix):
        return
    others = [other for other in FORMATS if other != suffix and name in _codecs_in(other)]
    advice = (
        f"write a {others[0]} file"
        if others
        else "no format that is written does; convert it first"
    )
    what = codec.canonical_name if codec else "an unknown codec"
    raise PlanError(
        f"{source} holds {stream.type} in {what}, which {suffix} files do not; {advice}"
    )


@cache
def _codecs_in(suffix: str) -> frozenset[str]:
    """Return the codecs that files of a suffix hold, by the names of their decoders and encoders."""
    with require("av", "video").open(io.BytesIO(), "w", format=FORMATS[suffix]) as container:
        return frozenset(container.supported_codecs)


def is_copied(stream: Stream, main: Stream) -> bool:
    """Return whether a stream appears in the output."""
    if stream.type == "video":
        return stream is main or is_cover(stream)
    return stream.type in ("audio", "subtitle")


def _copy(written: OutputContainer, stream: Stream, template: Stream) -> Any:
    """Add a stream like the template, with the description of ``stream``."""
    copy: Any = written.add_stream_from_template(template, opaque=True)
    copy.metadata.update(stream.metadata)
    copy.disposition = stream.disposition
    return copy


def _describe_frames(stream: Any, encoding: Encoding, facts: Facts) -> None:
    """State the unit of times, the meaning of colors and how frames are turned."""
    stream.time_base = facts.time_base
    describe_colors(stream.codec_context, encoding, facts)
    if facts.rotation:
        stream.set_display_rotation(facts.rotation)


def _copy_descriptions(container: InputContainer, written: OutputContainer) -> None:
    """Copy title, chapters and attached files."""
    written.metadata.update(
        {k: v for k, v in container.metadata.items() if k.lower() not in OF_THE_FILE}
    )
    if chapters := container.chapters():
        written.set_chapters(chapters)
    stream: Any
    for stream in container.streams:
        if stream.type == "attachment":
            written.add_attachment(stream.name or "file", stream.mimetype, stream.data)


def _is_attached(stream: Stream, kind: str) -> bool:
    """Return whether a stream is a cover picture that becomes an attached file."""
    return kind == WITH_ATTACHMENTS and is_cover(stream)


def _attach_covers(source: Path, written: OutputContainer, kind: str) -> None:
    """Copy cover pictures as attached files, in the format that has them."""
    with opened(source) as container, readable(source):
        for stream in container.streams.video:
            if not _is_attached(stream, kind):
                continue
            codec = stream.codec_context.codec.canonical_name
            name = SUFFIX_OF_JPEG.get(codec, codec)
            picture = next(packet for packet in container.demux(stream) if packet.size)
            written.add_attachment(
                stream.metadata.get("filename", f"cover.{name}"),
                stream.metadata.get("mimetype", f"image/{name}"),
                bytes(picture),
            )


def _shift(container: InputContainer) -> Fraction:
    """Return the seconds that are subtracted from all times."""
    is_clock = any(name in CLOCK_FORMATS for name in container.format.name.split(","))
    return Fraction(container.start_time or 0, 10**6) if is_clock else Fraction(0)


def _frames(parts: Sequence[Part], stream: Any, unit: Fraction, shift: Fraction) -> Iterator[Entry]:
    """Yield the packets of the frames with their times."""
    moved = round(shift / unit)
    decoded = iter(decode_times(parts))
    for part in parts:
        with opened(part.path) as container:
            packets = (packet for packet in container.demux(video=0) if packet.size)
            for packet, place in zip(packets, part.order, strict=True):
                time, packet.duration = part.times[place]
                packet.pts, packet.dts = time - moved, next(decoded) - moved
                packet.stream, packet.time_base = stream, unit
                yield packet.dts * unit, stream.index, packet


def decode_times(parts: Sequence[Part]) -> list[int]:
    """Return when each packet is decoded: times that grow, none later than the frame is shown.

    The packet number i of all is decoded at the time of frame i - d, where d is the least number with
    which no frame is late; the first d packets before all frames.
    """
    times = [time for part in parts for time, _ in part.times]
    delay = max(number - place for part in parts for number, place in enumerate(part.order))
    step = times[1] - times[0] if len(times) > 1 else 1
    early = [times[0] - step * number for number in range(delay, 0, -1)]
    return early + times[: len(times) - delay]


def _others(
    container: InputContainer, source: Path, copies: Mapping[int, Any], shift: Fraction
) -> Iterator[Entry]:
    """Yield the packets that are copied."""
    wanted = [container.streams[index] for index in copies]
    latest = Fraction(0)
    with readable(source):
        for packet in container.demux(wanted) if wanted else ():
            if not packet.size:
                continue
            moved = round(shift / packet.time_base)
            if packet.pts is not None:
                packet.pts -= moved
            if packet.dts is not None:
                packet.dts -= moved
                latest = packet.dts * packet.time_base
            packet.stream = copies[packet.stream.index]
            yield latest, packet.stream.index, packet
