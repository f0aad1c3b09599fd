"""Widths of pruned networks in the metadata: read, checked against the tensors, refused if wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import paragon_export as pe
from paragon_export.networks.paragonsr2.v9_v11.layout import Widths, expected_shapes
from paragon_export.networks.paragonsr2.v9_v11.widths import KEY, read_widths, write_widths
from paragon_export.pruning.checkpoint import safetensors_bytes
from paragon_export.testing.tiny import tiny_hyperparameters, tiny_tensors

GOOD = {"hidden": [16, 0], "heads": [2, 1], "context": [8, 8]}


def _saved(path: Path, variant: str, document: Any) -> Path:
    """Save a network whose tensors have the widths of ``GOOD``, and some metadata."""
    from dataclasses import replace

    hp = replace(tiny_hyperparameters(variant), widths=read_widths({KEY: json.dumps(GOOD)}))
    entry = {} if document is None else {KEY: json.dumps(document)}
    path.write_bytes(safetensors_bytes(tiny_tensors(hp), {**entry, "upsampler_alpha": "0.0"}))
    return path


def test_widths_are_read_and_checked_against_the_tensors(tmp_path: Path) -> None:
    network = pe.load_network(_saved(tmp_path / "a.safetensors", "photo", GOOD))
    hp = network.spec.structure["hyperparameters"]
    assert hp.widths == (
        Widths(hidden=16, heads=2, context=8),
        Widths(hidden=0, heads=1, context=8),
    )
    assert write_widths(hp) == {KEY: json.dumps(GOOD)}
    shapes = {name: tuple(t.shape) for name, t in network.module.state_dict().items()}
    assert shapes == expected_shapes(hp)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (None, "does not hold the tensors"),
        ({**GOOD, "hidden": [8, 0]}, "does not hold the tensors"),
        ({**GOOD, "heads": [2, 0]}, "does not hold the tensors"),
        (
            {name: values[:1] for name, values in GOOD.items()},
            "the widths of 1 blocks, the tensors of 2",
        ),
        ({**GOOD, "heads": [2]}, "is not a list of widths"),
        ({"hidden": [16, 0]}, "is not a list of widths"),
        ([1, 2], "is not a list of widths"),
        ("text", "is not a list of widths"),
        ({**GOOD, "hidden": [16, -8]}, "no integer from 0 to 4096"),
        ({**GOOD, "hidden": [16, 10**9]}, "no integer from 0 to 4096"),
        ({**GOOD, "heads": [2, 5]}, "no integer from 0 to 4"),
        ({**GOOD, "heads": [True, 1]}, "no integer from 0 to 4"),
        ({**GOOD, "hidden": [16, 0.5]}, "no integer from 0 to 4096"),
        ({**GOOD, "heads": [0, 1]}, "leaves out the first block"),
        ({name: [] for name in GOOD}, "leaves out the first block"),
    ],
)
def test_wrong_widths_are_refused(tmp_path: Path, document: Any, reason: str) -> None:
    with pytest.raises(pe.CheckpointError, match=reason):
        pe.load_network(_saved(tmp_path / "a.safetensors", "photo", document))


def test_blocks_of_realtime_cannot_be_empty(tmp_path: Path) -> None:
    with pytest.raises(pe.CheckpointError, match="cannot be left empty"):
        pe.load_network(_saved(tmp_path / "a.safetensors", "realtime", GOOD))
