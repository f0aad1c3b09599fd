"""Load: a file on disk in, named tensors out. Nothing here knows any network."""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import struct
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from paragon_export.checkpoints.pickle_scan import scan
from paragon_export.errors import CheckpointError
from paragon_export.system.reading import parse_json, read_bytes
from paragon_export.system.text import brief

CONTAINERS = (
    "params_ema", "params", "state_dict", "model_state", "model_state_dict", "model", "net",
)  # fmt: skip
"""Keys under which trainers put the weights, the averaged ones first."""

BESIDE = ("config", "label_map", "epoch", "metrics")
"""What trainers put beside the weights and a family may want to know."""

WRAPPERS = ("model", "net")
"""Prefixes that are removed where every tensor has them: a network may use these names itself."""

MAX_CONTAINER_DEPTH = 4
"""Levels of containers in containers."""

MAX_FILE_BYTES = 3 * 2**29
"""With its tensors in float32 and a network made of them this stays within 4 GiB."""

MAX_HEADER_BYTES = 2**24
"""Of a safetensors file."""

MAX_WEIGHTS_BYTES = 2**30
"""All tensors together, in float32."""

MAX_TENSORS = 20_000

MAX_DIMENSIONS = 8

MAX_NAME_CHARACTERS = 1000

SERVED = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8",
          "bool")  # fmt: skip
"""PyTorch's names of what a tensor of a pickle may hold."""

_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights as found on disk, under the network's own key names. Never changed."""

    path: Path
    sha256: str
    """Of the file's bytes."""
    tensors: Mapping[str, np.ndarray]
    """Floating point tensors are float32, whatever width they are stored in."""
    metadata: Mapping[str, str]
    """The header entries of a safetensors file; empty for other formats."""
    beside: Mapping[str, Any] = field(default_factory=dict)
    """What a pickle's containers said beside the tensors, of the entries ``BESIDE``: plain
    values as the trainer wrote them, unchecked. Empty for other formats."""
    container: str = ""
    """Of ``CONTAINERS``, the one that the tensors lay in; empty where they lay bare."""
    data: bytes = field(default=b"", repr=False)
    """The file's bytes, where it has a container and so may hold other weights as well."""

    def other_weights(self) -> Checkpoint:
        """Return the weights of another container of the same file.

        Raises:
            CheckpointError: If there are none.
        """
        return _parse(self.path, self.data, leave_out=self.container)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a ``.safetensors``, ``.pth`` or ``.pt`` file; the content decides, not the name.

    Containers are removed, and the prefixes ``module.`` and ``_orig_mod.``, and ``model.`` and
    ``net.`` where every tensor has them. Pickles are read with ``weights_only=True`` and so run
    no code.

    Raises:
        CheckpointError: If the file is missing, is no checkpoint, is cut short, asks to run
            code, claims more than it holds, is larger than any network that is served, or holds
            a tensor that is not finite.
    """
    return _parse(path, read_bytes(path, MAX_FILE_BYTES, "checkpoint", CheckpointError))


def load_if_digest(path: Path, sha256: str) -> Checkpoint | None:
    """Read a checkpoint whose bytes have a digest; None if the file has another, or is too large.

    Raises:
        CheckpointError: If a file with that digest is no checkpoint.
    """
    try:
        data = read_bytes(path, MAX_FILE_BYTES, "checkpoint", CheckpointError)
    except CheckpointError:
        return None
    return _parse(path, data) if hashlib.sha256(data).hexdigest() == sha256 else None


def _parse(path: Path, data: bytes, leave_out: str = "") -> Checkpoint:
    """Return the checkpoint in a file's bytes; ``leave_out`` names a container to skip."""
    if not data:
        raise CheckpointError(f"{path} is empty: expected a checkpoint")
    metadata: dict[str, str] = {}
    beside: dict[str, Any] = {}
    container = ""
    pickled = data[:2] == b"PK" or data[:1] == b"\x80"
    if data[8:9] == b"{" and (not pickled or _header_fits(data)):
        tensors, metadata = _from_safetensors(path, data)
    elif pickled:
        tensors, beside, container = _from_pickle(path, data, leave_out)
    else:
        raise CheckpointError(
            f"{path} is not a checkpoint: expected .safetensors, .pth or .pt, "
            f"found a file that starts with {data[:4]!r}"
        )
    tensors = _strip_prefixes(path, tensors)
    _check_finite(path, tensors)
    return Checkpoint(
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        tensors=tensors,
        metadata=metadata,
        beside=beside,
        container=container,
        data=data if container else b"",
    )


