"""Diagnose: say what a candidate that failed looks like.

Only failures are diagnosed, and only after the verdict: the candidate plays one telling probe
again, and so does the network with the mistakes that are suspected.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from paragon_export.errors import ParagonExportError, PlanError, RunError
from paragon_export.inputs.play import play
from paragon_export.inputs.probes import Probe
from paragon_export.parity.candidates import Candidate
from paragon_export.parity.compare import BORDER_PX
from paragon_export.parity.diagnosis.alternatives import Alternative
from paragon_export.parity.diagnosis.symptoms import Scene, Suspect, Symptom, symptom_of
from paragon_export.parity.reference import TorchReference
from paragon_export.parity.report import Finding, ParityRow
from paragon_export.runtimes.base import Runner
from paragon_export.specs.types import Size

TELLING_PIXELS = 400
"""A picture of so many pixels shows what is wrong, and is quickly computed."""

COLOURS = 3

TRACED = (16, 20, 24, 32, 48, 64, 96, 128, 192, 256)
"""Sides in pixels of the square pictures that exporters usually trace with."""

LAST_BIT = 1e-7
"""Runs of the same model that differ by more are not repeatable."""

NEARLY = 0.01
"""Weights rounded to half precision move the output by less than this part of its range."""


PORT_FAULTS = ("wrong outputs", "wrong type", "wrong shape of")
"""Beginnings of a fault that the candidate's outputs have at every size."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A candidate that failed, and all it was judged on."""

    candidate: Candidate
    reference: TorchReference
    probes: Sequence[Probe]
    possible: Callable[[], Sequence[Alternative]] = tuple
    """Says which networks it may be instead."""


def diagnose(subject: Subject, rows: Sequence[ParityRow]) -> tuple[Finding, ...]:
    """Return one finding for each output that failed; ``rows`` are those of this candidate."""
    findings = []
    for output, group in itertools.groupby(sorted(rows, key=_output), key=_output):
        of_output = list(group)
        if any(row.failure for row in of_output):
            try:
                symptom = _symptom(subject, of_output)
            except ParagonExportError as error:  # the verdict stands without a name
                symptom = Symptom("not diagnosed", str(error))
            findings.append(Finding(subject.candidate.name, output, symptom.name, symptom.detail))
    return tuple(findings)


def _output(row: ParityRow) -> str:
    return row.output


def _symptom(subject: Subject, rows: Sequence[ParityRow]) -> Symptom:
    failed = [row for row in rows if row.failure]
    passed = [row for row in rows if row.is_judged and not row.failure]
    with_state = [row for row in failed if not _probe_of(subject, row).state_is_broken]
    if not with_state and not any(row.fault or row.found.is_finite for row in failed):
        told = "NaN or infinity in prev_feat enters at alpha 0: select, do not multiply"
        return Symptom("state multiplied", told)
    failed = with_state or failed  # what a broken state adds hides what else is wrong
    if uneven := _uneven(subject.reference.spec.window, failed, passed):
        return uneven
    unequal = [row for row in failed if row.fault]
    if unequal:
        return _fault(subject, unequal[0], [row for row in rows if not row.fault])
    broken = [row for row in failed if not row.found.is_finite]
    return _not_finite(subject, broken[0]) if broken else _look(subject, _telling(subject, failed))


def _telling(subject: Subject, rows: Sequence[ParityRow]) -> ParityRow:
    """Return the row that shows best what is wrong.

    It is the longest clip, or the smallest picture that is large enough, a photograph if any.
    """

    def preference(row: ParityRow) -> tuple[int, bool, bool, int]:
        area = row.size.height * row.size.width
        small = area < TELLING_PIXELS
        frames = len(_probe_of(subject, row).frames)
        return -frames, small, row.is_stress, -area if small else area

    return min(rows, key=preference)


# --- outputs that cannot be compared ---------------------------------------------------------


def _fault(subject: Subject, row: ParityRow, comparable: Sequence[ParityRow]) -> Symptom:
    told = row.fault.removeprefix("cannot run: ")
    if row.fault.startswith("cannot run"):
        sizes = [str(other.size) for other in comparable] or _sizes_that_run(subject, row)
        if not sizes:
            return Symptom("cannot run", told)
        return Symptom("fixed size", f"runs at {', '.join(dict.fromkeys(sizes))}; {told}")
    for kind in PORT_FAULTS:
        if row.fault.startswith(kind):
            return Symptom(kind.removesuffix(" of"), row.fault.removeprefix(kind).strip())
    probe = _probe_of(subject, row)
    found = play(subject.candidate.runner, probe, subject.reference.inputs).get(row.output)
    if found is None:
        return Symptom("output missing", row.output)
    told = told.removeprefix("wrong shape ")
    truth = play(subject.reference.runner("float32"), probe, subject.reference.inputs)
    return _shapes(found.shape, truth[row.output].shape, _extents(probe)) or (
        Symptom("fixed size", f"right at {comparable[0].size} and not at {row.size}: {told}")
        if comparable
        else Symptom("wrong shape", told)
    )


