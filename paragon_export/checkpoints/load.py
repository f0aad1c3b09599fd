"""Load a checkpoint file as named tensors. Nothing in this module depends on networks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from paragon_export.checkpoints.formats import read_content
from paragon_export.checkpoints.shards import Shards, is_index, read_shards, refuse_shard
from paragon_export.errors import CheckpointError
from paragon_export.system.reading import read_bytes

MAX_FILE_BYTES = 3 * 2**29
"""File, float32 tensors and the network built from them together stay within 4 GiB."""

WRAPPERS = (
    "model", "net", "netG", "net_g", "generator", "ema_model", "network", "ema", "params_ema",
    "params", "state_dict", "net_g_ema", "generator_ema",
)  # fmt: skip
"""Prefixes of tensor names that are removed if all tensors have them. Otherwise they are part of
the network's own names."""

GENERATORS = (
    "net_g_ema", "generator_ema", "ema_model", "net_g", "netG", "generator", "network",
)  # fmt: skip
"""Prefixes of the network in a training module that holds other parts too. The first one counts."""

OTHER_PARTS = frozenset(
    {"net_g", "generator", "online_model", "net_d", "netD", "discriminator", "loss", "criterion"}
    | {"perceptual", "vgg", "lpips", "initted", "step"}
)
"""Prefixes of the other parts of a training module. If a file has a prefix that is in neither list, all its tensors
are kept."""

LAST_WEIGHTS = frozenset({"net_g", "generator", "online_model"})
"""Those of ``OTHER_PARTS`` that hold the same network, not averaged."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The tensors of a checkpoint file by name, without containers and prefixes. Read-only."""

    path: Path
    sha256: str
    """SHA-256 of the file, in hexadecimal. For shards see ``Shards.sha256``."""
    tensors: Mapping[str, np.ndarray]
    """Floating point tensors are converted to float32."""
    stored: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)
    """The same tensors by the names in the file."""
    metadata: Mapping[str, str]
    """The metadata of a safetensors file, or the entry ``metadata`` of a pickle as JSON text."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """The ``EXTRA_ENTRIES`` of a pickle: plain values, not validated. Empty for other formats."""
    container: str = ""
    """The element of ``CONTAINERS`` that held the tensors; empty if there was none."""
    also_in_file: tuple[str, ...] = ()
    """Other containers of weights in the file, which are not used."""
    data: bytes = field(default=b"", repr=False)
    """The bytes of a file with containers: it may hold other weights as well."""

    def other_weights(self) -> Checkpoint:
        """Return the weights in another container of the same file.

        Raises:
            CheckpointError: If there are none.
        """
        return _parse(self.path, self.data, leave_out=self.container)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a ``.safetensors``, ``.pth`` or ``.pt`` file, or the index of several shards.

    The content of a file determines its format. An index (``.safetensors.index.json`` or
    ``.bin.index.json``) stands for the shards that it names, in its own folder.

    Containers are removed, and so are the prefixes ``module.`` and ``_orig_mod.`` of tensor names,
    and those of ``WRAPPERS`` if all tensors have them. Of a training module with a generator and other
    parts the generator is taken (see ``GENERATORS``). Pickles are read with
    ``weights_only=True``, which runs no code.

    Raises:
        CheckpointError: If the file is missing, is no checkpoint, is truncated, would run code,
            declares more data than it holds, exceeds a limit of this module, or holds a tensor
            that is not finite; if it is one of several shards; if an index does not fit its shards.
    """
    refuse_shard(path)
    return _parse(path, _read(path))


def load_if_digest(path: Path, sha256: str) -> Checkpoint | None:
    """Read a checkpoint if its bytes have a digest; return None otherwise.

    Raises:
        CheckpointError: If a file with that digest is no checkpoint.
    """
    try:
        data = _read(path)
    except CheckpointError:
        return None
    return _parse(path, data) if _digest(data) == sha256 else None


