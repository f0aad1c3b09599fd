"""The truth: what the reference computes in float64 on a probe, and what PyTorch errs there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

import numpy as np

from paragon_export.inputs.play import nudged
from paragon_export.inputs.probes import Probe
from paragon_export.parity.acceptance import Everywhere
from paragon_export.parity.candidates import Candidate
from paragon_export.parity.metrics import InFloat32
from paragon_export.parity.parts import Part, Parts
from paragon_export.parity.reference import Reference
from paragon_export.parity.report import ParityRow
from paragon_export.parity.yardstick import (
    Errors,
    WeightsYardstick,
    Yardstick,
    in_doubt,
    in_float32,
    passes_as_half,
    rule_of,
    with_overall,
)
from paragon_export.runtimes.base import Arrays
from paragon_export.specs.network import Task
from paragon_export.specs.types import Precision
from paragon_export.system.progress import step

MAX_KEPT_BYTES = 2**28
"""Size of the outputs of the reference that are kept for further candidates."""


IN_FLOAT32 = 3
"""Photographs on which a half-precision file is computed in float32 as well."""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What candidates are compared with on one probe."""

    part: Part
    outputs: Arrays
    """Of the reference: what is compared of them, in float64."""
    moved: Arrays
    """The same on the input changed by one rounding; empty unless the outputs are maps."""
    own: dict[Precision, Errors] = field(default_factory=dict)
    """PyTorch's errors in each precision, by output: the worst of several roundings."""
    of_weights: dict[Precision, Errors] = field(default_factory=dict)
    """What other roundings of the weights alone err, for half precisions that were in doubt."""


