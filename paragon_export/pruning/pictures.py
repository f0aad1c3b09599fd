"""Photographs to fit on and photographs to judge on, each with its downscaled version."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paragon_export.errors import PlanError
from paragon_export.media.images import pictures_in, read_picture

HELD_BACK = 4
"""Every fourth photograph, by name, is judged on and not fitted on."""

MIN_PHOTOGRAPHS = 4

LEAST_PX = 128
"""Least height and width of a photograph in pixels."""

JUDGED_PX = 384
"""Largest side of the middle of a photograph that is judged on, in pixels."""

DRAWN = 6
"""Places drawn for each crop that is taken: the most detailed ones are."""


@dataclass(frozen=True)
class Pair:
    """A photograph and its downscaled version, both of 8 bits."""

    large: np.ndarray
    """(H * scale, W * scale, 3), uint8."""
    small: np.ndarray
    """(H, W, 3), uint8."""


@dataclass(frozen=True)
class Photographs:
    """The photographs of a folder, large enough ones, in two parts."""

    fitted: list[np.ndarray]
    """(H, W, 3), uint8."""
    judged: list[np.ndarray]

    @property
    def digest(self) -> str:
        """SHA-256 of the photographs that are fitted on."""
        found = hashlib.sha256()
        for image in self.fitted:
            found.update(repr(image.shape).encode() + image.tobytes())
        return found.hexdigest()

    def crops(self, scale: int, side: int, count: int, seed: int) -> Iterator[Pair]:
        """Yield crops to fit on, about the same number of each photograph.

        Args:
            scale: Factor of the downscaling.
            side: Height and width of the downscaled crops in pixels.
            count: Number of crops of all photographs together, at least one of each.
            seed: Where they lie depends on it.
        """
        side *= scale
        large = [image for image in self.fitted if min(image.shape[:2]) >= side]
        random = np.random.default_rng(seed)
        for image in large:
            places = random.integers(
                0,
                [n - side + 1 for n in image.shape[:2]],
                size=(DRAWN * max(1, count // len(large)), 2),
            )
            cut = [image[y : y + side, x : x + side] for y, x in places]
            cut.sort(key=_detail, reverse=True)
            yield from (pair_of(one, scale) for one in cut[: max(1, count // len(large))])

    def held_back(self, scale: int) -> list[Pair]:
        """Return the middle of each photograph that is judged on."""
        return [pair_of(_middle(image, JUDGED_PX, scale), scale) for image in self.judged]


def read_photographs(folder: Path, option: str = "--data") -> Photographs:
    """Read the photographs of a folder, and hold every ``HELD_BACK`` one back.

    Smaller ones than ``LEAST_PX`` are left out, and copies of another one: a photograph that is fitted
    on must not be judged on.

    Args:
        folder: Its subfolders are not searched.
        option: The command line option that named the folder, for error messages.

    Raises:
        PlanError: If the folder is missing, a picture cannot be read, or fewer than
            ``MIN_PHOTOGRAPHS`` different ones are at least ``LEAST_PX`` high and wide.
    """
    if not folder.is_dir():
        raise PlanError(f"{option} {folder} is not a folder of photographs")
    large = _different(_bytes(read_picture(path)) for path in pictures_in(folder, option))
    if len(large) < MIN_PHOTOGRAPHS:
        raise PlanError(
            f"{option} {folder} holds {len(large)} different pictures of {LEAST_PX}x{LEAST_PX} pixels "
            f"or more; give {MIN_PHOTOGRAPHS} or more"
        )
    judged = large[HELD_BACK - 1 :: HELD_BACK]
    return Photographs([one for i, one in enumerate(large) if (i + 1) % HELD_BACK], judged)


def batch(images: list[np.ndarray]) -> np.ndarray:
    """Return images (H, W, 3) of 8 bits as (N, 3, H, W), float32, in [0, 1]."""
    return np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) / 255


def _different(images: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Return the images that are large enough, the first one of those with equal pixels."""
    large = (image for image in images if min(image.shape[:2]) >= LEAST_PX)
    return list(
        {(one.shape, hashlib.sha256(one.tobytes()).digest()): one for one in large}.values()
    )


def _bytes(image: np.ndarray) -> np.ndarray:
    return np.rint(image * 255).astype(np.uint8)


def _detail(image: np.ndarray) -> float:
    return float(np.abs(np.diff(image.astype(np.int16), axis=0)).mean())


def _middle(image: np.ndarray, side: int, scale: int) -> np.ndarray:
    """Return the middle of an image, at most ``side`` high and wide, in multiples of ``scale``."""
    height, width = (min(n, side) // scale * scale for n in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def pair_of(large: np.ndarray, scale: int) -> Pair:
    """Downscale with an antialiased bicubic filter, rounded to 8 bits, as benchmarks do."""
    from PIL import Image

    size = large.shape[1] // scale, large.shape[0] // scale
    small = Image.fromarray(np.ascontiguousarray(large)).resize(size, Image.Resampling.BICUBIC)
    return Pair(large, np.asarray(small))