def _read(path: Path) -> bytes | Shards:
    """Return the bytes of a checkpoint in one file, or an index and its shards."""
    data = read_bytes(path, MAX_FILE_BYTES, "checkpoint", CheckpointError)
    return read_shards(path, data, MAX_FILE_BYTES) if is_index(path, data) else data


def _digest(data: bytes | Shards) -> str:
    return data.sha256 if isinstance(data, Shards) else hashlib.sha256(data).hexdigest()


def _parse(path: Path, data: bytes | Shards, leave_out: str = "") -> Checkpoint:
    """Return the checkpoint in the bytes of a file; ``leave_out`` names a container to ignore."""
    if not data:
        raise CheckpointError(f"{path} is empty: expected a checkpoint")
    content = data.content() if isinstance(data, Shards) else read_content(path, data, leave_out)
    stored = _without_counter(content.tensors)
    stored, chosen, others = _generator_of(stored)
    containers = (chosen, *others) if others else content.containers
    tensors = _strip_prefixes(path, stored)
    _check_finite(path, tensors)
    return Checkpoint(
        path=path,
        sha256=_digest(data),
        tensors=tensors,
        stored=stored,
        metadata=content.metadata,
        extra=content.extra,
        container=containers[0] if containers else "",
        also_in_file=containers[1:],
        data=data if content.containers and isinstance(data, bytes) else b"",
    )


def _without_counter(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Leave out ``n_averaged``, the counter of PyTorch's ``AveragedModel``."""
    counter = tensors.get("n_averaged")
    others = [name for name in tensors if name != "n_averaged"]
    is_averaged = others and all(name.startswith("module.") for name in others)
    if counter is None or counter.ndim or not is_averaged:
        return tensors
    return {name: tensors[name] for name in others}


def _generator_of(
    tensors: Mapping[str, np.ndarray],
) -> tuple[Mapping[str, np.ndarray], str, tuple[str, ...]]:
    """Return the tensors of the network in a training module, its prefix, and its other weights.

    Tensors without parts of a training module are returned as they are, with an empty prefix.
    """
    parts = {name.partition(".")[0] for name in tensors}
    chosen = next((part for part in GENERATORS if part in parts), "")
    others = parts - {chosen}
    if not chosen or not others or not others <= OTHER_PARTS:
        return tensors, "", ()
    kept = {n: array for n, array in tensors.items() if n.partition(".")[0] == chosen}
    return kept, chosen, tuple(sorted(others & LAST_WEIGHTS))


def _strip_prefixes(path: Path, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the tensors with the prefixes of wrapper modules removed from their names.

    Removed are ``module`` at the beginning, ``_orig_mod`` anywhere, and then any of ``WRAPPERS``
    that all names begin with, also several times.

    Raises:
        CheckpointError: If two names become equal.
    """
    stripped: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        parts = [part for part in name.split(".") if part != "_orig_mod"]
        while parts[:1] == ["module"]:
            parts = parts[1:]
        key = ".".join(parts)
        if key in stripped:
            raise CheckpointError(
                f"{path}: tensor {key} exists twice, with and without a prefix; save the network's "
                "own state dict"
            )
        stripped[key] = array
    for wrapper in WRAPPERS:
        if stripped and all(name.startswith(f"{wrapper}.") for name in stripped):
            inner = {name.partition(".")[2]: array for name, array in stripped.items()}
            return _strip_prefixes(path, inner)
    return stripped


def _check_finite(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Raise CheckpointError if a tensor holds NaN or infinity."""
    names = [n for n, a in tensors.items() if a.dtype.kind == "f" and not np.isfinite(a).all()]
    if names:
        raise CheckpointError(
            f"{path}: NaN or infinity in {listing(names)}; the training diverged: use an earlier "
            "checkpoint"
        )


def listing(names: list[str], max_shown: int = 10) -> str:
    """Return the first names and how many more there are, for an error message."""
    shown = ", ".join(names[:max_shown])
    return shown if len(names) <= max_shown else f"{shown} and {len(names) - max_shown} more"
