"""Check the kernels that were tracked in training, of generations whose mixer is ``tracked``."""

from __future__ import annotations

from collections.abc import Iterator

from paragon_export.checkpoints.load import Checkpoint, listing
from paragon_export.errors import CheckpointError, PlanError
from paragon_export.networks.paragonsr2.v0_v5.layout import Hyperparameters


def check_tracked_kernels(checkpoint: Checkpoint, hp: Hyperparameters) -> list[str]:
    """Check that each block has the kernels that will be used, and return notes for the user.

    In averaged checkpoints the kernels exist but the flag that they were tracked is lost. So a
    kernel that is not zero counts as tracked, unless ``hp.obeys_flag`` is set.

    Raises:
        CheckpointError: If a block has a flag that is set but no kernel, or has neither.
        PlanError: If kernels are to be predicted and the tensors for it are missing.
    """
    if hp.dynamic_inference:
        # v1, whose gains are not flat, may have been trained with a gate or nothing instead.
        if hp.flat_gains and not hp.has_generator:
            raise PlanError(
                f"dynamic_inference is set, and {checkpoint.path} cannot predict kernels: "
                "its kernel_generator is missing; leave --set dynamic_inference=true out"
            )
        return []
    unflagged, untracked = [], []
    for path in _transformers(hp):
        is_tracked, is_flagged = _kernel_state(checkpoint, path, obeys_flag=hp.obeys_flag)
        if is_tracked and not is_flagged:
            unflagged.append(path)
        if not is_tracked:
            untracked.append(path)
    notes = []
    if unflagged:
        notes.append(
            f"tracked_initialized is not set in {len(unflagged)} blocks that hold tracked kernels "
            f"({listing(unflagged, 2)}), as in averaged checkpoints; the kernels are used "
            "(--set obey_tracked_flag=true leaves them out)"
        )
    if untracked:
        notes.append(
            f"no kernels were tracked in {len(untracked)} blocks ({listing(untracked, 2)}); the "
            "convolution is omitted there, as in the published code"
        )
    return notes


def _transformers(hp: Hyperparameters) -> Iterator[str]:
    """Yield the path of the transformer of each block."""
    for group in range(hp.groups):
        for block in range(hp.blocks):
            yield f"body.{group}.blocks.{block}.transformer"


def _kernel_state(checkpoint: Checkpoint, path: str, *, obeys_flag: bool) -> tuple[bool, bool]:
    """Return whether a block has a kernel that is used, and whether its flag is set.

    Raises:
        CheckpointError: If the kernel is missing, or if flag and kernel contradict each other.
    """
    kernel = checkpoint.tensors.get(f"{path}.tracked_kernel")
    flag = checkpoint.tensors.get(f"{path}.tracked_initialized")
    if kernel is None:
        raise CheckpointError(
            f"{checkpoint.path}: {path}.tracked_kernel is missing, so the kernels of this "
            "generation cannot be baked; save the whole state dict of the network"
        )
    if flag is None and obeys_flag:
        raise CheckpointError(
            f"{checkpoint.path}: {path}.tracked_initialized is missing, so it cannot be "
            "obeyed; leave --set obey_tracked_flag=true out"
        )
    is_flagged = flag is not None and bool(flag.any())
    is_tracked = bool(kernel.any()) and (is_flagged or not obeys_flag)
    if is_flagged and not is_tracked:
        raise CheckpointError(
            f"{checkpoint.path}: {path}.tracked_initialized is set but tracked_kernel is "
            "all zero, so nothing was tracked; save the network again"
        )
    return is_tracked, is_flagged