def _shapes(
    found: tuple[int, ...], expected: tuple[int, ...], given: tuple[int, int]
) -> Symptom | None:
    """Name what maps of the wrong extents have in common with the right ones."""
    if len(found) != 4 or found[:2] != expected[:2]:
        return None
    if found[2:] == expected[:1:-1]:
        return Symptom("turned", "rows are columns")
    scales = {extent / small for extent, small in zip(found[2:], given, strict=True)}
    if len(scales) == 1:
        return Symptom("wrong scale", f"{scales.pop():g} instead of {expected[2] / given[0]:g}")
    return None


def _sizes_that_run(subject: Subject, row: ParityRow) -> list[str]:
    """Return the sizes usual in a trace at which a candidate runs that fails at all others."""
    frames = _probe_of(subject, row).frames[:1]
    running = []
    for side in TRACED if frames[0].ndim == 4 else ():
        picture = np.zeros((1, frames[0].shape[1], side, side), np.float32)
        probe = Probe(label="traced", size=Size(side, side), frames=(picture,), blend=(0.0,))
        try:
            play(subject.candidate.runner, probe, subject.reference.inputs)
        except (RunError, PlanError):
            continue
        running.append(f"{side}x{side}")
    return running


def _extents(probe: Probe) -> tuple[int, int]:
    return probe.size.height, probe.size.width


def _not_finite(subject: Subject, row: ParityRow) -> Symptom:
    found = _played(subject, subject.candidate.runner, row)
    bad = ~np.isfinite(found)
    items = np.flatnonzero(bad.any(axis=tuple(range(1, bad.ndim))))
    told = f"{int(bad.sum())} of {bad.size} values, in items {items.tolist()}"
    infinite = bool(np.isinf(found).any())
    if _is_right_in_float32(subject, row):
        return Symptom("overflow", f"{told}; in float32 the same file is finite")
    return Symptom("overflow" if infinite else "NaN", told)


def _is_right_in_float32(subject: Subject, row: ParityRow) -> bool:
    """Tell whether a half-precision file would be finite and right, or nearly, in float32."""
    if subject.candidate.wide is None:
        return False
    truth = _played(subject, subject.reference.runner("float64"), row)
    wide = _played(subject, subject.candidate.wide(), row)
    error = np.abs(wide - truth)
    return bool(np.isfinite(wide).all()) and float(error.max()) <= NEARLY * max(
        1, np.abs(truth).max()
    )


# --- outputs that can ------------------------------------------------------------------------


def _uneven(
    window: int, failed: Sequence[ParityRow], passed: Sequence[ParityRow]
) -> Symptom | None:
    """Name a candidate that fails at exactly the sizes that are no multiple of the window."""

    def fits(size: Size) -> bool:
        return size.height % window == 0 and size.width % window == 0

    if window == 1 or not passed or any(fits(row.size) for row in failed):
        return None
    if not all(fits(row.size) for row in passed):
        return None
    told = f"right at multiples of {window}, wrong at {failed[0].size}"
    return Symptom("partial window", told)


def _look(subject: Subject, row: ParityRow) -> Symptom:
    found = _played(subject, subject.candidate.runner, row)
    again = _played(subject, subject.candidate.runner, row)
    gap = float(np.abs(found.astype(np.float64) - again).max())
    if gap > LAST_BIT * row.full_range:
        return Symptom("not repeatable", f"two runs differ by {gap:.2g}")
    truth = _played(subject, subject.reference.runner("float64"), row)
    scale = truth.shape[-1] // row.size.width if truth.ndim == 4 else 1
    peak = row.reference_peak if truth.ndim == 2 else 1.0
    scene = Scene(
        found=found,
        truth=truth,
        limit=row.limit * peak,
        scale=scale,
        border=BORDER_PX * scale,
        tile=subject.reference.spec.window * scale if subject.reference.spec.window > 1 else 1,
        suspects=_suspects(subject, row, truth, found - truth),
    )
    symptom = symptom_of(scene)
    if subject.candidate.wide is not None and _is_right_in_float32(subject, row):
        too_far = row.found.max_abs > max(NEARLY, row.limit)
        name = "overflow" if too_far or symptom.name in ("constant", "all zero") else "rounding"
        return Symptom(name, f"right in float32; in half it looks like {symptom}")
    return symptom


def _probe_of(subject: Subject, row: ParityRow) -> Probe:
    wanted = (row.picture, row.size, row.batch)
    return next(p for p in subject.probes if (p.label, p.size, p.batch) == wanted)


