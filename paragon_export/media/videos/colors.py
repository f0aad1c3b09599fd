"""Colors: planes of luma and chroma to RGB and back, by matrix, range, depth and sampling.

Computed in float32. FFmpeg's own conversion to float and back is off by half a level in the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RGB, BT709, UNSPECIFIED, BT470BG, BT601, BT2020 = 0, 1, 2, 5, 6, 9
"""Numbers of matrices (ITU-T H.273, table 4)."""

LUMA_WEIGHTS = {
    BT709: (0.2126, 0.0722),
    4: (0.30, 0.11),
    BT470BG: (0.299, 0.114),
    BT601: (0.299, 0.114),
    7: (0.212, 0.087),
    BT2020: (0.2627, 0.0593),
}
"""Weights of red and blue in luma, by number of the matrix (ITU-T H.273, table 4)."""

BLOCK_ROWS = 128
"""Rows that are converted at a time, an even number: they stay in the processor's cache."""


@dataclass(frozen=True)
class Coding:
    """How the samples of a video stand for colors."""

    matrix: int
    """A key of ``LUMA_WEIGHTS``, or ``RGB``: the planes are green, blue and red."""
    is_full: bool
    """Whether black and white are the least and the largest value; else 16 and 235 of 8 bits."""
    bits: int = 8
    across: int = 2
    """Columns that share a chroma sample."""
    down: int = 2
    """Rows that share a chroma sample."""
    is_centered: bool = False
    """Whether a chroma sample lies amid its columns (JPEG, MPEG-1); else on the first of them."""


def rgb_of(planes: Sequence[np.ndarray], coding: Coding) -> np.ndarray:
    """Return a frame as RGB.

    Args:
        planes: Luma (H, W), and two of chroma, (ceil(H / down), ceil(W / across)), integers; luma alone
            is gray; or green, blue and red.
        coding: What they stand for.

    Returns:
        (1, 3, H, W), float32, clipped to [0, 1].
    """
    height, width = planes[0].shape
    samples = np.empty((3, height, width), np.float32)
    samples[0] = planes[0]
    for sample, plane in zip(samples[1:], planes[1:], strict=False):
        sample[:] = _enlarged(plane, coding, height, width)
    if len(planes) == 1:
        samples[1:] = 2 ** (coding.bits - 1)
    for top in range(0, height, BLOCK_ROWS):
        rows = samples[:, top : top + BLOCK_ROWS]
        np.clip(_mixed(rows, *_from_samples(coding)), 0, 1, out=rows)
    return samples[None]


