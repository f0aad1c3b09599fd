"""The versions of MUNet as a table: what differs, and how tensors tell it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

SLOPE = 0.2
"""Of every leaky ReLU: no network was trained with another."""


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What one version does. The defaults are those of the first."""

    spectral_input: bool = False
    """Whether the first convolution, too, has a spectral norm."""
    frequency: bool = False
    """Whether there are the branches of frequency and patch."""
    stored_luma: bool = True
    """Whether the luma of the frequency branch is a stored 1x1 filter, or that of BT.601."""
    centred: bool = False
    """Whether the spectrum is shifted by half of every extent, the batch's included."""
    patch_convolutions: int = 2
    """After the patch branch is brought to full size."""
    patch_bias: bool = False
    gradient: str = ""
    """What stands after the last difference: ``zero`` or ``repeat``; empty without the branch."""
    attention: str = ""
    """What the scores of self-attention are divided by: ``one``, or the root of ``tokens`` or
    ``width``; ``windows`` is by tokens in overlapping windows. Empty without attention."""


_SECOND = Traits(spectral_input=True, frequency=True)
_THIRD = replace(_SECOND, gradient="zero")

VERSIONS = {
    "munet1": Traits(),
    "munet2": _SECOND,
    "munet3": replace(_THIRD, attention="one"),
    "munet4": replace(_THIRD, attention="tokens"),
    "munet5": replace(_THIRD, attention="windows"),
    "munet6": replace(
        _SECOND,
        stored_luma=False,
        centred=True,
        patch_convolutions=1,
        patch_bias=True,
        gradient="repeat",
        attention="width",
    ),
}
"""In the order of training. munet0 and munet3b cannot run as published and are not served."""


def versions_of(names: Collection[str]) -> tuple[str, ...]:
    """Return the versions whose tensors have these names: more than one where weights cannot tell."""
    if not any(name.startswith("freq_proc.") for name in names):
        return ("munet1",)
    if not any(name.startswith("grad_conv.") for name in names):
        return ("munet2",)
    return ("munet3", "munet4", "munet5") if "freq_luma.weight" in names else ("munet6",)


def one_of(versions: Sequence[str]) -> str:
    """Return versions as people list them."""
    *first, last = versions
    return f"{', '.join(first)} or {last}" if first else last
