"""Pictures: files in as integers of their own bit depth, with what has to be kept beside the pixels."""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paragon_export.errors import PlanError
from paragon_export.media.images import MULTI_PICTURE_JPEG
from paragon_export.system.optional import require
from paragon_export.system.reading import read_bytes
from paragon_export.system.text import one_line

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "AVIF")
"""The formats that Pillow may try. Some of its other formats run external programs."""

SUFFIXES = (".avif", ".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Suffixes of picture files, in lower case."""

MAX_FILE_BYTES = 2**31

MAX_PIXELS = 2**28
"""Those of 16384x16384."""

PLAIN, WITH_ALPHA = ((8, 0), (8, 2), (8, 4), (8, 6)), (4, 6)
"""Depths and color types of PNG without a palette, and the types with alpha."""

IHDR = slice(16, 26)
"""Where a PNG file holds width, height, bit depth and color type."""

ORIENTATION = 274
"""Number of the EXIF tag that says how a picture is turned."""

TIFF_SIGNATURES = (b"II*\0", b"MM\0*")

TIFF_BITS, X_RESOLUTION = 258, 282
"""Numbers of the tags that hold the bits of each sample and the resolution (TIFF 6.0, section 8)."""


@dataclass(frozen=True)
class Picture:
    """The pixels of a picture, and what is kept beside them."""

    color: np.ndarray
    """(C, H, W), uint8 or uint16; gray has one channel, others three: RGB."""
    alpha: np.ndarray | None = None
    """(1, H, W), of the same dtype; None if every pixel is opaque."""
    icc: bytes | None = None
    """Color profile. It is kept; values are not converted."""
    dpi: tuple[float, float] | None = None
    """Pixels to an inch, horizontally and vertically."""
    converted: tuple[str, ...] = field(default=())
    """What was changed in reading, as ``palette to RGB``."""

    @property
    def largest(self) -> int:
        """The value of white: 255 or 65535."""
        return int(np.iinfo(self.color.dtype).max)


def read_picture(path: Path) -> Picture:
    """Read a picture, turned as its EXIF orientation says.

    Palettes and CMYK become RGB, one bit becomes eight, 10 and 12 bits of AVIF become eight.

    Args:
        path: A PNG, JPEG, WebP, BMP, TIFF or AVIF file.

    Raises:
        PlanError: If it cannot be read, is too large, holds several pictures, or has floats, signed
            integers or a color space such as LAB.
        MissingDependencyError: If it has 16 bits and color, and the extra ``media`` is missing.
    """
    from PIL import Image, UnidentifiedImageError

    data = read_bytes(path, MAX_FILE_BYTES, "picture", PlanError)
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # the check is below
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they concern metadata; errors are raised
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return _read(path, data, image)
    except UnidentifiedImageError as error:
        if data[:4] in TIFF_SIGNATURES:  # 16-bit gray with alpha
            return _deep_tiff(path, data)
        raise PlanError(f"cannot read {path}: it is no {', '.join(FORMATS)} file") from error
    except (OSError, ValueError, SyntaxError, TypeError, IndexError, KeyError, OverflowError,
            EOFError, struct.error) as error:  # fmt: skip
        # Pillow's decoders raise all of these for damaged files.
        raise PlanError(f"cannot read {path}: {one_line(str(error))}") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _read(path: Path, data: bytes, image: Image.Image) -> Picture:
    from PIL import ImageOps

    if image.width * image.height > MAX_PIXELS:
        raise PlanError(
            f"{path} is {image.height}x{image.width}; at most {MAX_PIXELS} pixels are supported"
        )
    if getattr(image, "is_animated", False) and image.format != MULTI_PICTURE_JPEG:
        raise PlanError(f"{path} holds several pictures; save one of them alone")
    icc, dpi = image.info.get("icc_profile"), image.info.get("dpi")
    dpi = (float(dpi[0]), float(dpi[1])) if dpi and min(dpi) > 0 else None
    if image.format == "TIFF" and _largest(getattr(image, "tag_v2", {}).get(TIFF_BITS, 8)) == 16:
        return _deep_tiff(path, data)
    if (deep := _png(data, image)) is not None:
        return Picture(
            *_parts(_turned(deep, image.getexif().get(ORIENTATION, 1))), icc=icc, dpi=dpi
        )
    mode = image.mode
    ImageOps.exif_transpose(image, in_place=True)
    wanted, said = _mode_of(path, image)
    pixels = np.asarray(image if mode == wanted else _as(image, wanted, icc))
    color, alpha = _parts(pixels)
    kept = None if mode == "CMYK" else icc
    return Picture(color, alpha, icc=kept, dpi=dpi, converted=said)


def _mode_of(path: Path, image: Image.Image) -> tuple[str, tuple[str, ...]]:
    """Return Pillow's mode to convert to, and what that changes.

    Raises:
        PlanError: If the mode does not determine colors.
    """
    mode, clear = image.mode, image.has_transparency_data
    if mode in ("L", "RGB") and clear:  # one value of the picture means "transparent"
        return mode + "A", ("transparent color to alpha",)
    if mode in ("L", "LA", "RGB", "RGBA"):
        return mode, ()
    known = {
        "1": ("L", "1 bit to 8"),
        "P": ("RGBA" if clear else "RGB", "palette to RGB"),
        "PA": ("RGBA", "palette to RGB"),
        "CMYK": ("RGB", "CMYK to RGB"),
        "YCbCr": ("RGB", "YCbCr to RGB"),
    }
    if mode not in known:
        raise PlanError(f"{path} is not read: its mode is {mode}; save it as RGB of 8 or 16 bits")
    wanted, said = known[mode]
    return wanted, (said,)


def _as(image: Image.Image, mode: str, icc: bytes | None) -> Image.Image:
    """Convert a picture; CMYK by its own profile to sRGB, if it has one."""
    if image.mode != "CMYK" or not icc:
        return image.convert(mode)
    from PIL import ImageCms

    try:
        own, srgb = ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, own, srgb, outputMode=mode)
    except ImageCms.PyCMSError:  # the profile is damaged, or for other colors
        return image.convert(mode)
    assert converted is not None  # only where it converts in place
    return converted


