"""Metadata: what an ONNX file says of itself. One schema, one writer and one reader.

Anybody may have written it, so every entry is checked before it is believed. Bounds are those of
the networks that are served.
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
"""Metadata key of an ONNX node that is computed in float32 whatever the artifact's precision."""

TOOL = "paragon-export"
"""How the entry ``tool`` of this tool's own files begins."""

MAX_MINIMUM_PX = 64
"""Pixels: a MUNet halves its input six times at most."""

MAX_ROWS = 2**28
"""Of a table or a classifier: more do not fit into the weights that are read."""

MAX_TEXT_CHARACTERS = 2**16
"""Characters."""

MAX_ENTRY_CHARACTERS = 2**24
"""Characters of an entry that holds JSON."""

MAX_ENTRIES = 50_000
"""In a table or a list: one for each node at most."""

MAX_NUMBER = 2.0**1000

Check = Callable[[Any], Any]
"""Returns a value as it is kept, or raises ValueError or TypeError saying what it must be."""


def _whole(low: int, high: int) -> Check:
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
    is_one = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_one and abs(value) <= MAX_NUMBER


def _scalar(value: Any) -> Any:
    if isinstance(value, str):
        return _text(value)
    if value is not None and not isinstance(value, bool) and not _is_number(value):
        raise ValueError("it must be a text, a number, true, false or null")
    return value


def _table(check: Callable[[str, Any], Any]) -> Check:
    """Check a table of names of which each has a value that suits it."""

    def checked(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > MAX_ENTRIES:
            raise ValueError(f"it must be a table of at most {MAX_ENTRIES} entries")
        return {_text(name): check(name, inner) for name, inner in value.items()}

    return checked


def _setting(name: str, value: Any) -> ResolvedOption:
    """Check a switch: its value as that of a flag, and who gave it."""
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


COUNT = _whole(0, MAX_ENTRIES)

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
"""Entries that are plain text, and how each is checked."""

VALUES: Mapping[str, Check] = {
    "scale": _whole(1, MAX_SCALE),
    "in_channels": _whole(1, MAX_IMAGE_CHANNELS),
    "out_channels": _whole(1, MAX_ROWS),
    "window": _whole(1, MAX_WINDOW_PX),
    "smallest": _whole(1, MAX_MINIMUM_PX),
    "is_picture": yes_or_no,
    "switches": _table(_setting),
    "video": yes_or_no,
    "rewrites": _table(lambda _, count: COUNT(count)),
    "value_range": _range,
    "classes": _whole(1, MAX_ROWS),
    "vocabulary": _whole(1, MAX_ROWS),
    "dropped_tensors": COUNT,
    "made_with": _table(lambda _, version: _text(version)),
    "islands": _islands,
}
"""Entries that are JSON, and how each is checked."""

_KNOWN = {**TEXTS, **VALUES}

ACTED_ON = ("window", "smallest", "is_picture", "switches", "checkpoint", "checkpoint_sha256")
"""Entries that count in files of other tools as well."""


@dataclass(frozen=True, kw_only=True)
class ModelMetadata:
    """Everything that an ONNX file of this tool says of itself, in the order in which it is written.

    The fields are named like the entries. None, or the default, stands where a file says nothing.
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
    """Name of a rewrite and how often it fired."""
    runtime: str | None = None
    value_range: list[float] | None = None
    """Smallest and largest value of an input."""
    colour_order: str | None = None
    layout: str | None = None
    classes: int | None = None
    vocabulary: int | None = None
    checkpoint: str | None = None
    """Name of the file that the model was made from."""
    checkpoint_sha256: str | None = None
    dropped_tensors: int = 0
    tool: str | None = None
    torch: str | None = None
    made_with: Mapping[str, str] = field(default_factory=dict)
    """Packages and their versions."""
    islands: tuple[Mapping[str, Any], ...] = ()
    """Nodes that the audit had computed in float32."""
    content_sha256: str | None = None

    @classmethod
    def from_props(cls, props: Mapping[str, str]) -> ModelMetadata:
        """Read the entries of an ONNX file. Those that are not this tool's are ignored.

        Raises:
            ValueError: Naming the first entry that is impossible, and what it must be.
        """
        names = _KNOWN if props.get("tool", "").startswith(TOOL) else ACTED_ON
        return cls.from_document(
            {n: props[n] if n in TEXTS else _decoded(n, props[n]) for n in names if n in props}
        )

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> ModelMetadata:
        """Read the same entries from JSON, as :meth:`to_document` returns them.

        Raises:
            ValueError: As :meth:`from_props`.
        """
        return cls(**{n: _checked(n, document[n], _KNOWN[n]) for n in _KNOWN if n in document})

    def to_document(self) -> dict[str, Any]:
        """Return the entries as JSON values, without those of which nothing is said."""
        found = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        found["switches"] = {name: asdict(s) for name, s in self.switches.items()}
        found["islands"] = [dict(island) for island in self.islands] or None
        return {name: value for name, value in found.items() if value is not None}

    def to_props(self) -> dict[str, str]:
        """Return the entries as an ONNX file holds them, in order."""
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
        raise ValueError(f"{name} is {brief(text)}, which is no JSON: {error}") from error


def _checked(name: str, value: Any, check: Check) -> Any:
    try:
        return check(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} is {brief(value)}: {error}") from error
