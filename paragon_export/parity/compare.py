"""Compare candidates with the float64 reference, output by output and probe by probe.

The reference is the PyTorch network as trained, in float64. Each row also
holds the error of PyTorch in the candidate's precision, against the same reference on the same
probe. The largest error of any pixel decides. A candidate that cannot be compared fails.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial, reduce
from typing import Any

import ml_dtypes
import numpy as np

from paragon_export.inputs.play import play
from paragon_export.inputs.probes import Probe
from paragon_export.parity.acceptance import Criteria, MinPsnr, default_criteria
from paragon_export.parity.candidates import Candidate
from paragon_export.parity.metrics import NOT_COMPARED, Difference, difference, wrong_top1
from paragon_export.parity.parts import LARGE_PIXELS, Part
from paragon_export.parity.reference import Reference
from paragon_export.parity.report import ParityReport, ParityRow
from paragon_export.parity.truth import Truth, Truths
from paragon_export.parity.yardstick import (
    WeightsYardstick,
    Yardstick,
    in_doubt,
    logits_in_float32,
    with_overall,
)
from paragon_export.runtimes.base import Arrays
from paragon_export.specs.network import Port
from paragon_export.specs.tolerance import DIVERGED
from paragon_export.specs.types import Precision
from paragon_export.system.progress import counted, tell
from paragon_export.system.text import brief

BORDER_PX = 4
"""Width of the border band, in pixels of the network's input."""

OUTPUT_TYPES = (np.float32, np.float16, ml_dtypes.bfloat16)
"""Types that a candidate's output may have."""

MIN_PRINTED_SECONDS = 2.0
"""The error on an image that takes longer is printed before the verdict."""

IMAGE = "output"
"""Name of the output that is the image, the map or the logits."""


def verify(
    reference: Reference,
    candidates: Sequence[Candidate],
    probes: Iterable[Probe],
    criteria: Mapping[Precision, Criteria] | None = None,
    truths: Truths | None = None,
) -> ParityReport:
    """Compare candidates with the reference on probes.

    Args:
        reference: What the candidates are compared with.
        candidates: Opened models.
        probes: Inputs that suit all candidates.
        criteria: Rules that replace the default rule of a precision.
        truths: What was computed for other candidates of the same reference.

    Returns:
        The report, without findings.
    """
    logits = reference.input_spec.task.is_classifier
    precisions = {candidate.precision for candidate in candidates}
    rules = {p: default_criteria(p, logits=logits) for p in precisions} | dict(criteria or {})
    if logits:
        return ParityReport(rows=tuple(_judged_logits(reference, candidates, probes, rules)))
    truths = truths or Truths(reference)
    found = list(_image_rows(truths, candidates, probes, rules))
    rows = truths.measured_further(found)
    pairs = [(probe, row) for (probe, _), row in zip(found, rows, strict=True)]
    rows = truths.measured_in_float32(candidates, pairs)
    return ParityReport(rows=tuple(rows), notes=tuple(_special_cases(rows)))


# --- images and maps ----------------------------------------------------------------------


def _image_rows(
    truths: Truths,
    candidates: Sequence[Candidate],
    probes: Iterable[Probe],
    rules: Mapping[Precision, Criteria],
) -> Iterable[tuple[Probe, ParityRow]]:
    """Yield one row for each probe, candidate and output, with its probe."""
    with ThreadPoolExecutor(1) as thread:
        for probe in counted("judging image", probes):
            start = time.monotonic()
            runs = _start_runs(candidates, probe, truths.reference.inputs, thread)
            truth = truths.on(probe, sorted(rules))
            for candidate, result in zip(candidates, runs, strict=True):
                found, fault = result()
                for name in truth.outputs:
                    row = _row(candidate, truth, name, found, fault, rules[candidate.precision])
                    if (seconds := time.monotonic() - start) >= MIN_PRINTED_SECONDS:
                        tell(_measured(row, seconds))
                    yield probe, row


def _start_runs(
    candidates: Sequence[Candidate],
    probe: Probe,
    inputs: Sequence[Port],
    thread: ThreadPoolExecutor,
) -> Sequence[Callable[[], tuple[Arrays, str]]]:
    """Start candidates on a probe in another thread, so that they run while the reference does.

    Return a function for each that waits for its run and returns what ``Candidate.play`` does. On a
    large picture, where both would take much memory at once, the run starts with that call.
    """
    runs = [partial(candidate.play, probe, inputs) for candidate in candidates]
    if probe.batch * probe.size.height * probe.size.width > LARGE_PIXELS:
        return runs
    return [thread.submit(run).result for run in runs]


