"""The plots of reports: errors by distance from the edge, ranges of tensors, latencies."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from paragon_export.bench.report import BenchRow
from paragon_export.precision.range_report import MAX_FINITE, MIN_NORMAL, RangeAudit, TensorRange
from paragon_export.reports.plots import svg
from paragon_export.reports.plots.svg import Axis

WIDTH = 640
"""Pixels of a plot."""

LEFT, RIGHT, TOP, BOTTOM = 64, WIDTH - 16, 56, 266
"""Where the axes of a plot begin and end."""

ROW = 46
"""Pixels of a row of latencies."""

MAX_LABEL = 50
"""Letters of a row's label."""

MAX_DOTS = 400
"""Samples of a row that are drawn."""

LARGEST, SMALLEST = 2.0**20, 2.0**-30
"""Where the axis of ranges ends, unless the half type reaches less far."""


def border_plot(profile: np.ndarray, limit: float) -> str:
    """Return a plot of the largest errors by distance from the edge.

    Args:
        profile: (D,), as in ``WorstPicture``.
        limit: The largest error allowed; infinite where there is none.
    """
    values = [float(value) for value in profile]
    vertical = svg.log_axis([*values, limit], BOTTOM, TOP)
    horizontal = Axis(0.0, max(len(values) - 1, 1), LEFT, RIGHT, is_whole=True)
    points = [(horizontal.at(d), vertical.at(value)) for d, value in enumerate(values)]
    parts = [
        *svg.y_ticks(vertical, LEFT, RIGHT),
        *svg.x_ticks(horizontal, TOP, BOTTOM),
        svg.curve(points, svg.BLUE),
        svg.dots(points, svg.BLUE),
        svg.text(8, 22, "largest error, in full range", size=12),
        svg.text(RIGHT, BOTTOM + 36, "pixels of the output from the edge", size=12, anchor="end"),
    ]
    if math.isfinite(limit):
        parts += _bound(vertical.at(limit), "allowed")
    return svg.picture(WIDTH, BOTTOM + 48, "Largest error by distance from the edge", parts)


def range_plot(ranges: RangeAudit) -> str:
    """Return a plot of the peak of every tensor, in the order of the graph."""
    largest, smallest = MAX_FINITE[ranges.precision], MIN_NORMAL[ranges.precision]
    tensors = ranges.tensors
    peaks = [max(tensor.peak, SMALLEST) for tensor in tensors if tensor.is_finite]
    bounds = [bound for bound in (largest, smallest) if SMALLEST < bound < LARGEST]
    vertical = svg.log_axis([*peaks, *bounds], BOTTOM, TOP)
    horizontal = Axis(0.0, max(len(tensors) - 1, 1), LEFT, RIGHT)
    parts = [
        *svg.y_ticks(vertical, LEFT, RIGHT),
        svg.text(RIGHT, BOTTOM + 20, "tensors, in the order of the graph", size=12, anchor="end"),
        *_legend([(svg.BLUE, "half precision"), (svg.GREEN, "float32"), (svg.RED, "too large")]),
    ]
    for color, chosen in _by_color(tensors):
        places = [(horizontal.at(n), vertical.at(max(t.peak, SMALLEST))) for n, t in chosen]
        parts.append(svg.dots(places, color))
    names = {
        largest: f"largest {ranges.precision}",
        smallest: f"smallest normal {ranges.precision}",
    }
    for bound in bounds:
        parts += _bound(vertical.at(bound), names[bound])
    return svg.picture(WIDTH, BOTTOM + 32, "Largest magnitude of every tensor", parts)


def _by_color(
    tensors: Sequence[TensorRange],
) -> Iterator[tuple[str, list[tuple[int, TensorRange]]]]:
    placed = [(number, tensor) for number, tensor in enumerate(tensors) if tensor.is_finite]
    yield svg.BLUE, [(n, t) for n, t in placed if t.is_half and not t.overflows]
    yield svg.GREEN, [(n, t) for n, t in placed if not t.is_half]
    yield svg.RED, [(n, t) for n, t in placed if t.overflows]


def latency_plot(rows: Sequence[BenchRow]) -> str:
    """Return a plot of the samples of every row that ran, with medians and 95th percentiles."""
    ran = [row for row in rows if row.samples_ms]
    bottom = TOP + ROW * len(ran)
    longest = max(max(row.samples_ms) for row in ran)
    axis = Axis(0.0, longest, 16, RIGHT - 16)
    parts = [
        *_legend([(svg.BLUE, "one run"), (svg.RED, "median"), (svg.GREEN, "95th percentile")]),
        *svg.x_ticks(axis, TOP, bottom),
        svg.text(RIGHT, bottom + 34, "milliseconds", size=12, anchor="end"),
    ]
    for number, row in enumerate(ran):
        parts += _latencies(row, axis, TOP + ROW * number)
    return svg.picture(WIDTH, bottom + 46, "Latencies in milliseconds", parts)


def _latencies(row: BenchRow, axis: Axis, top: float) -> Iterator[str]:
    extent = str(row.size) if row.batch is None else f"{row.size} x{row.batch}"
    label = svg.shortened(f"{row.artifact}, {row.backend}", MAX_LABEL)
    figures = f"{label}, {extent}: median {row.median_ms:.3g} ms"
    yield svg.text(axis.begin, top + 15, figures, size=12)
    y = top + 29
    step = -(-len(row.samples_ms) // MAX_DOTS)
    yield svg.dots(((axis.at(ms), y) for ms in sorted(row.samples_ms)[::step]), svg.BLUE, size=6)
    for value, color in ((row.p95_ms, svg.GREEN), (row.median_ms, svg.RED)):
        yield svg.rect(axis.at(value) - 1.5, y - 8, 3, 16, color, f"{value:.3g} ms")


def _legend(entries: Sequence[tuple[str, str]]) -> Iterator[str]:
    x = float(WIDTH - 16)
    for color, name in reversed(entries):
        x -= svg.LETTER * len(name)
        yield svg.text(x, 22, name, size=12)
        x -= 18
        yield svg.rect(x, 12, 12, 12, color, name)
        x -= 14


def _bound(y: float, name: str) -> Iterator[str]:
    yield svg.line(LEFT, y, RIGHT, y, color=svg.RED, dashes="6 4")
    yield svg.text(RIGHT, y - 5, name, size=12, anchor="end")
