"""Pictures for pages: the worst picture of a candidate as PNG files in ``data:`` addresses."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import numpy as np

from paragon_export.parity.report import WorstPicture
from paragon_export.reports.document import Code, Comparison, Image, Plot, Text
from paragon_export.reports.plots import svg
from paragon_export.reports.plots.results import border_plot
from paragon_export.system.text import figure, two_digits

ANCHORS = np.array(
    [(14, 18, 52), (74, 28, 110), (158, 44, 112), (226, 92, 62), (250, 170, 70), (252, 244, 190)],
    np.float64,
)
"""Colors of errors from 0 to the largest, 0 to 255: from dark to bright."""

NOT_FINITE = np.array((0, 220, 255), np.uint8)
"""Color of values that are infinite or NaN."""

STEPS = 32
"""Colors of the scale below a picture."""


def comparison(worst: WorstPicture) -> Comparison:
    """Return the worst picture of a candidate with its reference, errors and border profile."""
    row, errors = worst.row, worst.error_map[np.isfinite(worst.error_map)]
    largest = float(errors.max()) if errors.size else 0.0
    reference, candidate, difference = _visible(worst, largest)
    gain = f", amplified {two_digits(0.5 / largest)} times" if 0 < largest < 0.5 else ""
    whole = "block" if row.is_excerpt else "output"
    where = (Code(row.output), " on ", Code(row.picture), f" {row.size}")
    return Comparison(
        caption=(Code(row.candidate), ": ", *where),
        reference=_image("reference", reference),
        candidate=_image("candidate", candidate),
        difference=_image(f"difference{gain}; gray is none", difference),
        error_map=_image(f"error map of the whole {whole}", colored(worst.error_map, largest)),
        scale=_color_scale(largest, row.limit, has_gaps=errors.size < worst.error_map.size),
        about=_about(worst),
        profile=None if row.is_excerpt else _profile(worst),
    )


def _profile(worst: WorstPicture) -> Plot:
    return Plot(
        caption="Border profile", svg=border_plot(worst.profile, worst.row.limit),
        about=("The largest error at each distance from the nearest edge of the output.",),
    )  # fmt: skip


def _about(worst: WorstPicture) -> Text:
    row, (height, width) = worst.row, worst.difference.shape[1:]
    kind = "block" if row.is_excerpt else "item"
    of = f"{kind} {worst.item + 1} of {worst.items}, " if worst.items > 1 else ""
    place = f"from row {worst.top}, column {worst.left} on"
    if (height, width) == (worst.height, worst.width):
        place = "all of it"
    return (
        f"The pictures show {of}{height}x{width} of {worst.height}x{worst.width} pixels, {place}. "
        f"The largest error is {figure(row.found.max_abs, '.2e')} of full range, "
        f"{figure(row.limit, '.2e', 'any')} is allowed, and PyTorch's own is "
        f"{figure(row.reference_max_abs, '.2e')}. The map shows the largest error of all channels.",
    )


def _visible(worst: WorstPicture, largest: float) -> list[np.ndarray]:
    """Return reference, candidate and difference as (h, w, 1 or 3), to be shown from 0 to 1.

    Pictures keep their values. Others are shown by the channel with the largest error, from the
    smallest to the largest value of the reference.
    """
    arrays = [worst.reference, worst.found, worst.difference]
    low, span = 0.0, max(1.0, worst.row.full_range)
    if worst.row.output != "output" or len(worst.reference) not in (1, 3):
        gap = np.abs(worst.difference).reshape(len(worst.difference), -1).max(axis=1)
        channel = int(gap.argmax())  # of a NaN if there is one
        arrays = [array[channel : channel + 1] for array in arrays]
        low = float(arrays[0].min())
        span = float(arrays[0].max()) - low or 1.0
    reference, found, difference = (np.moveaxis(array, 0, -1) for array in arrays)
    unit = 2 * largest or 1.0
    return [(reference - low) / span, (found - low) / span, 0.5 + difference / unit]


def _image(caption: str, pixels: np.ndarray) -> Image:
    """Return an image of (h, w, C) values in [0, 1], or of 8-bit colors."""
    from PIL import Image as Pillow

    gaps = ~np.isfinite(pixels).all(axis=-1)
    if pixels.dtype != np.uint8:
        known = np.nan_to_num(pixels, nan=0.0, posinf=1.0, neginf=0.0)
        pixels = np.rint(np.clip(known, 0, 1) * 255).astype(np.uint8)
    colors = np.array(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
    colors[gaps] = NOT_FINITE
    file = io.BytesIO()
    Pillow.fromarray(colors).save(file, "PNG", optimize=True)
    address = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return Image(caption=caption, address=address, width=colors.shape[1], height=colors.shape[0])


def colored(error: np.ndarray, largest: float) -> np.ndarray:
    """Return errors (h, w) as colors (h, w, 3), uint8; ``largest`` has the brightest."""
    finite = np.isfinite(error)
    share = np.where(finite, error, 0.0).astype(np.float64) / (largest or 1.0)
    position = np.clip(share, 0, 1) * (len(ANCHORS) - 1)
    grid = np.arange(len(ANCHORS))
    colors = np.stack([np.interp(position, grid, channel) for channel in ANCHORS.T], axis=-1)
    colors = np.rint(colors).astype(np.uint8)
    colors[~finite] = NOT_FINITE
    return colors


def _color_scale(largest: float, limit: float, *, has_gaps: bool) -> str:
    """Return the scale of the colors, in units of full range, with the limit if it is within."""
    axis = svg.Axis(0.0, largest or 1.0, 12, 372)
    title = f"Color scale of errors: from 0 to {largest:.2e} of full range"
    return svg.picture(400, 58, title, [*_scale_parts(axis, largest, limit, has_gaps)])


def _scale_parts(axis: svg.Axis, largest: float, limit: float, has_gaps: bool) -> Iterator[str]:
    width = (axis.end - axis.begin) / STEPS
    levels = colored(np.linspace(0, 1, STEPS)[None], 1.0)[0]
    for number, color in enumerate(levels):
        shade = "#" + "".join(f"{int(channel):02x}" for channel in color)
        yield svg.rect(axis.begin + number * width, 6, width + 0.5, 14, shade)
    yield svg.text(axis.begin, 36, "0", size=12)
    yield svg.text(axis.end, 36, f"{largest:.2e} of full range", size=12, anchor="end")
    if 0 < limit < largest:
        yield svg.line(axis.at(limit), 2, axis.at(limit), 24, color="currentColor")
        yield svg.text(axis.begin, 53, f"line: allowed, {limit:.2e}", size=12)
    if has_gaps:
        shade = "#" + "".join(f"{channel:02x}" for channel in NOT_FINITE)
        yield svg.rect(axis.end - 88, 43, 12, 12, shade)
        yield svg.text(axis.end, 53, "not finite", size=12, anchor="end")