def _header_fits(data: bytes) -> bool:
    """Tell a safetensors header whose length happens to begin like a pickle."""
    (length,) = struct.unpack("<Q", data[:8])
    return int(length) <= len(data) - 8


def _from_safetensors(path: Path, data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    from safetensors import SafetensorError, deserialize

    try:
        header = _header(data)
        metadata = header.pop("__metadata__", None) or {}
        _check_sizes(path, [(name, tuple(entry["shape"])) for name, entry in header.items()])
        entries = deserialize(data)  # type: ignore[no-untyped-call]
    except (SafetensorError, ValueError, AttributeError, TypeError, KeyError,
            struct.error) as error:  # fmt: skip
        # A header that is JSON and no table of tensors is met in any of these ways.
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}); download or save it again"
        ) from error
    return {name: _array(path, name, entry) for name, entry in entries}, metadata


def _header(data: bytes) -> dict[str, Any]:
    (length,) = struct.unpack("<Q", data[:8])
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"its header claims {length} bytes")
    return parse_json(data[8 : 8 + length])


def _check_sizes(path: Path, told: Sequence[tuple[str, tuple[int, ...]]]) -> None:
    """Refuse more tensors, or larger ones, than any network that is served has.

    Raises:
        CheckpointError: If they are.
        TypeError: If an extent is no whole number.
    """
    if len(told) > MAX_TENSORS:
        raise CheckpointError(f"{path} holds {len(told)} tensors; at most {MAX_TENSORS} are read")
    for name, shape in told:
        if len(name) > MAX_NAME_CHARACTERS:
            raise CheckpointError(f"{path}: a tensor's name has {len(name)} characters")
        if len(shape) > MAX_DIMENSIONS:
            raise CheckpointError(f"{path}: tensor {name} has {len(shape)} dimensions")
        if 0 in shape and max(shape) > MAX_WEIGHTS_BYTES:
            raise CheckpointError(f"{path}: tensor {name} has an extent of {max(shape)}")
    total = 4 * sum(math.prod(shape) for _, shape in told)
    if total > MAX_WEIGHTS_BYTES:
        raise CheckpointError(
            f"{path}: the tensors take {total} bytes in float32; at most {MAX_WEIGHTS_BYTES} "
            "are read"
        )


def _array(path: Path, name: str, entry: Mapping[str, Any]) -> np.ndarray:
    shape, dtype, data = tuple(entry["shape"]), entry["dtype"], entry["data"]
    if dtype == "BF16":  # the upper half of a float32
        wide = np.frombuffer(data, np.uint16).astype(np.uint32) << 16
        return wide.view(np.float32).reshape(shape)
    if dtype not in _DTYPES:
        raise CheckpointError(f"{path}: tensor {name} has dtype {dtype}, which is not served")
    return _widen(np.frombuffer(data, _DTYPES[dtype]).reshape(shape))


