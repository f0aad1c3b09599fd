"""Plots: what is drawn lies where the values are."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paragon_export.reports.plots import svg
from paragon_export.reports.plots.results import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    border_plot,
    latency_plot,
    range_plot,
)
from paragon_export.reports.plots.svg import Axis, log_axis
from tests.reports.results import audited, benchmarked

SVG = "{http://www.w3.org/2000/svg}"


def dots(picture: str, color: str) -> list[tuple[float, float]]:
    """Return the places of the dots of a color."""
    paths = ElementTree.fromstring(picture).iter(SVG + "path")
    (path,) = [path.get("d", "") for path in paths if path.get("stroke") == color]
    return [(float(x), float(y)) for x, y in re.findall(r"M([\d.-]+) ([\d.-]+)h0", path)]


def texts(picture: str) -> list[str]:
    return [text.text or "" for text in ElementTree.fromstring(picture).iter(SVG + "text")]


@given(st.floats(1e-9, 1e9), st.floats(0, 1))
def test_an_axis_is_linear_or_logarithmic(high: float, share: float) -> None:
    linear, log = Axis(0, high, 10, 110), Axis(high / 100, high, 10, 110, is_log=True)
    assert linear.at(high * share) == pytest.approx(10 + 100 * share)
    assert log.at(high / 100 * 100**share) == pytest.approx(10 + 100 * share)
    assert log.at(0) == 10
    assert log.at(math.inf) == 110


@given(st.lists(st.floats(1e-30, 1e30), min_size=1, max_size=6))
def test_a_log_axis_holds_all_values_and_has_few_ticks(values: list[float]) -> None:
    axis = log_axis(values, 0, 100)
    assert axis.low <= min(values) * 1.001
    assert axis.high >= max(values) * 0.999
    assert 2 <= len(axis.ticks) <= svg.MOST_TICKS
    assert all(axis.low <= tick <= axis.high * 1.001 for tick in axis.ticks)


def test_a_border_profile_falls_where_errors_do() -> None:
    profile = np.array([1e-2, 1e-6, 1e-6, 1e-6])
    places = dots(border_plot(profile, 1e-4), svg.BLUE)

    assert [x for x, _ in places] == pytest.approx(np.linspace(LEFT, RIGHT, 4), abs=0.1)
    assert [y for _, y in places] == pytest.approx([TOP, BOTTOM, BOTTOM, BOTTOM], abs=0.1)
    assert {"0", "1", "2", "3"} <= set(texts(border_plot(profile, 1e-4)))
    assert "0.5" not in texts(border_plot(profile, 1e-4))
    assert "allowed" in texts(border_plot(profile, 1e-4))
    assert "allowed" not in texts(border_plot(profile, math.inf))


@pytest.mark.parametrize("profile", [[0.0], [0.0, 0.0], [math.inf, 1.0], [1e-30]])
def test_odd_profiles_are_drawn(profile: list[float]) -> None:
    assert len(dots(border_plot(np.array(profile), 1e-6), svg.BLUE)) == len(profile)


def test_ranges_are_drawn_by_what_becomes_of_them() -> None:
    """A tensor above the largest float16 is above its line, and a mask is not drawn as a number."""
    picture = range_plot(audited())
    (line,) = [
        float(each.get("y1", 0))
        for each in ElementTree.fromstring(picture).iter(SVG + "line")
        if each.get("stroke-dasharray") and float(each.get("y1", 0)) < (TOP + BOTTOM) / 2
    ]
    overflowing, fitting = dots(picture, svg.RED), dots(picture, svg.BLUE)

    assert len(overflowing) == 1
    assert overflowing[0][1] < line
    assert len(dots(picture, svg.GREEN)) == 1
    assert len(fitting) == 2
    assert all(y > line for _, y in fitting)
    assert {"largest fp16", "smallest normal fp16"} <= set(texts(picture))


def test_latencies_are_drawn_on_one_axis() -> None:
    """A sample of twice the time lies twice as far to the right; what did not run is not there."""
    report = benchmarked()
    picture = latency_plot(report.rows)
    places = [
        [float(x) for x, _ in re.findall(r"M([\d.-]+) ([\d.-]+)h0", path.get("d", ""))]
        for path in ElementTree.fromstring(picture).iter(SVG + "path")
    ]

    begin = 16.0
    unit = (places[0][0] - begin) / 100
    assert [[(x - begin) / unit for x in row] for row in places] == [
        pytest.approx([100, 110], abs=0.1), pytest.approx([10, 20, 60], abs=0.1),
    ]  # fmt: skip
    assert "m.onnx, ORT, 4x6: median 20 ms" in texts(picture)
