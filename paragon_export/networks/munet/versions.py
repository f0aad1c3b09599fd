"""The versions of MUNet: a table of their differences, and how tensors determine the version."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

SLOPE = 0.2
"""Negative slope of all leaky ReLUs. No network was trained with another one."""


@dataclass(frozen=True, kw_only=True)
class Traits:
    """Properties of one version. The defaults are those of munet1."""

    spectral_input: bool = False
    """Whether the first convolution has a spectral norm."""
    frequency: bool = False
    """Whether the network has a frequency branch and a patch branch."""
    stored_luma: bool = True
    """Whether the luma of the frequency branch is a 1x1 filter in the checkpoint. Otherwise it is
    the luma of BT.601."""
    centered: bool = False
    """Whether the spectrum is rolled by half of each extent, including the batch."""
    patch_convolutions: int = 2
    """Convolutions of the patch branch at full size."""
    patch_bias: bool = False
    """Whether the convolutions of the patch branch have a bias."""
    gradient: str = ""
    """Value after the last difference of the gradient branch: ``zero`` or ``repeat``; empty
    without this branch."""
    attention: str = ""
    """Divisor of the scores of self-attention: ``one``, or the square root of ``tokens`` or of
    ``width``. ``windows`` is as ``tokens``, in overlapping windows. Empty without attention."""


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
        centered=True,
        patch_convolutions=1,
        patch_bias=True,
        gradient="repeat",
        attention="width",
    ),
}
"""In order of publication. munet0 and munet3b are not supported: their published code fails."""


def versions_of(names: Collection[str]) -> tuple[str, ...]:
    """Return the versions whose tensors have these names. There may be more than one."""
    if not any(name.startswith("freq_proc.") for name in names):
        return ("munet1",)
    if not any(name.startswith("grad_conv.") for name in names):
        return ("munet2",)
    return ("munet3", "munet4", "munet5") if "freq_luma.weight" in names else ("munet6",)


def one_of(versions: Sequence[str]) -> str:
    """Return the versions as a list in words: ``munet3, munet4 or munet5``."""
    *first, last = versions
    return f"{', '.join(first)} or {last}" if first else last
