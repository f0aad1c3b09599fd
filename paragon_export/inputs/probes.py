"""Probes: the images that a candidate and the reference are compared on.

They cover odd, tiny and large sizes, and contents that stress half precision: a photograph, noise,
gradients, checkerboards and saturated colors.
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

MIN_PROBE_PIXELS = 256
"""Pixels of a probe, in several images if one is smaller. The largest rounding error of a few pixels
varies too much to be compared."""

MAX_IMAGES = 16
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
    """Each (N, C, H, W), float32, in [0, 1]; of a classifier (N, rows, columns) IDs or cells."""
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


def default_sizes(window: int, smallest: int = 1) -> list[tuple[Size, int]]:
    """Return sizes and batches around a window: below, at, above, odd, portrait, batch 2.

    Args:
        window: Side of the attention windows in pixels; 1 for none.
        smallest: Least extent in pixels at which the network is defined. Smaller extents become
            this one.
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
    """Return a photograph probe for each size and batch, and stress probes at all but tiny sizes.

    Args:
        channels: Channels of the input.
        sizes: Sizes and batches.
        batched: False feeds the images of a probe one by one, for models of batch 1.
    """
    probes = []
    kinds = itertools.cycle(STRESS.items())
    for size, batch in sizes:
        needed = _images_needed(size)
        count = max(batch, min(needed, MAX_IMAGES))
        crops = np.stack([photograph_crop(channels, size, index) for index in range(count)])
        frames = (crops,) if batched else tuple(crops[:, None])
        probes.append(Probe(label="photograph", size=size, frames=frames))
        if needed == 1 or len(sizes) == 1:
            kind, make = next(kinds)
            image = make(channels, size)[None]
            probes.append(Probe(label=kind, size=size, frames=(image,), is_stress=True))
    return probes


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
    odd = static or default_sizes(spec.window, smallest)[-3][0]
    large = Size(max(AUDIT_SIZE.height, smallest), max(AUDIT_SIZE.width, smallest))
    larger = [] if static else [large, *(Size(*size) for size in spec.also_probed)]
    stills = {"photograph": photograph_crop, **STRESS, "flat": _flat}
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


def video_probes(
    channels: int, sizes: Sequence[tuple[Size, int]], *, batched: bool = True
) -> list[Probe]:
    """Return a clip of two frames at every size, and two longer clips at the first odd size.

    One of them has eight frames. The other has four, and a broken state at its start and at the
    cut. At tiny sizes several clips are fed as a batch, unless ``batched`` is False.
    """
    short = []
    for size, _ in sizes:
        clips = min(_images_needed(size), MAX_IMAGES) if batched else 1
        short.append(video_probe(channels, size, frames=2, clips=clips))
    longest = next((size for size, _ in sizes if size.height % 2 and size.height > 1), sizes[0][0])
    broken = replace(
        video_probe(channels, longest, frames=4), label="broken state", state_is_broken=True
    )
    return [*short, video_probe(channels, longest), broken]


def folder_probes(channels: int, folder: Path, option: str = "--images") -> list[Probe]:
    """Return one probe for each image of a folder, whole and at its own size.

    Args:
        channels: Channels of the input.
        folder: See ``pictures_in``.
        option: Option that the user named the folder with, for error messages.

    Raises:
        PlanError: If the folder holds no image, or one of them cannot be read.
    """
    return [_image_probe(channels, path) for path in pictures_in(folder, option)]


def _image_probe(channels: int, path: Path) -> Probe:
    frame = _to_channels(read_picture(path).transpose(2, 0, 1), channels)[None]
    size = Size(frame.shape[2], frame.shape[3])
    return Probe(label=path.name, size=size, frames=(np.ascontiguousarray(frame),))


def photograph_crop(channels: int, size: Size, index: int = 0) -> np.ndarray:
    """Return a crop (C, H, W) of the shipped photograph, float32 in [0, 1].

    Its place depends on the size and ``index``. If the photograph is too small, it is mirrored at
    the edges.
    """
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
    return np.stack([ramps[c % 3] for c in range(channels)]).astype(np.float32)


def _saturated(channels: int, size: Size) -> np.ndarray:
    blocks = _rng("saturated", size).integers(
        0, 2, (channels, -(-size.height // 4), -(-size.width // 4))
    )
    image = blocks.repeat(4, axis=1).repeat(4, axis=2)[:, : size.height, : size.width]
    return image.astype(np.float32)


def _flat(channels: int, size: Size) -> np.ndarray:
    return np.ones((channels, size.height, size.width), np.float32)


STRESS = {
    "saturated": _saturated,
    "noise": _noise,
    "checkerboard": _checkerboard,
    "gradient": _gradient,
}
"""Contents on which networks overshoot, which stresses half precision; used in turn."""


def _rng(kind: str, size: Size, index: int = 0) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(f"{kind} {size} {index}".encode()))


def _to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Repeat or drop channels of an image (C, H, W), for networks that are not RGB."""
    repeats = -(-channels // image.shape[0])
    return np.tile(image, (repeats, 1, 1))[:channels].astype(np.float32)
