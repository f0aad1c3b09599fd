"""Frames: what PyAV decodes and encodes, as RGB."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from paragon_export.errors import PlanError
from paragon_export.media.videos.colors import (
    BT601,
    BT709,
    LUMA_WEIGHTS,
    RGB,
    UNSPECIFIED,
    Coding,
    planes_of,
    rgb_of,
)
from paragon_export.system.optional import require

if TYPE_CHECKING:
    from av.video.format import VideoFormat
    from av.video.frame import VideoFrame

UNSPECIFIED_RANGE, FULL_RANGE = 0, 2
"""PyAV's numbers for them."""

HD_HEIGHT, HD_WIDTH = 720, 1280
"""From this size on, a video that states no matrix is taken as BT.709, as players do."""

CENTERED_CODECS = ("mjpeg", "mpeg1video")
"""Codecs whose chroma samples lie amid their columns."""


def coding_of(frame: VideoFrame, codec: str) -> tuple[Coding, list[str]]:
    """Return how a decoded frame stands for colors, and what was assumed or converted.

    Raises:
        PlanError: If its matrix is none of BT.601, BT.709, BT.2020 and the like.
    """
    notes: list[str] = []
    chosen = frame.format
    colors = [component for component in chosen.components if not component.is_alpha]
    if len(colors) < len(chosen.components):
        notes.append("transparency is left out")
    matrix = RGB if chosen.is_rgb or chosen.has_palette else frame.colorspace
    if matrix == UNSPECIFIED or (matrix == RGB and not chosen.is_rgb and not chosen.has_palette):
        is_hd = frame.height >= HD_HEIGHT or frame.width >= HD_WIDTH
        matrix = BT709 if is_hd else BT601
        if len(colors) > 1:
            notes.append(
                f"no color matrix is stated; {'BT.709' if is_hd else 'BT.601'} by the size"
            )
    if matrix != RGB and matrix not in LUMA_WEIGHTS:
        raise PlanError(
            f"the color matrix is number {matrix} of ITU-T H.273; BT.601, BT.709 and BT.2020 are supported"
        )
    is_full = matrix == RGB or frame.color_range == FULL_RANGE or chosen.name.startswith("yuvj")
    if len(colors) == 1 and matrix != RGB and frame.color_range == UNSPECIFIED_RANGE:
        is_full = True
        notes.append("no range is stated; full, as FFmpeg writes gray")
    bits = 8 if chosen.has_palette else max(8, *(component.bits for component in colors))
    across, down = (1, 1) if matrix == RGB else _sampling(frame)
    return Coding(matrix, is_full, bits, across, down, codec in CENTERED_CODECS), notes


def _sampling(frame: VideoFrame) -> tuple[int, int]:
    """Return how many columns and rows share a chroma sample."""
    chroma = [one for one in frame.format.components if one.is_chroma]
    if not chroma:
        return 1, 1
    width, height = chroma[0].width, chroma[0].height
    return -(-frame.width // width), -(-frame.height // height)


def to_rgb(frame: VideoFrame, coding: Coding) -> np.ndarray:
    """Return a decoded frame as (1, 3, H, W), float32 in [0, 1]."""
    return rgb_of(planes_in(frame, coding), coding)


def planes_in(frame: VideoFrame, coding: Coding) -> list[np.ndarray]:
    """Return the planes of a decoded frame without alpha, as views of integers."""
    colors = [one for one in frame.format.components if not one.is_alpha]
    if not _is_plain(frame.format):
        # Several threads of libswscale 9.5 now and then leave rows of chroma out.
        frame = frame.reformat(format=_plain_name(coding, is_gray=len(colors) == 1), threads=1)
        colors = [one for one in frame.format.components if not one.is_alpha]
    dtype = np.dtype("u1" if colors[0].bits == 8 else "<u2")
    planes = []
    for component, plane in zip(colors, frame.planes, strict=False):
        rows = np.frombuffer(memoryview(plane), dtype).reshape(
            plane.height, plane.line_size // dtype.itemsize
        )
        planes.append(rows[: component.height, : component.width])
    return planes


def _is_plain(chosen: VideoFormat) -> bool:
    """Return whether each component is a plane of its own, of integers in this machine's order."""
    planes = [component.plane for component in chosen.components]
    is_own = len(set(planes)) == len(planes) and not chosen.has_palette
    return (
        is_own and not chosen.is_big_endian and not chosen.is_bit_stream and "f" not in chosen.name
    )


def _plain_name(coding: Coding, *, is_gray: bool) -> str:
    """Return the format with the same samples, each component in a plane."""
    depth = "" if coding.bits == 8 else f"{coding.bits}le"
    if coding.matrix == RGB:
        return "gbrp" + depth
    if is_gray:
        return "gray" + depth
    return f"yuv4{4 // coding.across}{4 // coding.across if coding.down == 1 else 0}p{depth}"


def to_frame(rgb: np.ndarray, coding: Coding, pixel_format: str) -> VideoFrame:
    """Return RGB, (1, 3, H, W), as a frame to be encoded."""
    av = require("av", "video")
    frame = av.VideoFrame(rgb.shape[3], rgb.shape[2], pixel_format)
    for plane, samples in zip(frame.planes, planes_of(rgb, coding), strict=True):
        rows = np.frombuffer(memoryview(plane), samples.dtype).reshape(len(samples), -1)
        rows[:, : samples.shape[1]] = samples
    return frame
