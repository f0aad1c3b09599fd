"""Resolve options that the tensors do not determine.

The sources are, by precedence: flag, option file, metadata of the checkpoint, default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from paragon_export.errors import PlanError
from paragon_export.specs.network import MAX_SCALE, ResolvedOption
from paragon_export.specs.plans import NetworkOptions
from paragon_export.system.reading import parse_json
from paragon_export.system.strict_yaml import parse_yaml, read_document
from paragon_export.system.text import brief

SET_OPTIONS = (
    "generation", "use_norm", "dynamic_inference", "obey_tracked_flag",
    "activation", "normalize_embeddings", "stem_stride", "bn_eps",
)  # fmt: skip
"""Options that are given as ``--set NAME=VALUE``."""

FLAGS = ("attention_mode", "export_safe", "upsampler_alpha", "window_size", "scale", *SET_OPTIONS)
"""Options that can be given on the command line."""

MAX_WINDOW_PX = 32
"""Side of an attention window. The number of scores grows with the fourth power of the side:
with 64 pixels they take 9 GB."""

MAX_ALPHA = 1000.0
"""Networks are trained with 0 to 1. Far larger values make every output infinite."""

TABLES = ("network_g", "metadata")
"""Entries of a checkpoint's metadata that hold options: traiNNer-redux writes ``metadata``."""

CLOSE = 0.85
"""Similarity of a misspelt key to an option, from 0 to 1 (see ``difflib``)."""

MIN_EPSILON, MAX_EPSILON = 1e-12, 1.0
"""Bounds of what is added to a variance: float32 can represent the sum."""


def parse_option(text: str) -> tuple[str, Any]:
    """Return name and value of ``NAME=VALUE``. The value is parsed as YAML.

    Raises:
        PlanError: If the text has another form, or no option has that name.
    """
    name, equals, value = text.partition("=")
    if not equals or name not in FLAGS:
        raise PlanError(f"--set {text}: expected NAME=VALUE with one of {', '.join(FLAGS)}")
    try:
        return name, parse_yaml(value)
    except ValueError as error:
        raise PlanError(
            f"--set {text}: {value!r} is not a YAML value; give a number, true, false or a word"
        ) from error


class Resolver:
    """Looks up the value of an option in all sources."""

    def __init__(
        self,
        options: NetworkOptions,
        metadata: Mapping[str, str],
        tables: Sequence[str] = ("network_g",),
    ) -> None:
        """Read the sources.

        Args:
            options: Flags and the option file of the user.
            metadata: That of the checkpoint.
            tables: As for :func:`read_option_file`.

        Raises:
            PlanError: If the option file cannot be read.
        """
        self.options = read_option_file(options.config, tables) if options.config else {}
        self.recorded = _from_metadata(metadata)
        self._sources: list[tuple[Any, Mapping[str, Any]]] = [
            ("flag", options.flags),
            ("config", self.options),
            ("metadata", self.recorded),
        ]

    def unchecked(self, name: str) -> Any:
        """Return the value of an option as written in the source; None if no source has it."""
        return next((values[name] for _, values in self._sources if name in values), None)

    def resolve(self, name: str, default: Any, check: Callable[[Any], Any]) -> ResolvedOption:
        """Return the value of an option and its source.

        Args:
            name: Name of the option.
            default: The value if no source has the option.
            check: Returns a valid value in the form that the network uses. It raises ValueError or
                TypeError for an invalid one.

        Raises:
            PlanError: If the first source that has the option gives an invalid value.
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
    """Return the network's table of an option file, and ``scale`` if the file has it.

    Args:
        path: The option file: YAML of traiNNer-redux or TOML of neosr.
        tables: Names of tables; the first one that exists is returned. ``network_g`` describes the
            generator, ``network_d`` the discriminator.

    Raises:
        PlanError: If the file cannot be read, is not YAML or TOML, or has no such table.
    """
    document, _ = read_document(path)
    document = document if isinstance(document, dict) else {}
    network = next((document[name] for name in tables if name in document), None)
    if not isinstance(network, dict):
        raise PlanError(
            f"option file {path} has no {tables[0]} table; give an option file of the trainer"
        )
    options = {str(key): value for key, value in network.items()}
    if "scale" in document:
        options.setdefault("scale", document["scale"])
    return options


def notes_on_option_file(path: Path) -> tuple[str, ...]:
    """Return a note for each key that is twice in an option file or that looks misspelt.

    Raises:
        PlanError: As :func:`read_option_file`.
    """
    document, notes = read_document(path)
    if not isinstance(document, dict):
        return notes
    tables = [document[name] for name in ("network_g", "network_d") if name in document]
    keys = {str(key) for table in tables if isinstance(table, dict) for key in table}
    misspelt = [
        f"option file {path}: {brief(key)} has no effect; did you mean {meant[0]}?"
        for key in sorted(keys - set(FLAGS))
        if (meant := get_close_matches(key, FLAGS, n=1, cutoff=CLOSE))
    ]
    return (*notes, *misspelt)


def _from_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the options in the metadata of a checkpoint: its entries, and those of ``TABLES``.

    Values are parsed as JSON if possible. An entry takes precedence over one of a table.
    """
    values: dict[str, Any] = {}
    for name, text in metadata.items():
        try:
            value = parse_json(text)
        except (TypeError, ValueError):
            value = text
        if name in TABLES and isinstance(value, dict):
            values = {**value, **values}
        else:
            values[name] = value
    return values


