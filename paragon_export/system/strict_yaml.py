"""Settle the switches that tensors cannot tell: flag, option file, metadata, default.

In that order, and every value remembers where it came from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paragon_export.errors import PlanError
from paragon_export.system.reading import read_bytes
from paragon_export.system.text import brief

MAX_OPTION_FILE_BYTES = 2**17


MAX_VALUES = 20_000
"""Values in an option file once its anchors are unfolded."""


MAX_NUMBER_CHARACTERS = 100
"""Characters; YAML's numbers to the base 60 take quadratic time."""


MAX_DEPTH = 50


def read_yaml(path: Path) -> Any:
    """Return what an option file holds, whatever it is.

    Raises:
        PlanError: If the file cannot be read or is not YAML.
    """
    data = read_bytes(path, MAX_OPTION_FILE_BYTES, "option file", PlanError)
    try:
        return parse_yaml(data.decode("utf-8"))
    except ValueError as error:
        raise PlanError(
            f"option file {path} is not YAML: {' '.join(str(error).split())}"
        ) from error


def parse_yaml(text: str) -> Any:
    """Return what a YAML text says; anchors may not unfold to more than ``MAX_VALUES`` values.

    Raises:
        ValueError: If it is no YAML, names an entry twice, or is deeper or larger than any option
            file.
    """
    import yaml

    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _unfolded(node, {}, MAX_DEPTH)
        return loader.construct_document(node)
    except (yaml.YAMLError, TypeError, KeyError, AttributeError, OverflowError,
            RecursionError) as error:  # fmt: skip
        # PyYAML lets what its constructors raise through.
        raise ValueError(str(error)) from error


def _unfolded(node: Any, seen: dict[int, int], deepest: int) -> int:
    """Count the values under a node, those under an anchor as often as it is named."""
    if id(node) not in seen:
        if not deepest:
            raise ValueError("it is nested too deeply")
        inner = _inner(node)
        count = 1 + sum(_unfolded(n, seen, deepest - 1) for n in inner)
        if count > MAX_VALUES:
            raise ValueError(f"it unfolds to more than {MAX_VALUES} values")
        if node.tag.endswith((":int", ":float")) and len(node.value) > MAX_NUMBER_CHARACTERS:
            raise ValueError(f"a number of {len(node.value)} characters")
        seen[id(node)] = count
    return seen[id(node)]


def _inner(node: Any) -> list[Any]:
    """Return the nodes of a list, or the keys and values of a table.

    Raises:
        ValueError: If a key is there twice.
    """
    import yaml

    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if not isinstance(node, yaml.MappingNode):
        return []
    keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{brief(twice)} is there twice")
    return [inner for pair in node.value for inner in pair]
