"""Diagnose: name what a failed candidate looks like.

It runs after the verdict and does not change it. The candidate runs again on one probe, and so does
the reference network under several hypotheses about the error.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from paragon_export.errors import ParagonExportError, PlanError, RunError
from paragon_export.inputs.play import play
from paragon_export.inputs.probes import Probe
from paragon_export.parity.acceptance import WRONG_IN_FLOAT32
from paragon_export.parity.candidates import Candidate
from paragon_export.parity.compare import BORDER_PX
from paragon_export.parity.diagnosis.alternatives import Alternative
from paragon_export.parity.diagnosis.suspects import Rerun, suspects
from paragon_export.parity.diagnosis.symptoms import Scene, symptom_of
from paragon_export.parity.metrics import Difference, InFloat32, rms
from paragon_export.parity.reference import TorchReference
from paragon_export.parity.report import Finding, ParityRow
from paragon_export.runtimes.base import Runner
from paragon_export.specs.types import Precision, Size

MIN_PROBE_PIXELS = 400
"""Smallest image, in pixels, that is preferred for a diagnosis. Larger ones cost more time."""

TRACE_SIDES_PX = (16, 20, 24, 32, 48, 64, 96, 128, 192, 256)
"""Sides of the square images that exporters usually trace with."""

MAX_REPEAT_ERROR = 1e-7
"""Largest difference between two runs of a repeatable model, as a share of full range."""

MAX_HALF_WEIGHT_RATIO = 2.0
"""Largest error of a half file in float32, in the error that rounding the weights causes."""

HALF_ERROR_FLOOR = 2.0**-14
"""That error counts as at least this share of the output's range: 1/8 of float16's step at 1."""

LARGE_ERROR = 0.01
"""Errors above this share of full range are no rounding: values overflow."""

ROUNDING_RATIO = 1.5
"""Errors up to this many times PyTorch's own, in half precision, are called rounding."""

PORT_FAULTS = ("wrong outputs", "wrong type", "wrong shape of")
"""Beginnings of the faults that a candidate's outputs have at every size."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A failed candidate, its reference and the probes that it was judged on."""

    candidate: Candidate
    reference: TorchReference
    probes: Sequence[Probe]
    possible: Callable[[], Sequence[Alternative]] = tuple
    """Returns other networks that it may have been exported from. Called only if needed."""


def diagnose(subject: Subject, rows: Sequence[ParityRow]) -> tuple[Finding, ...]:
    """Return one finding for each output that failed.

    Args:
        subject: The candidate.
        rows: All rows of this candidate, passed ones too.
    """
    findings = []
    for output, group in itertools.groupby(sorted(rows, key=_output), key=_output):
        of_output = list(group)
        if any(row.failure for row in of_output):
            try:
                finding = _finding(subject, of_output)
            except ParagonExportError as error:  # a failed diagnosis must not hide the verdict
                finding = Finding("not diagnosed", str(error))
            findings.append(replace(finding, candidate=subject.candidate.name, output=output))
    return tuple(findings)


def _output(row: ParityRow) -> str:
    return row.output


def _finding(subject: Subject, rows: Sequence[ParityRow]) -> Finding:
    """Return the finding for one output; ``rows`` are its rows."""
    failed = [row for row in rows if row.failure]
    passed = [row for row in rows if row.is_judged and not row.failure]
    for row in failed:
        if row.failure == WRONG_IN_FLOAT32 and row.in_float32 is not None:
            return _wrong_in_float32(row.in_float32)
    small = [row for row in failed if not row.is_large]
    if not small:
        return _large(failed[0], passed)
    failed = small
    finite_state = [row for row in failed if not _probe_of(subject, row).state_is_broken]
    if not finite_state and not any(row.fault or row.found.is_finite for row in failed):
        detail = "NaN or infinity in prev_feat enters at alpha 0: select, do not multiply"
        return Finding("state multiplied", detail)
    failed = finite_state or failed  # a state with NaN would hide other errors
    if partial_window := _partial_window(subject.reference.spec.window, failed, passed):
        return partial_window
    not_compared = [row for row in failed if row.fault]
    if not_compared:
        return _fault(subject, not_compared[0], [row for row in rows if not row.fault])
    broken = [row for row in failed if not row.found.is_finite]
    if broken:
        return _not_finite(subject, broken[0])
    return _look(subject, _clearest_row(subject, failed))