def _widen(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array


def _from_pickle(
    path: Path, data: bytes, leave_out: str
) -> tuple[dict[str, np.ndarray], dict[str, Any], str]:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols; what matters is raised
            scan(data)
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} asks to run code or build objects when opened and was not loaded "
            f"({_reason(error)}); ask its author for a .safetensors file"
        ) from error
    except (RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError,
            AssertionError, OSError, MemoryError, OverflowError, struct.error) as error:  # fmt: skip
        # A damaged pickle makes the unpickler fail in any of these ways.
        raise CheckpointError(
            f"{path} is not a whole PyTorch checkpoint ({_reason(error)}); download or save it again"
        ) from error
    beside: dict[str, Any] = {}
    state, container = _unwrap(path, loaded, beside, leave_out)
    _check_sizes(path, [(name, tuple(tensor.shape)) for name, tensor in state.items()])
    tensors = {name: _widen_torch(path, name, tensor) for name, tensor in state.items()}
    return tensors, beside, container


def _reason(error: Exception) -> str:
    """The line of a library's message that says what was found."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "GLOBAL" in line or "Unsupported" in line]
    return (telling or lines or [type(error).__name__])[0][:200]


def _unwrap(
    path: Path, loaded: Any, beside: dict[str, Any], leave_out: str, within: tuple[str, ...] = ()
) -> tuple[dict[str, Any], str]:
    """Return the tensors by name, and their container; what lies beside is put into ``beside``."""
    import torch

    if isinstance(loaded, Mapping) and len(within) < MAX_CONTAINER_DEPTH:
        for container in CONTAINERS:
            if container != leave_out and isinstance(loaded.get(container), Mapping):
                beside |= {name: loaded[name] for name in BESIDE if name in loaded}
                deeper = (*within, container)
                return _unwrap(path, loaded[container], beside, leave_out, deeper)
        tensors = {k: v for k, v in loaded.items() if isinstance(v, torch.Tensor)}
        if tensors and len(tensors) == len(loaded) and all(isinstance(k, str) for k in tensors):
            return tensors, within[-1] if within else ""
    raise CheckpointError(
        f"{path} holds no state dict: expected tensors by name, bare or under "
        f"{', '.join(CONTAINERS)}; found {_outline(loaded)}"
    )


def _outline(loaded: Any) -> str:
    if not isinstance(loaded, Mapping):
        return f"a {type(loaded).__name__}"
    entries = [f"{brief(key)}: {type(value).__name__}" for key, value in list(loaded.items())[:6]]
    return "{" + ", ".join(entries) + "}"


def _widen_torch(path: Path, name: str, tensor: Any) -> np.ndarray:
    import torch

    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
        raise CheckpointError(f"{path}: tensor {name} is sparse, quantized or without data")
    if str(tensor.dtype).removeprefix("torch.") not in SERVED:
        raise CheckpointError(
            f"{path}: tensor {name} has dtype {tensor.dtype}, which is not served"
        )
    dense = tensor.detach()
    return (dense.float() if dense.is_floating_point() else dense).contiguous().numpy()


def _strip_prefixes(path: Path, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Remove ``module`` in front and ``_orig_mod`` anywhere, as whole path components.

    What then stands in front of every name and is one of ``WRAPPERS`` goes too, stacked or not.
    """
    stripped: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        parts = [part for part in name.split(".") if part != "_orig_mod"]
        while parts[:1] == ["module"]:
            parts = parts[1:]
        key = ".".join(parts)
        if key in stripped:
            raise CheckpointError(f"{path}: tensor {key} is there twice, with and without a prefix")
        stripped[key] = array
    for wrapper in WRAPPERS:
        if stripped and all(name.startswith(f"{wrapper}.") for name in stripped):
            inner = {name.partition(".")[2]: array for name, array in stripped.items()}
            return _strip_prefixes(path, inner)
    return stripped


def _check_finite(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    bad = [n for n, a in tensors.items() if a.dtype.kind == "f" and not np.isfinite(a).all()]
    if bad:
        raise CheckpointError(f"{path}: NaN or infinity in {listing(bad)}; the training diverged")


def listing(names: list[str], most: int = 10) -> str:
    """The first names and how many more there are, for one line of an error."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
