"""Import spandrel, and find the network of a checkpoint with it.

spandrel imports all of its architectures. Two of them, LaMa and RestoreFormer, import three functions of
torchvision, and a torchvision that does not fit PyTorch cannot be imported. A stand-in takes its place then
while spandrel is imported.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from paragon_export.errors import CheckpointError, MissingDependencyError
from paragon_export.system.optional import require
from paragon_export.system.text import brief

if TYPE_CHECKING:
    from paragon_export.checkpoints.load import Checkpoint

EXTRA = "spandrel_extra_arches"
"""Further architectures, some of them not free for commercial use. Used if the user has installed it."""

MAX_LAYERS_A_TENSOR = 8
"""Numbers in names that are skipped for each tensor: layers without weights, as activations."""

_TORCHVISION = "torchvision.transforms.functional"

_IMPORTED_OF_IT = ("InterpolationMode", "normalize", "rotate")


def is_installed() -> bool:
    """Return whether spandrel can be imported, without importing it."""
    return "spandrel" in sys.modules or find_spec("spandrel") is not None


@cache
def library() -> ModuleType:
    """Return spandrel, with the architectures of ``EXTRA`` if that is installed.

    Raises:
        MissingDependencyError: If spandrel is not installed or cannot be loaded.
    """
    with _torchvision():
        spandrel = require("spandrel", "spandrel")
        try:
            extra = require(EXTRA, "spandrel")
        except MissingDependencyError:
            pass
        else:
            extra.install(ignore_duplicates=True)
    from paragon_export.networks.spandrel.forwards import run_without_cuda
    from paragon_export.networks.spandrel.patches import patch_batches, patch_padding

    patch_batches(("spandrel.", f"{EXTRA}."))
    patch_padding(("spandrel.", f"{EXTRA}."))
    run_without_cuda()
    return spandrel


def find(checkpoint: Checkpoint) -> Any:
    """Return spandrel's entry for the architecture of a checkpoint; None if it knows none.

    Raises:
        MissingDependencyError: If spandrel is not installed or cannot be loaded.
    """
    registry, tensors = library().MAIN_REGISTRY, state_dict(checkpoint)
    for entry in registry.architectures("detection"):
        if entry.detect(tensors):
            return entry.architecture
    return None


def _check_counts(checkpoint: Checkpoint) -> None:
    """Refuse names with a number that the tensors cannot justify.

    spandrel builds as many layers as the largest number in a name says, before it looks for their
    tensors. A small file could ask for millions.

    Raises:
        CheckpointError: Naming the first.
    """
    most = MAX_LAYERS_A_TENSOR * len(checkpoint.stored) + MAX_LAYERS_A_TENSOR
    for name in checkpoint.stored:
        for part in name.split("."):
            if part.isdecimal() and (len(part) > 9 or int(part) > most):
                raise CheckpointError(
                    f"{checkpoint.path}: the name {brief(name)} counts to {brief(part)}, and the file "
                    f"has {len(checkpoint.stored)} tensors; it is damaged"
                )


def describe(architecture: Any, checkpoint: Checkpoint) -> Any:
    """Return spandrel's descriptor: the network with its weights, float32, on the CPU, eval mode.

    Raises:
        CheckpointError: If spandrel cannot load the tensors, or a name counts much further than the
            tensors do.
    """
    _check_counts(checkpoint)
    try:
        descriptor = architecture.load(state_dict(checkpoint))
    except Exception as error:  # spandrel raises whatever its architectures raise
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{checkpoint.path}: its tensors are named as those of {architecture.name}, and spandrel "
            f"cannot load them: {type(error).__name__}: {reason}"
        ) from error
    descriptor.model.requires_grad_(False).eval()
    return descriptor


def state_dict(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the tensors of a checkpoint by the names that spandrel expects."""
    import torch

    library()
    canonical = importlib.import_module("spandrel.__helpers.canonicalize").canonicalize_state_dict
    tensors: Mapping[str, Any] = {n: torch.from_numpy(a) for n, a in checkpoint.stored.items()}
    return dict(canonical(tensors))


@contextmanager
def _torchvision() -> Iterator[None]:
    """Provide torchvision for the body: the real one, or a stand-in that is removed afterwards."""
    before = {name for name in sys.modules if name.partition(".")[0] == "torchvision"}
    try:
        importlib.import_module(_TORCHVISION)
    except (ImportError, OSError, RuntimeError):  # missing, or built for another PyTorch
        for name in _loaded_torchvision() - before:
            del sys.modules[name]
    else:
        yield
        return
    for name in ("torchvision", "torchvision.transforms", _TORCHVISION):
        sys.modules[name] = ModuleType(name)
    for name in _IMPORTED_OF_IT:
        setattr(sys.modules[_TORCHVISION], name, None)
    try:
        yield
    finally:
        for name in _loaded_torchvision() - before:
            del sys.modules[name]


def _loaded_torchvision() -> set[str]:
    return {name for name in sys.modules if name.partition(".")[0] == "torchvision"}