def _png(data: bytes, image: Image.Image) -> np.ndarray | None:
    """Return a PNG file as (H, W) or (H, W, channels); None if Pillow is to read it.

    Pillow reads 16-bit gray alone; of color it gives the upper eight bits. For others it takes twice the
    time, and more than twice the memory of their pixels.

    Raises:
        ValueError: If it is damaged.
    """
    if image.format != "PNG":
        return None
    _, _, depth, color = struct.unpack(">IIBB", data[IHDR])
    is_plain = (depth, color) in PLAIN and image.has_transparency_data == (color in WITH_ALPHA)
    if depth != 16 and not (is_plain and find_spec("imagecodecs")):
        return None
    imagecodecs = require("imagecodecs", "media")
    try:
        pixels: np.ndarray = imagecodecs.png_decode(data)
    except imagecodecs.PngError as error:
        raise ValueError(str(error)) from error
    return pixels


def _deep_tiff(path: Path, data: bytes) -> Picture:
    """Return a TIFF file of 16 bits.

    Raises:
        PlanError: If its values are no unsigned integers of 16 bits.
    """
    with require("tifffile", "media").TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        pixels, orientation = page.asarray(), page.tags.get(ORIENTATION)
        icc, dpi = (
            page.iccprofile,
            page.get_resolution("INCH") if X_RESOLUTION in page.tags else None,
        )
    white_is_zero = page.photometric == 0
    if pixels.dtype != np.uint16 or pixels.ndim not in (2, 3) or white_is_zero:
        found = "white as 0" if white_is_zero else f"{pixels.dtype} in {pixels.ndim} dimensions"
        raise PlanError(f"{path} is not read: its values are {found}; save it as RGB of 16 bits")
    turned = _turned(pixels, orientation.value if orientation else 1)
    return Picture(*_parts(turned), icc=icc, dpi=dpi)


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return a picture as its EXIF orientation says (CIPA DC-008, tag Orientation)."""
    if orientation in (5, 6, 7, 8):  # rows and columns are exchanged
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels


def _largest(bits: Any) -> int:
    return max(bits) if isinstance(bits, tuple) else int(bits)


def _parts(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return color and alpha, channels first; no alpha if every pixel is opaque."""
    planes = pixels[..., None] if pixels.ndim == 2 else pixels
    channels = np.moveaxis(planes, -1, 0)
    if len(channels) in (1, 3):
        return channels, None
    color, alpha = channels[:-1], channels[-1:]
    is_opaque = bool((alpha == np.iinfo(alpha.dtype).max).all())
    return color, None if is_opaque else alpha
