"""SVG: the shapes, axes and colors that plots share. All text is escaped.

Ink is ``currentColor``, so that a page can draw a plot in the colors of its theme. A plot that stands
alone is dark on white.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from paragon_export.system.text import one_line

BLUE, RED, YELLOW, GREEN, PINK, GRAY = (
    "#0072B2", "#D55E00", "#E69F00", "#009E73", "#CC79A7", "#8A8A8A",
)  # fmt: skip
"""Colors of Okabe and Ito, which color-blind people can tell apart, and a gray."""

LETTER = 8
"""Pixels of a letter of the labels, at most."""

MOST_TICKS = 7


def picture(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    """Return an ``svg`` element without scripts and links.

    Args:
        width: In pixels.
        height: In pixels.
        title: What it shows, for those who cannot see it.
        parts: The elements in it.
    """
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" '
            f'role="img" aria-label="{escape(one_line(title))}" color="#222222" '
            'fill="currentColor">',
            f'<rect class="paper" width="{width:.0f}" height="{height:.0f}" fill="white"/>',
            *parts,
            "</svg>\n",
        ]
    )


def text(x: float, y: float, content: str, *, size: int = 13, anchor: str = "start") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"'
    return f"<text {place}>{escape(one_line(content))}</text>"


def rect(x: float, y: float, width: float, height: float, color: str, title: str = "") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.2f}" height="{height:.0f}"'
    return f'<rect {place} fill="{color}"><title>{escape(one_line(title))}</title></rect>'


def line(x1: float, y1: float, x2: float, y2: float, *, color: str = "", dashes: str = "") -> str:
    """Return a line; without a color it is a faint one, for grids."""
    stroke = f'stroke="{color}"' if color else 'stroke="currentColor" stroke-opacity="0.2"'
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {stroke}{dashed}/>'


def curve(points: Sequence[tuple[float, float]], color: str) -> str:
    """Return a line through points."""
    through = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{through}" fill="none" stroke="{color}" stroke-width="2"/>'


def dots(points: Iterable[tuple[float, float]], color: str, *, size: float = 5) -> str:
    """Return round dots as one path, which takes few bytes for each of them."""
    path = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)
    stroke = f'stroke="{color}" stroke-width="{size}" stroke-linecap="round"'
    return f'<path d="{path or "M0 0"}" {stroke} stroke-opacity="0.75"/>'


def shortened(name: str, letters: int) -> str:
    """Return a name of at most so many letters, on one line."""
    name = one_line(name)
    return name if len(name) <= letters else name[: letters - 1] + "…"


@dataclass(frozen=True)
class Axis:
    """Where values lie: linear from 0 on, or by their logarithm."""

    low: float
    high: float
    begin: float
    """Pixel of ``low``."""
    end: float
    """Pixel of ``high``."""
    is_log: bool = False
    is_whole: bool = False
    """Whether ticks are whole numbers."""

    def at(self, value: float) -> float:
        """Return the pixel of a value, within the axis."""
        share = (self._form(value) - self._form(self.low)) / (
            self._form(self.high) - self._form(self.low)
        )
        return self.begin + min(max(share, 0.0), 1.0) * (self.end - self.begin)

    def _form(self, value: float) -> float:
        if not self.is_log:
            return value
        return math.log10(value) if value > 0 else -math.inf

    @property
    def ticks(self) -> list[float]:
        """Round values: multiples of 1, 2 or 5 times a power of ten, or powers of ten."""
        if self.is_log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            step = max(1, -(-(last - first) // (MOST_TICKS - 1)))
            return [10.0**power for power in range(first, last + 1, step)]
        distance = max(_step(self.high), 1.0 if self.is_whole else 0.0)
        multiples = (index * distance for index in itertools.count())
        return list(itertools.takewhile(lambda value: value <= self.high, multiples))


def log_axis(values: Iterable[float], begin: float, end: float) -> Axis:
    """Return an axis of whole powers of ten that holds all values above 0 that are finite."""
    logs = [math.log10(value) for value in values if 0 < value < math.inf] or [0.0]
    low, high = math.floor(min(logs)), math.ceil(max(logs))
    return Axis(10.0**low, 10.0 ** max(high, low + 1), begin, end, is_log=True)


def _step(longest: float) -> float:
    """Return the distance of ticks: 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(longest / MOST_TICKS))
    return next(
        power * factor for factor in (1, 2, 5, 10) if longest / (power * factor) < MOST_TICKS
    )


def x_ticks(axis: Axis, top: float, bottom: float) -> Iterator[str]:
    """Yield the grid of a horizontal axis, and the values below it."""
    for tick in axis.ticks:
        yield line(axis.at(tick), top, axis.at(tick), bottom)
        yield text(axis.at(tick), bottom + 16, f"{tick:g}", size=12, anchor="middle")


def y_ticks(axis: Axis, left: float, right: float) -> Iterator[str]:
    """Yield the grid of a vertical axis, and the values at its left."""
    for tick in axis.ticks:
        yield line(left, axis.at(tick), right, axis.at(tick))
        yield text(left - 6, axis.at(tick) + 4, f"{tick:g}", size=12, anchor="end")
