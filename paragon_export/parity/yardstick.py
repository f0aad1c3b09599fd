"""The yardstick: what PyTorch itself errs in the candidate's precision, in several roundings."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

from paragon_export.inputs.play import nudged
from paragon_export.parity.acceptance import Distribution, Ratios
from paragon_export.parity.metrics import Difference, difference
from paragon_export.parity.parts import Part
from paragon_export.parity.reference import Reference
from paragon_export.parity.report import ParityRow
from paragon_export.runtimes.base import Arrays
from paragon_export.specs.types import Precision

LEAST_RATIO = 0.5
"""An image on which a candidate is nearer to the truth than this, in PyTorch's error, counts as
this in the mean over all images: it makes up for no other."""

_DTYPES = {Precision.FP32: "float32", Precision.FP16: "float16", Precision.BF16: "bfloat16"}


Errors = Mapping[str, Difference]
"""What PyTorch errs, by output."""


class Yardstick:
    """PyTorch in one precision, computed twice with different roundings.

    In half precision each result is moved by a part of a rounding step in the second run. In
    float32 the image is moved by one rounding.
    """

    def __init__(self, reference: Reference, precision: Precision) -> None:
        dtype = _DTYPES[precision]
        self._inputs = reference.inputs
        self._moves_input = not precision.is_half and not reference.input_spec.task.is_classifier
        self._runners = [reference.runner(dtype)]
        if precision.is_half:
            self._runners.append(reference.runner(dtype, nudge=1))
        self._largest: dict[str, Difference] = {}

    def errors(self, part: Part, truth: Arrays) -> Errors:
        """Return the worse of both errors on a part of a probe for each output of ``truth``.

        On the excerpt of a photograph they are the largest on the photographs before it, if there
        were any: to compute it twice more would take longer than all others.
        """
        is_photograph = not part.whole.is_stress
        if part.excerpt and is_photograph and self._largest:
            return dict(self._largest)
        runs = [part.play(runner, self._inputs) for runner in self._runners]
        if self._moves_input:
            runs.append(part.play(self._runners[0], self._inputs, nudged(part.probe)))
        errors = {
            name: reduce(Difference.worse, (difference(run[name], expected, 0) for run in runs))
            for name, expected in truth.items()
        }
        if is_photograph:
            known = self._largest
            self._largest = {n: e.worse(known[n]) if n in known else e for n, e in errors.items()}
        return errors


def with_overall(rows: Sequence[ParityRow]) -> list[ParityRow]:
    """Return rows with what is known of all images of each output of each candidate."""
    groups: dict[tuple[str, str], list[ParityRow]] = defaultdict(list)
    for row in rows:
        if row.has_yardstick and row.is_judged and _rule_of(row):
            groups[row.candidate, row.output].append(row)
    known = {key: _overall(group) for key, group in groups.items()}
    return [replace(row, **known.get((row.candidate, row.output), {})) for row in rows]


def _rule_of(row: ParityRow) -> Distribution | None:
    return next((rule for rule in row.criteria if isinstance(rule, Distribution)), None)


def _overall(group: Sequence[ParityRow]) -> dict[str, Any]:
    """Return the fields that depend on all images of one output of one candidate."""
    rules = [rule for row in group if (rule := _rule_of(row))]
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