def _large(row: ParityRow, passed: Sequence[ParityRow]) -> Finding:
    """Name a candidate that fails on large pictures alone; they are too large to run again."""
    right = max((r.size for r in passed if not r.is_large), key=_area, default=None)
    if right is None:
        detail = f"{row.failure} at {row.size}; judge it at smaller sizes to have it diagnosed"
        return Finding("not diagnosed", detail)
    return Finding("large sizes", f"right up to {right}, {row.failure} at {row.size}")


def _wrong_in_float32(errors: InFloat32) -> Finding:
    """Name a file that passes in half precision only because it is judged as half."""
    detail = (
        f"with no result rounded it errs {errors.found.rms:.1e} (RMS), and the rounding of its half "
        f"weights explains {errors.moved_rms:.1e}: other weights or nodes are wrong"
    )
    return Finding("wrong in float32", detail)


def _area(size: Size) -> int:
    return size.height * size.width


def _clearest_row(subject: Subject, rows: Sequence[ParityRow]) -> ParityRow:
    """Return the row to diagnose.

    It is the longest clip; among images the smallest of at least ``MIN_PROBE_PIXELS`` pixels, and
    a photograph rather than a stress probe.
    """

    def preference(row: ParityRow) -> tuple[int, bool, bool, int]:
        area = row.size.height * row.size.width
        small = area < MIN_PROBE_PIXELS
        frames = len(_probe_of(subject, row).frames)
        return -frames, small, row.is_stress, -area if small else area

    return min(rows, key=preference)


# --- outputs that cannot be compared ---------------------------------------------------------


def _fault(subject: Subject, row: ParityRow, comparable: Sequence[ParityRow]) -> Finding:
    """Name a row whose output was not compared; ``comparable`` are the rows that were."""
    reason = row.fault.removeprefix("cannot run: ")
    if row.fault.startswith("cannot run"):
        sizes = [str(other.size) for other in comparable] or _sizes_that_run(subject, row)
        if not sizes:
            return Finding("cannot run", reason)
        return Finding("fixed size", f"runs at {', '.join(dict.fromkeys(sizes))}; {reason}")
    for kind in PORT_FAULTS:
        if row.fault.startswith(kind):
            return Finding(kind.removesuffix(" of"), row.fault.removeprefix(kind).strip())
    probe = _probe_of(subject, row)
    found = play(subject.candidate.runner, probe, subject.reference.inputs).get(row.output)
    if found is None:
        return Finding("output missing", row.output)
    reason = reason.removeprefix("wrong shape ")
    truth = play(subject.reference.runner("float32"), probe, subject.reference.inputs)
    if wrong_shape := _wrong_shape(found.shape, truth[row.output].shape, probe.size):
        return wrong_shape
    if comparable:
        detail = f"right at {comparable[0].size} and not at {row.size}: {reason}"
        return Finding("fixed size", detail)
    return Finding("wrong shape", reason)


def _wrong_shape(found: tuple[int, ...], expected: tuple[int, ...], size: Size) -> Finding | None:
    """Recognize a transposed output or another scale; ``size`` is that of the input."""
    if len(found) != 4 or found[:2] != expected[:2]:
        return None
    if found[2:] == expected[:1:-1]:
        return Finding("turned", "rows are columns")
    scales = {found[2] / size.height, found[3] / size.width}
    if len(scales) == 1:
        detail = f"{scales.pop():g}, expected {expected[2] / size.height:g}"
        return Finding("wrong scale", detail)
    return None


def _sizes_that_run(subject: Subject, row: ParityRow) -> list[str]:
    """Return the usual trace sizes at which the candidate runs, as ``"32x32"``."""
    frames = _probe_of(subject, row).frames[:1]
    running = []
    for side in TRACE_SIDES_PX if frames[0].ndim == 4 else ():
        image = np.zeros((1, frames[0].shape[1], side, side), np.float32)
        probe = Probe(label="traced", size=Size(side, side), frames=(image,), blend=(0.0,))
        try:
            play(subject.candidate.runner, probe, subject.reference.inputs)
        except (RunError, PlanError):
            continue
        running.append(f"{side}x{side}")
    return running


def _not_finite(subject: Subject, row: ParityRow) -> Finding:
    """Count the values that are not finite, and separate overflow from NaN."""
    found = _played(subject, subject.candidate.runner, row)
    bad = ~np.isfinite(found)
    items = np.flatnonzero(bad.any(axis=tuple(range(1, bad.ndim))))
    detail = f"{int(bad.sum())} of {bad.size} values, in items {items.tolist()}"
    infinite = bool(np.isinf(found).any())
    if _is_right_in_float32(subject, row):
        return Finding("overflow", f"{detail}; in float32 the same file is finite")
    return Finding("overflow" if infinite else "NaN", detail)


