"""The yardstick: what PyTorch itself errs in the candidate's precision, in several roundings."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

from paragon_export.inputs.play import nudged, play
from paragon_export.inputs.probes import Probe
from paragon_export.parity.acceptance import Distribution
from paragon_export.parity.metrics import Difference, difference
from paragon_export.parity.reference import Reference
from paragon_export.parity.report import ParityRow
from paragon_export.runtimes.base import Arrays
from paragon_export.specs.types import Precision

LEAST_RATIO = 0.5
"""An image on which a candidate is nearer to the truth than this, in PyTorch's error, counts as
this in the mean over all images: it makes up for no other."""

_DTYPES = {Precision.FP32: "float32", Precision.FP16: "float16", Precision.BF16: "bfloat16"}


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

    def errors(self, probe: Probe, truth: Arrays) -> dict[str, Difference]:
        """Return the worse of both errors on a probe for each output of ``truth``."""
        runs = [play(runner, probe, self._inputs) for runner in self._runners]
        if self._moves_input:
            runs.append(play(self._runners[0], nudged(probe), self._inputs))
        return {
            name: reduce(Difference.worse, (difference(run[name], expected, 0) for run in runs))
            for name, expected in truth.items()
        }


def with_overall(rows: Sequence[ParityRow]) -> list[ParityRow]:
    """Return rows with the mean over all images of each output of each candidate."""
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        for rule in row.criteria:
            if isinstance(rule, Distribution) and row.has_yardstick and row.is_judged:
                ratio = row.rms_ratio(rule.tolerance.reference_floor)
                groups[row.candidate, row.output].append(max(ratio, LEAST_RATIO))
    means = {
        key: (math.exp(sum(map(math.log, ratios)) / len(ratios)), len(ratios))
        for key, ratios in groups.items()
    }
    return [replace(row, overall=means.get((row.candidate, row.output))) for row in rows]