def blend_factor(value: Any) -> float:
    """Return a blend factor, a number from 0 to ``MAX_ALPHA``, as a float."""
    if isinstance(value, str):
        raise TypeError(
            "it is text, not a number; write it without quotes, and with a point, as in 1.0e-1"
        )
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError("it must be a number")
    if not 0 <= value <= MAX_ALPHA:
        raise ValueError(f"it must be 0 to {MAX_ALPHA:g}")
    return float(value)


def epsilon(value: Any) -> float:
    """Return the epsilon of a normalization, written as a number or as text, as a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError("it must be a number")
    number = float(value) if isinstance(value, str) else value
    if not MIN_EPSILON <= number <= MAX_EPSILON:
        raise ValueError(f"it must be positive, {MIN_EPSILON:g} to {MAX_EPSILON:g}")
    return float(number)


def activation(value: Any) -> str:
    """Return the name of an activation, ``gelu`` or ``relu``, in lower case."""
    if not isinstance(value, str) or value.lower() not in ("gelu", "relu"):
        raise ValueError("it must be gelu or relu")
    return value.lower()


def whole_number(value: Any) -> int:
    """Return an integer from 1 to 256."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("it must be a whole number")
    if not 1 <= value <= 256:
        raise ValueError("it must be 1 to 256")
    return value


def window_side(value: Any) -> int:
    """Return the side of an attention window in pixels, from 1 to ``MAX_WINDOW_PX``."""
    side = whole_number(value)
    if side > MAX_WINDOW_PX:
        raise ValueError(f"it must be 1 to {MAX_WINDOW_PX}")
    return side


def scale_factor(value: Any) -> int:
    """Return an upscaling factor, an integer from 1 to ``MAX_SCALE``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("it must be a whole number")
    if not 1 <= value <= MAX_SCALE:
        raise ValueError(f"it must be 1 to {MAX_SCALE}")
    return value


def yes_or_no(value: Any) -> bool:
    """Return a boolean."""
    if not isinstance(value, bool):
        raise TypeError("it must be true or false")
    return value


def attention_mode(value: Any) -> str:
    """Return an attention mode: ``sdpa``, ``flex`` or ``none``. None means ``none``."""
    if value is None:
        return "none"
    if value not in ("sdpa", "flex", "none"):
        raise ValueError("it must be sdpa, flex or none")
    return str(value)


ATTENTION_MODES = ("sdpa", "flex", "none", "windows", "local", "global", "hierarchical")
"""Attention modes of all networks."""


def recorded_attention_mode(value: Any) -> str:
    """Return the attention mode of an exported file, of any network."""
    if value not in ATTENTION_MODES:
        raise ValueError(f"it must be one of {', '.join(ATTENTION_MODES)}")
    return str(value)


CHECKS: Mapping[str, Callable[[Any], Any]] = {
    "attention_mode": recorded_attention_mode,
    "export_safe": yes_or_no,
    "upsampler_alpha": blend_factor,
    "window_size": window_side,
    "scale": scale_factor,
    "use_norm": yes_or_no,
    "dynamic_inference": yes_or_no,
    "obey_tracked_flag": yes_or_no,
    "activation": activation,
    "normalize_embeddings": yes_or_no,
    "stem_stride": whole_number,
    "bn_eps": epsilon,
}
"""The check of each option: it returns a valid value, or raises ValueError or TypeError."""
