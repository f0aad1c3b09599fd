"""Load a checkpoint file as named tensors. Nothing in this module depends on networks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from paragon_export.checkpoints.formats import header_fits, read_pickle, read_safetensors
from paragon_export.errors import CheckpointError
from paragon_export.system.reading import read_bytes

MAX_FILE_BYTES = 3 * 2**29
"""File, float32 tensors and the network built from them together stay within 4 GiB."""

WRAPPERS = ("model", "net", "netG", "net_g", "generator", "ema_model")
"""Prefixes of tensor names that are removed if all tensors have them. Otherwise they are part of
the network's own names."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The tensors of a checkpoint file by name, without containers and prefixes. Read-only."""

    path: Path
    sha256: str
    """SHA-256 of the file, in hexadecimal."""
    tensors: Mapping[str, np.ndarray]
    """Floating point tensors are converted to float32."""
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
    """Read a ``.safetensors``, ``.pth`` or ``.pt`` file. Its content determines the format.

    Containers are removed, and so are the prefixes ``module.`` and ``_orig_mod.`` of tensor names,
    and ``model.`` and ``net.`` if all tensors have them. Pickles are read with
    ``weights_only=True``, which runs no code.

    Raises:
        CheckpointError: If the file is missing, is no checkpoint, is truncated, would run code,
            declares more data than it holds, exceeds a limit of this module, or holds a tensor
            that is not finite.
    """
    return _parse(path, read_bytes(path, MAX_FILE_BYTES, "checkpoint", CheckpointError))


def load_if_digest(path: Path, sha256: str) -> Checkpoint | None:
    """Read a checkpoint if its bytes have a digest; return None otherwise.

    Raises:
        CheckpointError: If a file with that digest is no checkpoint.
    """
    try:
        data = read_bytes(path, MAX_FILE_BYTES, "checkpoint", CheckpointError)
    except CheckpointError:
        return None
    return _parse(path, data) if hashlib.sha256(data).hexdigest() == sha256 else None


def _parse(path: Path, data: bytes, leave_out: str = "") -> Checkpoint:
    """Return the checkpoint in the bytes of a file; ``leave_out`` names a container to ignore."""
    if not data:
        raise CheckpointError(f"{path} is empty: expected a checkpoint")
    metadata: dict[str, str] = {}
    extra: dict[str, Any] = {}
    containers: tuple[str, ...] = ()
    is_pickle = data[:2] == b"PK" or data[:1] == b"\x80"
    if data[8:9] == b"{" and (not is_pickle or header_fits(data)):
        tensors, metadata = read_safetensors(path, data)
    elif is_pickle:
        tensors, extra, containers = read_pickle(path, data, leave_out)
        metadata = _plain_metadata(extra.pop("metadata", None))
    else:
        raise CheckpointError(
            f"{path} is not a checkpoint: expected .safetensors, .pth or .pt, "
            f"found a file that starts with {data[:4]!r}"
        )
    tensors = _strip_prefixes(path, _without_counter(tensors))
    _check_finite(path, tensors)
    return Checkpoint(
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        tensors=tensors,
        metadata=metadata,
        extra=extra,
        container=containers[0] if containers else "",
        also_in_file=containers[1:],
        data=data if containers else b"",
    )


def _plain_metadata(found: Any) -> dict[str, str]:
    """Return the texts, numbers and booleans that a trainer stored with the weights, as JSON."""
    if not isinstance(found, Mapping):
        return {}
    plain = (str, int, float, bool)
    return {
        "metadata": json.dumps(
            {k: v for k, v in found.items() if isinstance(k, str) and isinstance(v, plain)}
        )
    }


def _without_counter(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Leave out ``n_averaged``, the counter of PyTorch's ``AveragedModel``."""
    counter = tensors.get("n_averaged")
    others = [name for name in tensors if name != "n_averaged"]
    is_averaged = others and all(name.startswith("module.") for name in others)
    if counter is None or counter.ndim or not is_averaged:
        return tensors
    return {name: tensors[name] for name in others}


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
