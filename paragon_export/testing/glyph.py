"""Glyph classifiers: the recorded ones, and small ones of any hyperparameters."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from paragon_export.networks.describe import read_network
from paragon_export.networks.glyph.layout import (
    CellHyperparameters,
    Hyperparameters,
    expected_cell_shapes,
    expected_shapes,
)
from paragon_export.parity.reference import TorchReference, build_reference
from paragon_export.specs.plans import NetworkOptions
from paragon_export.testing.golden.glyph.make_weights import digest, fill
from paragon_export.testing.tiny import Tensors

GOLDEN = Path(__file__).parent / "golden" / "glyph"

PHASE_2 = ("full", "light", "tiny", "linear_relu", "equal_width")

SMALL = Hyperparameters(
    vocabulary=40,
    embedding=8,
    stages=(12, 16),
    blocks=(1, 1),
    kernel=3,
    stem_kernel=3,
    downsample="conv",
    hidden=10,
    classes=23,
)

SMALL_CELLS = CellHyperparameters(widths=(4, 6), hidden=8, classes=40)


@cache
def signature(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"sig_{name}.json").read_text(encoding="utf-8"))


@cache
def golden_weights(name: str) -> Tensors:
    """Return the weights that a case was recorded with."""
    weights = fill(signature(name))
    assert digest(weights) == signature(name)["weights_sha256"]
    return weights


def recorded(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"golden_{name}.npz") as arrays:
        return dict(arrays)


def small_weights(h: Hyperparameters | CellHyperparameters = SMALL, salt: str = "") -> Tensors:
    """Return random weights that keep activations of order 1."""
    shapes = expected_shapes(h) if isinstance(h, Hyperparameters) else expected_cell_shapes(h)
    tensors = {
        name: {"shape": shape, "dtype": "int64" if name.endswith("tracked") else "float32"}
        for name, shape in shapes.items()
    }
    return fill({"salt": salt, "tensors": tensors})


def config_of(h: Hyperparameters) -> dict[str, Any]:
    """Return the training config of a network, as its trainer embeds it."""
    cnn = {
        "stages": list(h.stages),
        "blocks_per_stage": list(h.blocks),
        "kernel_size": h.kernel or 3,
        "stem_kernel_size": h.stem_kernel,
        "stem_stride": h.stem_stride,
        "downsample": h.downsample or "conv",
        "activation": h.activation,
        "bn_eps": h.bn_eps,
        "classifier_hidden_dim": h.hidden,
        "dropout": 0.1,
    }
    table = {"primitive_vocab_size": h.vocabulary, "embedding_dim": h.embedding}
    return {
        "input": {**table, "normalize_embeddings": h.normalize_embeddings},
        "model": {"architecture": "cnn", "cnn": cnn},
    }


def save_checkpoint(
    weights: Tensors, path: Path, *, container: str = "model_state", prefix: str = "", **beside: Any
) -> Path:
    """Write a training checkpoint: weights under ``container``, and what lies beside them."""
    import torch

    state = {prefix + name: torch.from_numpy(np.array(a)) for name, a in weights.items()}
    torch.save({"epoch": 3, "optimizer_state": {"state": {}}, container: state, **beside}, path)
    return path


def golden_checkpoint(name: str, folder: Path) -> Path:
    path = folder / f"{name}.pt"
    return save_checkpoint(golden_weights(name), path, config=signature(name)["config"])


def small_checkpoint(
    path: Path, h: Hyperparameters | CellHyperparameters = SMALL, salt: str = "", **beside: Any
) -> Path:
    """Write a small network, phase 2 with its config, and return its path."""
    if isinstance(h, Hyperparameters):
        beside = {"config": config_of(h), **beside}
    return save_checkpoint(small_weights(h, salt), path, **beside)


def reference_of(path: Path, **flags: Any) -> TorchReference:
    """Take a checkpoint the way a user's file goes: loaded, described, built."""
    return build_reference(read_network(path, NetworkOptions(flags=flags)))
