"""Parse YAML option files strictly and within limits of size, depth and time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paragon_export.errors import PlanError
from paragon_export.system.reading import read_bytes
from paragon_export.system.text import brief

MAX_OPTION_FILE_BYTES = 2**17

MAX_VALUES = 20_000
"""Values in an option file after its aliases are expanded."""

MAX_NUMBER_CHARACTERS = 100
"""Length of a number: YAML's sexagesimal numbers are parsed in quadratic time."""

MAX_DEPTH = 50
"""Levels of nested lists and mappings."""


def read_yaml(path: Path) -> Any:
    """Return the document of an option file, of any structure.

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
    """Return the document of a YAML text; None if it is empty.

    Raises:
        ValueError: If it is not YAML, has a duplicate key, is nested more than ``MAX_DEPTH`` levels
            deep, expands to more than ``MAX_VALUES`` values or holds a number of more than
            ``MAX_NUMBER_CHARACTERS`` characters.
    """
    import yaml

    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count_values(node, {}, MAX_DEPTH)
        return loader.construct_document(node)
    except (yaml.YAMLError, TypeError, KeyError, AttributeError, OverflowError,
            RecursionError) as error:  # fmt: skip
        # PyYAML does not wrap the errors of its constructors.
        raise ValueError(str(error)) from error


def _count_values(node: Any, counts: dict[int, int], levels: int) -> int:
    """Return how many values a node expands to. A value counts once for each alias of it.

    Args:
        node: A node of PyYAML's tree.
        counts: The counts of nodes that were visited before, by id; extended here.
        levels: How many levels of nesting are allowed from here on.

    Raises:
        ValueError: If a limit is exceeded or a key is duplicate.
    """
    if id(node) not in counts:
        if not levels:
            raise ValueError("it is nested too deeply")
        children = _children(node)
        count = 1 + sum(_count_values(child, counts, levels - 1) for child in children)
        if count > MAX_VALUES:
            raise ValueError(f"it expands to more than {MAX_VALUES} values")
        if node.tag.endswith((":int", ":float")) and len(node.value) > MAX_NUMBER_CHARACTERS:
            raise ValueError(f"it has a number of {len(node.value)} characters")
        counts[id(node)] = count
    return counts[id(node)]


def _children(node: Any) -> list[Any]:
    """Return the nodes of a list, or the keys and values of a mapping.

    Raises:
        ValueError: If a key is duplicate.
    """
    import yaml

    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if not isinstance(node, yaml.MappingNode):
        return []
    keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
    if len(set(keys)) != len(keys):
        duplicate = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {brief(duplicate)} appears twice")
    return [child for pair in node.value for child in pair]
