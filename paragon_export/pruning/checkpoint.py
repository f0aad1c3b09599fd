"""Write a network of ParagonSR2 as a checkpoint: the same tensors give the same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
from torch import nn

from paragon_export.errors import StageError
from paragon_export.networks.describe import LoadedNetwork
from paragon_export.networks.paragonsr2.v9_v11.layout import IGNORED, Hyperparameters
from paragon_export.networks.paragonsr2.v9_v11.widths import KEY, write_widths

ALIGNMENT = 8
"""Bytes that the header's length is a multiple of."""


def checkpoint_of(
    network: nn.Module, hp: Hyperparameters, source: LoadedNetwork, made: Mapping[str, str]
) -> bytes:
    """Return a safetensors file of a network that was made from a checkpoint.

    Its metadata are those of the source if it is of the same variant, the options that tensors do not
    tell, the widths of a pruned network and ``made``.

    Args:
        network: The module.
        hp: Its hyperparameters.
        source: The network that it was made from.
        made: More entries.

    Raises:
        StageError: If a weight is NaN or infinite.
    """
    tensors = {n: t.detach().numpy() for n, t in network.state_dict().items()}
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise StageError(
                f"the smaller network has NaN or infinity in {name}; it is not written"
            )
    options = {"upsampler_alpha": json.dumps(hp.upsampler_alpha)}
    if hp.attention:
        options["window_size"] = json.dumps(hp.window_size)
    metadata: dict[str, str] = {}
    own = source.spec.structure.get("hyperparameters")
    if isinstance(own, Hyperparameters) and own.variant == hp.variant:
        tensors |= {n: a for n, a in source.checkpoint.tensors.items() if n in IGNORED}
        metadata = {n: t for n, t in source.checkpoint.metadata.items() if n != KEY}
    return safetensors_bytes(tensors, {**metadata, **options, **write_widths(hp), **made})


def safetensors_bytes(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a safetensors file, float32, with tensors and metadata sorted by name.

    The library's own order of the metadata differs from run to run.
    """
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    parts, end = [], 0
    for name in sorted(tensors):
        part = np.ascontiguousarray(tensors[name], "<f4").tobytes()
        shape = list(tensors[name].shape)
        header[name] = {
            "dtype": "F32", "shape": shape, "data_offsets": [end, end + len(part)],
        }  # fmt: skip
        parts.append(part)
        end += len(part)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text + b"".join(parts)
