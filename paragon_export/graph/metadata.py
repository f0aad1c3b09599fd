"""Metadata: the entries of an ONNX file that describe the network in it.

One class holds the schema, the writer and the reader. A file may come from anywhere, so every entry
is checked when it is read. The bounds are those of the supported networks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, get_args

from paragon_export.networks.options import CHECKS, MAX_WINDOW_PX, yes_or_no
from paragon_export.specs.network import MAX_IMAGE_CHANNELS, MAX_SCALE, ResolvedOption, Source
from paragon_export.specs.types import Precision, Quantization, Runtime
from paragon_export.system.reading import parse_json
from paragon_export.system.text import brief

FLOAT32_MARK = "paragon.precision"
OWN_PRECISION = "own"
"""Value of the mark for a node that computes in float32 by itself, whatever type it is given."""
"""Metadata key of an ONNX node that is computed in float32 in artifacts of every precision."""

TOOL = "paragon-export"
"""Prefix of the entry ``tool`` in files written by this tool."""

MAX_MINIMUM_PX = 64
"""Largest value of ``smallest`` in pixels: a MUNet halves its input at most six times."""

MAX_ROWS = 2**28
"""Rows of a table or classes of a classifier. More do not fit into the largest weights."""

MAX_TEXT_CHARACTERS = 2**16
"""Length of one text."""

MAX_ENTRY_CHARACTERS = 2**24
"""Length of one entry that holds JSON."""

MAX_ENTRIES = 50_000
"""Entries of a table or a list: at most one for each node."""

MAX_NUMBER = 2.0**1000
"""Largest magnitude of a number."""

Check = Callable[[Any], Any]
"""Returns a checked value, or raises ValueError or TypeError that says what the value must be."""


def _integer(low: int, high: int) -> Check:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"it must be a whole number from {low} to {high}")
        return value

    return check


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT_CHARACTERS:
        raise ValueError(f"it must be text of at most {MAX_TEXT_CHARACTERS} characters")
    return value


def _one_of(words: Iterable[str]) -> Check:
    allowed = tuple(words)

    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"it must be one of {', '.join(allowed)}")
        return str(value)

    return check


def _sha256(value: Any) -> str:
    if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise ValueError("it must be 64 hexadecimal digits")
    return value


def _range(value: Any) -> list[float]:
    if not isinstance(value, list) or len(value) != 2 or not all(map(_is_number, value)):
        raise ValueError("it must be a list of two numbers")
    return value


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and abs(value) <= MAX_NUMBER


def _scalar(value: Any) -> Any:
    if isinstance(value, str):
        return _text(value)
    if value is not None and not isinstance(value, bool) and not _is_number(value):
        raise ValueError("it must be a text, a number, true, false or null")
    return value


def _table(check: Callable[[str, Any], Any]) -> Check:
    """Return a check for a table: ``check`` takes the name and the value of each entry."""

    def checked(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > MAX_ENTRIES:
            raise ValueError(f"it must be a table of at most {MAX_ENTRIES} entries")
        return {_text(name): check(name, inner) for name, inner in value.items()}

    return checked


def _resolved_option(name: str, value: Any) -> ResolvedOption:
    """Check an option: its value, by the rule of its flag, and its source."""
    if not isinstance(value, dict) or set(value) != {"value", "source"}:
        raise ValueError(f"{brief(name)} must have a value and a source")
    if value["source"] not in get_args(Source):
        raise ValueError(f"the source of {brief(name)} must be one of {get_args(Source)}")
    try:
        return ResolvedOption(CHECKS.get(name, _scalar)(value["value"]), value["source"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {brief(value['value'])}, and {error}") from error


def _islands(value: Any) -> tuple[dict[str, Any], ...]:
    if not isinstance(value, list) or len(value) > MAX_ENTRIES:
        raise ValueError(f"it must be a list of at most {MAX_ENTRIES} nodes")
    return tuple(_table(lambda _, inner: _scalar(inner))(island) for island in value)


COUNT = _integer(0, MAX_ENTRIES)
"""Check of a number of nodes, tensors or rewrites."""

TEXTS: Mapping[str, Check] = {
    "family": _text,
    "generation": _text,
    "variant": _text,
    "precision": _one_of((*Precision, *Quantization)),
    "io": _one_of(Precision),
    "runtime": _one_of(Runtime),
    "colour_order": _text,
    "layout": _text,
    "checkpoint": _text,
    "checkpoint_sha256": _sha256,
    "tool": _text,
    "torch": _text,
    "content_sha256": _text,
}
"""Entries that are plain text, with the check of each."""

VALUES: Mapping[str, Check] = {
    "scale": _integer(1, MAX_SCALE),
    "in_channels": _integer(1, MAX_IMAGE_CHANNELS),
    "out_channels": _integer(1, MAX_ROWS),
    "window": _integer(1, MAX_WINDOW_PX),
    "smallest": _integer(1, MAX_MINIMUM_PX),
    "is_picture": yes_or_no,
    "switches": _table(_resolved_option),
    "video": yes_or_no,
    "rewrites": _table(lambda _, count: COUNT(count)),
    "value_range": _range,
    "classes": _integer(1, MAX_ROWS),
    "vocabulary": _integer(1, MAX_ROWS),
    "dropped_tensors": COUNT,
    "made_with": _table(lambda _, version: _text(version)),
    "islands": _islands,
}
"""Entries that are JSON, with the check of each."""

_CHECKS = {**TEXTS, **VALUES}

ACTED_ON = ("window", "smallest", "is_picture", "switches", "checkpoint", "checkpoint_sha256")
"""Entries that are read from files of other tools as well."""


@dataclass(frozen=True, kw_only=True)
class ModelMetadata:
    """The metadata of an ONNX file, in the order in which it is written.

    The fields are named like the entries. A field is None, or has its default, if the file lacks the
    entry.
    """

    family: str | None = None
    generation: str | None = None
    variant: str | None = None
    scale: int | None = None
    in_channels: int | None = None
    out_channels: int | None = None
    window: int = 1
    """Side of the attention windows in pixels; 1 for none."""
    smallest: int = 1
    """Least height and width in pixels at which the network is defined."""
    is_picture: bool = True
    switches: Mapping[str, ResolvedOption] = field(default_factory=dict)
    precision: str | None = None
    io: str | None = None
    video: bool = False
    rewrites: Mapping[str, int] = field(default_factory=dict)
    """Name of a rewrite to how often it fired."""
    runtime: str | None = None
    value_range: list[float] | None = None
    """Smallest and largest value of the input."""
    colour_order: str | None = None
    layout: str | None = None
    classes: int | None = None
    vocabulary: int | None = None
    checkpoint: str | None = None
    """Name of the checkpoint file that the model was exported from."""
    checkpoint_sha256: str | None = None
    dropped_tensors: int = 0
    tool: str | None = None
    torch: str | None = None
    made_with: Mapping[str, str] = field(default_factory=dict)
    """Packages that the export used, and their versions."""
    islands: tuple[Mapping[str, Any], ...] = ()
    """Nodes that the range audit keeps in float32."""
    content_sha256: str | None = None

    @classmethod
    def from_props(cls, props: Mapping[str, str]) -> ModelMetadata:
        """Read the entries of an ONNX file. Unknown entries are ignored.

        Raises:
            ValueError: Naming the first invalid entry, and what it must be.
        """
        names = _CHECKS if props.get("tool", "").startswith(TOOL) else ACTED_ON
        return cls.from_document(
            {n: props[n] if n in TEXTS else _decoded(n, props[n]) for n in names if n in props}
        )

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> ModelMetadata:
        """Read the entries from JSON values, as :meth:`to_document` returns them.

        Raises:
            ValueError: As :meth:`from_props`.
        """
        return cls(**{n: _checked(n, document[n], _CHECKS[n]) for n in _CHECKS if n in document})

    def to_document(self) -> dict[str, Any]:
        """Return the entries as JSON values; those that are None are left out."""
        entries = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        entries["switches"] = {name: asdict(s) for name, s in self.switches.items()}
        entries["islands"] = [dict(island) for island in self.islands] or None
        return {name: value for name, value in entries.items() if value is not None}

    def to_props(self) -> dict[str, str]:
        """Return the entries as the texts that an ONNX file holds, in order."""
        document = self.to_document()
        return {n: v if n in TEXTS else json.dumps(v) for n, v in document.items()}


def _decoded(name: str, text: str) -> Any:
    if len(text) > MAX_ENTRY_CHARACTERS:
        raise ValueError(
            f"{name} has {len(text)} characters; at most {MAX_ENTRY_CHARACTERS} are read"
        )
    try:
        return parse_json(text)
    except ValueError as error:
        raise ValueError(f"{name} is {brief(text)}, which is not JSON: {error}") from error


def _checked(name: str, value: Any, check: Check) -> Any:
    try:
        return check(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} is {brief(value)}: {error}") from error
