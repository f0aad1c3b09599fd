"""One picture: from the file's pixels to the rows of its output."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

import numpy as np

from paragon_export.media.pictures import Picture
from paragon_export.media.saving import Layout, fitted
from paragon_export.media.transparency import filled
from paragon_export.specs.types import Size
from paragon_export.upscaling.tiles import Tiling

WHITE = 1.0
"""What transparent pixels are laid on in formats without transparency."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """What outputs are to be like."""

    kind: str = "png"
    """Format, as ``saving.format_of`` returns it."""
    quality: int | None = None
    """As for ``Layout``."""
    fit: Size | None = None
    """Outputs larger than this are reduced to fit into it; their aspect ratio is kept."""


def size_within(size: Size, limit: Size | None) -> Size:
    """Return the largest size of the same aspect ratio within a limit, at most ``size``."""
    if limit is None:
        return size
    share = min(1.0, limit.height / size.height, limit.width / size.width)
    return Size(max(1, round(share * size.height)), max(1, round(share * size.width)))


def layout_of(
    picture: Picture, scale: int, channels: int, form: Form
) -> tuple[Layout, tuple[str, ...]]:
    """Return what the output holds, and what of the picture is lost.

    Args:
        picture: The source.
        scale: Pixels of the output for one of it.
        channels: Of the network's pictures.
        form: What the output is to be like.
    """
    height, width = picture.color.shape[1:]
    whole = Size(scale * height, scale * width)
    size = size_within(whole, form.fit)
    factor = (size.width / width, size.height / height)
    notes = list(picture.converted)
    is_color = len(picture.color) == 3
    if is_color and channels == 1:
        notes.append("color to gray, as the network takes luma alone")
    layout = Layout(
        height=size.height,
        width=size.width,
        channels=(3 if is_color and channels == 3 else 1) + (picture.alpha is not None),
        dtype=picture.color.dtype,
        icc=None if is_color and channels == 1 else picture.icc,
        dpi=(picture.dpi[0] * factor[0], picture.dpi[1] * factor[1]) if picture.dpi else None,
        quality=form.quality,
    )
    layout, lost = fitted(layout, form.kind)
    return layout, (*notes, *lost)


def rows_of(picture: Picture, tiling: Tiling, layout: Layout, form: Form) -> Generator[np.ndarray]:
    """Compute a picture and yield its rows from top to bottom.

    Yields:
        (rows, W, channels), of the dtype of the layout.
    """
    strips = _strips(picture, tiling, layout)
    if form.fit:
        strips = iter([_reduced(np.concatenate(list(strips), axis=1), layout)])
    largest = np.float32(np.iinfo(layout.dtype).max)
    for strip in strips:
        np.rint(np.multiply(strip, largest, out=strip), out=strip)
        rows = np.empty((*strip.shape[1:], len(strip)), layout.dtype)
        for channel, values in enumerate(strip.astype(layout.dtype)):
            rows[..., channel] = values
        yield rows


def _strips(picture: Picture, tiling: Tiling, layout: Layout) -> Iterator[np.ndarray]:
    """Yield (channels, rows, W) in [0, 1]: color and, if there is one, alpha."""
    largest = picture.largest
    if picture.alpha is None:
        yield from tiling.strips(picture.color, largest)
        return
    opaque = _filled(picture)
    color = tiling.strips(opaque.color, largest)
    alpha = tiling.strips(picture.alpha, largest)
    for shown, share in zip(color, alpha, strict=True):
        if layout.channels in (2, 4):
            yield np.concatenate([shown, share])
        else:
            yield share * shown + (1 - share) * WHITE


def _filled(picture: Picture) -> Picture:
    """Return the picture with colors for its transparent pixels."""
    assert picture.alpha is not None
    largest = np.float32(picture.largest)
    color = filled(picture.color / largest, picture.alpha / largest)
    return replace(picture, color=np.rint(color * largest).astype(picture.color.dtype))


def _reduced(pixels: np.ndarray, layout: Layout) -> np.ndarray:
    """Return a picture, (channels, H, W), reduced to the layout's size by Lanczos' filter.

    Colors are weighted by alpha, so that transparent pixels lend none.
    """
    from PIL import Image

    def resized(plane: np.ndarray) -> np.ndarray:
        image = Image.fromarray(np.ascontiguousarray(plane, np.float32))
        size = (layout.width, layout.height)
        return np.asarray(image.resize(size, Image.Resampling.LANCZOS))

    if layout.channels in (1, 3):
        return np.clip(np.stack([resized(plane) for plane in pixels]), 0, 1)
    alpha = resized(pixels[-1])
    color = np.stack([resized(plane * pixels[-1]) for plane in pixels[:-1]])
    color = color / np.maximum(alpha, 1e-6)
    return np.clip(np.concatenate([color, alpha[None]]), 0, 1)
