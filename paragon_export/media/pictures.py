"""Pictures: files in as integers of their own bit depth, with what has to be kept beside the pixels."""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from paragon_export.errors import PlanError
from paragon_export.media.deep_tiff import EXTRA_NOTE, read_deep_tiff
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

EXIF_IN_PNG = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")
"""Names of what may hold an orientation in a PNG file, before the pixels or behind them."""

KEY_NOTE = ("transparent color to alpha",)
"""Note on a picture in which one value means "transparent"."""

SIDEWAYS = (5, 6, 7, 8)
"""Orientations that exchange rows and columns."""

USUAL_GAMMA = 0.45455
"""Of a PNG file, which is that of sRGB."""

CICP_OF_SRGB = bytes([1, 13, 0, 1])
"""The same as code points of ITU-T H.273."""

TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""Of TIFF and BigTIFF, in both orders of bytes."""

TIFF_BITS, TIFF_CHANNELS = 258, 277
"""Numbers of the tags that hold the bits of each sample, and the samples of a pixel (TIFF 6.0, section 8)."""

CODEC_OF_AVIF, DEEP_BIT, TWELVE_BIT = b"av1C", 0x40, 0x20
"""Name of the box that describes the codec, and flags in its third byte (AV1 in ISOBMFF, 2.3.3)."""


class _AnySize:
    """Lets Pillow open and decode pictures of any size in the block; ``_read`` checks it.

    Pillow's limit is one for all threads, so it comes back when the last of them has read.
    """

    def __init__(self) -> None:
        self._lock, self._count = Lock(), 0
        self._limit: int | None = None

    def __enter__(self) -> None:
        from PIL import Image

        with self._lock:
            self._count += 1
            if self._count == 1:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None

    def __exit__(self, *_: object) -> None:
        from PIL import Image

        with self._lock:
            self._count -= 1
            if self._count == 0:
                Image.MAX_IMAGE_PIXELS = self._limit


_any_size = _AnySize()


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
    try:
        with warnings.catch_warnings(), _any_size:
            warnings.simplefilter("ignore")  # they concern metadata; errors are raised
            try:
                opened = Image.open(io.BytesIO(data), formats=FORMATS)
            except UnidentifiedImageError as error:
                if data[:4] in TIFF_SIGNATURES:  # such as 16-bit gray with alpha
                    return _deep_tiff(path, data)
                found = f"no {', '.join(FORMATS)} file" if data else "empty"
                raise PlanError(f"cannot read {path}: it is {found}") from error
            with opened as image:
                return _read(path, data, image)
    except (OSError, ValueError, SyntaxError, TypeError, IndexError, KeyError, OverflowError,
            EOFError, struct.error) as error:  # fmt: skip
        # Pillow's decoders raise all of these for damaged files.
        raise PlanError(f"cannot read {path}: {one_line(str(error))}") from error


def _read(path: Path, data: bytes, image: Image.Image) -> Picture:
    from PIL import ImageOps

    if image.width * image.height > MAX_PIXELS:
        raise PlanError(
            f"{path} is {image.height}x{image.width}; at most {MAX_PIXELS} pixels are supported"
        )
    if getattr(image, "is_animated", False) and image.format != MULTI_PICTURE_JPEG:
        raise PlanError(f"{path} holds several pictures; save one of them alone")
    mode, icc = image.mode, image.info.get("icc_profile")
    bits = _largest(getattr(image, "tag_v2", {}).get(TIFF_BITS, 8)) if image.format == "TIFF" else 8
    if bits == 16 and mode != "CMYK":
        return _deep_tiff(path, data)
    orientation = _orientation(data, image)
    dpi = _turned_dpi(image.info.get("dpi"), orientation)
    if (deep := _png(data, image)) is not None:
        color, alpha = _parts(_turned(deep, orientation))
        has_key = image.has_transparency_data and deep.shape[-1] > len(image.getbands())
        said = (KEY_NOTE if has_key else ()) + _unstated(data, image)
        return Picture(color, alpha, icc=icc, dpi=dpi, converted=said)
    said = (*_reduced_by_pillow(data, image, bits), *_unstated(data, image))
    _scale_key(data, image)
    ImageOps.exif_transpose(image, in_place=True)
    wanted, converted = _mode_of(path, image)
    pixels = np.asarray(image if mode == wanted else _as(image, wanted, icc))
    color, alpha = _parts(pixels)
    kept = None if mode == "CMYK" else icc
    return Picture(color, alpha, icc=kept, dpi=dpi, converted=(*converted, *said))


def _orientation(data: bytes, image: Image.Image) -> int:
    """Return the EXIF orientation. Pillow decodes all of a PNG file to find it behind the pixels."""
    if image.format == "PNG" and not any(name in data for name in EXIF_IN_PNG):
        return 1
    orientation: int = image.getexif().get(ORIENTATION, 1)
    return orientation


def _reduced_by_pillow(data: bytes, image: Image.Image, bits: int) -> tuple[str, ...]:
    """Return what Pillow leaves out of a file."""
    said = []
    if bits == 16:
        said.append("16 bits to 8, as CMYK is read with 8")
    if getattr(image, "tag_v2", {}).get(TIFF_CHANNELS, 1) > len(image.getbands()):
        said += EXTRA_NOTE
    at = data.find(CODEC_OF_AVIF) + len(CODEC_OF_AVIF) + 2
    if image.format == "AVIF" and at < len(data) and data[at] & DEEP_BIT:
        said.append(f"{12 if data[at] & TWELVE_BIT else 10} bits to 8")
    return tuple(said)


def _unstated(data: bytes, image: Image.Image) -> tuple[str, ...]:
    """Return what a PNG file states of its colors that the output does not (PNG, 11.3.2)."""
    if image.format != "PNG":
        return ()
    at = data.find(b"cICP", 0, data.find(b"IDAT"))
    if at > 0 and data[at + 4 : at + 8] != CICP_OF_SRGB:
        return ("a color space (cICP) to none",)
    gamma = image.info.get("gamma", USUAL_GAMMA)
    is_usual = (
        abs(gamma - USUAL_GAMMA) < 0.01 or "srgb" in image.info or "icc_profile" in image.info
    )
    return () if is_usual else (f"a gamma of {gamma:g} to none",)


def _scale_key(data: bytes, image: Image.Image) -> None:
    """Scale the value that means "transparent" as Pillow scales the pixels of a PNG of 2 or 4 bits."""
    if image.format == "PNG" and image.mode == "L" and "transparency" in image.info:
        depth = data[IHDR][8]
        image.info["transparency"] *= 255 // (2**depth - 1)


def _turned_dpi(dpi: Any, orientation: int) -> tuple[float, float] | None:
    """Return pixels to an inch, horizontally and vertically, of a picture that is turned by ``_turned``."""
    if not dpi or min(dpi) <= 0:
        return None
    x, y = (float(dpi[1]), float(dpi[0])) if orientation in SIDEWAYS else map(float, dpi)
    return x, y


def _mode_of(path: Path, image: Image.Image) -> tuple[str, tuple[str, ...]]:
    """Return Pillow's mode to convert to, and what that changes.

    Raises:
        PlanError: If the mode does not determine colors.
    """
    mode, clear = image.mode, image.has_transparency_data
    if mode in ("L", "RGB") and clear:  # one value of the picture means "transparent"
        return mode + "A", KEY_NOTE
    if mode in ("L", "LA", "RGB", "RGBA"):
        return mode, ()
    known = {
        "1": ("LA" if clear else "L", "1 bit to 8"),
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
    """Return a TIFF file of 16 bits. Errors are those of ``read_deep_tiff``."""
    found = read_deep_tiff(path, data, MAX_PIXELS)
    color, alpha = _parts(_turned(found.pixels, found.orientation))
    dpi = _turned_dpi(found.dpi, found.orientation)
    return Picture(color, alpha, icc=found.icc, dpi=dpi, converted=found.converted)


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return a picture as its EXIF orientation says (CIPA DC-008, tag Orientation)."""
    if orientation in SIDEWAYS:
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
