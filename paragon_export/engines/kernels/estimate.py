"""Estimate: what the kernels of an engine move and compute at one size, and their time on a card."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from paragon_export.engines.kernels.cards import Card, seconds
from paragon_export.engines.kernels.count import Work
from paragon_export.engines.kernels.listing import Kernel
from paragon_export.errors import PlanError
from paragon_export.specs.types import Size
from paragon_export.system.text import brief

BASIS = "estimated from the compiled kernels, not run"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The kernels for one size and card in sums. It is written to manifests."""

    size: Size
    """Input size; the batch is 1."""
    card: str
    """Name of the card, a key of ``CARDS``."""
    target: str
    """Compute capability that the kernels were compiled for."""
    launches: int
    streams: int
    bytes_read: int
    bytes_written: int
    flops: int
    """Operations of products and convolutions, as far as they are known."""
    kernels_of_unknown_flops: int
    estimated_ms_by_group: Mapping[str, float]
    """Estimated milliseconds by kind of kernel, the longest first."""

    @classmethod
    def of(cls, size: Size, card: Card, kernels: Sequence[tuple[Kernel, Work]]) -> Estimate:
        """Add up the kernels that are launched for a size, on a card."""
        works = [work for _, work in kernels]
        groups: dict[str, float] = {}
        for work in works:
            groups[work.group] = groups.get(work.group, 0.0) + seconds(card, work) * 1e3
        return cls(
            size=size, card=card.name, target=card.target, launches=len(works),
            streams=len({kernel.stream for kernel, _ in kernels}),
            bytes_read=sum(work.read for work in works),
            bytes_written=sum(work.written for work in works),
            flops=sum(work.flops or 0 for work in works),
            kernels_of_unknown_flops=sum(work.flops is None for work in works),
            estimated_ms_by_group=dict(sorted(groups.items(), key=lambda item: -item[1])),
        )  # fmt: skip

    @property
    def estimated_ms(self) -> float:
        """Estimated time of one run."""
        return sum(self.estimated_ms_by_group.values())

    def to_document(self) -> dict[str, Any]:
        """Return the estimate as JSON values."""
        return {**asdict(self), "size": str(self.size), "estimated_ms": self.estimated_ms}

    @classmethod
    def from_document(cls, document: Any) -> Estimate:
        """Read an estimate from JSON values. Unknown entries are ignored.

        Raises:
            ValueError: Naming the first invalid entry.
        """
        entries = document if isinstance(document, dict) else {}
        values = {name: _require(entries, name, kind) for name, kind in _KINDS.items()}
        if not all(map(_is_duration, values["estimated_ms_by_group"].values())):
            raise ValueError("estimated_ms_by_group of the kernels must hold milliseconds")
        try:
            return cls(**{**values, "size": Size.parse(values["size"])})
        except PlanError as error:
            raise ValueError(f"size of the kernels: {error}") from error


_KINDS: Mapping[str, type] = {
    **dict.fromkeys(("size", "card", "target"), str),
    **dict.fromkeys(
        ("launches", "streams", "bytes_read", "bytes_written", "flops", "kernels_of_unknown_flops"),
        int,
    ),
    "estimated_ms_by_group": dict,
}
"""Entries of an estimate, and the types of their JSON values."""


def _require(entries: Mapping[str, Any], name: str, kind: type) -> Any:
    """Return an entry; refuse one of another type. True and false are no numbers."""
    value = entries.get(name)
    if type(value) is not kind:
        raise ValueError(f"{name} of the kernels is {brief(value)}; it must be a {kind.__name__}")
    return value


def _is_duration(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0


def rounded(value: float) -> str:
    """Return a figure with three digits, or whole from 1000 on."""
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def estimates_entry(estimates: Iterable[Estimate]) -> dict[str, Any] | None:
    """Return the entry ``kernels`` of a manifest; None without estimates."""
    plans = [estimate.to_document() for estimate in estimates]
    return {"basis": BASIS, "plans": plans} if plans else None


def estimates_of(entry: Mapping[str, Any]) -> tuple[Estimate, ...]:
    """Return the estimates of an entry, the inverse of :func:`estimates_entry`.

    Raises:
        ValueError: Naming the first invalid value.
    """
    return tuple(map(Estimate.from_document, _require(entry, "plans", list)))
