"""Probes: the images that a candidate and the reference are compared on.

They cover odd, tiny and large sizes, and contents that stress half precision: a photograph, noise,
gradients, checkerboards and saturated colors.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from paragon_export.assets import photograph
from paragon_export.errors import PlanError
from paragon_export.inputs.plain import FEWEST, fade, is_small, plain_pictures
from paragon_export.inputs.sizes import (
    LARGEST_BATCH,
    check_defined,
    default_sizes,
    drawn_size,
    window_sizes,
)
from paragon_export.inputs.stress import STRESS, flat, seeded
from paragon_export.media.images import luma, pictures_in, read_picture
from paragon_export.specs.network import InputSpec
from paragon_export.specs.types import Size

MIN_PROBE_PIXELS = 256
"""Pixels of a probe, in several images if one is smaller. The largest rounding error of a few pixels
varies too much to be compared."""

AROUND = len(window_sizes(1))
"""Number of sizes around a window: video models are judged at them on clips of two frames."""

STRESSED = range(AROUND - 1)
"""Places of the default sizes that get a stress probe, unless they are so small that they hold
several pictures."""

MAX_AGAIN_PX = 4096
"""Pixels of the largest stress probe of a kind that comes again. With windows of 32 pixels it would
have 6969, for a tenth of the time that v8 Photo takes."""

LONG_FRAMES = 20
"""Frames of the longest clip."""

CUTS = (0, 2, 18)
"""Frames of the longest clip that start a scene."""

FADING = slice(10, 18)
"""Frames of the longest clip that fade to black."""

MAX_IMAGES = LARGEST_BATCH
"""Images of a probe."""


BROKEN_STATE = (float("nan"), float("inf"), float("-inf"), 6e4)
"""Values that a network must ignore where a scene starts; the last is finite in float16."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Frames that are fed to a network one after the other."""

    label: str
    """Name of the contents."""
    size: Size
    frames: tuple[np.ndarray, ...]
    """Each (N, C, H, W), float32, in [0, 1], plain pictures in [-0.1, 1.1]; of a classifier
    (N, rows, columns) IDs or cells."""
    blend: tuple[float, ...] = ()
    """For video: weight of the previous state in each frame; 0 starts a scene."""
    state_is_broken: bool = False
    """For video: whether ``BROKEN_STATE`` is fed as the previous state wherever ``blend`` is 0."""

    is_stress: bool = False
    """Whether the contents are synthetic, so that a network may diverge (``tolerance.DIVERGED``)."""

    @property
    def batch(self) -> int:
        """Images in a frame."""
        return int(self.frames[0].shape[0])


def choose_probes(
    spec: InputSpec,
    *,
    static: Size | None = None,
    video: bool = False,
    sizes: Sequence[Size] = (),
    images: Path | None = None,
    data: bytes | None = None,
) -> list[Probe]:
    """Return the probes for one candidate that takes images.

    Args:
        spec: What the network is fed; the attention window sets the default sizes.
        static: The only size that the candidate accepts, if it is not dynamic.
        video: Whether the candidate carries features from frame to frame.
        sizes: Sizes to use instead of the default ones.
        images: Folder of images to add.
        data: Contents of the candidate's file, from which one more default size is drawn.

    Raises:
        PlanError: If a static candidate is to be judged at another size, a folder of stills is
            to judge a video model, or the network is not defined at a size.
    """
    if static and any(size != static for size in sizes):
        raise PlanError(f"the model is fixed to {static}; it cannot be judged at other sizes")
    if images and (static or video):
        raise PlanError("--images is for still models with dynamic sizes")
    requested = [(s, 1) for s in ([static] if static else sizes)]
    chosen = requested or _default_sizes(spec, data)
    check_defined((size for size, _ in chosen), spec.smallest)
    if video:
        return video_probes(spec.channels, chosen, batched=static is None)
    stills = still_probes(spec.channels, chosen, batched=static is None)
    pictures = folder_probes(spec.channels, images) if images else []
    check_defined((probe.size for probe in pictures), spec.smallest)
    batched = static is None and not sizes  # a file or engine may be fixed to batch 1
    plain = plain_probe(spec.channels, plain_size(chosen), batched=batched)
    return [*stills, plain, *pictures]


def _default_sizes(spec: InputSpec, data: bytes | None) -> list[tuple[Size, int]]:
    """Return the default sizes of a network, and one that is drawn from a file's contents."""
    also = [(Size(*size), 1) for size in spec.also_probed]
    drawn = [] if data is None else [(drawn_size(data, spec.smallest), 1)]
    return list(dict.fromkeys([*default_sizes(spec.window, spec.smallest), *also, *drawn]))


