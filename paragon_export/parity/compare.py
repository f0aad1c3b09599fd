"""Verify: one judge for all artifacts.

The truth is the untouched PyTorch network in float64. Beside every candidate's error stands
the error of PyTorch itself in the candidate's precision, measured against the same truth on
the same pictures. Every pixel counts, the worst one decides, and a candidate that cannot be
compared has failed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace

import ml_dtypes
import numpy as np

from paragon_export.errors import PlanError, RunError
from paragon_export.inputs.play import nudged, play
from paragon_export.inputs.probes import Probe
from paragon_export.parity.candidates import Candidate
from paragon_export.parity.metrics import Difference, difference, wrong_top1
from paragon_export.parity.reference import Reference
from paragon_export.parity.report import ParityReport, ParityRow
from paragon_export.runtimes.base import Arrays
from paragon_export.specs.network import Port
from paragon_export.specs.tolerance import Tolerance
from paragon_export.specs.types import Precision
from paragon_export.system.progress import counted, step
from paragon_export.system.text import brief

BORDER_PX = 4
"""Width of the border band, in pixels of the network's input."""


OUTPUT_TYPES = (np.float32, np.float16, ml_dtypes.bfloat16)
"""Types that a candidate's output may have."""


_DTYPES = {Precision.FP32: "float32", Precision.FP16: "float16", Precision.BF16: "bfloat16"}


_NOTHING = Difference(float("inf"), float("-inf"), float("inf"), float("inf"), False, False)


def verify(
    reference: Reference,
    candidates: Sequence[Candidate],
    probes: Iterable[Probe],
    tolerances: dict[Precision, Tolerance] | None = None,
    *,
    is_picture: bool = True,
) -> ParityReport:
    """Judge candidates on probes.

    ``tolerances`` replaces the defaults of :meth:`Tolerance.for_precision`, or of
    :meth:`Tolerance.for_logits` where the outputs are logits. An output that is no picture has no
    full range of its own: errors are relative to its peak, if that is above 1, and what one
    rounding of the input moves the float64 output by stands beside them.
    """
    precisions = {candidate.precision for candidate in candidates}
    logits = any(port.is_logits for port in reference.outputs)
    usual = Tolerance.for_logits if logits else Tolerance.for_precision
    allowed = {p: usual(p) for p in precisions} | (tolerances or {})
    if logits:
        return ParityReport(rows=tuple(_judge_logits(reference, candidates, probes, allowed)))
    truth_runner = reference.runner("float64")
    own_runners = {p: reference.runner(_DTYPES[p]) for p in sorted(precisions)}
    rows = []
    for probe in counted("judging image", probes):
        with step("float64 reference"):
            truth = play(truth_runner, probe, reference.inputs)
        own = {p: play(runner, probe, reference.inputs) for p, runner in own_runners.items()}
        moved = {} if is_picture else play(truth_runner, nudged(probe), reference.inputs)
        for candidate in candidates:
            rows += _judge(
                candidate,
                probe,
                reference.inputs,
                truth,
                own[candidate.precision],
                moved,
                allowed[candidate.precision],
            )
    return ParityReport(rows=tuple(rows), notes=tuple(_divergences(rows)))


