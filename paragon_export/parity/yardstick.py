"""The yardstick: what PyTorch itself errs in the candidate's precision, in several roundings."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from itertools import islice
from typing import Any

import numpy as np

from paragon_export.inputs.play import nudged, play
from paragon_export.inputs.probes import Probe
from paragon_export.parity.acceptance import Distribution, RightInFloat32
from paragon_export.parity.candidates import Candidate
from paragon_export.parity.metrics import Around, Difference, InFloat32, Ratios, difference, rms
from paragon_export.parity.parts import Part
from paragon_export.parity.reference import Reference
from paragon_export.parity.report import ParityRow
from paragon_export.runtimes.base import Arrays, Runner
from paragon_export.specs.network import Port
from paragon_export.specs.types import Precision

LEAST_RATIO = 0.5
"""An image on which a candidate is nearer to the truth than this, in PyTorch's error, counts as
this in the mean over all images: it makes up for no other."""

_DTYPES = {Precision.FP32: "float32", Precision.FP16: "float16", Precision.BF16: "bfloat16"}


Errors = Mapping[str, Difference]
"""What PyTorch errs, by output."""


WEIGHT_ROUNDINGS = 16
"""Other roundings of the weights that are measured where a candidate fails."""


FAR_OFF = 16.0
"""A candidate whose RMS error is beyond this many times PyTorch's fails without these roundings.
Of 565 images of random networks, eight of them raised PyTorch's by up to 2.2 times."""


class Yardstick:
    """PyTorch in one precision, computed twice with different roundings.

    In half precision each result is moved by a part of a rounding step in the second run. In
    float32 the image is moved by one rounding.
    """

    def __init__(self, reference: Reference, precision: Precision) -> None:
        dtype = _DTYPES[precision]
        self._inputs = reference.inputs
        self._moves_input = not precision.is_half and not reference.input_spec.task.is_classifier
        self._plain = reference.runner(dtype)
        self._moved = reference.runner(dtype, nudge=1) if precision.is_half else None
        self._largest: dict[str, Difference] = {}
        self._peaks: dict[str, float] = {}

    def errors(self, part: Part, truth: Arrays) -> Errors:
        """Return the worse of both errors on a part of a probe for each output of ``truth``.

        On the excerpt of a large photograph PyTorch is run once, and the errors on the photographs
        before it count as well. A slow network, whose truth there is float32, is not run again: its
        errors are those on the photographs before, and grow with the peak of the output.
        """
        peaks = {name: float(np.abs(values).max()) for name, values in truth.items()}
        is_photograph = not part.whole.is_stress
        is_large = part.is_large and is_photograph and bool(self._largest)
        if is_large and part.is_slow:
            return {n: e.divided(1 / self._growth(n, peaks[n])) for n, e in self._largest.items()}
        runners = islice(self._runners(), 1 if is_large else None)
        runs = [part.play(runner, self._inputs) for runner in runners]
        if self._moves_input and not is_large:
            runs.append(part.play(self._plain, self._inputs, nudged(part.probe)))
        errors = {
            name: reduce(Difference.worse, (difference(run[name], expected, 0) for run in runs))
            for name, expected in truth.items()
        }
        if is_photograph:
            worst = {n: e.worse(self._largest.get(n, e)) for n, e in errors.items()}
            self._largest = worst
            self._peaks = {n: max(peak, self._peaks.get(n, 0.0)) for n, peak in peaks.items()}
        return dict(self._largest) if is_large else errors

    def _runners(self) -> Iterator[Runner]:
        """Yield PyTorch once for each rounding, the plain one first."""
        yield self._plain
        if self._moved:
            yield self._moved

    def around(self, part: Part, truth: Arrays) -> dict[str, Around]:
        """Return what PyTorch errs on a part of a large picture, for each output of ``truth``."""
        run = part.play(self._plain, self._inputs)
        return {
            name: Around(difference(run[name], expected, 0).max_abs, float(np.abs(expected).max()))
            for name, expected in truth.items()
        }

    def _growth(self, name: str, peak: float) -> float:
        """Return the ratio of a peak to that on the photographs before, at least 1."""
        known = self._peaks[name]
        return max(1.0, peak / known) if known and math.isfinite(peak) else 1.0


class WeightsYardstick(Yardstick):
    """PyTorch in float32 with its weights rounded to a half type, in several ways.

    An export that folds a norm or a gain into a weight rounds another number than PyTorch does. In a
    small network a few weights may make up most of the error, and those of PyTorch may happen to be
    near half values. The weights alone are rounded, so that the errors are rather too small.
    """

    def __init__(self, reference: Reference, precision: Precision) -> None:
        super().__init__(reference, Precision.FP32)
        self._reference, self._type, self._moves_input = reference, _DTYPES[precision], False

    def _runners(self) -> Iterator[Runner]:
        for draw in range(1, WEIGHT_ROUNDINGS + 1):  # one copy of the weights at a time
            yield self._reference.runner("float32", weights=self._type, nudge=draw)


