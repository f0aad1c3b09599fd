"""The training config of a glyph classifier: what it says, and whether it fits the tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from paragon_export.errors import PlanError
from paragon_export.networks.glyph.layout import Hyperparameters
from paragon_export.system.text import brief

INPUT = ("primitive_vocab_size", "embedding_dim", "normalize_embeddings")

CNN = (
    "stages", "width_base", "width_factor", "num_stages", "blocks_per_stage", "kernel_size",
    "stem_kernel_size", "stem_stride", "downsample", "activation", "bn_eps",
    "classifier_hidden_dim",
)  # fmt: skip

PATHS = {
    **{name: f"input.{name}" for name in INPUT},
    **{name: f"model.cnn.{name}" for name in CNN},
    "architecture": "model.architecture",
}
"""Every entry that matters, by its last word, and where it stands in the config."""

WIDTHS: Mapping[str, Any] = {"width_base": 64, "width_factor": 2.0, "num_stages": 3}
"""What stage widths are made from where ``stages`` is absent or empty, and the defaults."""

MAX_DEPTH = 64
"""Stages that a config may ask for."""

Entries = Mapping[str, Any]


def entries_of(document: Any) -> dict[str, Any]:
    """Return the entries that matter, by their last word.

    Args:
        document: The nested mapping as YAML or a checkpoint holds it.

    Raises:
        PlanError: If a table is something else, or there is neither ``input`` nor ``model``.
    """
    root = _table(document, "config")
    if "input" not in root and "model" not in root:
        raise PlanError("the config has neither an input nor a model table; give the training one")
    entries: dict[str, Any] = {}
    for name, path in PATHS.items():
        *tables, _ = path.split(".")
        table = root
        for depth, key in enumerate(tables):
            table = _table(table.get(key, {}), ".".join(tables[: depth + 1]))
        if name in table:
            entries[name] = table[name]
    return entries


def check(entries: Entries, found: Hyperparameters) -> None:
    """Refuse a config that was written for another network than the tensors make up.

    What the config does not name is not compared.

    Raises:
        PlanError: Naming the entry, what it says, and what the tensors say.
    """
    architecture = entries.get("architecture", "cnn")
    if architecture != "cnn":
        raise PlanError(_clash("architecture", architecture, "cnn"))
    downsample = entries.get("downsample", found.downsample or "conv")
    if downsample not in ("conv", "none"):
        raise PlanError(f"{PATHS['downsample']} is {brief(downsample)}; expected conv or none")
    if found.downsample not in (None, downsample):
        raise PlanError(_clash("downsample", downsample, found.downsample))
    numbers: dict[str, int | None] = {
        "primitive_vocab_size": found.vocabulary,
        "embedding_dim": found.embedding,
        "kernel_size": found.kernel,
        "stem_kernel_size": found.stem_kernel,
        "classifier_hidden_dim": found.hidden,
    }
    for name, told in numbers.items():
        value = entries.get(name, told)
        if name == "classifier_hidden_dim" and value is None:
            value = 0
        if told is not None and whole(value, name) != told:
            raise PlanError(_clash(name, value, told))
    _check_stages(entries, replace(found, downsample=downsample))


def _check_stages(entries: Entries, found: Hyperparameters) -> None:
    stages, source = _stages(entries)
    told = stages or found.stages
    merge = _merged if found.downsample == "none" else _plain
    widths, counts = merge(told, [0] * len(told))
    if stages and widths != found.stages:
        raise PlanError(_clash(source, list(told), list(found.stages)))
    if entries.get("blocks_per_stage") in (None, [], ()):
        return
    blocks = _blocks(entries["blocks_per_stage"], len(told))
    _, counts = merge(told, blocks)
    if counts != found.blocks:
        raise PlanError(_clash("blocks_per_stage", entries["blocks_per_stage"], list(found.blocks)))


def _stages(entries: Entries) -> tuple[tuple[int, ...], str]:
    """Return the widths that a config names and by which entry; none where it names none."""
    given = entries.get("stages")
    if given:
        return tuple(whole(width, "stages") for width in _list(given, "stages")), "stages"
    if not any(name in entries for name in WIDTHS):
        return (), ""
    base, factor, count = (entries.get(name, default) for name, default in WIDTHS.items())
    count = whole(count, "num_stages")
    if not 1 <= count <= MAX_DEPTH:
        raise PlanError(f"{PATHS['num_stages']} is {count}; expected 1 to {MAX_DEPTH}")
    base, factor = number(base, "width_base"), number(factor, "width_factor")
    try:
        widths = tuple(round(base * factor**index) for index in range(count))
    except (OverflowError, ValueError) as error:
        raise PlanError(f"{PATHS['width_factor']} {factor} makes impossible widths") from error
    return widths, "width_base"


def _blocks(value: Any, stages: int) -> list[int]:
    """Too short a list is filled with its last value, the rest of too long a one is ignored."""
    counts = [whole(count, "blocks_per_stage") for count in _list(value, "blocks_per_stage")]
    return (counts + [counts[-1]] * stages)[:stages]


def _plain(widths: Sequence[int], blocks: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(widths), tuple(blocks)


def _merged(
    widths: Sequence[int], blocks: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Join neighbouring stages of one width: without a transition they compute as one."""
    wide: list[int] = []
    counts: list[int] = []
    for width, count in zip(widths, blocks, strict=True):
        if wide and wide[-1] == width:
            counts[-1] += count
        else:
            wide.append(width)
            counts.append(count)
    return tuple(wide), tuple(counts)


def _table(value: Any, path: str) -> Mapping[str, Any]:
    if value is None:  # a heading in YAML with nothing under it
        return {}
    if not isinstance(value, Mapping):
        raise PlanError(f"the config's {path} is {type(value).__name__}, expected a table")
    return value


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise PlanError(f"{PATHS[name]} is {brief(value)}; expected a list of whole numbers")
    return list(value)


def whole(value: Any, name: str) -> int:
    """Return a whole number that is not negative.

    Raises:
        PlanError: If it is anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise PlanError(f"{PATHS[name]} is {brief(value)}; expected a whole number")
    return value


def number(value: Any, name: str) -> float:
    """Return a number; YAML gives ``1e-5`` as text, which is one too.

    Raises:
        PlanError: If it is anything else, or not finite and positive.
    """
    try:
        return positive(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise PlanError(f"{PATHS[name]} is {brief(value)}: {error}") from error


def positive(value: Any) -> float:
    """Check a number that is finite and positive, written as a number or as text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError("it must be a number")
    found = float(value)
    if not 0 < found < float("inf"):
        raise ValueError("it must be finite and positive")
    return found


def _clash(name: str, said: Any, found: Any) -> str:
    told = said if isinstance(said, str) and len(said) < 60 else brief(said)
    return (
        f"the config says {PATHS[name]} {told}, the checkpoint's tensors say {found}; "
        "give the config it was trained with"
    )


Check = Callable[[Any], Any]