def still_probes(
    channels: int, sizes: Sequence[tuple[Size, int]], *, batched: bool = True
) -> list[Probe]:
    """Return a photograph probe for each size and batch, and stress probes at all but tiny sizes.

    Args:
        channels: Channels of the input.
        sizes: Sizes and batches.
        batched: False feeds the images of a probe one by one, for models of batch 1.
    """
    probes = []
    kinds = itertools.cycle(STRESS.items())
    for index, (size, batch) in enumerate(sizes):
        needed = _images_needed(size)
        count = max(batch, min(needed, MAX_IMAGES))
        crops = np.stack([photograph_crop(channels, size, index) for index in range(count)])
        frames = (crops,) if batched else tuple(crops[:, None])
        probes.append(Probe(label="photograph", size=size, frames=frames))
        is_again = index > len(STRESS) and size.height * size.width > MAX_AGAIN_PX
        if (needed == 1 and index in STRESSED and not is_again) or len(sizes) == 1:
            kind, make = next(kinds)
            image = make(channels, size)[None]
            probes.append(Probe(label=kind, size=size, frames=(image,), is_stress=True))
    return probes


def plain_size(sizes: Sequence[tuple[Size, int]]) -> Size:
    """Return the smallest size of at least 8x8 pixels, or the largest if all are smaller.

    In fewer rows or columns the pictures would lose their bars and ramps.
    """
    by_area = sorted((size for size, _ in sizes), key=lambda size: size.height * size.width)
    return next((s for s in by_area if min(s.height, s.width) >= 8), by_area[-1])


def plain_probe(channels: int, size: Size, *, batched: bool = True, clip: bool = False) -> Probe:
    """Return the plain pictures of one size (see ``plain_pictures``) as one batch.

    Args:
        channels: Channels of the input.
        size: Height and width. At large sizes only ``FEWEST`` of the pictures are fed.
        batched: False feeds the pictures one by one, for models of batch 1.
        clip: For video: feed two frames. Each picture is followed by another one.
    """
    pictures = plain_pictures(photograph_crop(channels, size))
    names = pictures if is_small(size) else FEWEST
    stack = np.stack([pictures[name] for name in names])
    frames: tuple[np.ndarray, ...] = (stack,) if batched else tuple(stack[:, None])
    if clip and batched:
        frames = (stack, np.roll(stack, 1, axis=0))
    blend = tuple(0.2 if index else 0.0 for index in range(len(frames))) if clip else ()
    return Probe(label="plain pictures", size=size, frames=frames, blend=blend, is_stress=True)


AUDIT_SIZE = Size(64, 96)
"""Size of the largest photograph that ranges are measured on by default."""


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
    odd = static or window_sizes(spec.window, smallest)[-3][0]
    large = Size(max(AUDIT_SIZE.height, smallest), max(AUDIT_SIZE.width, smallest))
    larger = [] if static else [large, *(Size(*size) for size in spec.also_probed)]
    stills = {"photograph": photograph_crop, **STRESS, "flat": flat}
    probes = [_still_or_clip(kind, make(channels, odd), video) for kind, make in stills.items()]
    probes += [
        _still_or_clip("photograph", photograph_crop(channels, size), video) for size in larger
    ]
    pictures = folder_probes(channels, images) if images else []
    check_defined((probe.size for probe in pictures), smallest)
    return probes + pictures


def _still_or_clip(kind: str, image: np.ndarray, video: bool) -> Probe:
    """Return a probe of an image (C, H, W), for video followed by its mirror image."""
    images = (image, np.ascontiguousarray(image[..., ::-1])) if video else (image,)
    return Probe(
        label=kind,
        size=Size(*image.shape[1:]),
        frames=tuple(i[None] for i in images),
        blend=(0.0, 0.2) if video else (),
        is_stress=kind != "photograph",
    )


