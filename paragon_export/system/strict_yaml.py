"""Parse option files, YAML or TOML, strictly and within limits of size, depth and time."""

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


def read_document(path: Path) -> tuple[Any, tuple[str, ...]]:
    """Read an option file: TOML if its name ends in ``.toml``, else YAML.

    Returns:
        The document, of any structure, and a note for each key that YAML has twice in a mapping. The
        last value is used, as by the trainers.

    Raises:
        PlanError: If the file cannot be read, or is not TOML or YAML.
    """
    data = read_bytes(path, MAX_OPTION_FILE_BYTES, "option file", PlanError)
    is_toml = path.suffix.lower() == ".toml"
    duplicates: list[str] = []
    try:
        text = data.decode("utf-8-sig")
        document = _parse_toml(text) if is_toml else parse_yaml(text, duplicates)
    except ValueError as error:
        kind = "TOML" if is_toml else "YAML"
        reason = " ".join(str(error).split())
        raise PlanError(f"option file {path} is not {kind}: {reason}") from error
    return document, tuple(f"option file {path}: {duplicate}" for duplicate in duplicates)


def _parse_toml(text: str) -> Any:
    """Return the document of a TOML text.

    Raises:
        ValueError: If it is not TOML or nested too deeply.
    """
    import tomllib

    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_yaml(text: str, duplicates: list[str] | None = None) -> Any:
    """Return the document of a YAML text; None if it is empty.

    Args:
        text: The text.
        duplicates: Takes a message for each key that appears twice in a mapping; the last value is
            used. None refuses such a text.

    Raises:
        ValueError: If it is not YAML, has a duplicate key, is nested more than ``MAX_DEPTH`` levels
            deep, expands to more than ``MAX_VALUES`` values or holds a number of more than
            ``MAX_NUMBER_CHARACTERS`` characters.
    """
    import yaml

    try:
        loader = _shallow_loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        found: list[str] = []
        _count_values(node, {}, MAX_DEPTH, found)
        if found and duplicates is None:
            raise ValueError(found[0])
        (duplicates if duplicates is not None else []).extend(found)
        return loader.construct_document(node)
    except (yaml.YAMLError, TypeError, KeyError, AttributeError, OverflowError,
            RecursionError) as error:  # fmt: skip
        # PyYAML does not wrap the errors of its constructors.
        raise ValueError(str(error)) from error


def _shallow_loader(text: str) -> Any:
    """Return PyYAML's loader of a text. It refuses a level beyond ``MAX_DEPTH`` before it reads on.

    Without it, PyYAML reads thousands of brackets until Python's stack ends, which takes seconds.
    """
    import yaml

    class ShallowLoader(yaml.SafeLoader):
        levels = MAX_DEPTH

        def compose_node(self, parent: Any, index: Any) -> Any:
            if not self.levels:
                raise ValueError("it is nested too deeply")
            self.levels -= 1
            node = super().compose_node(parent, index)
            self.levels += 1
            return node

    return ShallowLoader(text)


def _count_values(node: Any, counts: dict[int, int], levels: int, duplicates: list[str]) -> int:
    """Return how many values a node expands to. A value counts once for each alias of it.

    Args:
        node: A node of PyYAML's tree.
        counts: The counts of nodes that were visited before, by id; extended here.
        levels: How many levels of nesting are allowed from here on.
        duplicates: Takes a message for each key that appears twice in a mapping.

    Raises:
        ValueError: If a limit is exceeded.
    """
    if id(node) not in counts:
        if not levels:
            raise ValueError("it is nested too deeply")
        children = _children(node, duplicates)
        count = 1 + sum(_count_values(child, counts, levels - 1, duplicates) for child in children)
        if count > MAX_VALUES:
            raise ValueError(f"it expands to more than {MAX_VALUES} values")
        if node.tag.endswith((":int", ":float")) and len(node.value) > MAX_NUMBER_CHARACTERS:
            raise ValueError(f"it has a number of {len(node.value)} characters")
        counts[id(node)] = count
    return counts[id(node)]


def _children(node: Any, duplicates: list[str]) -> list[Any]:
    """Return the nodes of a list, or the keys and values of a mapping."""
    import yaml

    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if not isinstance(node, yaml.MappingNode):
        return []
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        line = key.start_mark.line + 1
        if key.value in lines:
            duplicates.append(
                f"key {brief(key.value)} appears twice, on lines {lines[key.value]} and {line}"
            )
        lines[key.value] = line
    return [child for pair in node.value for child in pair]
