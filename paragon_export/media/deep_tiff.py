"""TIFF files of 16 bits: what Pillow reads with 8 bits, or not at all."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paragon_export.errors import PlanError
from paragon_export.system.optional import require

if TYPE_CHECKING:
    from tifffile import TiffPage

BITS = 16

ORIENTATION, X_RESOLUTION, RESOLUTION_UNIT = 274, 282, 296
"""Numbers of tags (TIFF 6.0, section 8)."""

INCH, CENTIMETER = 2, 3
"""Values of RESOLUTION_UNIT. Others tell the shape of pixels, not their size."""

COLORS = {1: 1, 2: 3}
"""Channels by the tag PhotometricInterpretation: gray with black as 0, and RGB."""

EXTRA_NOTE = ("extra channels to none",)
"""Note on a file with more channels than color and alpha."""

PREMULTIPLIED, STRAIGHT = 1, 2
"""Values of the tag ExtraSamples that stand for alpha."""


@dataclass(frozen=True)
class DeepTiff:
    """A TIFF file of 16 bits, as it is stored."""

    pixels: np.ndarray
    """(H, W, channels), uint16: gray or RGB, and alpha if there is one."""
    orientation: int
    """1 to 8, as in EXIF."""
    icc: bytes | None
    dpi: tuple[float, float] | None
    converted: tuple[str, ...]
    """What was changed in reading."""


def read_deep_tiff(path: Path, data: bytes, max_pixels: int) -> DeepTiff:
    """Read a TIFF or BigTIFF file of unsigned integers of 16 bits.

    Args:
        path: Names the file in error messages.
        data: Its bytes.
        max_pixels: Largest number of pixels.

    Raises:
        PlanError: If it holds several pictures, other values, other colors than gray and RGB, or too many pixels.
        ValueError: If it is damaged.
        MissingDependencyError: If the extra ``media`` is missing.
    """
    with require("tifffile", "media").TiffFile(io.BytesIO(data)) as file:
        if len(file.pages) > 1:
            raise PlanError(f"{path} holds several pictures; save one of them alone")
        page = file.pages[0]
        _check(path, page, max_pixels)
        try:
            samples = page.asarray()
        except RuntimeError as error:  # of imagecodecs
            raise ValueError(str(error)) from error
        pixels, converted = _color_and_alpha(page, samples)
        orientation = page.tags.get(ORIENTATION)
        return DeepTiff(
            pixels=pixels,
            orientation=orientation.value if orientation else 1,
            icc=page.iccprofile,
            dpi=_resolution(page),
            converted=converted,
        )


def _check(path: Path, page: TiffPage, max_pixels: int) -> None:
    size: Any = (page.imagelength, page.imagewidth)
    if size[0] * size[1] > max_pixels:
        raise PlanError(f"{path} is {size[0]}x{size[1]}; at most {max_pixels} pixels are supported")
    found = None
    if page.photometric == 0:
        found = "values are white as 0"
    elif page.photometric not in COLORS:
        found = f"colors are {getattr(page.photometric, 'name', page.photometric)}"
    elif page.dtype != np.uint16:
        found = f"values are {page.dtype}"
    elif page.bitspersample != BITS or set(page.axes) - set("YXS"):
        found = f"values are integers of {page.bitspersample} bits with the axes {page.axes}"
    if found:
        raise PlanError(f"{path} is not read: its {found}; save it as RGB of 16 bits")


def _color_and_alpha(page: TiffPage, samples: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return (H, W, channels) with alpha last if there is one, and what was left out."""
    planes = (
        np.moveaxis(samples, page.axes.index("S"), -1) if "S" in page.axes else samples[..., None]
    )
    colors, count = COLORS[int(page.photometric)], planes.shape[-1]
    if count < colors:
        raise ValueError(f"it has {count} channels of {colors}")
    kinds = [int(kind) for kind in page.extrasamples] or [STRAIGHT]  # as Pillow takes it
    alphas = [
        k for k, kind in enumerate(kinds[: count - colors]) if kind in (PREMULTIPLIED, STRAIGHT)
    ]
    color = planes[..., :colors]
    left = count - colors - len(alphas[:1])
    said = EXTRA_NOTE if left else ()
    if not alphas:
        return color, said
    alpha = planes[..., colors + alphas[0], None]
    if kinds[alphas[0]] == PREMULTIPLIED:
        color = _divided(color, alpha)
    return np.concatenate([color, alpha], axis=-1), said


def _divided(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return color that was stored multiplied by alpha; black where alpha is 0."""
    white = np.iinfo(np.uint16).max
    straight = color.astype(np.float32) * np.float32(white) / np.maximum(alpha, 1)
    return np.where(alpha > 0, np.minimum(np.rint(straight), white), 0).astype(np.uint16)


def _resolution(page: TiffPage) -> tuple[float, float] | None:
    """Return the pixels to an inch; None if the file tells no unit."""
    unit = page.tags.get(RESOLUTION_UNIT)
    if X_RESOLUTION not in page.tags or (unit and unit.value not in (INCH, CENTIMETER)):
        return None
    x, y = page.get_resolution("INCH")
    return (float(x), float(y)) if min(x, y) > 0 else None
