"""How small a mistake the verdict still sees: each sabotage scaled until the file just fails.

To the output of a good file, in each precision, a share of the mistake is added: the difference
between a wrong and a good float32 file on the same input. The least share that fails is searched
for. The error given is the largest that the mistake then adds to any pixel. ``before`` is the rule that this one replaced: no
pixel further off than 1.5 times PyTorch's largest error (float32: 4 times, and at most 1e-5). What is
wrong in float32 alone is left out: its mistake is not in the output that is mixed here.

Writes ``thresholds.json``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer
from common import write

from paragon_export.errors import ParagonExportError
from paragon_export.inputs.probes import Probe, choose_probes
from paragon_export.parity.candidates import Candidate, open_candidate, read_artifact
from paragon_export.parity.compare import verify
from paragon_export.parity.report import ParityRow
from paragon_export.runtimes.base import Arrays, Runner
from paragon_export.specs.types import Precision
from paragon_export.testing.sabotage.case import Case, case_of
from paragon_export.testing.sabotage.suite import SUITE, Sabotage, subjects, written

SHARES = (-20.0, 12.0)
"""Logarithms to base 2 of the least and the greatest share."""

STEPS = 9
"""Halvings of this interval: to 4 %."""


@dataclass
class Mixed:
    """A good runner with a share of a mistake. It remembers both for the same input."""

    good: Runner
    right: Runner
    """The good file in float32."""
    wrong: Runner
    """The wrong file in float32."""
    share: float = 1.0
    name: str = "mixed"
    largest: float = 0.0
    """The most that was added to a pixel since this was last set to 0."""
    known: dict[tuple[bytes, ...], tuple[Arrays, Arrays]] = field(default_factory=dict)

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        key = tuple(np.asarray(array).tobytes() for array in feeds.values())
        shapes = str([np.shape(array) for array in feeds.values()]).encode()
        if (*key, shapes) not in self.known:
            right, wrong = self.right.infer(feeds), self.wrong.infer(feeds)
            gaps = {name: wrong[name].astype(np.float64) - right[name] for name in right}
            self.known[(*key, shapes)] = self.good.infer(feeds), gaps
        good, gaps = self.known[(*key, shapes)]
        self.largest = max(self.largest, self.share * float(np.abs(gaps["output"]).max()))
        return {n: (good[n] + self.share * gap).astype(np.float32) for n, gap in gaps.items()}


def main(only: Annotated[str, typer.Option(help="Part of a sabotage's name.")] = "") -> None:
    rows = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        cases = {name: with_bfloat16(case) for name, case in subjects(folder).items()}
        for sabotage in SUITE:
            if only in sabotage.what and sabotage.looks_like != "wrong in float32":
                case = cases[sabotage.subject]
                found = {p: thresholds(sabotage, case, p, folder) for p in Precision}
                if any(found.values()):
                    rows.append(described(sabotage, found))
    write("thresholds", rows, ("sabotage",))


def with_bfloat16(case: Case) -> Case:
    """Return a case whose graph can be converted to bfloat16."""
    video = len(case.reference.inputs) > 1
    flags = {n: o.value for n, o in case.variant.options.items() if n == "upsampler_alpha"}
    return case_of(case.checkpoint.path, video=video, opset=22, **flags)


def described(
    sabotage: Sabotage, found: Mapping[Precision, tuple[float, float] | None]
) -> dict[str, Any]:
    row: dict[str, Any] = {"sabotage": sabotage.what}
    for precision, values in found.items():
        before, now = (f"{value:.1e}" for value in values) if values else ("-", "-")
        row |= {f"{precision.name} before": before, precision.name: now}
    return row


def thresholds(
    sabotage: Sabotage, case: Case, precision: Precision, folder: Path
) -> tuple[float, float] | None:
    """Return the least errors that the former rule and this one see; None if they cannot be mixed."""
    good = replace(sabotage, make=lambda case: case.model, precision=precision)
    right, wrong = (replace(each, precision=Precision.FP32) for each in (good, sabotage))
    try:
        runners = [
            opened(each, case, folder / "mixed.onnx").runner for each in (good, right, wrong)
        ]
        mixed = Mixed(*runners)
        candidate = Candidate(name="mixed", runner=mixed, precision=precision)
        probes = choose_probes(case.variant.input_spec, video=len(case.reference.inputs) > 1)
        for share, fails_there in zip(SHARES, (False, True), strict=True):
            mixed.share = 2**share
            if fails(case, candidate, probes, has_failed) is not fails_there:
                return None
        if not math.isfinite(mixed.largest):
            return None
    except (ParagonExportError, ValueError, KeyError):
        return None  # another shape, a run that fails, or a file that half precision cannot hold
    before, now = (least(case, candidate, probes, rule) for rule in (failed_before, has_failed))
    return before, now


def opened(sabotage: Sabotage, case: Case, path: Path) -> Candidate:
    file = read_artifact(written(sabotage, case, path))
    return open_candidate(file, case.reference.inputs, case.reference.outputs).candidate


def least(
    case: Case,
    candidate: Candidate,
    probes: Sequence[Probe],
    rule: Callable[[ParityRow], bool],
) -> float:
    """Return the least error that a rule sees, by bisection of the share."""
    mixed = candidate.runner
    assert isinstance(mixed, Mixed)
    (low, high), error = SHARES, math.inf
    for _ in range(STEPS):
        middle = (low + high) / 2
        mixed.share, mixed.largest = 2**middle, 0.0
        if fails(case, candidate, probes, rule):
            high, error = middle, mixed.largest
        else:
            low = middle
    return error


def fails(
    case: Case, candidate: Candidate, probes: Sequence[Probe], rule: Callable[[ParityRow], bool]
) -> bool:
    return any(map(rule, verify(case.reference, [candidate], probes).rows))


def has_failed(row: ParityRow) -> bool:
    return bool(row.failure)


def failed_before(row: ParityRow) -> bool:
    """Judge by the largest error alone, as the former rule did."""
    if row.precision is Precision.FP32:
        limit = min(1e-5 * max(1.0, row.reference_peak), 4 * max(row.reference_max_abs, 2.5e-7))
    else:
        limit = 1.5 * row.reference_max_abs
    bar = {Precision.FP16: 50.0, Precision.BF16: 30.0}.get(Precision(row.precision), -math.inf)
    return not (row.found.max_abs <= limit and row.found.psnr_db >= bar)


if __name__ == "__main__":
    typer.run(main)
