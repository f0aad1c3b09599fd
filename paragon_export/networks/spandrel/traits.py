"""What spandrel's descriptors do not say of an architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

LARGEST_REDUCTION = 64
"""What is assumed of an architecture whose maps may be smaller than its image: six halvings."""


@dataclass(frozen=True, kw_only=True)
class Traits:
    """How an architecture is traced and judged."""

    window: int = 1
    """Side in pixels of its attention windows, or of the largest unit that repeats; 1 without any."""
    reduction: int = LARGEST_REDUCTION
    """A multiple of all factors by which maps inside are smaller than the image in height and width."""
    takes_batches: bool = True
    """Whether one run takes several images."""
    refused: str = ""
    """Why it is not exported; empty if it is."""
    note: str = ""
    """What spandrel does otherwise than the exported file; empty if it does nothing so."""


_FULL_SIZE = Traits(reduction=1)
_WINDOWS_8 = Traits(window=8)
_WINDOWS_16 = Traits(window=16)
_WINDOWS_32 = Traits(window=32)

TRAITS: Mapping[str, Traits] = {
    "Compact": _FULL_SIZE,
    "DnCNN": _FULL_SIZE,
    "ESRGAN": _FULL_SIZE,
    "MoSR": _FULL_SIZE,
    "PLKSR": _FULL_SIZE,
    "SPAN": _FULL_SIZE,
    "SwinIR": _WINDOWS_8,
    "Swin2SR": _WINDOWS_8,
    "OmniSR": _WINDOWS_8,
    "SCUNet": _WINDOWS_8,
    "DRCT": _WINDOWS_16,
    "CRAFT": _WINDOWS_16,
    "DCTLSA": _WINDOWS_16,
    "FDAT": _WINDOWS_8,
    "SRFormer": Traits(window=24),
    "DAT": _WINDOWS_32,  # windows of 8x32
    "HAT": _WINDOWS_32,  # windows of 16 that overlap by 24
    "DRUNet": Traits(takes_batches=False),
    "SeemoRe": Traits(takes_batches=False),
    "GRL": Traits(
        refused="it keeps tables for one image size, and computes in float32 where float64 is asked for"
    ),
    "RGT": Traits(refused="the number of its recursions depends on the image size"),
    "ATD": Traits(
        refused="it sorts tokens by category, which exporters cannot express for every size"
    ),
    "IPT": Traits(
        refused="it cuts the image into patches in a loop whose length depends on the image size"
    ),
    "HVICIDNet": Traits(
        refused="it assigns colors by masks, which exporters cannot express for every size"
    ),
    "FFTformer": Traits(
        refused="it computes Fourier transforms in float32 where float64 is asked for"
    ),
    "Uformer": Traits(
        refused="it computes the side of an image from its number of pixels, and exporters make a "
        "constant of that"
    ),
    "RetinexFormer": Traits(
        note="from 3000 rows or columns on spandrel runs it on halves of the image; the file does not"
    ),
    "AuraSR": Traits(refused="it draws noise in every run"),
}
"""By the name of spandrel's registry. Others have none of these traits."""

PLAIN = Traits()
"""Of an architecture that is not listed."""


def traits_of(name: str) -> Traits:
    """Return the traits of an architecture by the name in spandrel's registry."""
    return TRAITS.get(name, PLAIN)