class Truths:
    """Computes the truth on each probe once, for all candidates of one reference."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.parts = Parts(reference)
        self._exact = reference.runner("float64")
        self._yardsticks: dict[Precision, Yardstick] = {}
        self._weights: dict[Precision, WeightsYardstick] = {}
        self._kept: dict[bytes, Truth] = {}
        self._kept_bytes = 0

    def on(self, probe: Probe, precisions: Iterable[Precision]) -> Truth:
        """Return the truth on a probe, with PyTorch's errors in these precisions."""
        key = _content(probe)
        truth = self._kept.get(key)
        if truth is None:
            truth = self._computed(probe)
            self._keep(key, truth)
        for precision in set(precisions) - set(truth.own):
            if precision not in self._yardsticks:
                self._yardsticks[precision] = Yardstick(self.reference, precision)
            truth.own[precision] = self._yardsticks[precision].errors(truth.part, truth.outputs)
        return truth

    def measured_further(self, found: Sequence[tuple[Probe, ParityRow]]) -> list[ParityRow]:
        """Complete the rows on all images, and measure PyTorch further where a candidate fails.

        In half precision, other roundings of the weights are measured on all images, unless the
        candidate fails on its worst image all the same. Where a candidate is off PyTorch's float32
        outside of an excerpt, PyTorch is measured at that place. What is measured further can only
        raise a limit, so candidates that pass need none of it.

        Args:
            found: Rows, each with its probe, in the order in which they were measured.
        """
        probes, rows = [probe for probe, _ in found], with_overall([row for _, row in found])
        doubted = in_doubt(rows)
        pairs = list(zip(probes, rows, strict=True))
        open_ones = {name for name in doubted if not self._fails_anyway(name, pairs)}
        rows = [self._reweighed(*p) if p[1].candidate in open_ones else p[1] for p in pairs]
        return [
            self._looked_at(probe, row)
            if row.candidate in doubted and _is_off_outside(row)
            else row
            for probe, row in zip(probes, with_overall(rows), strict=True)
        ]

    def measured_in_float32(
        self, candidates: Sequence[Candidate], found: Sequence[tuple[Probe, ParityRow]]
    ) -> list[ParityRow]:
        """Complete rows of half-precision files that pass with what they compute in float32.

        It is measured on the first photographs, and on a large one only if there is no other.
        """
        rows = [row for _, row in found]
        for candidate in candidates:
            if not passes_as_half(candidate, rows):
                continue
            measured = self._in_float32(candidate, found)
            for index, (probe, row) in enumerate(found):
                if row.candidate == candidate.name and id(probe) in measured:
                    rows[index] = replace(rows[index], in_float32=measured[id(probe)][row.output])
        return rows

    @step("the file in float32")
    def _in_float32(
        self, candidate: Candidate, found: Sequence[tuple[Probe, ParityRow]]
    ) -> dict[int, dict[str, InFloat32]]:
        """Return what a file computes in float32 by the ``id`` of the probe and by output."""
        known = {id(probe): (probe, row.is_large) for probe, row in found if not row.is_stress}
        small = [probe for probe, is_large in known.values() if not is_large]
        probes = small[:IN_FLOAT32] or [probe for probe, _ in known.values()][:1]
        truths = [self.on(probe, (Precision.FP32,)) for probe in probes]
        parts = [(truth.part, truth.outputs, truth.own[Precision.FP32]) for truth in truths]
        errors = in_float32(candidate, parts, self.reference.inputs)
        return dict(zip(map(id, probes), errors, strict=True))

    def _fails_anyway(self, candidate: str, pairs: Sequence[tuple[Probe, ParityRow]]) -> bool:
        """Return whether a candidate fails on its worst image whatever the weights' rounding is."""
        own = [(probe, row) for probe, row in pairs if row.candidate == candidate]
        failed = [(probe, row) for probe, row in own if row.failure and not row.is_large]
        if not failed:
            return False
        row = self._reweighed(*max(failed, key=lambda pair: pair[1].share))
        return bool(replace(row, overall=None, largest_own=math.inf).failure)

    def _reweighed(self, probe: Probe, row: ParityRow) -> ParityRow:
        """Return a row in half precision with what other roundings of the weights err."""
        precision, own, truth = Precision(row.precision), row.reference_errors, self.on(probe, ())
        if own is None or not precision.is_half or rule_of(row) is None:
            return row
        if precision not in self._weights:
            self._weights[precision] = WeightsYardstick(self.reference, precision)
        if precision not in truth.of_weights:
            found = self._weights[precision].errors(truth.part, truth.outputs)
            truth.of_weights[precision] = found
        errors = truth.of_weights[precision][row.output].worse(own)
        return replace(row, reference_errors=errors, reference_max_abs=errors.max_abs)

    @step("float64 reference around the largest difference")
    def _looked_at(self, probe: Probe, row: ParityRow) -> ParityRow:
        """Return a row with PyTorch's errors where it differs most, outside of the excerpt."""
        precision = Precision(row.precision)
        part = self.parts.around(self.on(probe, (precision,)).part, row.gap_place)
        outputs = part.play(self._exact, self.reference.inputs)
        around = self._yardsticks[precision].around(part, outputs)[row.output]
        return replace(row, around_gap=around)

    @step("float64 reference")
    def _computed(self, probe: Probe) -> Truth:
        part, inputs = self.parts.of(probe), self.reference.inputs
        is_map = self.reference.input_spec.task is Task.MAP
        outputs = part.float32 if part.is_slow else part.play(self._exact, inputs)
        return Truth(
            part=part,
            outputs={name: array.astype(np.float64) for name, array in outputs.items()},
            moved=part.play(self._exact, inputs, nudged(part.probe)) if is_map else {},
        )

    def _keep(self, key: bytes, truth: Truth) -> None:
        kept = truth.outputs, truth.moved, truth.part.float32
        size = sum(array.nbytes for arrays in kept for array in arrays.values())
        size += sum(frame.nbytes for frame in truth.part.whole.frames)
        if self._kept_bytes + size <= MAX_KEPT_BYTES:
            self._kept[key] = truth
            self._kept_bytes += size


def _is_off_outside(row: ParityRow) -> bool:
    return any(rule.check(row) for rule in row.criteria if isinstance(rule, Everywhere))


def _content(probe: Probe) -> bytes:
    """Return a key that is equal for equal probes."""
    digest = sha256(
        repr((probe.size, probe.blend, probe.state_is_broken, probe.is_stress)).encode()
    )
    for frame in probe.frames:
        digest.update(f"{frame.shape} {frame.dtype}".encode())
        digest.update(np.ascontiguousarray(frame).tobytes())
    return digest.digest()