def _is_right_in_float32(subject: Subject, row: ParityRow) -> bool:
    """Return whether a half-precision file is right when it is computed in float32.

    Its weights are rounded to half. So its error may be ``MAX_HALF_WEIGHT_RATIO`` times that of the
    reference with rounded weights, computed in float64. Wrong weights err more.
    """
    if subject.candidate.wide is None:
        return False
    truth = _played(subject, subject.reference.runner("float64"), row)
    wide = _played(subject, subject.candidate.wide(), row)
    rounded = replace(subject.reference, module=_with_half_weights(subject.reference.module))
    rounding = rms(_played(subject, rounded.runner("float64"), row) - truth)
    floor = HALF_ERROR_FLOOR * max(1.0, float(np.abs(truth).max()))
    return rms(wide - truth) <= MAX_HALF_WEIGHT_RATIO * max(rounding, floor)  # False if NaN


def _with_half_weights(module: nn.Module) -> nn.Module:
    """Return a copy whose weights are rounded to float16, in float64."""
    return copy.deepcopy(module).half().double()


# --- outputs that can be compared ------------------------------------------------------------


def _partial_window(
    window: int, failed: Sequence[ParityRow], passed: Sequence[ParityRow]
) -> Finding | None:
    """Recognize a candidate that fails at exactly the sizes that are no multiple of the window."""

    def fits(size: Size) -> bool:
        return size.height % window == 0 and size.width % window == 0

    if window == 1 or not passed or any(fits(row.size) for row in failed):
        return None
    if not all(fits(row.size) for row in passed):
        return None
    detail = f"right at multiples of {window}, wrong at {failed[0].size}"
    return Finding("partial window", detail)


def _look(subject: Subject, row: ParityRow) -> Finding:
    """Name a finite output of the right shape by running candidate and reference again."""
    found = _played(subject, subject.candidate.runner, row)
    again = _played(subject, subject.candidate.runner, row)
    gap = float(np.abs(found.astype(np.float64) - again).max())
    if gap > MAX_REPEAT_ERROR * row.full_range:
        return Finding("not repeatable", f"two runs differ by {gap:.2g}")
    truth = _played(subject, subject.reference.runner("float64"), row)
    scale = truth.shape[-1] // row.size.width if truth.ndim == 4 else 1
    peak = row.reference_peak if truth.ndim == 2 else 1.0
    rerun = Rerun(
        reference=subject.reference,
        probe=_probe_of(subject, row),
        output=row.output,
        truth=truth,
        error=found - truth,
    )
    window = subject.reference.spec.window
    scene = Scene(
        found=found,
        truth=truth,
        limit=_pixel_limit(row) * peak,
        rounding=_rounding(row) * peak,
        scale=scale,
        border=BORDER_PX * scale,
        tile=window * scale if window > 1 else 1,
        suspects=suspects(rerun, subject.possible),
    )
    finding = symptom_of(scene)
    if subject.candidate.wide is not None and _is_right_in_float32(subject, row):
        is_large = row.found.max_abs > max(LARGE_ERROR * row.full_range, row.limit)
        is_flat = finding.symptom in ("constant", "all zero")
        symptom = "overflow" if is_large or is_flat else "rounding"
        return Finding(symptom, f"right in float32; in half it looks like {finding}")
    return finding


def _pixel_limit(row: ParityRow) -> float:
    """Return the error from which on a pixel counts as wrong.

    The verdict leaves room for single pixels of a half-precision file; a diagnosis needs none.
    """
    own = _half_errors(row)
    return row.limit if own is None else min(row.limit, ROUNDING_RATIO * own.max_abs)


def _rounding(row: ParityRow) -> float:
    """Return the largest root mean square of an error that is rounding; infinite if unknown."""
    own = _half_errors(row)
    return math.inf if own is None else ROUNDING_RATIO * own.rms


def _half_errors(row: ParityRow) -> Difference | None:
    """Return what PyTorch errs in half precision; None if the row is of another, or unknown."""
    is_half = row.precision in (Precision.FP16, Precision.BF16)
    return row.reference_errors if is_half and row.has_yardstick else None


def _probe_of(subject: Subject, row: ParityRow) -> Probe:
    return next(probe for probe in subject.probes if row.is_on(probe))


def _played(subject: Subject, runner: Runner, row: ParityRow) -> np.ndarray:
    return play(runner, _probe_of(subject, row), subject.reference.inputs)[row.output]