def _played(subject: Subject, runner: Runner, row: ParityRow) -> np.ndarray:
    return play(runner, _probe_of(subject, row), subject.reference.inputs)[row.output]


# --- what may have gone wrong before the output -----------------------------------------------


def _suspects(
    subject: Subject, row: ParityRow, truth: np.ndarray, error: np.ndarray
) -> Iterator[Suspect]:
    """Yield mistakes whose output only the network can tell."""
    probe = _probe_of(subject, row)
    exact = subject.reference.runner("float64")

    def played(changed: Probe = probe, runner: Runner = exact) -> np.ndarray:
        return play(runner, changed, subject.reference.inputs)[row.output]

    for symptom, changed in _misfed(probe):
        yield symptom, partial(played, changed)
    if truth.ndim == 4:
        yield from _mirrored(probe, truth, played)
        yield from _padded(probe, subject.reference.spec.window, truth, played)
    for alternative in subject.possible():
        yield from _instead(alternative, truth, error, partial(played, probe))


RANGES = {"0 to 255": (1 / 255, 0.0), "divided by 255 again": (255.0, 0.0), "-1 to 1": (2.0, -1.0)}
"""Ranges that a network may have been made to expect: factor and offset of what it then sees."""


def _misfed(probe: Probe) -> Iterator[tuple[Symptom, Probe]]:
    """Yield probes that are to the network what a wrongly made file takes the given ones for."""
    first = probe.frames[0]
    if first.dtype.kind == "f":
        for told, (times, plus) in RANGES.items():
            changed = _fed(probe, [frame * times + plus for frame in probe.frames])
            yield Symptom("value range", f"as if pictures were {told}"), changed
    if first.dtype.kind == "f" and first.ndim == 4 and first.shape[1] == COLOURS:
        swapped = _fed(probe, [frame[:, ::-1] for frame in probe.frames])
        yield Symptom("colours swapped", "blue is taken for red"), swapped
    blends = sorted(set(probe.blend))
    if len(blends) > 1:
        always = replace(probe, blend=(blends[-1],) * len(probe.blend))
        yield Symptom("state not reset", "frames before a cut enter the one after it"), always
        never = replace(probe, blend=(blends[0],) * len(probe.blend))
        yield Symptom("state lost", "no frame enters the next"), never


def _fed(probe: Probe, frames: Sequence[np.ndarray]) -> Probe:
    return replace(probe, frames=tuple(np.ascontiguousarray(f, np.float32) for f in frames))


def _mirrored(
    probe: Probe, truth: np.ndarray, played: Callable[[Probe], np.ndarray]
) -> Iterator[Suspect]:
    """Swap colours before the network and back after it: it was trained in the other order."""
    if probe.frames[0].shape[1] == truth.shape[1] == COLOURS:
        swapped = _fed(probe, [frame[:, ::-1] for frame in probe.frames])
        told = Symptom("colours swapped", "before the network and after it")
        yield told, lambda: played(swapped)[:, ::-1]


def _padded(
    probe: Probe, window: int, truth: np.ndarray, played: Callable[[Probe], np.ndarray]
) -> Iterator[Suspect]:
    """Pad pictures to whole windows before the network and crop what it gives."""
    missing = [-extent % window for extent in _extents(probe)]
    for mode in PADDINGS if any(missing) else ():
        if mode == "reflect" and any(m >= e for m, e in zip(missing, _extents(probe), strict=True)):
            continue
        width = ((0, 0), (0, 0), (0, missing[0]), (0, missing[1]))
        changed = _fed(probe, [np.pad(frame, width, mode=mode) for frame in probe.frames])
        yield (
            Symptom("padded input", f"to whole windows of {window}, {mode}"),
            partial(_cropped, played, changed, truth.shape),
        )


PADDINGS: tuple[Literal["reflect", "edge", "constant"], ...] = ("reflect", "edge", "constant")


def _cropped(
    played: Callable[[Probe], np.ndarray], probe: Probe, shape: tuple[int, ...]
) -> np.ndarray:
    return played(probe)[..., : shape[2], : shape[3]]


def _instead(
    alternative: Alternative,
    truth: np.ndarray,
    error: np.ndarray,
    played: Callable[[Runner], np.ndarray],
) -> Iterator[Suspect]:
    """Yield the output of another network; in a switch that it is linear in, of its best value."""
    try:
        other = played(alternative.reference.runner("float64"))
    except ParagonExportError:
        return
    if alternative.line is None:
        yield alternative.symptom, lambda: other
        return
    start, value = alternative.line
    direction = other - truth
    length = float(np.square(direction).sum())
    steps = float((direction * error).sum()) / length if length else 0.0
    told = f"{alternative.symptom.detail} {start + steps * (value - start):.3g}"
    yield Symptom(alternative.symptom.name, told), lambda: truth + steps * direction
