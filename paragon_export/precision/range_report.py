"""Ranges: what half precision has to hold, tensor by tensor. Data for people and for machines."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from paragon_export.specs.types import Precision
from paragon_export.system.text import finite

if TYPE_CHECKING:
    import onnx_ir as ir

HIGHEST = {Precision.FP16: 65504.0, Precision.BF16: (2 - 2.0**-7) * 2.0**127}
"""The largest number of each half type."""

INFINITE_FROM = {Precision.FP16: 65520.0, Precision.BF16: (2 - 2.0**-8) * 2.0**127}
"""What lies half a step above is rounded to infinity."""

MIN_NORMAL = {Precision.FP16: 2.0**-14, Precision.BF16: 2.0**-126}
"""What lies below has lost digits or is zero."""

NAMED = 3
"""Tensors and nodes that a sentence names before it counts the rest."""


LITTLE = 2.0
"""Headroom below which the user is told that other pictures may need more."""


@dataclass(frozen=True, kw_only=True)
class TensorRange:
    """One tensor of the float32 graph: an input, a weight, or what a node gives."""

    name: str
    op_type: str
    """Of the node that gives it; ``input`` or ``weight`` where none does."""
    peak: float
    """Largest magnitude on the pictures that count."""
    picture: str
    """Where it was reached: contents and size; empty for weights."""
    underflow: float
    """Share of its values, of all pictures that count, that are not zero and yet below the
    smallest normal number of the half type."""
    is_half: bool
    """Whether anything makes or reads it in half precision, islands counted."""
    headroom: float
    """The largest number of the half type over the peak; below 1 it does not fit."""
    peak_diverged: float = 0.0
    """Largest magnitude on stress pictures on which the network itself diverges."""
    error_share: float | None = None
    """Part of the half-precision error of the output, in energy, that rounding this tensor makes;
    None where it is not among the largest, or was not measured."""

    @property
    def overflows(self) -> bool:
        """Whether it is beyond half where half has to hold it."""
        return self.is_half and self.is_finite and self.headroom < 1

    @property
    def is_finite(self) -> bool:
        """False where float32 is infinite too, as in masks: half is as good there."""
        return math.isfinite(self.peak)

    def to_json(self) -> dict[str, Any]:
        """Return the figures; null for those that are infinite.

        These are the peak of a tensor that is infinite in float32 too, and the headroom of one
        that is 0 everywhere.
        """
        return finite(
            {
                "name": self.name,
                "op_type": self.op_type,
                "peak": self.peak,
                "headroom": self.headroom,
                "underflow": self.underflow,
                "half": self.is_half,
                "picture": self.picture,
                "peak_diverged": self.peak_diverged,
                "error_share": self.error_share,
            }
        )


@dataclass(frozen=True, kw_only=True)
class Island:
    """A node that is computed in float32 although the network did not ask for it."""

    node: str
    op_type: str
    because: str
    """Name of the tensor, made or read by it, that half cannot hold."""
    peak: float

    def to_json(self) -> dict[str, Any]:
        return finite(dict(self.__dict__))


@dataclass(frozen=True, kw_only=True)
class RangeAudit:
    """What half precision does to the tensors of one network."""

    precision: Precision
    tensors: tuple[TensorRange, ...]
    pictures: tuple[str, ...]
    """Contents and sizes that count."""
    diverged: tuple[str, ...] = ()
    """Stress pictures on which the network itself diverges: reported, and nothing is mended."""
    islands: tuple[Island, ...] = ()
    fault: str = ""
    """Why float32 islands cannot mend an overflow; empty where there is none, or they do."""

    @property
    def passed(self) -> bool:
        return not self.fault

    @property
    def ranked(self) -> list[TensorRange]:
        """The most critical first: what half holds before the rest, and the least headroom.

        A weight is the same on every picture: one that fits comes after what is computed. So does
        what is infinite in float32.
        """

        def place(tensor: TensorRange) -> tuple[bool, bool, float]:
            is_settled = tensor.op_type == "weight" or not tensor.is_finite
            return not tensor.is_half, is_settled and not tensor.overflows, tensor.headroom

        return sorted(self.tensors, key=place)

    @property
    def computed(self) -> list[TensorRange]:
        """What half holds, weights and what is infinite anyway left out."""
        return [t for t in self.ranked if t.is_half and t.is_finite and t.op_type != "weight"]

    @property
    def tightest(self) -> TensorRange | None:
        """The computed tensor in half with the least headroom."""
        return next(iter(self.computed), None)

    @property
    def thinnest(self) -> TensorRange | None:
        """The computed tensor in half of which most values underflow."""
        return max(self.computed, key=lambda t: t.underflow, default=None)

    @property
    def coarsest(self) -> TensorRange | None:
        """The tensor with the largest share of the error; None where that was not measured."""
        shared = (t for t in self.tensors if t.error_share is not None)
        return max(shared, key=lambda t: t.error_share or 0.0, default=None)

    @property
    def beyond_where_diverged(self) -> list[str]:
        """Tensors that half holds on all that counts and not where the network diverges."""
        highest = HIGHEST[self.precision]
        return [t.name for t in self.tensors if t.is_half and t.peak_diverged > highest]

    @property
    def notes(self) -> tuple[str, ...]:
        """What was changed and why, or why nothing helps."""
        notes = []
        if self.islands:
            peaks = {island.because: island.peak for island in self.islands}
            reasons = _some([f"{name} reaches {peak:.3g}" for name, peak in peaks.items()])
            nodes = _some([island.node for island in self.islands])
            notes.append(
                f"{self.precision.value} cannot hold all tensors ({reasons}); "
                f"computed in float32 instead: {nodes}"
            )
        least = self.tightest
        if self.passed and least and least.headroom < LITTLE:
            notes.append(
                f"{least.name} reaches {least.peak:.4g} on {least.picture}, close to the largest "
                f"{self.precision.value} number: another picture may overflow; --audit or the "
                "command audit shows more, --images FOLDER adds pictures, --bf16 has the range"
            )
        if self.fault:
            notes.append(self.fault)
        return tuple(notes)

    def summary(self) -> dict[str, Any]:
        """Return the few figures that decide, as JSON."""
        rows = {"tightest": self.tightest, "thinnest": self.thinnest, "coarsest": self.coarsest}
        return {
            "precision": self.precision.value,
            "passed": self.passed,
            "tensors": len(self.tensors),
            **{name: row.to_json() if row else None for name, row in rows.items()},
            "islands": [island.to_json() for island in self.islands],
            "pictures": list(self.pictures),
            "diverged": list(self.diverged),
            "beyond_where_diverged": self.beyond_where_diverged,
            "fault": self.fault,
        }

    def to_json(self) -> dict[str, Any]:
        return {**self.summary(), "rows": [tensor.to_json() for tensor in self.ranked]}


def _some(words: list[str]) -> str:
    more = len(words) - NAMED
    return ", ".join(words[:NAMED]) + (f" and {more} more" if more > 0 else "")


def describe_islands(model: ir.Model, ranges: RangeAudit | None) -> None:
    """Write into the metadata which nodes the audit had computed in float32, if any."""
    if ranges is not None and ranges.islands:
        islands = [island.to_json() for island in ranges.islands]
        model.metadata_props["islands"] = json.dumps(islands)
