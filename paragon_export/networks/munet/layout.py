"""Hyperparameters of a MUNet, and how its tensors are stored. Imports no PyTorch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from paragon_export.errors import CheckpointError
from paragon_export.networks.munet.versions import VERSIONS
from paragon_export.networks.state_dict import Shapes, shape_of

NORM = ".parametrizations.weight."
"""A convolution with spectral norm is stored as three tensors ``NAME{NORM}original``,
``NAME{NORM}0._u`` and ``NAME{NORM}0._v`` instead of ``NAME.weight``."""

FROZEN = re.compile(r"\.magic_upsample\.|^freq_luma\.")
"""Names of filters that are not trained. The trainer initializes them randomly, so that the
checkpoint is the only source of their values."""

MAX_LEVELS = 6
"""Number of times that height and width are halved. Published networks have at most 4."""


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """All that is needed to build one MUNet."""

    version: str
    """A key of ``VERSIONS``."""
    in_channels: int
    features: int
    """Channels at full size."""
    widths: tuple[int, ...]
    """Channels after each halving of height and width."""

    @property
    def smallest(self) -> int:
        """Least height and width in pixels, so that the 4x4 convolutions can halve them."""
        return 2 ** len(self.widths)


def infer(shapes: Shapes, version: str) -> Hyperparameters:
    """Determine the hyperparameters from the shapes of the tensors.

    Raises:
        CheckpointError: If a tensor is missing or has an invalid shape.
    """
    features, in_channels = _kernel(shapes, "in_conv", spectral=VERSIONS[version].spectral_input)
    levels = {n.split(".")[1] for n in shapes if n.startswith("down_blocks.")}
    if len(levels) > MAX_LEVELS:
        raise CheckpointError(f"{len(levels)} down_blocks; at most {MAX_LEVELS} are supported")
    widths = tuple(_kernel(shapes, f"down_blocks.{i}.0")[0] for i in range(len(levels)))
    if any(width % features for width in widths):
        raise CheckpointError(
            f"down_blocks have {', '.join(map(str, widths))} channels; expected multiples of the "
            f"{features} features"
        )
    if VERSIONS[version].frequency and features < 2:
        raise CheckpointError(f"in_conv has {features} features; expected at least 2")
    if VERSIONS[version].frequency and in_channels != 3:
        raise CheckpointError(
            f"in_conv takes {in_channels} channels; {version} needs 3, which are RGB"
        )
    return Hyperparameters(
        version=version, in_channels=in_channels, features=features, widths=widths
    )


def _kernel(shapes: Shapes, conv: str, *, spectral: bool = True) -> tuple[int, ...]:
    """Return the output and the input channels of a convolution."""
    name = f"{conv}{NORM}original" if spectral else f"{conv}.weight"
    return shape_of(shapes, name, 4)[:2]


def stored_shapes(built: Shapes, version: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in a checkpoint, given those of the built network."""
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
    """Return whether a weight has a spectral norm: not frozen filters and not munet1's first."""
    if name.startswith("in_conv.") and not VERSIONS[version].spectral_input:
        return False
    return not FROZEN.search(name)


def stored_name(name: str) -> str:
    """Return the checkpoint's name of a tensor of the network that has no spectral norm."""
    return re.sub(r"(\.magic_upsample\.\w+\.)([hv])\.", r"\1conv_\2.", name)


def folded(tensors: Mapping[str, np.ndarray], names: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the names and float32 values of the network's tensors, divided by spectral norms.

    The value is ``W / (u . (W v))`` with the stored vectors u and v, computed in float64. As in
    ``torch.nn.utils.parametrizations.spectral_norm`` in eval mode, no power iteration is done and
    the vectors are not normalized: the network was trained with these vectors, whose iteration has
    only nearly converged.

    Args:
        tensors: Those of the checkpoint.
        names: Names of the tensors of the built network.

    Raises:
        CheckpointError: If a norm is 0 or a quotient is not finite.
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
            raise CheckpointError(
                f"the stored spectral norm of {conv} is {norm:g}, by which its weights cannot be "
                "divided; save the network again"
            )
        yield name, quotient
