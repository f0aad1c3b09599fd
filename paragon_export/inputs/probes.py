"""Probes: the pictures that a candidate is judged on.

They cover sizes that no trace ever saw and contents that break half precision: a photograph,
noise, gradients, checkerboards and saturated colours.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from paragon_export.assets import photograph
from paragon_export.errors import PlanError
from paragon_export.specs.network import InputSpec
from paragon_export.specs.types import Size
from paragon_export.system.images import pictures_in, read_picture

PIXELS_PER_PROBE = 256
"""A probe holds at least so many pixels, in several pictures if it must: the largest rounding
error over a dozen values is a matter of luck."""

MAX_IMAGES = 16


NO_STATE = (float("nan"), float("inf"), float("-inf"), 6e4)
"""Numbers that a network must not look at where it starts afresh; the last is within float16."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Frames fed to a network one after the other."""

    label: str
    size: Size
    frames: tuple[np.ndarray, ...]
    """Each (N, C, H, W), float32, in [0, 1]."""
    blend: tuple[float, ...] = ()
    """For video: how much of the frame before enters each frame; 0 starts afresh."""
    state_is_broken: bool = False
    """For video: whether ``NO_STATE`` is fed as the state of the frame before wherever ``blend`` is
    0, in place of zeros or the network's own."""

    is_stress: bool = False
    """Whether the content is one that a network need not know; see ``report.DIVERGED``."""

    @property
    def batch(self) -> int:
        return int(self.frames[0].shape[0])


