"""Plot: estimated times as stacked bars in SVG, one bar for each size and card."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from html import escape

from paragon_export.engines.kernels import count
from paragon_export.engines.kernels.estimate import BASIS, Estimate, rounded
from paragon_export.system.text import printable

COLORS = {
    count.CONVOLUTION: "#0072B2", count.ATTENTION: "#D55E00", count.PRODUCT: "#E69F00",
    count.NORM: "#009E73", count.COPY: "#CC79A7", count.OTHER: "#8A8A8A",
}  # fmt: skip
"""Color of each kind of kernel: those of Okabe and Ito, which color-blind people can tell apart."""

WIDTH, BAR, GAP, TOP = 860, 20, 9, 84
"""Pixels: of the picture, of a bar, between bars, and above the first bar."""

LETTER = 8
"""Pixels of a letter of the labels, at most."""

MOST_TICKS = 7

MAX_TITLE = 44
"""Letters of a file's name in the title."""


def plot(estimates: Sequence[Estimate], name: str) -> str:
    """Return a picture of estimates as SVG, without scripts and links.

    Args:
        estimates: One bar each, from top to bottom; at least one.
        name: What was compiled, for the title.
    """
    labels = [f"{one.size}, {one.card}" for one in estimates]
    left = 24 + LETTER * max(map(len, labels))
    longest = max(one.estimated_ms for one in estimates) or 1.0
    scale = (WIDTH - left - 96) / longest
    bottom = TOP + len(estimates) * (BAR + GAP)
    title = name if len(name) <= MAX_TITLE else name[: MAX_TITLE - 1] + "…"
    parts = [
        f'<rect width="{WIDTH}" height="{bottom + 84}" fill="white"/>',
        _text(16, 28, f"Estimated time of {title}, by kind of kernel", size=16),
        *_legend(estimates),
        *_axis(longest, left, scale, bottom),
        _text(
            16, bottom + 68, f"TensorRT-RTX; {BASIS}. Kernels of all streams are added.", size=12
        ),
    ]
    for row, (one, label) in enumerate(zip(estimates, labels, strict=True)):
        parts += _bar(one, label, left, scale, TOP + row * (BAR + GAP))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{bottom + 84}" '
            f'viewBox="0 0 {WIDTH} {bottom + 84}" font-family="sans-serif" fill="#222222">',
            *parts,
            "</svg>\n",
        ]
    )


def _text(x: float, y: float, text: str, *, size: int = 13, anchor: str = "start") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"'
    return f"<text {place}>{escape(printable(text))}</text>"


def _rect(x: float, y: float, width: float, height: float, group: str) -> str:
    color = COLORS.get(group, COLORS[count.OTHER])
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.2f}" height="{height:.0f}"'
    return f'<rect {place} fill="{color}"><title>{escape(group)}</title></rect>'


def _legend(estimates: Sequence[Estimate]) -> Iterator[str]:
    x = 16.0
    for group in COLORS:
        if any(one.estimated_ms_by_group.get(group) for one in estimates):
            yield _rect(x, 46, 14, 14, group)
            yield _text(x + 20, 58, group)
            x += 44 + LETTER * len(group)


def _axis(longest: float, left: float, scale: float, bottom: float) -> Iterator[str]:
    step = _step(longest)
    for tick in itertools.takewhile(
        lambda ms: ms <= longest, (i * step for i in itertools.count())
    ):
        x = left + tick * scale
        line = f'x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{bottom}"'
        yield f'<line {line} stroke="#DDDDDD"/>'
        yield _text(x, bottom + 16, f"{tick:g}", size=12, anchor="middle")
    yield _text(left, bottom + 38, "estimated milliseconds of one run", size=12)


def _step(longest: float) -> float:
    """Return the distance of ticks: 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(longest / MOST_TICKS))
    return next(
        power * factor for factor in (1, 2, 5, 10) if longest / (power * factor) < MOST_TICKS
    )


def _bar(one: Estimate, label: str, left: float, scale: float, top: float) -> Iterator[str]:
    yield _text(left - 8, top + 15, label, anchor="end")
    x = left
    for group in sorted(one.estimated_ms_by_group, key=lambda name: [*COLORS, name].index(name)):
        width = one.estimated_ms_by_group[group] * scale
        yield _rect(x, top, width, BAR, group)
        x += width
    yield _text(x + 6, top + 15, f"{rounded(one.estimated_ms)} ms")
