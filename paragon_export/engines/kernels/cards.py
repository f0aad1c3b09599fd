"""Cards: published memory bandwidth and matrix rate, and the time that kernels take by them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from paragon_export.engines.kernels.count import Work
from paragon_export.errors import PlanError

LAUNCH_SECONDS = 3e-6
"""Assumed time to start a kernel. It is not fitted to measurements."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """A card by the figures that it is sold with."""

    name: str
    target: str
    """Compute capability."""
    bandwidth: float
    """Device memory, bytes a second."""
    rate: float
    """Dense FP16 matrix operations with float32 accumulation, a second."""
    source: str
    """Where both figures come from."""


_TIMES_FP32 = "bandwidth as sold; rate derived: {} times the FP32 rate as sold"
_TURING, _LATER = _TIMES_FP32.format("four"), _TIMES_FP32.format("two")
# Not checked against documents of the maker, except the RTX 3060's, 4090's and 5090's bandwidth and
# the 4090's rate, which published tables of others confirm.

CARDS = {
    name: Card(name=name, target=target, bandwidth=gb * 1e9, rate=tflop * 1e12, source=source)
    for name, target, gb, tflop, source in (
        ("RTX 2060", "sm75", 336, 25.8, _TURING),
        ("RTX 3060", "sm86", 360, 25.5, _LATER),
        ("RTX 3090", "sm86", 936, 71.0, _LATER),
        ("RTX 4060", "sm89", 272, 30.2, _LATER),
        ("RTX 4090", "sm89", 1008, 165.2, _LATER),
        ("RTX 5070", "sm120", 672, 61.7, _LATER),
        ("RTX 5090", "sm120", 1792, 209.5, _LATER),
    )
}
"""Cards by name."""


def find_card(text: str) -> Card:
    """Return the card that a text such as ``3060`` or ``RTX 3060`` names.

    Raises:
        PlanError: If it names none.
    """
    name = "RTX " + text.upper().replace("RTX", "").strip(" -_")
    if name not in CARDS:
        raise PlanError(f"card {text!r} is not known; use one of {', '.join(CARDS)}")
    return CARDS[name]


def cards_of(targets: Iterable[str]) -> list[Card]:
    """Return the cards of the named generations; all but Turing's if none is named.

    An engine without a target runs on Ampere and later.
    """
    wanted = set(targets) or {card.target for card in CARDS.values()} - {"sm75"}
    return [card for card in CARDS.values() if card.target in wanted]


def card_of_gpu(name: str | None) -> Card | None:
    """Return the card that the driver calls so, as ``NVIDIA GeForce RTX 3060``; None if unknown.

    A ``Ti``, ``SUPER`` or ``Laptop GPU`` is another card.
    """
    return next((card for card in CARDS.values() if (name or "").endswith(card.name)), None)


def seconds(card: Card, kernel: Work) -> float:
    """Return the estimated time of one kernel: the longer of moving and computing, and the start.

    It is the roofline model (Williams et al., 2009). Kernels that are launched on several streams
    are counted one after the other. Operations that are not known count as none.
    """
    return max(kernel.moved / card.bandwidth, (kernel.flops or 0) / card.rate) + LAUNCH_SECONDS


def total_seconds(card: Card, kernels: Iterable[Work]) -> float:
    """Return the estimated time of one run, in seconds."""
    return sum(seconds(card, kernel) for kernel in kernels)
