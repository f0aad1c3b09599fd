"""The widths of a pruned network, in the metadata of its checkpoint. Imports no PyTorch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from paragon_export.errors import CheckpointError
from paragon_export.networks.paragonsr2.v9_v11.layout import HEADS, Hyperparameters, Widths

KEY = "pruned_widths"
"""Entry of the metadata: JSON with a list for each field of :class:`Widths`, one element a block."""

FIELDS = ("hidden", "heads", "context")

LARGEST = {"hidden": 4096, "heads": HEADS, "context": 4096}


def read_widths(metadata: Mapping[str, str]) -> tuple[Widths, ...]:
    """Return the widths that the metadata of a checkpoint names; empty if it names none.

    Raises:
        CheckpointError: If the entry cannot be read, or a width is impossible.
    """
    if KEY not in metadata:
        return ()
    try:
        document = json.loads(metadata[KEY])
        columns = [document[name] for name in FIELDS]
        rows = [dict(zip(FIELDS, row, strict=True)) for row in zip(*columns, strict=True)]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(
            f"the entry {KEY} of the metadata is not a list of widths for each of "
            f"{', '.join(FIELDS)}"
        ) from error
    for row in rows:
        for name, value in row.items():
            if type(value) is not int or not 0 <= value <= LARGEST[name]:
                raise CheckpointError(
                    f"the entry {KEY} of the metadata has a width of {name} that is no integer "
                    f"from 0 to {LARGEST[name]}"
                )
    if not rows or 0 in rows[0].values():
        raise CheckpointError(f"the entry {KEY} of the metadata leaves out the first block")
    return tuple(Widths(**row) for row in rows)


def write_widths(hp: Hyperparameters) -> dict[str, str]:
    """Return the entry of the metadata; empty for a network that was not pruned."""
    if not hp.widths:
        return {}
    columns = {name: [getattr(widths, name) for widths in hp.widths] for name in FIELDS}
    return {KEY: json.dumps(columns)}


def with_widths(hp: Hyperparameters, widths: tuple[Widths, ...]) -> Hyperparameters:
    """Return the hyperparameters of a network with these widths; none for one that was not pruned.

    Raises:
        CheckpointError: If they are those of another number of blocks, or leave a block empty that
            cannot be.
    """
    if widths and len(widths) != hp.groups * hp.blocks:
        raise CheckpointError(
            f"the metadata names the widths of {len(widths)} blocks, the tensors of "
            f"{hp.groups * hp.blocks}"
        )
    if hp.variant in ("realtime", "stream") and not all(w.hidden and w.context for w in widths):
        raise CheckpointError(f"a block of {hp.variant} cannot be left empty")
    return replace(hp, widths=widths)


def notes_on_widths(hp: Hyperparameters) -> list[str]:
    """Return a note on the widths of a pruned network."""
    labels = {"hidden": "hidden channels"}
    if hp.attention:
        labels["heads"] = "heads"
    if hp.variant == "stream":
        labels["context"] = "context channels"
    ranges = []
    for name, label in labels.items():
        values = [getattr(widths, name) for widths in hp.widths] or [0]
        ranges.append(f"{min(values)} to {max(values)} {label}")
    return [f"pruned: {', '.join(ranges)} a block"] if hp.widths else []
