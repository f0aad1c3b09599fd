"""Parse the two file formats of checkpoints: safetensors and pickles of PyTorch."""

from __future__ import annotations

import io
import json
import math
import pickle
import struct
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from paragon_export.checkpoints.numpy_values import numpy_values
from paragon_export.checkpoints.pickle_scan import scan
from paragon_export.errors import CheckpointError
from paragon_export.system.reading import parse_json
from paragon_export.system.text import brief

CONTAINERS = (
    "params_ema", "params-ema", "g_ema", "model_ema", "ema", "params", "state_dict", "model_state",
    "model_state_dict", "model", "net", "net_g", "netG", "generator", "g", "weights", "checkpoint",
)  # fmt: skip
"""Keys of a pickled dict under which trainers store the state dict. Averaged weights are first, so
that they are preferred."""

OTHER_FILES = {
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file itself with git lfs pull",
    b"<": "a page of HTML or XML; download the file itself",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"Rar!": "a RAR archive; unpack it",
    b"7z\xbc\xaf": "a 7z archive; unpack it",
    b"GGUF": "a GGUF file; convert it to .safetensors",
}
"""What files that are no checkpoints are, by how they start, and what to do."""

EXTRA_ENTRIES = ("config", "label_map", "epoch", "metrics", "metadata")
"""Keys next to the state dict whose values are kept for architectures that use them."""

MAX_CONTAINER_DEPTH = 4
"""Levels of nested containers."""

MAX_HEADER_BYTES = 2**24
"""Length of the header of a safetensors file."""

MAX_WEIGHTS_BYTES = 2**30
"""Size of all tensors together, in float32."""

MAX_TENSORS = 20_000

MAX_DIMENSIONS = 8

MAX_NAME_CHARACTERS = 1000

TORCH_DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8",
                "uint8", "bool")  # fmt: skip
"""Dtypes of tensors of a pickle that are supported, without the prefix ``torch.``."""

_SAFETENSORS_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Content:
    """What one file holds, or all shards of a checkpoint."""

    tensors: Mapping[str, np.ndarray]
    """Floating point tensors are float32."""
    metadata: Mapping[str, str]
    extra: Mapping[str, Any] = field(default_factory=dict)
    """The ``EXTRA_ENTRIES`` of a pickle, without ``metadata``."""
    containers: tuple[str, ...] = ()
    """The one that held the tensors, then those that hold other weights."""


def is_pickle(data: bytes) -> bool:
    """Return whether a file begins as a zip archive or a pickle."""
    return data[:2] == b"PK" or data[:1] == b"\x80"


