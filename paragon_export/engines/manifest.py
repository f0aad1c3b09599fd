"""Manifest: the JSON file next to an engine that records what the engine is.

It is written as ``<engine>.json``. One class holds the entries, the reader and the writer. A file may
come from anywhere, so every entry is checked when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from paragon_export.engines.kernels.estimate import Estimate, estimates_entry, estimates_of
from paragon_export.engines.profile_entry import profile_entry, profile_of
from paragon_export.errors import PlanError
from paragon_export.graph.metadata import ModelMetadata
from paragon_export.specs.profiles import BatchProfile, Profile
from paragon_export.specs.types import Backend, Precision
from paragon_export.system.atomic_write import encoded, to_json
from paragon_export.system.reading import SHARD_SUFFIXES, parse_json, read_bytes
from paragon_export.system.text import brief, finite

DIGEST = "manifest_sha256"
"""Entry with the digest of all other entries."""


MAX_MANIFEST_BYTES = 2**24


MAX_ENGINE_BYTES = 2**33


def manifest_path(engine: Path) -> Path:
    """Return the path of the manifest of an engine."""
    return engine.with_name(engine.name + ".json")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The entry ``parity``: whether the engine computes the same as the reference."""

    passed: bool | None = None
    """None if there was no reference."""
    judged: str | None = None
    """Which files the verdict is on, in words."""
    seen_on_gpu: bool | None = None
    """Whether the engine itself has run."""
    worst: Mapping[str, Any] | None = None
    """The row of the parity report with the largest error, relative to its limit."""

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Verdict:
        """Read the entry from JSON values.

        Raises:
            ValueError: Naming the first invalid value.
        """
        unknown = sorted(set(document) - {entry.name for entry in fields(cls)})
        if unknown:
            raise ValueError(f"parity has unknown entries {brief(unknown)}")
        kinds = {"passed": bool, "judged": str, "seen_on_gpu": bool, "worst": dict}
        for name, kind in kinds.items():
            if document.get(name) is not None:
                _require(document[name], kind, f"{name} of parity")
        return cls(**document)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything that is recorded of an engine, in the order in which it is written.

    The fields are named like the entries. A field is None, or has its default, if a file lacks the
    entry.
    """

    source: str | None = None
    """Name of the checkpoint or ONNX file that the engine was requested from."""
    source_sha256: str | None = None
    checkpoint_sha256: str | None = None
    """None for an ONNX file that does not name its checkpoint."""
    switches: Mapping[str, Any] = field(default_factory=dict)
    """Options of the network: name to ``{"value": ..., "source": ...}``."""
    precision: Precision | None = None
    video: bool | None = None
    rewrite: bool | None = None
    """Whether rewrites were applied; None for an engine of an ONNX file."""
    profile: Profile | BatchProfile | None = None
    target: str | None = None
    """Compute capabilities, in words."""
    backend: Backend | None = None
    tensorrt: str | None = None
    """Version of TensorRT."""
    paragon_export: str | None = None
    """Version of this tool."""
    engine: str | None = None
    """File name of the engine."""
    engine_bytes: int | None = None
    onnx: str | None = None
    """Path of the compiled ONNX file, relative to the folder of the engine."""
    onnx_sha256: str | None = None
    onnx_metadata: ModelMetadata = field(default_factory=ModelMetadata)
    """Metadata of the compiled ONNX file."""
    planned_device_memory_bytes: int | None = None
    """Sum of the next two; None if either is unknown."""
    planned_activation_bytes: int | None = None
    planned_weights_bytes: int | None = None
    planned_memory_doubt: str = ""
    """Why the planned memory is unknown although TensorRT reported a figure."""
    tensorrt_warnings: tuple[str, ...] = ()
    kernels: tuple[Estimate, ...] = ()
    """Estimated times at the optimal size, for each card; empty if none were made."""
    parity: Verdict = field(default_factory=Verdict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    """Versions, processor and GPU of the build."""
    engine_sha256: str | None = None
    manifest_sha256: str | None = None
    gpu_bench: Mapping[str, Any] | None = None
    """Times on the GPU; written only if the engine has run."""

    is_intact: bool = False
    """Not an entry: whether ``manifest_sha256`` is the digest of all other entries, known or not."""

    @classmethod
    def from_document(cls, document: Any) -> Manifest:
        """Read a manifest from JSON values. Unknown entries are ignored.

        Raises:
            ValueError: Naming the first invalid entry.
        """
        _require(document, dict, "the manifest")
        for name, kind in _KINDS.items():
            if document.get(name) is not None:
                _require(document[name], kind, name)
        for warning in document.get("tensorrt_warnings") or []:
            _require(warning, str, "a warning")
        entries = {name: document[name] for name in _KINDS if document.get(name) is not None}
        parsed = {name: parse(entries[name]) for name, parse in _PARSERS.items() if name in entries}
        is_intact = document.get(DIGEST) is not None and document[DIGEST] == digest_of(document)
        return cls(**{**entries, **parsed}, is_intact=is_intact)

    def to_document(self) -> dict[str, Any]:
        """Return the entries as JSON values, in order; null in place of NaN and infinity.

        Digests are left out before the manifest is sealed, and ``gpu_bench`` unless the engine ran.
        """
        document = {name: getattr(self, name) for name in _KINDS}
        document["precision"] = self.precision.value if self.precision else None
        document["backend"] = self.backend.value if self.backend else None
        document["profile"] = profile_entry(self.profile) if self.profile else None
        document["onnx_metadata"] = self.onnx_metadata.to_document()
        document["tensorrt_warnings"] = list(self.tensorrt_warnings)
        document["kernels"] = estimates_entry(self.kernels)
        document["parity"] = asdict(self.parity)
        for name in ("engine_sha256", DIGEST):
            if document[name] is None:
                del document[name]
        if not self.parity.seen_on_gpu:
            del document["gpu_bench"]
        return finite(document)

    def seal(self, engine: bytes) -> Manifest:
        """Return a copy with the digests of the bytes of its engine and of itself."""
        document = sealed(self.to_document(), engine)
        digests = {name: document[name] for name in ("engine_sha256", DIGEST)}
        return replace(self, **digests, is_intact=True)

    def to_bytes(self) -> bytes:
        """Return the content of the manifest file."""
        return manifest_bytes(self.to_document())


_KINDS: Mapping[str, type] = {
    **dict.fromkeys(("source", "source_sha256", "checkpoint_sha256"), str),
    "switches": dict,
    "precision": str,
    "video": bool,
    "rewrite": bool,
    "profile": dict,
    **dict.fromkeys(("target", "backend", "tensorrt", "paragon_export", "engine"), str),
    "engine_bytes": int,
    **dict.fromkeys(("onnx", "onnx_sha256"), str),
    "onnx_metadata": dict,
    "planned_device_memory_bytes": int,
    "planned_activation_bytes": int,
    "planned_weights_bytes": int,
    "planned_memory_doubt": str,
    "tensorrt_warnings": list,
    "kernels": dict,
    "parity": dict,
    "environment": dict,
    **dict.fromkeys(("engine_sha256", DIGEST), str),
    "gpu_bench": dict,
}
"""Entries of a manifest, in order, and the types of their JSON values."""


_TYPE_NAMES = {
    str: "text",
    dict: "a table",
    bool: "true or false",
    int: "a whole number",
    list: "a list",
}


def _require(value: Any, kind: type, name: str) -> None:
    """Refuse a value of another type. True and false are no numbers."""
    if type(value) is not kind:
        raise ValueError(f"{name} is {brief(value)}; it must be {_TYPE_NAMES[kind]}")


_PARSERS: Mapping[str, Any] = {
    "precision": lambda text: Precision(text) if text else None,
    "backend": lambda text: Backend(text) if text else None,
    "profile": profile_of,
    "onnx_metadata": ModelMetadata.from_document,
    "tensorrt_warnings": tuple,
    "kernels": estimates_of,
    "parity": Verdict.from_document,
}
"""Entries whose field is no JSON value, and how it is parsed."""


def digest_of(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 of all entries of a manifest except this digest itself."""
    entries = {name: value for name, value in document.items() if name != DIGEST}
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def sealed(document: Mapping[str, Any], engine: bytes) -> dict[str, Any]:
    """Return the entries of a manifest with the digests of its engine and of themselves."""
    complete = finite({**document, "engine_sha256": hashlib.sha256(engine).hexdigest()})
    return {**complete, DIGEST: digest_of(complete)}


