"""The truth: what the reference computes in float64 on a probe, and what PyTorch errs there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np

from paragon_export.inputs.play import nudged
from paragon_export.inputs.probes import Probe
from paragon_export.parity.parts import Part, Parts
from paragon_export.parity.reference import Reference
from paragon_export.parity.yardstick import Errors, Yardstick
from paragon_export.runtimes.base import Arrays
from paragon_export.specs.network import Task
from paragon_export.specs.types import Precision
from paragon_export.system.progress import step

MAX_KEPT_BYTES = 2**28
"""Size of the outputs of the reference that are kept for further candidates."""


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


class Truths:
    """Computes the truth on each probe once, for all candidates of one reference."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.parts = Parts(reference)
        self._exact = reference.runner("float64")
        self._yardsticks: dict[Precision, Yardstick] = {}
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


def _content(probe: Probe) -> bytes:
    """Return a key that is equal for equal probes."""
    digest = sha256(
        repr((probe.size, probe.blend, probe.state_is_broken, probe.is_stress)).encode()
    )
    for frame in probe.frames:
        digest.update(f"{frame.shape} {frame.dtype}".encode())
        digest.update(np.ascontiguousarray(frame).tobytes())
    return digest.digest()