def planes_of(rgb: np.ndarray, coding: Coding) -> list[np.ndarray]:
    """Return a frame as planes; the inverse of ``rgb_of``.

    Args:
        rgb: (1, 3, H, W), float32; clipped to [0, 1]. Gray, (1, 1, H, W), is taken as RGB.
        coding: What the planes stand for. ``across`` and ``down`` are 1 or 2 and divide W and H.

    Returns:
        Three planes, uint8 or, above 8 bits, uint16.
    """
    height, width = rgb.shape[2:]
    matrix, offset = _from_samples(coding)
    inverse = np.linalg.inv(matrix)
    dtype, largest = np.uint8 if coding.bits == 8 else np.uint16, 2**coding.bits - 1
    planes = [np.empty((height, width), dtype)]
    planes += [np.empty((height // coding.down, width // coding.across), dtype) for _ in range(2)]
    for top in range(0, height, BLOCK_ROWS):
        colors = np.clip(rgb[0, :, top : top + BLOCK_ROWS], 0, 1)
        luma, *chroma = _mixed(
            np.broadcast_to(colors, (3, *colors.shape[1:])), inverse, -inverse @ offset
        )
        samples = [luma, *(_shrunk(plane, coding) for plane in chroma)]
        for plane, sample, down in zip(planes, samples, (1, coding.down, coding.down), strict=True):
            np.rint(sample, out=sample)
            if coding.is_full:  # else no color is near the ends
                np.clip(sample, 0, largest, out=sample)
            plane[top // down :][: len(sample)] = sample
    return planes


def _from_samples(coding: Coding) -> tuple[np.ndarray, np.ndarray]:
    """Return matrix (3, 3) and offset (3,) that take samples to RGB (ITU-T H.273, 8.3)."""
    top, step = 2**coding.bits - 1, 2 ** (coding.bits - 8)
    luma, chroma, black = (1 / top, 1 / top, 0) if coding.is_full else (
        1 / (219 * step), 1 / (224 * step), 16 * step)  # fmt: skip
    if coding.matrix == RGB:
        matrix = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]]) * luma  # from green, blue, red
        offset = matrix.sum(axis=1) * -black
    else:
        red, blue = LUMA_WEIGHTS[coding.matrix]
        green = 1 - red - blue
        to_blue, to_red = 2 * (1 - blue), 2 * (1 - red)
        matrix = np.array(
            [
                [1, 0, to_red],
                [1, -blue * to_blue / green, -red * to_red / green],
                [1, to_blue, 0],
            ]
        ) * [luma, chroma, chroma]
        offset = matrix @ -np.array([black, 128 * step, 128 * step])
    return matrix, offset


def _mixed(planes: np.ndarray, matrix: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Return ``matrix @ planes + offset`` of three planes, (3, H, W).

    Without BLAS, whose threads wait busily for one another while the network needs the cores.
    """
    mixed, part = np.empty(planes.shape, np.float32), np.empty(planes.shape[1:], np.float32)
    weights, shifts = matrix.astype(np.float32), offset.astype(np.float32)
    for target, row, shift in zip(mixed, weights, shifts, strict=True):
        np.multiply(planes[0], row[0], out=target)
        for plane, weight in zip(planes[1:], row[1:], strict=True):
            if weight:
                target += np.multiply(plane, weight, out=part)
        target += shift
    return mixed


def _enlarged(plane: np.ndarray, coding: Coding, height: int, width: int) -> np.ndarray:
    """Interpolate a plane of chroma linearly to (height, width)."""
    rows = _stretched(plane.astype(np.float32), coding.down, height, 0, is_centered=True)
    return _stretched(rows, coding.across, width, 1, is_centered=coding.is_centered)


def _stretched(
    plane: np.ndarray, factor: int, extent: int, axis: int, *, is_centered: bool
) -> np.ndarray:
    """Interpolate linearly along one axis; the first and the last value are repeated outwards."""
    if factor == 1:
        return plane
    shape = list(plane.shape)
    shape[axis] = extent
    padded = np.pad(plane, [(int(axis == 0),) * 2, (int(axis == 1),) * 2], mode="edge")
    padded, stretched = np.moveaxis(padded, axis, 0), np.empty(shape, np.float32)
    target = np.moveaxis(stretched, axis, 0)
    for phase in range(factor):
        place = (phase - (factor - 1) / 2 if is_centered else phase) / factor
        first = int(np.floor(place))
        share, count = np.float32(place - first), len(target[phase::factor])
        before, after = (padded[1 + first + k : 1 + first + k + count] for k in (0, 1))
        target[phase::factor] = before + share * (after - before)
    return stretched


def _shrunk(plane: np.ndarray, coding: Coding) -> np.ndarray:
    """Reduce a plane to chroma samples: means of two rows, and of two columns or 1-2-1 of three."""
    if coding.down == 2:
        plane = plane[::2] + plane[1::2]
    weight = np.float32(1 / coding.down)
    if coding.across == 1:
        return plane * weight
    even, odd = plane[:, ::2], plane[:, 1::2]
    if coding.is_centered:
        return (even + odd) * (weight / 2)
    shrunk = np.empty(odd.shape, np.float32)
    np.add(even[:, :1], odd[:, :1], out=shrunk[:, :1])
    np.add(odd[:, :-1], odd[:, 1:], out=shrunk[:, 1:])
    shrunk += even * np.float32(2)
    shrunk *= weight / 4
    return shrunk
