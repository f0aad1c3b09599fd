"""Rate: what a step shows of things that take about the same time each."""

from __future__ import annotations

import time

from paragon_export.cli.show.progress import _Step


def test_rate_and_time_left_are_shown() -> None:
    """The 51st of 101 frames has begun after 10 seconds: 50 are done, 51 are left."""
    step = _Step("clip", 101, "frames", count=51, start=time.monotonic() - 10)
    assert str(step) == "clip 51 of 101 frames, 5/s, 0:00:10 left"


def test_without_a_total_the_rate_is_shown() -> None:
    step = _Step("clip", None, "frames", count=51, start=time.monotonic() - 10)
    assert str(step) == "clip 51 frames, 5/s"


def test_what_is_not_counted_in_a_unit_has_no_rate() -> None:
    assert str(_Step("judging", 5, count=3, start=time.monotonic() - 10)) == "judging 3 of 5"
    assert str(_Step("judging", None, count=3)) == "judging"
