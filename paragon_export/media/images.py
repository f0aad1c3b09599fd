"""Read picture files of common formats and limited size as pixels in [0, 1].

A file is rejected if it does not determine how its values map to colors: a picture that is read
wrongly would give figures that look right.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paragon_export.errors import PlanError
from paragon_export.system.reading import read_bytes
from paragon_export.system.text import one_line

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
"""The formats that Pillow may try. Some of its other formats run external programs."""

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Suffixes of picture files, in lower case."""

MAX_IMAGE_BYTES = 2**28

MAX_PIXELS = 2**25
"""About the size of an 8K picture, which takes 400 MB in float32."""

MULTI_PICTURE_JPEG = "MPO"
"""Pillow's name of a JPEG file with previews after the photograph, as cameras write it."""

EIGHT_BIT_MODES = ("1", "L", "P", "RGB", "CMYK", "YCbCr")
ALPHA_MODES = ("LA", "PA", "RGBA")
SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes that are read, in addition to 32-bit integers (``I``) and floats (``F``)."""

BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
"""Numbers of TIFF tags whose values do not follow from Pillow's mode."""

WHITE_IS_ZERO, SIGNED = 0, 2
"""Values of the tags PHOTOMETRIC and SAMPLE_FORMAT (TIFF 6.0, sections 8 and 19)."""


LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G and B in [0, 1] in luma (ITU-R BT.601)."""


def luma(picture: np.ndarray) -> np.ndarray:
    """Return what a network of one channel is given of a picture.

    Args:
        picture: RGB (..., 3, H, W), float32.

    Returns:
        (..., 1, H, W), float32.
    """
    weights = np.array(LUMA, np.float32)
    return np.einsum("c,...chw->...hw", weights, picture)[..., None, :, :]


def pictures_in(folder: Path, option: str) -> list[Path]:
    """Return the picture files of a folder, sorted by path.

    A file is a picture if it has one of the ``SUFFIXES`` and is not hidden: macOS writes hidden
    files ``._NAME`` that hold no picture.

    Args:
        folder: Its subfolders are not searched.
        option: The command line option that named the folder, for error messages.

    Raises:
        PlanError: If it is no folder, cannot be listed, or holds no picture.
    """
    if not folder.is_dir():
        raise PlanError(f"{option} {folder} is not a folder")
    try:
        matches = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise PlanError(f"cannot read {option} {folder}: {error.strerror or error}") from error
    paths = [path for path in matches if not path.name.startswith(".") and not path.is_dir()]
    if not paths:
        others = f"; {matches[0].name} is hidden or a folder" if matches else ""
        if not matches and any(path.is_dir() for path in folder.iterdir()):
            others = "; its subfolders are not searched"
        raise PlanError(f"{option} {folder} holds no picture ({', '.join(SUFFIXES)}){others}")
    return paths


def read_picture(path: Path, what: str = "picture") -> np.ndarray:
    """Return the pixels of a picture as RGB, rotated as its EXIF orientation says.

    Integers are divided by the largest value of their type: 8-bit gray, color, palette and CMYK;
    1-bit; 12-bit and 16-bit gray. Of 16-bit color only the upper 8 bits are read. Gray floats are
    not changed. Color profiles are not applied. An alpha channel is dropped if it is opaque.

    Args:
        path: A PNG, JPEG, WebP, BMP or TIFF file.
        what: What the file is, for error messages.

    Returns:
        (H, W, 3), float32, in [0, 1]. Gray is repeated for the three channels.

    Raises:
        PlanError: If it cannot be read, is too large, holds several pictures, is transparent
            anywhere, or has values whose meaning is unknown: floats outside [0, 1], integers that
            are signed or of more than 16 bits, white as 0, LAB and other color spaces.
    """
    with open_picture(path, what) as image:
        try:
            pixels = _pixels(image)
        except _AmbiguousPixelsError as reason:
            raise PlanError(f"{what} {path} is not read: {reason}") from reason
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), np.float32)


@contextmanager
def open_picture(path: Path, what: str) -> Iterator[Image.Image]:
    """Open a picture for the body, rotated as its EXIF orientation says.

    Args:
        path: A file of one of the ``FORMATS``.
        what: What the file is, for error messages.

    Raises:
        PlanError: If it cannot be read or decoded, is too large or holds several pictures.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    data = read_bytes(path, MAX_IMAGE_BYTES, what, PlanError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they concern metadata; errors are raised
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise PlanError(
                        f"{what} {path} is {image.height}x{image.width}; at most {MAX_PIXELS} "
                        "pixels are supported"
                    )
                several = getattr(image, "is_animated", False)
                if several and image.format != MULTI_PICTURE_JPEG:
                    raise PlanError(f"{what} {path} holds several pictures; save one of them alone")
                ImageOps.exif_transpose(image, in_place=True)
                yield image
    except UnidentifiedImageError as error:
        raise PlanError(
            f"cannot read {what} {path}: it is no {', '.join(FORMATS)} file, or of a kind that "
            "Pillow does not support"
        ) from error
    except (OSError, ValueError, SyntaxError, TypeError, IndexError, KeyError, OverflowError,
            EOFError, MemoryError, struct.error, Image.DecompressionBombError) as error:  # fmt: skip
        # Pillow's decoders raise all of these for damaged files.
        raise PlanError(f"cannot read {what} {path}: {one_line(str(error))}") from error


class _AmbiguousPixelsError(Exception):
    """The file does not determine its colors. The text says why."""


def _pixels(image: Image.Image) -> np.ndarray:
    """Return the pixels as (H, W, 1) or (H, W, 3) float32 in [0, 1].

    Raises:
        _AmbiguousPixelsError: If the file does not determine them.
    """
    mode = image.mode
    _check_samples(image)
    if mode in EIGHT_BIT_MODES or mode in ALPHA_MODES:
        return np.asarray(_without_alpha(image).convert("RGB"), np.float32) / 255
    if "transparency" in image.info:
        raise _AmbiguousPixelsError(TRANSPARENT)
    if mode == "F":
        return _checked_floats(np.asarray(image))[..., None]
    if mode in SIXTEEN_BIT_MODES:
        largest = 2 ** _tag(image, BITS_PER_SAMPLE, 16) - 1
        return np.asarray(image).astype(np.float32)[..., None] / largest
    if mode == "I":
        return _scaled_integers(np.asarray(image))[..., None]
    raise _AmbiguousPixelsError(f"its mode is {mode}; save it as RGB")


TRANSPARENT = "it is transparent in places; save it on an opaque background"


def _without_alpha(image: Image.Image) -> Image.Image:
    """Return the image if every pixel is opaque.

    A PNG file with a color that means "transparent" counts as transparent.

    Raises:
        _AmbiguousPixelsError: If a pixel may be transparent.
    """
    if not image.has_transparency_data:
        return image
    has_color_key = image.mode not in ("P", *ALPHA_MODES)
    rgba = image.convert("RGBA")
    if has_color_key or rgba.getchannel("A").getextrema()[0] != 255:
        raise _AmbiguousPixelsError(TRANSPARENT)
    return rgba


def _checked_floats(values: np.ndarray) -> np.ndarray:
    """Return the values, all of which are in [0, 1].

    Raises:
        _AmbiguousPixelsError: If one is not.
    """
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # also if one is NaN
        raise _AmbiguousPixelsError(
            f"its floats reach from {low:.6g} to {high:.6g}; expected 0 to 1"
        )
    return values


def _scaled_integers(values: np.ndarray) -> np.ndarray:
    """Return 16-bit values that are stored as 32-bit integers, divided by 65535.

    Raises:
        _AmbiguousPixelsError: If they may be of another width.
    """
    low, high = int(values.min()), int(values.max())
    if low < 0 or not 2**8 <= high < 2**16:
        raise _AmbiguousPixelsError(
            f"its 32-bit integers reach from {low} to {high}; expected a 16-bit picture, whose "
            "largest value is between 256 and 65535"
        )
    return values.astype(np.float32) / (2**16 - 1)


def _check_samples(image: Image.Image) -> None:
    """Check that a TIFF file has none of the encodings that Pillow decodes wrongly.

    Raises:
        _AmbiguousPixelsError: If its values are signed and of less than 32 bits, or gray of more
            than 8 bits with white as 0.
    """
    bits = _tag(image, BITS_PER_SAMPLE, 8)
    if bits < 32 and _tag(image, SAMPLE_FORMAT, 1) == SIGNED:
        raise _AmbiguousPixelsError(
            f"its values are signed {bits}-bit integers; save it with unsigned ones"
        )
    if bits > 8 and _tag(image, PHOTOMETRIC, 1) == WHITE_IS_ZERO:
        raise _AmbiguousPixelsError("it stores white as 0; save it with black as 0")


def _tag(image: Image.Image, tag: int, default: int) -> int:
    """Return the value of a TIFF tag for the first channel; ``default`` if there is no such tag."""
    value: Any = getattr(image, "tag_v2", {}).get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)
