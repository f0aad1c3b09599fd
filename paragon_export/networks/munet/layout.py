"""What the tensors of a MUNet say about it, and how they are stored. Builds nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from paragon_export.errors import CheckpointError
from paragon_export.networks.munet.versions import VERSIONS

Shapes = Mapping[str, tuple[int, ...]]

NORM = ".parametrizations.weight."
"""Stands between the name of a convolution with spectral norm and ``original``, ``0._u`` and
``0._v``, which are stored in place of its weight."""

FROZEN = re.compile(r"\.magic_upsample\.|^freq_luma\.")
"""Filters that are never trained. The trainer fills them with random values before it freezes
them, so they are taken from the checkpoint like any other tensor."""

MAX_LEVELS = 6
"""Halvings; networks were trained with 4 at most."""


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """Everything needed to build one network."""

    version: str
    in_channels: int
    features: int
    """Channels at full size."""
    widths: tuple[int, ...]
    """Channels after each halving."""

    @property
    def smallest(self) -> int:
        """Least extent in pixels that can be halved so many times by 4x4 convolutions."""
        return 2 ** len(self.widths)


def infer(shapes: Shapes, version: str) -> Hyperparameters:
    """Read the hyperparameters off the tensors.

    Raises:
        CheckpointError: If a tensor that tells one is missing or has an impossible shape.
    """
    features, in_channels = _kernel(shapes, "in_conv", spectral=VERSIONS[version].spectral_input)
    levels = {n.split(".")[1] for n in shapes if n.startswith("down_blocks.")}
    if len(levels) > MAX_LEVELS:
        raise CheckpointError(f"{len(levels)} down_blocks; served are {MAX_LEVELS} at most")
    widths = tuple(_kernel(shapes, f"down_blocks.{i}.0")[0] for i in range(len(levels)))
    if any(width % features for width in widths):
        raise CheckpointError(
            f"down_blocks have {', '.join(map(str, widths))} channels: not whole multiples of the "
            f"{features} features"
        )
    if VERSIONS[version].frequency and features < 2:
        raise CheckpointError(f"{features} features cannot be halved, as the branches do")
    if VERSIONS[version].frequency and in_channels != 3:
        raise CheckpointError(
            f"in_conv takes {in_channels} channels; the branches of {version} want RGB"
        )
    return Hyperparameters(
        version=version, in_channels=in_channels, features=features, widths=widths
    )


def _kernel(shapes: Shapes, conv: str, *, spectral: bool = True) -> tuple[int, ...]:
    name = f"{conv}{NORM}original" if spectral else f"{conv}.weight"
    shape = shapes.get(name)
    if shape is None or len(shape) != 4 or 0 in shape:
        found = "missing" if shape is None else f"of shape {list(shape)}"
        raise CheckpointError(f"{name} is {found}; expected 4 dimensions")
    return shape[:2]


def stored_shapes(built: Shapes, version: str) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes under which a built network's tensors are stored."""
    stored: dict[str, tuple[int, ...]] = {}
    for name, shape in built.items():
        conv = name.removesuffix(".weight")
        if len(shape) != 4 or not _is_spectral(name, version):
            stored[stored_name(name)] = shape
            continue
        out, into, height, width = shape
        stored[f"{conv}{NORM}original"] = shape
        stored[f"{conv}{NORM}0._u"] = (out,)
        stored[f"{conv}{NORM}0._v"] = (into * height * width,)
    return stored


def _is_spectral(name: str, version: str) -> bool:
    """All convolutions have a spectral norm but frozen filters and munet1's first one."""
    if name.startswith("in_conv.") and not VERSIONS[version].spectral_input:
        return False
    return not FROZEN.search(name)


def stored_name(name: str) -> str:
    """Return the name under which a tensor without spectral norm is stored."""
    return re.sub(r"(\.magic_upsample\.\w+\.)([hv])\.", r"\1conv_\2.", name)


def folded(tensors: Mapping[str, np.ndarray], names: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the tensors of the built network by name, float32, spectral norms divided out.

    ``W / (u . (W v))`` with u and v as they are stored, in float64: neither is normalised and no
    step of power iteration is taken, since trained ones have only nearly converged and the
    network was trained with them as they are.

    Raises:
        CheckpointError: If a norm is 0 or the quotient is not finite.
    """
    for name in names:
        conv = name.removesuffix(".weight")
        if f"{conv}{NORM}original" not in tensors:
            yield name, tensors[stored_name(name)]
            continue
        weight, u, v = (
            tensors[f"{conv}{NORM}{part}"].astype(np.float64)
            for part in ("original", "0._u", "0._v")
        )
        norm = float(u @ (weight.reshape(len(weight), -1) @ v))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            quotient = (weight / norm).astype(np.float32)
        if not np.isfinite(quotient).all():
            raise CheckpointError(f"the stored spectral norm of {conv} is {norm:g}")
        yield name, quotient
