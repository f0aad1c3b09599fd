"""The worst picture of a candidate: a crop around its largest error, for people to look at.

It is made after the verdict, from the reference's output that the verdict kept and one more run of
the candidate. The verdict does not depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from paragon_export.errors import PlanError, RunError
from paragon_export.inputs.play import play
from paragon_export.inputs.probes import Probe
from paragon_export.parity.candidates import Candidate
from paragon_export.parity.report import ParityReport, ParityRow, WorstPicture
from paragon_export.parity.truth import Truth, Truths
from paragon_export.system.progress import step

MAX_CROP_PX = 256
"""Largest side of a crop, in pixels of the output."""

MIN_PIXELS = 400
"""Pixels of the smallest input that is preferred: of smaller ones there is little to see."""

MAX_MAP_CELLS = 128
"""Largest side of an error map, in cells."""

MAX_PROFILE_PX = 128
"""Largest distance from the edge in a border profile."""


def worst_pictures(
    truths: Truths, candidate: Candidate, probes: Sequence[Probe], report: ParityReport
) -> tuple[WorstPicture, ...]:
    """Return the worst picture of a judged candidate, if it has one.

    It is of the first row, worst first, whose outputs can be compared and are pictures or maps. A
    row of an input with at least ``MIN_PIXELS`` is preferred if it has failed, or nothing has.

    Args:
        truths: What the reference computes.
        candidate: The candidate that was judged.
        probes: What it was judged on.
        report: Its verdict.
    """
    rows = [row for row in report.ranked if row.is_judged and not row.fault]
    rows = [row for row in rows if row.wrong_top1 is None]
    large = [row for row in rows if row.size.height * row.size.width >= MIN_PIXELS]
    if not rows or (large and bool(large[0].failure) == bool(rows[0].failure)):
        rows = large
    for row in rows[:1]:
        probe = next(probe for probe in probes if row.is_on(probe))
        with suppress(RunError, PlanError), step("keeping the worst picture"):
            truth = truths.on(probe, ())
            found = play(candidate.runner, probe, truths.reference.inputs)
            return (_picture(row, truth, found[row.output]),)
    return ()


def _picture(row: ParityRow, truth: Truth, output: np.ndarray) -> WorstPicture:
    expected = truth.outputs[row.output]
    found = truth.part.of_candidate(row.output, output).astype(np.float64)
    difference = found - expected
    error = np.abs(difference)
    error[np.isnan(error)] = np.inf
    item = int(error.reshape(len(error), -1).max(axis=1).argmax())
    pixels = error[item].max(axis=0)
    place = np.unravel_index(int(pixels.argmax()), pixels.shape)
    rows, columns = (_around(int(at), n) for at, n in zip(place, pixels.shape, strict=True))
    return WorstPicture(
        row=row,
        item=item,
        items=len(error),
        top=rows.start,
        left=columns.start,
        height=pixels.shape[0],
        width=pixels.shape[1],
        reference=expected[item, :, rows, columns].astype(np.float32),
        found=found[item, :, rows, columns].astype(np.float32),
        difference=difference[item, :, rows, columns].astype(np.float32),
        error_map=pooled(pixels, MAX_MAP_CELLS).astype(np.float32),
        profile=border_profile(pixels)[:MAX_PROFILE_PX].astype(np.float32),
    )


def _around(place: int, extent: int) -> slice:
    """Return up to ``MAX_CROP_PX`` indices with ``place`` near their middle."""
    begin = min(max(place - MAX_CROP_PX // 2, 0), max(extent - MAX_CROP_PX, 0))
    return slice(begin, min(begin + MAX_CROP_PX, extent))


def pooled(error: np.ndarray, cells: int) -> np.ndarray:
    """Return a map of at most ``cells`` a side. Each square cell holds the largest error within it.

    Args:
        error: (H, W).
        cells: Upper bound of both sides.
    """
    side = -(-max(error.shape) // cells)
    for axis, extent in enumerate(error.shape):
        error = np.maximum.reduceat(error, np.arange(0, extent, side), axis=axis)
    return error


def border_profile(error: np.ndarray) -> np.ndarray:
    """Return the largest error at each distance from the nearest edge, in pixels.

    Args:
        error: (H, W).

    Returns:
        (D,); the first value is that of the outermost pixels.
    """
    height, width = error.shape
    rings = (
        max(ring.max() for ring in (inner[0], inner[-1], inner[:, 0], inner[:, -1]))
        for inner in (
            error[d : height - d, d : width - d] for d in range((min(error.shape) + 1) // 2)
        )
    )
    return np.array(list(rings))
