"""Settle the switches that tensors cannot tell: flag, option file, metadata, default.

In that order, and every value remembers where it came from.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from paragon_export.errors import PlanError
from paragon_export.plan import Switches
from paragon_export.variant import Setting

RARER = (
    "generation", "use_norm", "dynamic_inference", "obey_tracked_flag",
    "activation", "normalize_embeddings", "stem_stride", "bn_eps",
)  # fmt: skip
"""Switches that are given as ``--set NAME=VALUE``."""

FLAGS = ("attention_mode", "export_safe", "upsampler_alpha", "window_size", "scale", *RARER)
"""Switches that can be given on the command line."""

LARGEST_OPTION_FILE_BYTES = 2**20


_short = reprlib.Repr()
_short.maxlevel, _short.maxlist, _short.maxdict, _short.maxstring = 2, 3, 3, 60


def brief(value: Any) -> str:
    """Return a value for an error message; nested anchors unfold to gigabytes otherwise."""
    return _short.repr(value)


def parse_switch(text: str) -> tuple[str, Any]:
    """Read ``NAME=VALUE``; the value is read as YAML reads it.

    Raises:
        PlanError: If it is anything else, or no switch has that name.
    """
    import yaml

    name, equals, value = text.partition("=")
    if not equals or name not in RARER:
        raise PlanError(f"--set {text}: expected NAME=VALUE with one of {', '.join(RARER)}")
    try:
        return name, yaml.safe_load(value)
    except (yaml.YAMLError, ValueError) as error:
        raise PlanError(f"--set {text}: {value!r} is no value") from error


class Resolver:
    """Looks a switch up in every source, the strongest first."""

    def __init__(
        self,
        switches: Switches,
        metadata: Mapping[str, str],
        tables: Sequence[str] = ("network_g",),
    ) -> None:
        """Read the sources; ``tables`` are those of an option file, of which the first counts."""
        self.options = read_option_file(switches.config, tables) if switches.config else {}
        self._sources: list[tuple[Any, Mapping[str, Any]]] = [
            ("flag", switches.flags),
            ("config", self.options),
            ("metadata", _from_metadata(metadata)),
        ]

    def given(self, name: str) -> Any:
        """Return what the strongest source says of a switch, as it stands there; None if none."""
        return next((values[name] for _, values in self._sources if name in values), None)

    def settle(self, name: str, default: Any, check: Callable[[Any], Any]) -> Setting:
        """Return the value of switch ``name`` and its source.

        ``check`` returns the value as the network wants it, or raises ValueError or TypeError.

        Raises:
            PlanError: If the strongest source that names the switch gives an impossible value.
        """
        for source, values in self._sources:
            if name in values:
                try:
                    return Setting(check(values[name]), source)
                except (ValueError, TypeError) as error:
                    raise PlanError(
                        f"{name} = {brief(values[name])} (from the {source}) is impossible: {error}"
                    ) from error
        return Setting(default, "default")


def read_option_file(path: Path, tables: Sequence[str] = ("network_g",)) -> dict[str, Any]:
    """Return the network of a traiNNer option file, with the file's ``scale`` if it has one.

    It is the first of ``tables`` that is there: ``network_g`` is the generator.

    Raises:
        PlanError: If the file cannot be read, is not YAML, or has no such table.
    """
    document = read_yaml(path)
    document = document if isinstance(document, dict) else {}
    network = next((document[name] for name in tables if name in document), None)
    if not isinstance(network, dict):
        raise PlanError(f"option file {path} has no {tables[0]} table; give a traiNNer option file")
    options = {str(key): value for key, value in network.items()}
    if "scale" in document:
        options.setdefault("scale", document["scale"])
    return options


def read_yaml(path: Path) -> Any:
    """Return what an option file holds, whatever it is.

    Raises:
        PlanError: If the file cannot be read or is not YAML.
    """
    import yaml

    if path.is_fifo():
        raise PlanError(f"option file {path} is a pipe, not a file")
    try:
        if path.stat().st_size > LARGEST_OPTION_FILE_BYTES:
            raise PlanError(f"option file {path} is over {LARGEST_OPTION_FILE_BYTES} bytes")
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlanError(f"cannot read option file {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, OverflowError,
            RecursionError) as error:  # fmt: skip
        # PyYAML lets what its constructors raise through.
        raise PlanError(
            f"option file {path} is not YAML: {' '.join(str(error).split())}"
        ) from error


def _from_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Read the header of a checkpoint: plain entries, and ``network_g`` as JSON if it is there."""
    values: dict[str, Any] = {}
    for name, text in metadata.items():
        try:
            value = json.loads(text)
        except (TypeError, ValueError, RecursionError):
            value = text
        if name == "network_g" and isinstance(value, dict):
            values = {**value, **values}
        else:
            values[name] = value
    return values


def finite_number(value: Any) -> float:
    """Check a factor: a finite number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError("it must be a number")
    if not math.isfinite(value) or value < 0:
        raise ValueError("it must be finite and not negative")
    return float(value)


def whole_number(value: Any) -> int:
    """Check an extent in pixels: 1 to 256."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("it must be a whole number")
    if not 1 <= value <= 256:
        raise ValueError("it must be 1 to 256")
    return value


def factor(value: Any) -> int:
    """Check a scale: a whole number from 1 to 16."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("it must be a whole number")
    if not 1 <= value <= 16:
        raise ValueError("it must be 1 to 16")
    return value


def yes_or_no(value: Any) -> bool:
    """Check a switch that is on or off."""
    if not isinstance(value, bool):
        raise TypeError("it must be true or false")
    return value


def attention_mode(value: Any) -> str:
    """Check the attention mode; a null in an option file means no attention."""
    if value is None:
        return "none"
    if value not in ("sdpa", "flex", "none"):
        raise ValueError("it must be sdpa, flex or none")
    return str(value)