def manifest_bytes(document: Mapping[str, Any]) -> bytes:
    """Return the content of a manifest file."""
    return encoded(to_json(document))


def read_manifest(engine: Path) -> Manifest | None:
    """Return the manifest of an engine; None if there is none.

    Raises:
        PlanError: If it cannot be read, or an entry is invalid.
    """
    path = manifest_path(engine)
    if not os.path.lexists(path):
        return None
    try:
        data = read_bytes(path, MAX_MANIFEST_BYTES, "manifest", PlanError)
        return Manifest.from_document(parse_json(data))
    except (PlanError, ValueError) as error:
        raise PlanError(
            f"{engine} has no manifest that matches its bytes; build it again with trt "
            f"({path.name}: {error})"
        ) from error


def read(engine: Path) -> dict[str, Any] | None:
    """Return the entries of an engine's manifest; None if there is no valid manifest."""
    with suppress(PlanError):
        manifest = read_manifest(engine)
        return manifest.to_document() if manifest else None
    return None


@dataclass(frozen=True)
class EngineFile:
    """An engine and its manifest, read once. The same bytes are checked and loaded."""

    path: Path
    data: bytes
    manifest: Manifest | None
    """None if there is none."""

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the engine."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def metadata(self) -> ModelMetadata:
        """Metadata of the compiled ONNX file."""
        return self.manifest.onnx_metadata if self.manifest else ModelMetadata()

    @property
    def mismatch(self) -> str:
        """Why the manifest does not describe these bytes; empty if it does.

        The digest detects accidents and edits. It is no protection against forgery, because anyone
        can compute it.
        """
        if self.manifest is None:
            return "there is none"
        if not self.manifest.is_intact:
            return "the manifest there was changed after it was written, or is of an older version"
        if self.manifest.engine_sha256 != self.sha256:
            return "the engine's bytes are not those of its manifest"
        return ""


def read_engine(path: Path) -> EngineFile:
    """Read an engine and its manifest. ``mismatch`` says whether they belong together.

    Raises:
        PlanError: If the engine or its manifest cannot be read, or it is named as a checkpoint.
    """
    if path.suffix.lower() in SHARD_SUFFIXES:
        raise PlanError(f"{path} is a checkpoint; export it with onnx, and give the ONNX file")
    data = read_bytes(path, MAX_ENGINE_BYTES, "engine", PlanError)
    return EngineFile(path, data, read_manifest(path))


def is_manifest(path: Path) -> bool:
    """Return whether a file is a manifest of this tool: it holds a digest entry."""
    try:
        document = parse_json(read_bytes(path, MAX_MANIFEST_BYTES, "manifest", PlanError))
    except (PlanError, ValueError):
        return False
    return isinstance(document, dict) and DIGEST in document
