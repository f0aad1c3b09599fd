"""Check and load state dicts: a checkpoint must hold exactly the tensors of its network."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from paragon_export.checkpoints.load import Checkpoint, listing
from paragon_export.errors import CheckpointError
from paragon_export.specs.network import MAX_SCALE

if TYPE_CHECKING:
    from torch import nn

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of tensors by name."""

MAX_BLOCKS = 256
"""Blocks of a network. Published networks have at most 144."""

KIND_NAMES = {"f": "floating point", "i": "integers"}
"""Names of NumPy's kinds of dtypes, for error messages."""


def shapes_of(checkpoint: Checkpoint, ignored: Collection[str] = ()) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors, except those whose last name component is ignored."""
    tensors = checkpoint.tensors.items()
    return {name: a.shape for name, a in tensors if _last_component(name) not in ignored}


def shape_of(shapes: Shapes, name: str, rank: int) -> tuple[int, ...]:
    """Return the shape of one tensor.

    Raises:
        CheckpointError: If the tensor is missing, is empty or has another rank.
    """
    shape = shapes.get(name)
    if shape is None or len(shape) != rank or 0 in shape:
        found = "missing" if shape is None else f"of shape {list(shape)}"
        raise CheckpointError(f"{name} is {found}; expected {rank} dimensions")
    return shape


def count_blocks(shapes: Shapes, pattern: re.Pattern[str]) -> tuple[int, int]:
    """Return the number of groups, and the number of blocks of a group.

    Distinct indices are counted. The largest index could be huge in a damaged checkpoint.

    Args:
        shapes: Shapes of the state dict.
        pattern: Matches the names of tensors in blocks; its named parts ``group`` and ``block``
            are the indices.

    Raises:
        CheckpointError: If there are more blocks than tensors, or more than ``MAX_BLOCKS``.
    """
    matches = [match for name in shapes if (match := pattern.match(name))]
    groups, blocks = (len({match[part] for match in matches}) for part in ("group", "block"))
    if groups * blocks > len(shapes):
        raise CheckpointError(
            f"names of {groups} groups of {blocks} blocks, but only {len(shapes)} tensors"
        )
    if groups * blocks > MAX_BLOCKS:
        raise CheckpointError(
            f"{groups} groups of {blocks} blocks; at most {MAX_BLOCKS} blocks are supported"
        )
    return groups, blocks


def shuffle_scale(shapes: Shapes, name: str, features: int) -> int:
    """Return the factor of the pixel shuffle after a convolution.

    It is the square root of the convolution's output channels divided by ``features``.

    Raises:
        CheckpointError: If it is not an integer from 1 to ``MAX_SCALE``.
    """
    rows = shape_of(shapes, name, 4)[0]
    scale = math.isqrt(rows // features)
    if scale < 1 or scale * scale * features != rows:
        raise CheckpointError(
            f"{name} has {rows} rows; expected the square of the scale times {features} features"
        )
    if scale > MAX_SCALE:
        raise CheckpointError(
            f"{name} has {rows} rows, for a scale of {scale}; at most {MAX_SCALE} is supported"
        )
    return scale


def shapes_built_by(
    build: Callable[[], nn.Module], ignored: Collection[str] = ()
) -> tuple[dict[str, tuple[int, ...]], int]:
    """Return the shapes of the state dict of a network, and its number of parameters.

    The network is built on PyTorch's meta device, without memory for its weights.

    Args:
        build: Returns the network.
        ignored: Last name components of tensors to leave out.

    Returns:
        The shapes by name, and the total number of elements of all parameters, frozen filters
        included, buffers not.
    """
    import torch

    with torch.device("meta"):
        network = build()
    tensors = network.state_dict().items()
    shapes = {n: tuple(t.shape) for n, t in tensors if _last_component(n) not in ignored}
    return shapes, sum(parameter.numel() for parameter in network.parameters())


def check_tensors(
    checkpoint: Checkpoint,
    found: Shapes,
    expected: Shapes,
    kind_of: Callable[[str], str] = lambda name: "f",
) -> None:
    """Check that a checkpoint holds exactly the tensors of its network.

    Args:
        checkpoint: The checkpoint, for dtypes and for the path in error messages.
        found: Shapes of the tensors to check.
        expected: Shapes of the tensors of the network.
        kind_of: Returns the kind of the dtype of a tensor, a key of ``KIND_NAMES``.

    Raises:
        CheckpointError: If tensors are missing, unexpected, or of a wrong shape or dtype.
    """
    common = [name for name in expected if name in found]
    wrong = [
        f"{name} is {list(found[name])}, expected {list(expected[name])}"
        for name in common
        if not _is_shape(found[name], expected[name], kind_of(name))
    ]
    wrong += [
        f"{name} holds {checkpoint.tensors[name].dtype}, expected {KIND_NAMES[kind_of(name)]}"
        for name in common
        if checkpoint.tensors[name].dtype.kind != kind_of(name)
    ]
    faults = {
        "missing": sorted(set(expected) - set(found)),
        "unexpected": sorted(set(found) - set(expected)),
        "wrong": wrong,
    }
    parts = [f"{len(names)} {kind}: {listing(names)}" for kind, names in faults.items() if names]
    if parts:
        raise CheckpointError(
            f"{checkpoint.path} does not hold the tensors of its network; {'; '.join(parts)}; "
            "give a complete and unchanged state dict"
        )


def _is_shape(found: tuple[int, ...], expected: tuple[int, ...], kind: str) -> bool:
    """Return whether a shape is as expected.

    A floating point scalar may have one element, as in ``Module.load_state_dict``.
    """
    return found == expected or (kind == "f" and not expected and found == (1,))


def load_strictly(
    network: nn.Module, checkpoint: Checkpoint, optional: Collection[str] = ()
) -> nn.Module:
    """Load all tensors into a network and call ``bake()`` of its layers that have this method.

    ``bake`` computes what a layer needs from its weights before it is run, for example a choice of
    kernels.

    Args:
        network: Is changed.
        checkpoint: Its tensors were checked by :func:`check_tensors`.
        optional: Last name components of tensors that may be missing or superfluous.

    Returns:
        The network.

    Raises:
        CheckpointError: If an optional tensor has another size than that of the network.
    """
    import torch

    own = network.state_dict()
    tensors = {n: t for n, t in own.items() if _last_component(n) in optional}
    for name, array in checkpoint.tensors.items():
        if _last_component(name) not in optional:
            tensors[name] = torch.tensor(array)
        elif name in own:
            if array.size != own[name].numel():
                raise CheckpointError(
                    f"{checkpoint.path}: {name} is {list(array.shape)}, expected "
                    f"{list(own[name].shape)}"
                )
            tensors[name] = torch.tensor(array).reshape(own[name].shape)
    network.load_state_dict(tensors)
    for layer in list(network.modules()):
        bake = getattr(layer, "bake", None)
        if bake is not None:
            bake()
    return network


def with_path(error: CheckpointError, path: Path) -> CheckpointError:
    """Return the error with the path of the checkpoint in its message."""
    return error if str(path) in str(error) else CheckpointError(f"{path}: {error}")


def _last_component(name: str) -> str:
    return name.rpartition(".")[2]