def default_sizes(window: int, smallest: int = 1) -> list[tuple[Size, int]]:
    """Return sizes and batches around a window: below, at, above, odd, portrait, batch 2.

    Extents below ``smallest``, at which the network is not defined, are brought up to it.
    """
    w = max(window if window > 1 else 16, smallest)
    sizes = [
        (Size(1, 1), 1),
        (Size(w // 2 + 1, w // 2 + 3), 1),
        (Size(w - 1, 2 * w - 1) if w > 1 else Size(2, 3), 1),
        (Size(w, 2 * w), 1),
        (Size(w + 1, 2 * w + 1), 1),
        (Size(2 * w + 5, 3 * w + 5), 2),
        (Size(3 * w, w + 5), 1),
    ]
    large_enough = [
        (Size(max(size.height, smallest), max(size.width, smallest)), batch)
        for size, batch in sizes
    ]
    return list(dict.fromkeys(large_enough))


def check_defined(sizes: Iterable[Size], smallest: int) -> None:
    """Refuse sizes at which a network is not defined.

    Raises:
        PlanError: Naming the first extent below ``smallest``.
    """
    for size in sizes:
        if min(size.height, size.width) < smallest:
            raise PlanError(
                f"size {size} is too small: the network is defined from {smallest}x{smallest} on"
            )


def choose_probes(
    spec: InputSpec,
    *,
    static: Size | None = None,
    video: bool = False,
    sizes: Sequence[Size] = (),
    images: Path | None = None,
) -> list[Probe]:
    """Return the probes for one candidate that takes images.

    Args:
        spec: What the network is fed; the attention window sets the default sizes.
        static: The only size that the candidate accepts, if it is not dynamic.
        video: Whether the candidate carries features from frame to frame.
        sizes: Sizes to use instead of the default ones.
        images: Folder of images to add.

    Raises:
        PlanError: If a static candidate is to be judged at another size, a folder of stills is
            to judge a video model, or the network is not defined at a size.
    """
    if static and any(size != static for size in sizes):
        raise PlanError(f"the model is fixed to {static}; it cannot be judged at other sizes")
    if images and (static or video):
        raise PlanError("--images is for still models with dynamic sizes")
    chosen = [(s, 1) for s in ([static] if static else sizes)]
    also = [(Size(*size), 1) for size in spec.also_probed]
    chosen = chosen or [*default_sizes(spec.window, spec.smallest), *also]
    check_defined((size for size, _ in chosen), spec.smallest)
    if video:
        return video_probes(spec.channels, chosen, batched=static is None)
    stills = still_probes(spec.channels, chosen, batched=static is None)
    pictures = folder_probes(spec.channels, images) if images else []
    check_defined((probe.size for probe in pictures), spec.smallest)
    return stills + pictures


def still_probes(
    channels: int, sizes: Sequence[tuple[Size, int]], *, batched: bool = True
) -> list[Probe]:
    """Make a photograph probe for each size and batch, and stress probes at all but tiny sizes.

    ``batched`` False feeds the pictures of a probe one at a time, for models of batch 1.
    """
    probes = []
    kinds = itertools.cycle(STRESS.items())
    for size, batch in sizes:
        few = _pictures_to_fill(size)
        count = max(batch, min(few, MAX_IMAGES))
        crops = np.stack([photograph_crop(channels, size, index) for index in range(count)])
        frames = (crops,) if batched else tuple(crops[:, None])
        probes.append(Probe(label="photograph", size=size, frames=frames))
        if few == 1 or len(sizes) == 1:
            kind, make = next(kinds)
            picture = make(channels, size)[None]
            probes.append(Probe(label=kind, size=size, frames=(picture,), is_stress=True))
    return probes


LARGE = Size(64, 96)
"""Of the largest photograph that ranges are measured on."""


def audit_probes(
    spec: InputSpec,
    *,
    static: Size | None = None,
    video: bool = False,
    images: Path | None = None,
) -> list[Probe]:
    """Return what the ranges of tensors are measured on; arguments as for ``choose_probes``.

    A photograph and every stress image at an odd size, just above the window; a larger
    photograph, and more at the sizes of ``spec.also_probed``; the images of a folder.

    Raises:
        PlanError: As ``choose_probes``.
    """
    if images and (static or video):
        raise PlanError("--images is for still models with dynamic sizes")
    channels, smallest = spec.channels, spec.smallest
    odd = static or default_sizes(spec.window, smallest)[-3][0]
    large = Size(max(LARGE.height, smallest), max(LARGE.width, smallest))
    larger = [] if static else [large, *(Size(*size) for size in spec.also_probed)]
    stills = {"photograph": photograph_crop, **STRESS, "flat": _flat}
    probes = [_still_or_clip(kind, make(channels, odd), video) for kind, make in stills.items()]
    probes += [
        _still_or_clip("photograph", photograph_crop(channels, size), video) for size in larger
    ]
    pictures = folder_probes(channels, images) if images else []
    check_defined((probe.size for probe in pictures), smallest)
    return probes + pictures


def _still_or_clip(kind: str, picture: np.ndarray, video: bool) -> Probe:
    """Feed a picture (C, H, W) once, or as a clip of two frames of which one is mirrored."""
    pictures = (picture, np.ascontiguousarray(picture[..., ::-1])) if video else (picture,)
    return Probe(
        label=kind,
        size=Size(*picture.shape[1:]),
        frames=tuple(p[None] for p in pictures),
        blend=(0.0, 0.2) if video else (),
        is_stress=kind != "photograph",
    )


def _pictures_to_fill(size: Size) -> int:
    """Return how many pictures of a size hold the pixels that a probe should have."""
    return -(-PIXELS_PER_PROBE // (size.height * size.width))


def video_probe(channels: int, size: Size, frames: int = 8, clips: int = 1) -> Probe:
    """Return pans over photographs with a scene cut in their middle, where ``blend`` is 0.

    The ``clips`` run side by side, as a batch.
    """
    cut = frames // 2
    wide = Size(size.height, size.width + frames)
    scenes = np.stack([photograph_crop(channels, wide, index) for index in range(clips)])
    pictures = []
    for index in range(frames):
        picture = scenes[:, :, :, index : index + size.width]
        pictures.append(picture if index < cut else 1.0 - picture[:, :, ::-1])
    blend = tuple(0.0 if index in (0, cut) else 0.2 for index in range(frames))
    frames_fed = tuple(np.ascontiguousarray(p, np.float32) for p in pictures)
    return Probe(label="video with a cut", size=size, frames=frames_fed, blend=blend)


def video_probes(
    channels: int, sizes: Sequence[tuple[Size, int]], *, batched: bool = True
) -> list[Probe]:
    """Return a short clip at every size, and two longer ones at the first odd one.

    One of them has eight frames; the other has four and a broken state at its start and at the cut.
    Of tiny sizes several clips run side by side, unless ``batched`` is False.
    """
    short = []
    for size, _ in sizes:
        clips = min(_pictures_to_fill(size), MAX_IMAGES) if batched else 1
        short.append(video_probe(channels, size, frames=2, clips=clips))
    longest = next((size for size, _ in sizes if size.height % 2 and size.height > 1), sizes[0][0])
    broken = replace(
        video_probe(channels, longest, frames=4), label="broken state", state_is_broken=True
    )
    return [*short, video_probe(channels, longest), broken]


def folder_probes(channels: int, folder: Path, option: str = "--images") -> list[Probe]:
    """Return one probe for each picture of a folder, whole and at its own size.

    Args:
        channels: Of the network's input.
        folder: See ``pictures_in``.
        option: What the user named the folder with, for errors.

    Raises:
        PlanError: If the folder holds no picture, or one of them cannot be read.
    """
    return [_picture_probe(channels, path) for path in pictures_in(folder, option)]


def _picture_probe(channels: int, path: Path) -> Probe:
    frame = _to_channels(read_picture(path).transpose(2, 0, 1), channels)[None]
    size = Size(frame.shape[2], frame.shape[3])
    return Probe(label=path.name, size=size, frames=(np.ascontiguousarray(frame),))


def photograph_crop(channels: int, size: Size, index: int = 0) -> np.ndarray:
    """Cut from the shipped photograph; where it is too small, it is mirrored at its edges."""
    pixels = photograph().transpose(2, 0, 1)
    rng = _rng("photograph", size, index)
    top, left = (int(rng.integers(max(1, n - e + 1))) for n, e in
                 zip(pixels.shape[1:], (size.height, size.width), strict=True))  # fmt: skip
    crop = pixels[:, top : top + size.height, left : left + size.width]
    missing = (size.height - crop.shape[1], size.width - crop.shape[2])
    crop = np.pad(crop, ((0, 0), (0, missing[0]), (0, missing[1])), mode="symmetric")
    return _to_channels(crop, channels)


def _noise(channels: int, size: Size) -> np.ndarray:
    values = _rng("noise", size).random((channels, size.height, size.width))
    return values.astype(np.float32)


def _checkerboard(channels: int, size: Size) -> np.ndarray:
    rows, columns = np.indices((size.height, size.width))
    board = ((rows + columns) % 2).astype(np.float32)
    return np.broadcast_to(board, (channels, *board.shape)).copy()


def _gradient(channels: int, size: Size) -> np.ndarray:
    rows = np.linspace(0, 1, size.height)[:, None]
    columns = np.linspace(0, 1, size.width)[None, :]
    ramps = [rows + 0 * columns, 0 * rows + columns, (rows + columns) / 2]
    picked = [ramps[c % 3] for c in range(channels)]
    return np.stack(picked).astype(np.float32)


def _saturated(channels: int, size: Size) -> np.ndarray:
    blocks = _rng("saturated", size).integers(
        0, 2, (channels, -(-size.height // 4), -(-size.width // 4))
    )
    full = blocks.repeat(4, axis=1).repeat(4, axis=2)[:, : size.height, : size.width]
    return full.astype(np.float32)


def _flat(channels: int, size: Size) -> np.ndarray:
    return np.ones((channels, size.height, size.width), np.float32)


STRESS = {
    "saturated": _saturated,
    "noise": _noise,
    "checkerboard": _checkerboard,
    "gradient": _gradient,
}
"""Contents that overshoot the range and break half precision; used in turn."""


def _rng(kind: str, size: Size, index: int = 0) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(f"{kind} {size} {index}".encode()))


def _to_channels(picture: np.ndarray, channels: int) -> np.ndarray:
    """Repeat or drop channels, for networks that are not RGB."""
    repeats = -(-channels // picture.shape[0])
    return np.tile(picture, (repeats, 1, 1))[:channels].astype(np.float32)
