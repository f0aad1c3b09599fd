"""Pictures: open one of the usual kinds, of bounded size, without waiting for it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from paragon_export.errors import PlanError
from paragon_export.reading import read_bytes

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
"""Named, because Pillow knows formats that run other programs."""

LARGEST_PICTURE_BYTES = 2**28

MOST_PIXELS = 2**25
"""A picture of 8K has so many; in float32 it takes 400 MB."""


@contextmanager
def open_picture(path: Path, what: str) -> Iterator[Image.Image]:
    """Open a picture for the body, which may decode it.

    Raises:
        PlanError: If it cannot be read or decoded or is too large.
    """
    from PIL import Image

    data = read_bytes(path, LARGEST_PICTURE_BYTES, what, PlanError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata; what matters is raised
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise PlanError(
                        f"{what} {path} is {image.height}x{image.width}; at most {MOST_PIXELS} "
                        "pixels are read"
                    )
                yield image
    except (OSError, ValueError, SyntaxError, TypeError, IndexError, KeyError, OverflowError,
            EOFError, MemoryError, Image.DecompressionBombError) as error:  # fmt: skip
        # Damaged files make Pillow's decoders fail in any of these ways.
        raise PlanError(f"cannot read {what} {path}: {error}") from error
