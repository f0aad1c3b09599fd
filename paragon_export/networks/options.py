"""Settle the switches that tensors cannot tell: flag, option file, metadata, default.

In that order, and every value remembers where it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from paragon_export.errors import PlanError
from paragon_export.specs.network import MAX_SCALE, ResolvedOption
from paragon_export.specs.plans import NetworkOptions
from paragon_export.system.reading import parse_json
from paragon_export.system.strict_yaml import parse_yaml, read_yaml
from paragon_export.system.text import brief

RARER = (
    "generation", "use_norm", "dynamic_inference", "obey_tracked_flag",
    "activation", "normalize_embeddings", "stem_stride", "bn_eps",
)  # fmt: skip
"""NetworkOptions that are given as ``--set NAME=VALUE``."""


FLAGS = ("attention_mode", "export_safe", "upsampler_alpha", "window_size", "scale", *RARER)
"""NetworkOptions that can be given on the command line."""


MAX_WINDOW_PX = 32
"""Scores within a window grow with the fourth power of its side: 64 pixels take 9 GB."""


MAX_ALPHA = 1000.0
"""Networks were trained with 0 to 1; far beyond, every picture is infinite."""


EPSILONS = (1e-12, 1.0)
"""Least and largest: float32 holds them beside any variance."""


def parse_option(text: str) -> tuple[str, Any]:
    """Read ``NAME=VALUE``; the value is read as YAML reads it.

    Raises:
        PlanError: If it is anything else, or no switch has that name.
    """
    name, equals, value = text.partition("=")
    if not equals or name not in FLAGS:
        raise PlanError(f"--set {text}: expected NAME=VALUE with one of {', '.join(FLAGS)}")
    try:
        return name, parse_yaml(value)
    except ValueError as error:
        raise PlanError(f"--set {text}: {value!r} is no value") from error


class Resolver:
    """Looks a switch up in every source, the strongest first."""

    def __init__(
        self,
        options: NetworkOptions,
        metadata: Mapping[str, str],
        tables: Sequence[str] = ("network_g",),
    ) -> None:
        """Read the sources; ``tables`` are those of an option file, of which the first counts."""
        self.options = read_option_file(options.config, tables) if options.config else {}
        self._sources: list[tuple[Any, Mapping[str, Any]]] = [
            ("flag", options.flags),
            ("config", self.options),
            ("metadata", _from_metadata(metadata)),
        ]

    def given(self, name: str) -> Any:
        """Return what the strongest source says of a switch, as it stands there; None if none."""
        return next((values[name] for _, values in self._sources if name in values), None)

    def settle(self, name: str, default: Any, check: Callable[[Any], Any]) -> ResolvedOption:
        """Return the value of switch ``name`` and its source.

        ``check`` returns the value as the network wants it, or raises ValueError or TypeError.

        Raises:
            PlanError: If the strongest source that names the switch gives an impossible value.
        """
        for source, values in self._sources:
            if name in values:
                try:
                    return ResolvedOption(check(values[name]), source)
                except (ValueError, TypeError) as error:
                    raise PlanError(
                        f"{name} = {brief(values[name])} (from the {source}) is impossible: {error}"
                    ) from error
        return ResolvedOption(default, "default")


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


def _from_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Read the header of a checkpoint: plain entries, and ``network_g`` as JSON if it is there."""
    values: dict[str, Any] = {}
    for name, text in metadata.items():
        try:
            value = parse_json(text)
        except (TypeError, ValueError):
            value = text
        if name == "network_g" and isinstance(value, dict):
            values = {**value, **values}
        else:
            values[name] = value
    return values


def blend_factor(value: Any) -> float:
    """Check a blend factor: a number from 0 to ``MAX_ALPHA``."""
    if isinstance(value, str):
        raise TypeError("it is text, not a number; YAML wants a point in 1e-1, as in 1.0e-1")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError("it must be a number")
    if not 0 <= value <= MAX_ALPHA:
        raise ValueError(f"it must be 0 to {MAX_ALPHA:g}")
    return float(value)


def epsilon(value: Any) -> float:
    """Check what is added to a variance, written as a number or as text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError("it must be a number")
    found, (low, high) = float(value) if isinstance(value, str) else value, EPSILONS
    if not low <= found <= high:
        raise ValueError(f"it must be positive, {low:g} to {high:g}")
    return float(found)


def activation(value: Any) -> str:
    """Check the activation: ``gelu`` or ``relu``, in any case."""
    if not isinstance(value, str) or value.lower() not in ("gelu", "relu"):
        raise ValueError("it must be gelu or relu")
    return value.lower()


def whole_number(value: Any) -> int:
    """Check an extent in pixels: 1 to 256."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("it must be a whole number")
    if not 1 <= value <= 256:
        raise ValueError("it must be 1 to 256")
    return value


def window_side(value: Any) -> int:
    """Check the side of attention windows in pixels: 1 to ``MAX_WINDOW_PX``."""
    found = whole_number(value)
    if found > MAX_WINDOW_PX:
        raise ValueError(f"it must be 1 to {MAX_WINDOW_PX}")
    return found


def factor(value: Any) -> int:
    """Check a scale: a whole number from 1 to ``MAX_SCALE``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("it must be a whole number")
    if not 1 <= value <= MAX_SCALE:
        raise ValueError(f"it must be 1 to {MAX_SCALE}")
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


ATTENTION_MODES = ("sdpa", "flex", "none", "windows", "local", "global", "hierarchical")
"""Of all networks together."""


def recorded_attention_mode(value: Any) -> str:
    """Check an attention mode that a file records, of whatever network."""
    if value not in ATTENTION_MODES:
        raise ValueError(f"it must be one of {', '.join(ATTENTION_MODES)}")
    return str(value)


CHECKS: Mapping[str, Callable[[Any], Any]] = {
    "attention_mode": recorded_attention_mode,
    "export_safe": yes_or_no,
    "upsampler_alpha": blend_factor,
    "window_size": window_side,
    "scale": factor,
    "use_norm": yes_or_no,
    "dynamic_inference": yes_or_no,
    "obey_tracked_flag": yes_or_no,
    "activation": activation,
    "normalize_embeddings": yes_or_no,
    "stem_stride": whole_number,
    "bn_eps": epsilon,
}
"""How the value of a switch is checked, whoever gives it."""