def passes_as_half(candidate: Candidate, rows: Sequence[ParityRow]) -> bool:
    """Return whether a candidate is a half-precision file that passes, by its own rows so far.

    Such a file is measured in float32 as well, unless its rule does not ask for it.
    """
    own = [row for row in rows if row.candidate == candidate.name]
    is_asked = any(isinstance(rule, RightInFloat32) for row in own for rule in row.criteria)
    is_half = candidate.precision.is_half and candidate.unrounded is not None
    return is_half and is_asked and not any(row.failure for row in own)


def in_float32(
    candidate: Candidate, parts: Sequence[tuple[Part, Arrays, Errors]], inputs: Sequence[Port]
) -> list[dict[str, InFloat32]]:
    """Measure what a half-precision file computes in float32, for each part and output.

    Args:
        candidate: A file with ``unrounded``.
        parts: Each with the outputs of float64 and what PyTorch errs in float32.
        inputs: Of the network.

    Raises:
        RunError: If the file cannot be run in float32.
    """

    def outputs(draw: int) -> list[Arrays]:
        assert candidate.unrounded is not None
        runner = candidate.unrounded(draw)
        runs = [(part, play(runner, part.whole, inputs)) for part, _, _ in parts]
        return [{n: part.of_candidate(n, a) for n, a in run.items()} for part, run in runs]

    stored = outputs(0)
    found = [
        {name: InFloat32(difference(run[name], exact[name], 0), 0.0, own[name]) for name in exact}
        for run, (_, exact, own) in zip(stored, parts, strict=True)
    ]
    for draw in range(1, WEIGHT_MOVES + 1):
        for errors, before, after in zip(found, stored, outputs(draw), strict=True):
            for name, known in errors.items():
                moved = rms(after[name].astype(np.float64) - before[name])
                errors[name] = known._replace(moved_rms=max(known.moved_rms, moved))
        everything = [each for errors in found for each in errors.values()]
        has_moved = any(each.moved_rms for each in everything)
        if not has_moved or all(map(RightInFloat32.is_explained, everything)):
            break
    return found


def logits_in_float32(
    reference: Reference,
    candidate: Candidate,
    truths: Sequence[tuple[Probe, Arrays]],
    rows: Sequence[ParityRow],
) -> list[ParityRow]:
    """Complete the rows of a half-precision classifier with what it computes in float32.

    Args:
        reference: The classifier.
        candidate: Rows of others, and those of one that has failed, are returned as they are.
        truths: The probes in the order of its rows, each with the logits of float64.
        rows: With errors in units of ``reference_peak``.
    """
    own = [row for row in rows if row.candidate == candidate.name]
    if not passes_as_half(candidate, rows):
        return list(rows)
    yardstick = Yardstick(reference, Precision.FP32)
    whole = [(Part(whole=probe, probe=probe), outputs) for probe, outputs in truths]
    parts = [(part, outputs, yardstick.errors(part, outputs)) for part, outputs in whole]
    found = in_float32(candidate, parts, reference.inputs)
    measured = {
        id(row): replace(row, in_float32=errors[row.output].divided(row.reference_peak))
        for row, errors in zip(own, found, strict=True)
    }
    return [measured.get(id(row), row) for row in rows]


WEIGHT_MOVES = 8
"""Draws of signs by which half weights are moved, until what they explain is enough."""


def with_overall(rows: Sequence[ParityRow]) -> list[ParityRow]:
    """Return rows with what is known of all images of each output of each candidate."""
    groups: dict[tuple[str, str], list[ParityRow]] = defaultdict(list)
    for row in rows:
        if row.has_yardstick and row.is_judged and rule_of(row):
            groups[row.candidate, row.output].append(row)
    known = {key: _overall(group) for key, group in groups.items()}
    return [replace(row, **known.get((row.candidate, row.output), {})) for row in rows]


def in_doubt(rows: Sequence[ParityRow]) -> set[str]:
    """Return the candidates that fail by errors that are compared with those of PyTorch."""
    failed = [row for row in rows if row.failure]
    hopeless = {
        row.candidate for row in failed if row.fault or not row.found.is_finite or _is_far_off(row)
    }
    return {row.candidate for row in failed} - hopeless


def _is_far_off(row: ParityRow) -> bool:
    rule = rule_of(row)
    if rule is None or not row.has_yardstick:
        return False
    return row.ratios(rule.tolerance.reference_floor).rms > FAR_OFF


def rule_of(row: ParityRow) -> Distribution | None:
    """Return the criterion that compares the distribution of errors with that of PyTorch's."""
    return next((rule for rule in row.criteria if isinstance(rule, Distribution)), None)


def _overall(group: Sequence[ParityRow]) -> dict[str, Any]:
    """Return the fields that depend on all images of one output of one candidate."""
    rules = [rule for row in group if (rule := rule_of(row))]
    pairs = zip(group, rules, strict=True)
    ratios = [row.ratios(rule.tolerance.reference_floor) for row, rule in pairs]
    return {
        "overall": Ratios(*(_mean(each) for each in zip(*ratios, strict=True))),
        "images": len(group),
        "largest_own": max(row.reference_max_abs / row.full_range for row in group),
    }


def _mean(ratios: Sequence[float]) -> float:
    """Return the geometric mean of ratios of at least ``LEAST_RATIO``."""
    return math.exp(sum(math.log(max(ratio, LEAST_RATIO)) for ratio in ratios) / len(ratios))
