"""Kernels as a plot: estimated times as stacked bars, one bar for each size and card."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from paragon_export.engines.kernels import count
from paragon_export.engines.kernels.estimate import BASIS, Estimate, rounded
from paragon_export.reports.plots import svg
from paragon_export.reports.plots.svg import LETTER, Axis

COLORS = {
    count.CONVOLUTION: svg.BLUE, count.ATTENTION: svg.RED, count.PRODUCT: svg.YELLOW,
    count.NORM: svg.GREEN, count.COPY: svg.PINK, count.OTHER: svg.GRAY,
}  # fmt: skip
"""Color of each kind of kernel."""

WIDTH, BAR, GAP, TOP = 860, 20, 9, 84
"""Pixels: of the picture, of a bar, between bars, and above the first bar."""

MAX_TITLE = 44
"""Letters of a file's name in the title."""


def kernel_plot(estimates: Sequence[Estimate], name: str) -> str:
    """Return a picture of estimates as SVG, without scripts and links.

    Args:
        estimates: One bar each, from top to bottom; at least one.
        name: What was compiled, for the title.
    """
    labels = [f"{one.size}, {one.card}" for one in estimates]
    left = 24 + LETTER * max(map(len, labels))
    bottom = TOP + len(estimates) * (BAR + GAP)
    longest = max(one.estimated_ms for one in estimates) or 1.0
    axis = Axis(0.0, longest, left, WIDTH - 96)
    title = f"Estimated time of {svg.shortened(name, MAX_TITLE)}, by kind of kernel"
    note = f"TensorRT-RTX; {BASIS}. Kernels of all streams are added."
    parts = [
        svg.text(16, 28, title, size=16),
        *_legend(estimates),
        *svg.x_ticks(axis, TOP - 6, bottom),
        svg.text(left, bottom + 38, "estimated milliseconds of one run", size=12),
        svg.text(16, bottom + 68, note, size=12),
    ]
    for row, (one, label) in enumerate(zip(estimates, labels, strict=True)):
        parts += _bar(one, label, axis, TOP + row * (BAR + GAP))
    return svg.picture(WIDTH, bottom + 84, title, parts)


def _rect(x: float, y: float, width: float, height: float, group: str) -> str:
    return svg.rect(x, y, width, height, COLORS.get(group, COLORS[count.OTHER]), group)


def _legend(estimates: Sequence[Estimate]) -> Iterator[str]:
    x = 16.0
    for group in COLORS:
        if any(one.estimated_ms_by_group.get(group) for one in estimates):
            yield _rect(x, 46, 14, 14, group)
            yield svg.text(x + 20, 58, group)
            x += 44 + LETTER * len(group)


def _bar(one: Estimate, label: str, axis: Axis, top: float) -> Iterator[str]:
    yield svg.text(axis.begin - 8, top + 15, label, anchor="end")
    x = axis.begin
    for group in sorted(one.estimated_ms_by_group, key=lambda name: [*COLORS, name].index(name)):
        width = axis.at(one.estimated_ms_by_group[group]) - axis.begin
        yield _rect(x, top, width, BAR, group)
        x += width
    yield svg.text(x + 6, top + 15, f"{rounded(one.estimated_ms)} ms")