def read_content(path: Path, data: bytes, leave_out: str = "") -> Content:
    """Return what a safetensors file or a pickle holds. Its content determines the format.

    Args:
        path: The file, for error messages.
        data: Its bytes.
        leave_out: Name of a container to ignore.

    Raises:
        CheckpointError: As :func:`read_safetensors` and :func:`read_pickle`, or if it is neither.
    """
    if data[8:9] == b"{" and (not is_pickle(data) or header_fits(data)):
        tensors, metadata = read_safetensors(path, data)
        return Content(tensors=tensors, metadata=metadata)
    if is_pickle(data):
        tensors, extra, containers = read_pickle(path, data, leave_out)
        metadata = _plain_metadata(extra.pop("metadata", None))
        return Content(tensors=tensors, metadata=metadata, extra=extra, containers=containers)
    found = next((what for start, what in OTHER_FILES.items() if data.startswith(start)), "")
    found = found or f"a file that starts with {data[:4]!r}"
    raise CheckpointError(
        f"{path} is not a checkpoint: expected .safetensors, .pth or .pt, found {found}"
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


def header_fits(data: bytes) -> bool:
    """Return whether the first 8 bytes are a header length that is possible for this file.

    The length of a safetensors header may have the same first bytes as a pickle.
    """
    (length,) = struct.unpack("<Q", data[:8])
    return int(length) <= len(data) - 8


def read_safetensors(path: Path, data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file; floats become float32.

    Raises:
        CheckpointError: If the file is damaged, exceeds a limit or has an unsupported dtype.
    """
    from safetensors import SafetensorError, deserialize

    try:
        header = _header(data)
        metadata = header.pop("__metadata__", None) or {}
        check_sizes(path, [(name, tuple(entry["shape"])) for name, entry in header.items()])
        entries = deserialize(data)  # type: ignore[no-untyped-call]
    except (SafetensorError, ValueError, AttributeError, TypeError, KeyError,
            struct.error) as error:  # fmt: skip
        # A header that is JSON but no table of tensors causes any of these errors.
        raise CheckpointError(
            f"{path} is not a complete safetensors file ({error}); download or save it again"
        ) from error
    return {name: _array(path, name, entry) for name, entry in entries}, metadata


def _header(data: bytes) -> dict[str, Any]:
    """Return the JSON header of a safetensors file; raise ValueError if it is too long."""
    (length,) = struct.unpack("<Q", data[:8])
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"its header declares {length} bytes")
    return parse_json(data[8 : 8 + length])


def check_sizes(path: Path, shapes: Sequence[tuple[str, tuple[int, ...]]]) -> None:
    """Check the number of tensors, their names and their shapes against the limits.

    Raises:
        CheckpointError: If a limit is exceeded.
        TypeError: If an extent is not an integer.
    """
    if len(shapes) > MAX_TENSORS:
        raise CheckpointError(
            f"{path} holds {len(shapes)} tensors; at most {MAX_TENSORS} are supported"
        )
    for name, shape in shapes:
        if len(name) > MAX_NAME_CHARACTERS:
            raise CheckpointError(
                f"{path}: the name of a tensor has {len(name)} characters; at most "
                f"{MAX_NAME_CHARACTERS} are supported"
            )
        if len(shape) > MAX_DIMENSIONS:
            raise CheckpointError(
                f"{path}: tensor {name} has {len(shape)} dimensions; at most {MAX_DIMENSIONS} are "
                "supported"
            )
        if 0 in shape and max(shape) > MAX_WEIGHTS_BYTES:
            raise CheckpointError(f"{path}: tensor {name} has an extent of {max(shape)}")
    total = 4 * sum(math.prod(shape) for _, shape in shapes)
    if total > MAX_WEIGHTS_BYTES:
        raise CheckpointError(
            f"{path}: the tensors take {total} bytes in float32; at most {MAX_WEIGHTS_BYTES} "
            "are supported"
        )


def _array(path: Path, name: str, entry: Mapping[str, Any]) -> np.ndarray:
    """Return a tensor of a safetensors file; floating point becomes float32."""
    shape, dtype, data = tuple(entry["shape"]), entry["dtype"], entry["data"]
    if dtype == "BF16":  # the upper 16 bits of a float32
        wide = np.frombuffer(data, np.uint16).astype(np.uint32) << 16
        return wide.view(np.float32).reshape(shape)
    if dtype not in _SAFETENSORS_DTYPES:
        raise CheckpointError(f"{path}: tensor {name} has dtype {dtype}, which is not supported")
    return _to_float32(np.frombuffer(data, _SAFETENSORS_DTYPES[dtype]).reshape(shape))


def _to_float32(array: np.ndarray) -> np.ndarray:
    """Return a floating point array as float32, and any other unchanged."""
    return array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array


def read_pickle(
    path: Path, data: bytes, leave_out: str
) -> tuple[dict[str, np.ndarray], dict[str, Any], tuple[str, ...]]:
    """Return the state dict, the ``EXTRA_ENTRIES`` and the containers of a pickle.

    The first container held the state dict; the others hold other weights.

    Args:
        path: The file, for error messages.
        data: Its bytes.
        leave_out: Name of a container to ignore.

    Raises:
        CheckpointError: If the pickle would run code, is damaged, exceeds a limit, has no state
            dict or has an unsupported dtype.
    """
    import torch

    try:
        with warnings.catch_warnings(), numpy_values():
            warnings.simplefilter("ignore")  # they concern pickle protocols; errors are raised
            scan(data)
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} would run code or build objects when it is opened, and was not loaded "
            f"({_reason(error)}); ask its author for a .safetensors file"
        ) from error
    except (RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError,
            AssertionError, OSError, MemoryError, OverflowError, struct.error) as error:  # fmt: skip
        # A damaged pickle causes any of these errors.
        raise CheckpointError(
            f"{path} is not a complete PyTorch checkpoint ({_reason(error)}); download or save it "
            "again"
        ) from error
    extra: dict[str, Any] = {}
    state, containers = _unwrap(path, loaded, extra, leave_out)
    check_sizes(path, [(name, tuple(tensor.shape)) for name, tensor in state.items()])
    tensors = {name: _torch_to_float32(path, name, tensor) for name, tensor in state.items()}
    return tensors, extra, containers


def _reason(error: Exception) -> str:
    """Return the line of PyTorch's message that names what was found."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    specific = [line for line in lines if "GLOBAL" in line or "Unsupported" in line]
    return (specific or lines or [type(error).__name__])[0][:200]


def _unwrap(
    path: Path,
    loaded: Any,
    extra: dict[str, Any],
    leave_out: str,
    parents: tuple[str, ...] = (),
    siblings: tuple[str, ...] = (),
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the state dict in nested containers, and the innermost containers, its own first.

    Args:
        path: The file, for error messages.
        loaded: What the pickle holds.
        extra: The ``EXTRA_ENTRIES`` of each container are added to it.
        leave_out: Name of a container to ignore.
        parents: Names of the containers around ``loaded``.
        siblings: The innermost of them, then the other containers on its level.

    Raises:
        CheckpointError: If there is no state dict.
    """
    import torch

    if isinstance(loaded, Mapping) and len(parents) < MAX_CONTAINER_DEPTH:
        found = tuple(c for c in CONTAINERS if isinstance(loaded.get(c), Mapping) and loaded[c])
        chosen = next((c for c in found if c != leave_out), None)
        if chosen is not None:
            extra |= {name: loaded[name] for name in EXTRA_ENTRIES if name in loaded}
            level = (chosen, *(c for c in found if c != chosen))
            inner = loaded[chosen]
            return _unwrap(path, inner, extra, leave_out, (*parents, chosen), level)
        tensors = {k: v for k, v in loaded.items() if isinstance(v, torch.Tensor)}
        if tensors and len(tensors) == len(loaded) and all(isinstance(k, str) for k in tensors):
            return tensors, siblings
    raise CheckpointError(
        f"{path} holds no state dict: expected tensors by name, at the top level or under "
        f"{', '.join(CONTAINERS)}; found {_outline(loaded)}"
    )


def _outline(loaded: Any) -> str:
    """Return the type of a value, with the first entries of a mapping, for an error message."""
    if not isinstance(loaded, Mapping):
        return f"a {type(loaded).__name__}"
    entries = [f"{brief(key)}: {type(value).__name__}" for key, value in list(loaded.items())[:6]]
    return "{" + ", ".join(entries) + "}"


def _torch_to_float32(path: Path, name: str, tensor: Any) -> np.ndarray:
    """Return a PyTorch tensor as an array; floating point becomes float32.

    Raises:
        CheckpointError: If the tensor is not dense or its dtype is not supported.
    """
    import torch

    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
        raise CheckpointError(f"{path}: tensor {name} is sparse, quantized or without data")
    if str(tensor.dtype).removeprefix("torch.") not in TORCH_DTYPES:
        raise CheckpointError(
            f"{path}: tensor {name} has dtype {tensor.dtype}, which is not supported"
        )
    dense = tensor.detach()
    return (dense.float() if dense.is_floating_point() else dense).contiguous().numpy()
