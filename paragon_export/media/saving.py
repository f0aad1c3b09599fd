"""Saving: write a picture from top to bottom in the format of its name."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from paragon_export.errors import PlanError
from paragon_export.media.png import PngWriter
from paragon_export.system.atomic_write import writing
from paragon_export.system.optional import require

FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "tiff": "TIFF", "avif": "AVIF"}
"""Formats that are written: suffix to Pillow's name."""

ALIASES = {"jpeg": "jpg", "tif": "tiff"}

DEEP = ("png", "tiff")
"""Formats that hold 16 bits here."""

WITHOUT_ALPHA = ("jpg",)

QUALITY = {"jpg": 95, "webp": 90, "avif": 80}
"""Of formats with losses, if none was given."""

COLOR_ONLY = ("webp", "avif")
"""Formats that hold gray as color, for which a profile of gray says nothing."""

COLOR_SPACE = slice(16, 20)
"""Where a profile names what it describes (ICC.1:2022, 7.2.8)."""

MAX_SIDE = {"jpg": 65500, "webp": 16383, "avif": 65536}
"""Most rows and columns of a format."""

MAX_GATHERED_BYTES = 2**31
"""Largest picture of the formats that need all rows at once. PNG needs a few."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a file is to hold."""

    height: int
    width: int
    channels: int
    """1 gray, 2 gray with alpha, 3 RGB, 4 RGB with alpha."""
    dtype: np.dtype
    """uint8 or uint16."""
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    quality: int | None = None
    """1 to 100, of JPEG, WebP and AVIF; None: ``QUALITY``."""

    @property
    def bytes(self) -> int:
        """Bytes of all pixels."""
        return self.height * self.width * self.channels * self.dtype.itemsize


class Rows(Protocol):
    """Takes the rows of a picture."""

    def write(self, rows: np.ndarray) -> None:
        """Take the next rows, (rows, W, channels)."""


def format_of(name: str) -> str:
    """Return the format that a suffix or a name of a format stands for.

    Raises:
        PlanError: If it is not written here.
    """
    found = name.lower().removeprefix(".")
    found = ALIASES.get(found, found)
    if found not in FORMATS:
        raise PlanError(f"pictures are not written as {name!r}; use one of {', '.join(FORMATS)}")
    return found


def fitted(layout: Layout, kind: str) -> tuple[Layout, tuple[str, ...]]:
    """Return what a format can hold of a picture, and what is lost."""
    lost = []
    if layout.dtype != np.uint8 and kind not in DEEP:
        lost.append(f"16 bits to 8, as {kind} holds no more")
        layout = replace(layout, dtype=np.dtype(np.uint8))
    if layout.channels in (2, 4) and kind in WITHOUT_ALPHA:
        lost.append(f"transparency onto white, as {kind} holds none")
        layout = replace(layout, channels=layout.channels - 1)
    if layout.icc and layout.icc[COLOR_SPACE] == b"GRAY" and kind in COLOR_ONLY:
        lost.append(f"gray with a profile to gray without, as {kind} holds gray as color")
        layout = replace(layout, icc=None)
    return layout, tuple(lost)


@contextmanager
def saving(path: Path, layout: Layout) -> Iterator[Rows]:
    """Open a picture for writing. It appears complete at the end of the block, or not at all.

    Args:
        path: The file; its suffix says the format.
        layout: What it is to hold, as ``fitted`` returns it.

    Raises:
        PlanError: If it cannot be written, or is too large for the format.
    """
    kind = format_of(path.suffix)
    if kind != "png" and layout.bytes > MAX_GATHERED_BYTES:
        raise PlanError(
            f"{path} would hold {layout.bytes / 2**30:.1f} GiB of pixels; write PNG, which needs no "
            "memory for them"
        )
    if max(layout.height, layout.width) > (most := MAX_SIDE.get(kind, math.inf)):
        raise PlanError(
            f"{path} would have {layout.height}x{layout.width} pixels; {kind} holds {most} rows and columns at "
            "most; choose another format"
        )
    with writing([path]) as folder:
        file = folder / path.name
        if kind == "png":
            with open(file, "xb") as opened, PngWriter(
                opened, layout.height, layout.width, layout.channels, layout.dtype,
                icc=layout.icc, dpi=layout.dpi,
            ) as writer:  # fmt: skip
                yield writer
        else:
            gathered = _Gathered(layout)
            yield gathered
            _save(file, kind, layout, gathered.pixels)


class _Gathered:
    """Rows of a picture, all in memory."""

    def __init__(self, layout: Layout) -> None:
        self.pixels = np.empty((layout.height, layout.width, layout.channels), layout.dtype)
        self._next = 0

    def write(self, rows: np.ndarray) -> None:
        self.pixels[self._next : self._next + len(rows)] = rows
        self._next += len(rows)


def _save(file: Path, kind: str, layout: Layout, pixels: np.ndarray) -> None:
    if layout.dtype != np.uint8:
        _save_deep_tiff(file, layout, pixels)
        return
    from PIL import Image

    options: dict[str, object] = {"icc_profile": layout.icc} if layout.icc else {}
    if layout.dpi and kind in ("jpg", "tiff"):
        options["dpi"] = layout.dpi
    if kind in QUALITY:
        options["quality"] = layout.quality or QUALITY[kind]
    if kind == "jpg":
        options["subsampling"] = 0  # 4:4:4: color at full size
    if kind == "tiff":
        options["compression"] = "tiff_deflate"
    image = Image.fromarray(pixels[..., 0] if layout.channels == 1 else pixels)
    encoded = io.BytesIO()  # Pillow hides the reason if a disk is full
    try:
        image.save(encoded, format=FORMATS[kind], **options)
    except (ValueError, OSError, RuntimeError) as error:
        raise PlanError(f"cannot write {file.name}: {error}; choose another format") from error
    file.write_bytes(encoded.getbuffer())


def _save_deep_tiff(file: Path, layout: Layout, pixels: np.ndarray) -> None:
    tifffile = require("tifffile", "media")
    is_gray = layout.channels < 3
    tifffile.imwrite(
        file,
        pixels[..., 0] if layout.channels == 1 else pixels,
        photometric="minisblack" if is_gray else "rgb",
        planarconfig="contig",
        extrasamples=["unassalpha"] if layout.channels in (2, 4) else None,
        compression="zlib",
        iccprofile=layout.icc,
        resolution=layout.dpi,
        resolutionunit="INCH" if layout.dpi else None,
    )