def _measured(row: ParityRow, seconds: float) -> str:
    """Return the errors on one image as text. Its verdict may depend on the images that follow."""
    return (
        f"{row.picture} {row.size}, {row.candidate}: {row.output}: largest error "
        f"{row.found.max_abs:.1e}, PyTorch's {row.reference_max_abs:.1e} ({seconds:.1f} s)"
    )


def _row(
    candidate: Candidate, truth: Truth, name: str, found: Arrays, fault: str, criteria: Criteria
) -> ParityRow:
    """Measure one output of a candidate on one probe.

    Errors of a map are relative to its peak, if that is above 1, and its change after one rounding
    of the input is measured too. Errors of outputs beside the image are relative to their peak.
    """
    part, expected, moved = truth.part, truth.outputs[name], truth.moved
    probe, got = part.whole, found.get(name)
    shape = part.whole_shape(name, expected)
    problem = fault or _fault(found, truth.outputs, name, shape)
    compared = None if problem or got is None else part.of_candidate(name, got)
    border = 0 if part.excerpt else BORDER_PX * (expected.shape[-1] // probe.size.width)
    gap, place = (None if problem or got is None else part.gap(name, got)) or (None, (0, 0))
    own = truth.own[candidate.precision][name]
    peak, picture_peak = (float(np.abs(truth.outputs[n]).max()) for n in (name, IMAGE))
    full_range = max(1.0, peak) if moved else 1.0 if name == IMAGE else peak or 1.0
    return ParityRow(
        candidate=candidate.name,
        precision=candidate.precision,
        output=name,
        picture=probe.label,
        size=probe.size,
        batch=probe.batch,
        criteria=criteria,
        found=NOT_COMPARED if compared is None else difference(compared, expected, border),
        reference_max_abs=own.max_abs,
        reference_errors=own,
        reference_peak=peak,
        full_range=full_range,
        **_moved(moved, name, expected),
        is_stress=probe.is_stress,
        float32_gap=gap,
        gap_place=place,
        is_large=part.is_large,
        is_excerpt=part.excerpt is not None,
        picture_diverges=name != IMAGE and not picture_peak <= DIVERGED,
        fault=problem,
    )


def _moved(moved: Arrays, name: str, expected: np.ndarray) -> dict[str, Any]:
    """Return the fields of what one rounding of the input changes, if that was computed."""
    if not moved:
        return {}
    change = difference(moved[name], expected, 0)
    return {"reference_moved": change.max_abs, "moved_rms": change.rms, "moved_high": change.high}


def _special_cases(rows: Sequence[ParityRow]) -> list[str]:
    """Return a note for each image and size that is judged in another way, or not at all."""
    notes = (
        f"{text} on {row.picture} {row.size}" + rest for row in rows for text, rest in _notes(row)
    )
    return list(dict.fromkeys(notes))


def _notes(row: ParityRow) -> Iterable[tuple[str, str]]:
    """Yield what is special about a row: the texts before and after the name of its image."""
    precision = row.precision.value
    if row.is_undetermined:
        yield (
            "the network does not determine its output",
            f": one rounding of the input changes the float64 output by "
            f"{row.reference_moved:.3g}; only judged to be finite",
        )
    elif row.has_diverged and row.output == IMAGE:
        how = "judged relative to it" if row.is_judged else "not judged"
        if not row.is_judged and math.isfinite(row.reference_peak):
            how = f"PyTorch's {precision} output is not finite there either, so not judged"
        yield (
            "the network itself diverges",
            f": its float64 output reaches {row.reference_peak:.3g} times full range; {how}",
        )
    elif not row.reference_is_finite:
        yield (
            f"PyTorch's own {precision} {row.output} is not finite",
            f"; errors there may reach {row.limit:.3g}",
        )
    if row.is_beyond_range and not row.is_stress:
        yield (
            "the network itself diverges",
            f": its float64 output reaches {row.reference_peak:.3g} times full range; judged all the "
            "same, because the picture is no artificial pattern",
        )
    for rule in row.criteria if row.is_judged and not row.failure else ():
        if isinstance(rule, MinPsnr) and rule.found_db(row) < rule.decibels:
            yield (
                f"{precision} is coarse for this network",
                f": PyTorch's own {row.output} is below {rule.decibels:g} dB there too",
            )


# --- logits -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _LogitTruth:
    """Logits of the reference classifier on one probe."""

    probe: Probe
    outputs: Arrays
    """The logits by the name of the output, in float64."""
    errors: Mapping[Precision, Difference] = field(default_factory=dict)
    """PyTorch's errors in each precision, in units of ``peak``."""

    @cached_property
    def peak(self) -> float:
        """Largest logit, at least 1."""
        return max(1.0, *(float(np.abs(array).max()) for array in self.outputs.values()))

    @cached_property
    def logits(self) -> np.ndarray:
        """In float64, divided by ``peak``."""
        (array,) = self.outputs.values()
        return array / self.peak

    def measured_by(self, yardsticks: Mapping[Precision, Yardstick]) -> _LogitTruth:
        """Return the same with the errors of yardsticks. The worse of two errors counts."""
        part, errors = Part(whole=self.probe, probe=self.probe), dict(self.errors)
        for precision, yardstick in yardsticks.items():
            (found,) = yardstick.errors(part, self.outputs).values()
            error = found.divided(self.peak)
            errors[precision] = error.worse(errors.get(precision, error))
        return replace(self, errors=errors)


def _judged_logits(
    reference: Reference,
    candidates: Sequence[Candidate],
    probes: Iterable[Probe],
    rules: Mapping[Precision, Criteria],
) -> list[ParityRow]:
    """Judge logits: once more with other roundings of the weights if a candidate fails."""
    truths = list(_logit_truths(reference, probes, sorted(rules)))
    rows = with_overall(list(_logit_rows(reference, candidates, truths, rules)))
    yardsticks = {p: WeightsYardstick(reference, p) for p in rules if p.is_half and in_doubt(rows)}
    if yardsticks:
        more = [truth.measured_by(yardsticks) for truth in truths]
        rows = with_overall(list(_logit_rows(reference, candidates, more, rules)))
    outputs = [(truth.probe, truth.outputs) for truth in truths]
    for candidate in candidates:
        rows = logits_in_float32(reference, candidate, outputs, rows)
    return rows


def _logit_rows(
    reference: Reference,
    candidates: Sequence[Candidate],
    truths: Sequence[_LogitTruth],
    rules: Mapping[Precision, Criteria],
) -> Iterable[ParityRow]:
    """Yield one row for each candidate and probe; errors are relative to the largest logit.

    The errors in half precision on a few dozen items vary at random. So PyTorch's own errors in
    half precision are the largest on any probe.
    """
    for candidate in candidates:
        name, precision = reference.outputs[0].name, candidate.precision
        own_errors = [truth.errors[precision] for truth in truths]
        for truth in counted("judging batch", truths):
            found, fault = candidate.play(truth.probe, reference.inputs)
            largest = reduce(Difference.worse, own_errors)
            own = largest if precision.is_half else truth.errors[precision]
            row = ParityRow(
                candidate=candidate.name,
                precision=precision,
                output=name,
                picture=truth.probe.label,
                size=truth.probe.size,
                batch=truth.probe.batch,
                criteria=rules[precision],
                found=NOT_COMPARED,
                reference_max_abs=own.max_abs,
                reference_errors=own,
                reference_peak=truth.peak,
                fault=fault or _fault(found, {name: truth.logits}, name, truth.logits.shape),
                wrong_top1=0,
            )
            yield row if row.fault else _measured_logits(row, found[name], truth)


def _logit_truths(
    reference: Reference, probes: Iterable[Probe], precisions: Sequence[Precision]
) -> Iterable[_LogitTruth]:
    exact = reference.runner("float64")
    yardsticks = {p: Yardstick(reference, p) for p in precisions}
    for probe in counted("float64 reference on batch", probes):
        truth = _LogitTruth(probe=probe, outputs=play(exact, probe, reference.inputs))
        yield truth.measured_by(yardsticks)


def _measured_logits(row: ParityRow, got: np.ndarray, truth: _LogitTruth) -> ParityRow:
    gap = difference(got.astype(np.float64) / truth.peak, truth.logits, border=0)
    return replace(row, found=gap, wrong_top1=wrong_top1(got, truth.logits, row.limit))


# --- both ---------------------------------------------------------------------------------


def _fault(found: Arrays, expected: Arrays, name: str, shape: tuple[int, ...]) -> str:
    """Return why an output cannot be compared: missing, extra, not of ``shape``, or wrong type."""
    got = found.get(name)
    if got is None:
        return "output missing"
    if not set(found) <= set(expected):
        return f"wrong outputs {brief(sorted(found))}, expected {brief(sorted(expected))}"
    if got.shape != shape:
        return f"wrong shape {list(got.shape)}, expected {list(shape)}"
    if got.dtype not in OUTPUT_TYPES:
        return f"wrong type {got.dtype}, expected float32 or half"
    return ""
