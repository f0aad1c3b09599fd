"""Read the training config of a glyph classifier and compare it with the tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from paragon_export.errors import PlanError
from paragon_export.networks.glyph.layout import Hyperparameters
from paragon_export.system.text import brief

INPUT = ("primitive_vocab_size", "embedding_dim", "normalize_embeddings")
"""Entries of the table ``input``."""

CNN = (
    "stages", "width_base", "width_factor", "num_stages", "blocks_per_stage", "kernel_size",
    "stem_kernel_size", "stem_stride", "downsample", "activation", "bn_eps",
    "classifier_hidden_dim",
)  # fmt: skip
"""Entries of the table ``model.cnn``."""

PATHS = {
    **{name: f"input.{name}" for name in INPUT},
    **{name: f"model.cnn.{name}" for name in CNN},
    "architecture": "model.architecture",
}
"""The entries of the config that are used: the path of each by its name, its last component."""

WIDTHS: Mapping[str, Any] = {"width_base": 64, "width_factor": 2.0, "num_stages": 3}
"""Entries that determine the stage widths if ``stages`` is absent or empty, and their defaults."""

MAX_STAGES = 64
"""Largest ``num_stages``."""

Entries = Mapping[str, Any]
"""Values of a config by entry name."""


def entries_of(document: Any) -> dict[str, Any]:
    """Return the values of the entries in ``PATHS``, as far as the config has them.

    Args:
        document: The nested mapping of a YAML file or a checkpoint.

    Raises:
        PlanError: If a table is no mapping, or there is neither ``input`` nor ``model``.
    """
    root = _table(document, "config")
    if "input" not in root and "model" not in root:
        raise PlanError(
            "the config has neither an input nor a model table; give the config it was trained with"
        )
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
    """Check that a config fits the tensors. Entries that the config does not have are ignored.

    Args:
        entries: As from :func:`entries_of`.
        found: Hyperparameters inferred from the tensors.

    Raises:
        PlanError: Naming an entry that does not fit, its value, and that of the tensors.
    """
    architecture = entries.get("architecture", "cnn")
    if architecture != "cnn":
        raise PlanError(_mismatch("architecture", architecture, "cnn"))
    downsample = entries.get("downsample", found.downsample or "conv")
    if downsample not in ("conv", "none"):
        raise PlanError(f"{PATHS['downsample']} is {brief(downsample)}; expected conv or none")
    if found.downsample not in (None, downsample):
        raise PlanError(_mismatch("downsample", downsample, found.downsample))
    numbers: dict[str, int | None] = {
        "primitive_vocab_size": found.vocabulary,
        "embedding_dim": found.embedding,
        "kernel_size": found.kernel,
        "stem_kernel_size": found.stem_kernel,
        "classifier_hidden_dim": found.hidden,
    }
    for name, number_found in numbers.items():
        value = entries.get(name, number_found)
        if name == "classifier_hidden_dim" and value is None:
            value = 0
        if number_found is not None and whole(value, name) != number_found:
            raise PlanError(_mismatch(name, value, number_found))
    _check_stages(entries, replace(found, downsample=downsample))


def _check_stages(entries: Entries, found: Hyperparameters) -> None:
    """Check the widths of the stages and their numbers of blocks, as :func:`check`."""
    stages, source = _stages(entries)
    expected = stages or found.stages
    merge = _merged if found.downsample == "none" else _separate
    widths, counts = merge(expected, [0] * len(expected))
    if stages and widths != found.stages:
        raise PlanError(_mismatch(source, list(expected), list(found.stages)))
    if entries.get("blocks_per_stage") in (None, [], ()):
        return
    blocks = _blocks(entries["blocks_per_stage"], len(expected))
    _, counts = merge(expected, blocks)
    if counts != found.blocks:
        raise PlanError(
            _mismatch("blocks_per_stage", entries["blocks_per_stage"], list(found.blocks))
        )


def _stages(entries: Entries) -> tuple[tuple[int, ...], str]:
    """Return the widths of the stages, and the entry that determines them; both may be empty."""
    stages = entries.get("stages")
    if stages:
        return tuple(whole(width, "stages") for width in _list(stages, "stages")), "stages"
    if not any(name in entries for name in WIDTHS):
        return (), ""
    base, factor, count = (entries.get(name, default) for name, default in WIDTHS.items())
    count = whole(count, "num_stages")
    if not 1 <= count <= MAX_STAGES:
        raise PlanError(f"{PATHS['num_stages']} is {count}; expected 1 to {MAX_STAGES}")
    base, factor = number(base, "width_base"), number(factor, "width_factor")
    try:
        widths = tuple(round(base * factor**index) for index in range(count))
    except (OverflowError, ValueError) as error:
        raise PlanError(
            f"{PATHS['width_factor']} is {factor}, which gives widths that are not finite; give "
            "the config it was trained with"
        ) from error
    return widths, "width_base"


def _blocks(value: Any, stages: int) -> list[int]:
    """Return the number of blocks of each stage.

    A list that is too short is extended by its last value; one that is too long is truncated.
    """
    counts = [whole(count, "blocks_per_stage") for count in _list(value, "blocks_per_stage")]
    return (counts + [counts[-1]] * stages)[:stages]


def _separate(
    widths: Sequence[int], blocks: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the widths and blocks of the stages unchanged."""
    return tuple(widths), tuple(blocks)


def _merged(
    widths: Sequence[int], blocks: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return widths and blocks with consecutive stages of equal width merged.

    Such stages have no transition between them, so that the tensors do not separate them.
    """
    merged: list[int] = []
    counts: list[int] = []
    for width, count in zip(widths, blocks, strict=True):
        if merged and merged[-1] == width:
            counts[-1] += count
        else:
            merged.append(width)
            counts.append(count)
    return tuple(merged), tuple(counts)


def _table(value: Any, path: str) -> Mapping[str, Any]:
    """Return a mapping of the config; an empty one for None, which is a YAML key without value."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise PlanError(f"the config's {path} is {type(value).__name__}, expected a table")
    return value


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise PlanError(f"{PATHS[name]} is {brief(value)}; expected a list of whole numbers")
    return list(value)


def whole(value: Any, name: str) -> int:
    """Return an integer that is not negative.

    Raises:
        PlanError: If the value of the entry ``name`` is anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise PlanError(f"{PATHS[name]} is {brief(value)}; expected a whole number")
    return value


def number(value: Any, name: str) -> float:
    """Return a finite positive number, written as a number or, as YAML parses ``1e-5``, as text.

    Raises:
        PlanError: If the value of the entry ``name`` is anything else.
    """
    try:
        return positive(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise PlanError(f"{PATHS[name]} is {brief(value)}: {error}") from error


def positive(value: Any) -> float:
    """Return a finite positive number, written as a number or as text, as a float.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is not finite and positive.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError("it must be a number")
    result = float(value)
    if not 0 < result < float("inf"):
        raise ValueError("it must be finite and positive")
    return result


def _mismatch(name: str, value: Any, found: Any) -> str:
    """Return the message for an entry whose value is not that of the tensors."""
    text = value if isinstance(value, str) and len(value) < 60 else brief(value)
    return (
        f"the config says {PATHS[name]} {text}, the checkpoint's tensors say {found}; "
        "give the config it was trained with"
    )


Check = Callable[[Any], Any]
"""Returns a valid value, or raises ValueError or TypeError."""