def _judge(
    candidate: Candidate,
    probe: Probe,
    inputs: Sequence[Port],
    truth: Arrays,
    own: Arrays,
    moved: Arrays,
    tolerance: Tolerance,
) -> list[ParityRow]:
    """One row for each output; ``moved`` is empty where the outputs are pictures."""
    found, fault = _run(candidate, probe, inputs)
    rows = []
    for name, expected in truth.items():
        got = found.get(name)
        problem = fault or _fault(found, truth, name)
        border = BORDER_PX * (expected.shape[-1] // probe.size.width)
        gap = _NOTHING if problem or got is None else difference(got, expected, border)
        peak = float(np.abs(truth["output"]).max())
        rows.append(
            ParityRow(
                candidate=candidate.name,
                precision=candidate.precision,
                output=name,
                picture=probe.label,
                size=probe.size,
                batch=probe.batch,
                found=gap,
                reference_max_abs=difference(own[name], expected, border).max_abs,
                tolerance=tolerance,
                reference_peak=peak,
                full_range=max(1.0, peak) if moved else 1.0,
                reference_moved=difference(moved[name], expected, 0).max_abs if moved else 0.0,
                is_stress=probe.is_stress,
                fault=problem,
            )
        )
    return rows


def _judge_logits(
    reference: Reference,
    candidates: Sequence[Candidate],
    probes: Iterable[Probe],
    allowed: dict[Precision, Tolerance],
) -> list[ParityRow]:
    """One row for each candidate and probe; errors are relative to the probe's largest logit.

    In half precision a classifier's largest error on some dozens of glyphs is a matter of luck,
    so what PyTorch errs there is its largest error on any probe.
    """
    name = reference.outputs[0].name
    truth_runner = reference.runner("float64")
    own_runners = {p: reference.runner(_DTYPES[p]) for p in sorted(allowed)}
    known: list[tuple[Probe, float, np.ndarray, dict[Precision, float]]] = []
    for probe in counted("float64 reference on batch", probes):
        truth = play(truth_runner, probe, reference.inputs)[name]
        peak = max(1.0, float(np.abs(truth).max()))
        errors = {}
        for precision, runner in own_runners.items():
            own = play(runner, probe, reference.inputs)[name]
            errors[precision] = difference(own / peak, truth / peak, border=0).max_abs
        known.append((probe, peak, truth / peak, errors))
    rows = []
    pairs = list(itertools.product(candidates, known))
    for candidate, (probe, peak, truth, errors) in counted("judging batch", pairs):
        precision = candidate.precision
        everywhere = [errors_there[precision] for *_, errors_there in known]
        own_error = max(everywhere) if precision.is_half else errors[precision]
        tolerance = allowed[precision]
        found, fault = _run(candidate, probe, reference.inputs)
        got = found.get(name)
        fault = fault or _fault(found, {name: truth}, name)
        row = ParityRow(
            candidate=candidate.name,
            precision=precision,
            output=name,
            picture=probe.label,
            size=probe.size,
            batch=probe.batch,
            found=_NOTHING,
            reference_max_abs=own_error,
            tolerance=tolerance,
            reference_peak=peak,
            fault=fault,
            wrong_top1=0,
        )
        if got is not None and not fault:
            gap = difference(got.astype(np.float64) / peak, truth, border=0)
            row = replace(row, found=gap, wrong_top1=wrong_top1(got, truth, row.limit))
        rows.append(row)
    return rows


def _run(candidate: Candidate, probe: Probe, inputs: Sequence[Port]) -> tuple[Arrays, str]:
    """Return what a candidate gives, and what went wrong if it cannot run."""
    if candidate.fault:
        return {}, candidate.fault
    try:
        return play(candidate.runner, probe, inputs), ""
    except (RunError, PlanError) as error:  # the latter: it does not know an ID that it should
        return {}, f"cannot run: {error}"


def _divergences(rows: Sequence[ParityRow]) -> list[str]:
    """Say on which pictures the network itself diverges, once for each."""
    unjudged = {f"{row.picture} {row.size}": row for row in rows if not row.is_judged}
    return [
        f"the network does not determine its output on {picture}: moving the input by one rounding "
        f"moves the float64 output by {row.reference_moved:.3g}; not judged"
        if row.is_undetermined
        else f"the network itself diverges on {picture}: its float64 output reaches "
        f"{row.reference_peak:.3g} times full range; not judged"
        for picture, row in unjudged.items()
    ]


def _fault(found: Arrays, expected: Arrays, name: str) -> str:
    """Say why an output cannot be compared: there is none, there are others, shape or type."""
    got = found.get(name)
    if got is None:
        return "output missing"
    if not set(found) <= set(expected):
        return f"wrong outputs {brief(sorted(found))}, expected {brief(sorted(expected))}"
    if got.shape != expected[name].shape:
        return f"wrong shape {list(got.shape)}, expected {list(expected[name].shape)}"
    if got.dtype not in OUTPUT_TYPES:
        return f"wrong type {got.dtype}, expected float32 or half"
    return ""
