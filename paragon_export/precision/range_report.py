"""Range report: the range of every tensor of a network, against that of a half type."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from paragon_export.specs.types import Precision
from paragon_export.system.text import finite

if TYPE_CHECKING:
    import onnx_ir as ir

MAX_FINITE = {Precision.FP16: 65504.0, Precision.BF16: (2 - 2.0**-7) * 2.0**127}
"""The largest finite number of each half type."""

MIN_OVERFLOW = {Precision.FP16: 65520.0, Precision.BF16: (2 - 2.0**-8) * 2.0**127}
"""The smallest magnitude that is rounded to infinity: half a step above ``MAX_FINITE``."""

MIN_NORMAL = {Precision.FP16: 2.0**-14, Precision.BF16: 2.0**-126}
"""The smallest normal number of each half type. Smaller magnitudes lose digits or become zero."""

MAX_NAMED = 3
"""Tensors or nodes that a note names. The rest is counted."""


MIN_SAFE_HEADROOM = 2.0
"""A headroom below this gives a note that other images may overflow."""


@dataclass(frozen=True, kw_only=True)
class TensorRange:
    """The range of one tensor of the float32 graph: an input, a weight or the output of a node."""

    name: str
    op_type: str
    """Operator that computes it, or ``input`` or ``weight``."""
    peak: float
    """Largest magnitude on the images on which the network does not diverge."""
    picture: str
    """The image with the peak, as contents and size; empty for weights."""
    underflow: float
    """Share of its values, 0 to 1, that are not zero and below ``MIN_NORMAL``, on the same images."""
    is_half: bool
    """Whether a node computes or reads it in half precision, given the float32 islands."""
    headroom: float
    """``MAX_FINITE`` divided by the peak; below 1 the tensor overflows."""
    peak_diverged: float = 0.0
    """Largest magnitude on stress images on which the network diverges."""
    error_share: float | None = None
    """Share of the energy of the half-precision error of the output that comes from rounding this
    tensor, 0 to 1; None if it is not among the largest, or was not measured."""

    @property
    def overflows(self) -> bool:
        """Whether it is in half precision and exceeds the range of the half type."""
        return self.is_half and self.is_finite and self.headroom < 1

    @property
    def is_finite(self) -> bool:
        """False if it is infinite in float32 too, as in masks: half precision loses nothing there."""
        return math.isfinite(self.peak)

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON values; null in place of infinity.

        Infinite are the peak of a tensor that is infinite in float32 too, and the headroom of a
        tensor that is 0 everywhere.
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
    """A node that the audit keeps in float32, because half precision would overflow."""

    node: str
    op_type: str
    because: str
    """Name of the tensor that overflows, which the node computes or reads."""
    peak: float
    """Largest magnitude of that tensor."""

    def to_json(self) -> dict[str, Any]:
        return finite(dict(self.__dict__))


@dataclass(frozen=True, kw_only=True)
class RangeAudit:
    """The ranges of all tensors of one network against a half type, and the islands that it needs."""

    precision: Precision
    tensors: tuple[TensorRange, ...]
    """In the order of the graph."""
    pictures: tuple[str, ...]
    """Images that were measured, as contents and size, without those of ``diverged``."""
    diverged: tuple[str, ...] = ()
    """Stress images on which the network diverges. Overflow on them is reported, not fixed."""
    islands: tuple[Island, ...] = ()
    """Nodes that the audit keeps in float32."""
    fault: str = ""
    """Why float32 islands cannot prevent an overflow; empty if they do, or there is none."""

    @property
    def passed(self) -> bool:
        """Whether the network can be computed in half precision, with its islands."""
        return not self.fault

    @property
    def ranked(self) -> list[TensorRange]:
        """The tensors, most critical first: those in half precision, then by headroom.

        Tensors that cannot overflow on other images come after the other tensors in half precision:
        weights that fit, and tensors that are infinite in float32 too.
        """

        def rank(tensor: TensorRange) -> tuple[bool, bool, float]:
            is_fixed = tensor.op_type == "weight" or not tensor.is_finite
            return not tensor.is_half, is_fixed and not tensor.overflows, tensor.headroom

        return sorted(self.tensors, key=rank)

    @property
    def computed(self) -> list[TensorRange]:
        """The tensors in half precision, most critical first, without weights and infinite ones."""
        return [t for t in self.ranked if t.is_half and t.is_finite and t.op_type != "weight"]

    @property
    def tightest(self) -> TensorRange | None:
        """The computed tensor in half precision with the least headroom; None if there is none."""
        return next(iter(self.computed), None)

    @property
    def thinnest(self) -> TensorRange | None:
        """The computed tensor in half precision with the largest share of underflow."""
        return max(self.computed, key=lambda t: t.underflow, default=None)

    @property
    def coarsest(self) -> TensorRange | None:
        """The tensor with the largest share of the error; None if shares were not measured."""
        shared = (t for t in self.tensors if t.error_share is not None)
        return max(shared, key=lambda t: t.error_share or 0.0, default=None)

    @property
    def beyond_where_diverged(self) -> list[str]:
        """Names of tensors that overflow only on images on which the network diverges."""
        limit = MAX_FINITE[self.precision]
        return [t.name for t in self.tensors if t.is_half and t.peak_diverged > limit]

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user: islands and their reasons, little headroom, a fault."""
        notes = []
        if self.islands:
            peaks = {island.because: island.peak for island in self.islands}
            reasons = _listed([f"{name} reaches {peak:.3g}" for name, peak in peaks.items()])
            nodes = _listed([island.node for island in self.islands])
            notes.append(
                f"{self.precision.value} cannot hold all tensors ({reasons}); "
                f"computed in float32 instead: {nodes}"
            )
        tightest = self.tightest
        if self.passed and tightest and tightest.headroom < MIN_SAFE_HEADROOM:
            notes.append(
                f"{tightest.name} reaches {tightest.peak:.4g} on {tightest.picture}, close to the "
                f"largest {self.precision.value} number: another image may overflow; --audit or the "
                "command audit shows more, --images FOLDER adds images, --bf16 has a larger range"
            )
        if self.fault:
            notes.append(self.fault)
        return tuple(notes)

    def summary(self) -> dict[str, Any]:
        """Return the verdict and the most critical tensors as JSON values."""
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
        """Return the summary, and the ranges of all tensors, as JSON values."""
        return {**self.summary(), "rows": [tensor.to_json() for tensor in self.ranked]}


def _listed(names: list[str]) -> str:
    """Return the first names as text, and the number of the others."""
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def describe_islands(model: ir.Model, ranges: RangeAudit | None) -> None:
    """Write the islands of the audit, if any, into the metadata of a model."""
    if ranges is not None and ranges.islands:
        islands = [island.to_json() for island in ranges.islands]
        model.metadata_props["islands"] = json.dumps(islands)
