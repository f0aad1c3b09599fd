"""Pictures: files of the usual kinds, of bounded size, and their pixels in [0, 1].

What a pixel means is converted where the file says it, and refused where it does not: a picture
that was read wrongly would be measured like any other.
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
"""Named, because Pillow knows formats that run other programs."""

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Of the files of a folder that are pictures, in lower case."""

MAX_IMAGE_BYTES = 2**28

MAX_PIXELS = 2**25
"""A picture of 8K has so many; in float32 it takes 400 MB."""

MULTI_PICTURE_JPEG = "MPO"
"""A JPEG of a camera with previews behind it: its first picture is the photograph."""

EIGHT_BITS = ("1", "L", "P", "RGB", "CMYK", "YCbCr")
WITH_ALPHA = ("LA", "PA", "RGBA")
SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's names of what is read, next to 32-bit integers (``I``) and floats (``F``)."""

BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
"""Tags of TIFF that Pillow's mode does not tell."""

WHITE_IS_ZERO, SIGNED = 0, 2
"""Values of the last two."""


def pictures_in(folder: Path, option: str) -> list[Path]:
    """Return the pictures of a folder, by name.

    Hidden files (such as the companions ``._NAME`` that macOS writes) and folders are no pictures,
    whatever their names end in. Everything else is told by its suffix.

    Args:
        folder: Its subfolders are not searched.
        option: What the user named the folder with, for errors.

    Raises:
        PlanError: If it is no folder, cannot be listed, or holds no picture.
    """
    if not folder.is_dir():
        raise PlanError(f"{option} {folder} is not a folder")
    try:
        named = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise PlanError(f"cannot read {option} {folder}: {error.strerror or error}") from error
    paths = [path for path in named if not path.name.startswith(".") and not path.is_dir()]
    if not paths:
        others = f"; {named[0].name} is hidden or a folder" if named else ""
        raise PlanError(f"{option} {folder} holds no picture ({', '.join(SUFFIXES)}){others}")
    return paths


def read_picture(path: Path, what: str = "picture") -> np.ndarray:
    """Return the pixels of a picture, upright, as RGB.

    Integers are divided by the largest number of their type: 8 bits (grey, colour, palette, CMYK),
    1 bit, 12 and 16 bits of grey. Of colours of 16 bits the upper 8 are read. Grey floats are taken
    as they are. Colour profiles are not applied. Alpha is dropped where all of it is opaque.

    Args:
        path: A PNG, JPEG, WebP, BMP or TIFF file.
        what: What it is called in an error.

    Returns:
        (H, W, 3), float32, in [0, 1]; grey is repeated.

    Raises:
        PlanError: If it cannot be read, is too large, holds several pictures, is transparent
            anywhere, or has values whose meaning is not known: floats outside [0, 1], integers
            that are signed or beyond 16 bits, white as 0, LAB and other colour spaces.
    """
    with open_picture(path, what) as image:
        try:
            pixels = _pixels(image)
        except _MeaninglessError as reason:
            raise PlanError(f"{what} {path} is not read: {reason}") from reason
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), np.float32)


@contextmanager
def open_picture(path: Path, what: str) -> Iterator[Image.Image]:
    """Open a picture for the body, upright as its EXIF orientation says.

    Raises:
        PlanError: If it cannot be read or decoded, is too large or holds several pictures.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    data = read_bytes(path, MAX_IMAGE_BYTES, what, PlanError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata; what matters is raised
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise PlanError(
                        f"{what} {path} is {image.height}x{image.width}; at most {MAX_PIXELS} "
                        "pixels are read"
                    )
                several = getattr(image, "is_animated", False)
                if several and image.format != MULTI_PICTURE_JPEG:
                    raise PlanError(
                        f"{what} {path} holds several pictures; save the one that you mean"
                    )
                ImageOps.exif_transpose(image, in_place=True)
                yield image
    except UnidentifiedImageError as error:
        raise PlanError(
            f"cannot read {what} {path}: it is no {', '.join(FORMATS)} file, or of a kind that "
            "Pillow does not know"
        ) from error
    except (OSError, ValueError, SyntaxError, TypeError, IndexError, KeyError, OverflowError,
            EOFError, MemoryError, struct.error, Image.DecompressionBombError) as error:  # fmt: skip
        # Damaged files make Pillow's decoders fail in any of these ways.
        raise PlanError(f"cannot read {what} {path}: {one_line(str(error))}") from error


class _MeaninglessError(Exception):
    """Why nobody can say which colours a picture's values are."""


def _pixels(image: Image.Image) -> np.ndarray:
    """Return (H, W, 1) or (H, W, 3) float32 in [0, 1].

    Raises:
        _MeaninglessError: If the picture does not tell them.
    """
    mode = image.mode
    _check_samples(image)
    if mode in EIGHT_BITS or mode in WITH_ALPHA:
        return np.asarray(_without_alpha(image).convert("RGB"), np.float32) / 255
    if "transparency" in image.info:
        raise _MeaninglessError(TRANSPARENT)
    if mode == "F":
        return _floats(np.asarray(image))[..., None]
    if mode in SIXTEEN_BITS:
        largest = 2 ** _tag(image, BITS_PER_SAMPLE, 16) - 1
        return np.asarray(image).astype(np.float32)[..., None] / largest
    if mode == "I":
        return _integers(np.asarray(image))[..., None]
    raise _MeaninglessError(f"its mode is {mode}; save it as RGB")


TRANSPARENT = "it is transparent in places; save it on an opaque background"


def _without_alpha(image: Image.Image) -> Image.Image:
    """Return a picture that is opaque everywhere without its alpha.

    A colour that stands for transparency (PNG) counts as used.
    """
    if not image.has_transparency_data:
        return image
    is_keyed = image.mode not in ("P", *WITH_ALPHA)
    opaque = image.convert("RGBA")
    if is_keyed or opaque.getchannel("A").getextrema()[0] != 255:
        raise _MeaninglessError(TRANSPARENT)
    return opaque


def _floats(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # NaN is not
        raise _MeaninglessError(f"its floats reach from {low:.6g} to {high:.6g}; expected 0 to 1")
    return values


def _integers(values: np.ndarray) -> np.ndarray:
    """Return what 32-bit integers stand for that are 16-bit ones in a wider type."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or not 2**8 <= high < 2**16:
        raise _MeaninglessError(
            f"its 32-bit integers reach from {low} to {high}; expected a 16-bit picture, whose "
            "largest value is between 256 and 65535"
        )
    return values.astype(np.float32) / (2**16 - 1)


def _check_samples(image: Image.Image) -> None:
    """Refuse what Pillow reads from a TIFF file as if it were something else.

    Raises:
        _MeaninglessError: If its values are signed and of less than 32 bits, or grey of more than
            8 bits with white as 0.
    """
    bits = _tag(image, BITS_PER_SAMPLE, 8)
    if bits < 32 and _tag(image, SAMPLE_FORMAT, 1) == SIGNED:
        raise _MeaninglessError(f"its values are signed {bits}-bit integers; save it unsigned")
    if bits > 8 and _tag(image, PHOTOMETRIC, 1) == WHITE_IS_ZERO:
        raise _MeaninglessError("white is 0 in it; save it with black as 0")


def _tag(image: Image.Image, tag: int, default: int) -> int:
    """Return a number that a TIFF file tells, of its first channel; ``default`` of other files."""
    told: Any = getattr(image, "tag_v2", {}).get(tag, default)
    return int(told[0] if isinstance(told, tuple) else told)