def _images_needed(size: Size) -> int:
    """Return how many images of a size hold ``MIN_PROBE_PIXELS``."""
    return -(-MIN_PROBE_PIXELS // (size.height * size.width))


BLENDS = (0.2, 0.5, 0.8)
"""Values of ``alpha`` between off and on: an export may be right at one value alone."""


def video_probe(channels: int, size: Size, frames: int = 8, clips: int = 1) -> Probe:
    """Return a pan over a photograph with a cut in the middle, where ``blend`` is 0.

    Args:
        channels: Channels of the input.
        size: Height and width of the frames.
        frames: Number of frames.
        clips: Number of clips, which are fed as a batch.
    """
    cut = frames // 2
    wide = Size(size.height, size.width + frames)
    scenes = np.stack([photograph_crop(channels, wide, index) for index in range(clips)])
    images = []
    for index in range(frames):
        image = scenes[:, :, :, index : index + size.width]
        images.append(image if index < cut else 1.0 - image[:, :, ::-1])
    blend = tuple(0.0 if i in (0, cut) else BLENDS[i % len(BLENDS)] for i in range(frames))
    arrays = tuple(np.ascontiguousarray(i, np.float32) for i in images)
    return Probe(label="video with a cut", size=size, frames=arrays, blend=blend)


def long_clip(channels: int, size: Size) -> Probe:
    """Return twenty frames with two cuts: two frames, sixteen that fade to black, and two more."""
    wide = Size(size.height, size.width + LONG_FRAMES)
    scene = photograph_crop(channels, wide)
    pan = np.stack([scene[..., i : i + size.width] for i in range(LONG_FRAMES)])
    pan[FADING] = fade(pan[FADING])
    pan[CUTS[1] : CUTS[2]] = pan[CUTS[1] : CUTS[2], :, ::-1]
    blend = [0.2] * LONG_FRAMES
    for cut in CUTS:
        blend[cut] = 0.0
    frames = tuple(np.ascontiguousarray(frame[None], np.float32) for frame in pan)
    return Probe(label="video with two cuts", size=size, frames=frames, blend=tuple(blend))


def video_probes(
    channels: int, sizes: Sequence[tuple[Size, int]], *, batched: bool = True
) -> list[Probe]:
    """Return a clip at every size, and longer clips at the first odd size.

    The clips have two frames, and after the first few sizes the second one is blended. Of the longer
    ones, one has twenty frames. Another has four, and a broken state at its start and at the
    cut. The last one shows plain pictures. Several clips of a tiny size are fed as a batch, unless
    ``batched`` is False.
    """
    short = []
    for index, (size, batch) in enumerate(sizes):
        clips = max(batch, min(_images_needed(size), MAX_IMAGES)) if batched else 1
        clip = video_probe(channels, size, frames=2, clips=clips)
        if index >= AROUND:
            clip = replace(clip, label="blended frame", blend=(0.0, 0.2))
        short.append(clip)
    longest = next((size for size, _ in sizes if size.height % 2 and size.height > 1), sizes[0][0])
    broken = replace(
        video_probe(channels, longest, frames=4), label="broken state", state_is_broken=True
    )
    longer = [long_clip(channels, longest), broken]
    plain = plain_probe(channels, plain_size(sizes), batched=batched, clip=True)
    return [*short, *longer, plain]


def folder_probes(channels: int, folder: Path, option: str = "--images") -> list[Probe]:
    """Return one probe for each image of a folder, whole and at its own size.

    A network of one channel is fed the luma, as ``upscale`` feeds it.

    Args:
        channels: Channels of the input.
        folder: See ``pictures_in``.
        option: Option that the user named the folder with, for error messages.

    Raises:
        PlanError: If the folder holds no image, or one of them cannot be read.
    """
    return [_image_probe(channels, path) for path in pictures_in(folder, option)]


def _image_probe(channels: int, path: Path) -> Probe:
    picture = read_picture(path).transpose(2, 0, 1)
    frame = (luma(picture) if channels == 1 else _to_channels(picture, channels))[None]
    size = Size(frame.shape[2], frame.shape[3])
    return Probe(label=path.name, size=size, frames=(np.ascontiguousarray(frame),))


def photograph_crop(channels: int, size: Size, index: int = 0) -> np.ndarray:
    """Return a crop (C, H, W) of the shipped photograph, float32 in [0, 1].

    Its place depends on the size and ``index``. If the photograph is too small, it is mirrored at
    the edges.
    """
    pixels = photograph().transpose(2, 0, 1)
    rng = seeded("photograph", size, index)
    top, left = (int(rng.integers(max(1, n - e + 1))) for n, e in
                 zip(pixels.shape[1:], (size.height, size.width), strict=True))  # fmt: skip
    crop = pixels[:, top : top + size.height, left : left + size.width]
    missing = (size.height - crop.shape[1], size.width - crop.shape[2])
    crop = np.pad(crop, ((0, 0), (0, missing[0]), (0, missing[1])), mode="symmetric")
    return _to_channels(crop, channels)


def _to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Repeat or drop channels of an image (C, H, W), for networks that are not RGB."""
    repeats = -(-channels // image.shape[0])
    return np.tile(image, (repeats, 1, 1))[:channels].astype(np.float32)
