"""Small random networks: checkpoints with the layout of real ones, made in milliseconds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paragon_export.networks.paragonsr2.v9_v11.layout import Hyperparameters, expected_shapes

Tensors = dict[str, np.ndarray]

SHARP_TAPS = np.array([-1, 0, 9, 16, 9, 0, -1], np.float32) / 32
BLUR_TAPS = np.array([1, 4, 6, 4, 1], np.float32) / 16

ATTENDING = ("photo", "pro")
"""Variants that have window attention."""


def tiny_hyperparameters(
    variant: str = "realtime",
    scale: int = 2,
    *,
    layer_scale: bool = True,
    attention: bool = True,
    features: int = 8,
    groups: int = 1,
    blocks: int = 2,
    in_channels: int = 3,
    window_size: int = 16,
    upsampler_alpha: float = 0.0,
) -> Hyperparameters:
    """Return the hyperparameters of a small network, as ``describe`` would find them."""
    pro = variant == "pro"
    return Hyperparameters(
        variant=variant,
        scale=scale,
        in_channels=in_channels,
        features=features,
        groups=groups,
        blocks=blocks,
        attention=attention and variant in ATTENDING,
        layer_scale=layer_scale and variant not in ATTENDING,
        window_size=window_size,
        upsampler_alpha=upsampler_alpha,
        tokens=6 if pro else 0,
        token_width=4 if pro else 0,
        squeeze=2 if pro else 0,
    )


def tiny_tensors(hyperparameters: Hyperparameters, seed: int = 0) -> Tensors:
    """Return random float32 tensors that keep activations of order 1."""
    rng = np.random.default_rng(seed)
    shapes = expected_shapes(hyperparameters)
    return {name: _tensor(rng, name, shape) for name, shape in shapes.items()}


def _tensor(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    for filter_name, taps in (("base.sharp.", SHARP_TAPS), ("base.blur.", BLUR_TAPS)):
        if name.startswith(filter_name):
            line = taps.reshape((1, 1, *shape[2:]))
            return np.array(np.broadcast_to(line, shape), np.float32, order="C")
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "detail_gain":
        return np.array(0.3, np.float32)
    noise = rng.standard_normal(shape)
    if leaf in ("gamma", "scale"):
        values = 1.0 + 0.1 * noise
    elif leaf == "bias":
        values = 0.05 * noise
    elif leaf == "token_dict":
        values = noise
    else:
        values = noise / math.sqrt(math.prod(shape[1:]))
    return values.astype(np.float32)


def tiny_checkpoint(
    path: Path,
    variant: str = "realtime",
    scale: int = 2,
    *,
    layer_scale: bool = True,
    attention: bool = True,
    features: int = 8,
    groups: int = 1,
    blocks: int = 2,
    in_channels: int = 3,
    metadata: Mapping[str, str] | None = None,
    fmt: str = "safetensors",
    container: str | None = None,
    prefix: str = "",
    seed: int = 0,
) -> Path:
    """Write a small random checkpoint to ``path`` and return ``path``.

    Args:
        path: File to write; its name does not have to match ``fmt``.
        variant: realtime, stream, photo or pro.
        scale: Upscaling factor.
        layer_scale: False writes realtime and stream as v9 and v10 do.
        attention: False writes photo and pro as trained with ``export_safe``.
        features: Channels of the trunk; a multiple of 4 where there is attention.
        groups: Groups of blocks.
        blocks: Blocks per group; the second one rolls its windows.
        in_channels: Channels of the picture.
        metadata: Header entries of a safetensors file.
        fmt: safetensors, or pth (which .pt is as well).
        container: Key of a pickle under which the tensors lie, dots for nested ones; None: bare.
        prefix: Put in front of every tensor name.
        seed: Of the random weights.
    """
    hyperparameters = tiny_hyperparameters(
        variant,
        scale,
        layer_scale=layer_scale,
        attention=attention,
        features=features,
        groups=groups,
        blocks=blocks,
        in_channels=in_channels,
    )
    tensors = {prefix + n: a for n, a in tiny_tensors(hyperparameters, seed).items()}
    return save(tensors, path, metadata=metadata, fmt=fmt, container=container)


def save(
    tensors: Mapping[str, np.ndarray],
    path: Path,
    *,
    metadata: Mapping[str, str] | None = None,
    fmt: str = "safetensors",
    container: str | None = None,
) -> Path:
    """Write tensors by name to a checkpoint file and return its path."""
    if fmt == "safetensors":
        from safetensors.numpy import save_file

        whole = {name: np.ascontiguousarray(a).reshape(a.shape) for name, a in tensors.items()}
        save_file(whole, path, metadata=dict(metadata) if metadata else None)
        return path
    import torch

    state: Any = {name: torch.from_numpy(np.array(a)) for name, a in tensors.items()}
    for key in reversed(container.split(".") if container else []):
        state = {key: state}
    torch.save(state, path)
    return path


def save_shards(
    tensors: Mapping[str, np.ndarray],
    folder: Path,
    count: int = 2,
    *,
    fmt: str = "safetensors",
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint in ``count`` shards and return the path of its index.

    Args:
        tensors: By name; every ``count``-th one is in the same shard.
        folder: Where to write.
        count: Number of shards.
        fmt: safetensors, or pth for the names that PyTorch's shards have.
        metadata: Of the index.
    """
    stem, suffix = ("model", "safetensors") if fmt == "safetensors" else ("pytorch_model", "bin")
    names = [f"{stem}-{i + 1:05d}-of-{count:05d}.{suffix}" for i in range(count)]
    weight_map = {tensor: names[i % count] for i, tensor in enumerate(sorted(tensors))}
    for shard in names:
        inside = {name: tensors[name] for name, where in weight_map.items() if where == shard}
        save(inside, folder / shard, fmt=fmt)
    index = folder / f"{stem}.{suffix}.index.json"
    document = {"metadata": dict(metadata or {"total_size": 1}), "weight_map": weight_map}
    index.write_text(json.dumps(document), encoding="utf-8")
    return index
