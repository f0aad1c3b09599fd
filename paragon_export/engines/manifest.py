"""Manifest: the JSON beside an engine that says what it is, and whether it may be reused."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from paragon_export.errors import PlanError
from paragon_export.graph.metadata import ModelMetadata
from paragon_export.specs.profiles import BatchProfile, Profile
from paragon_export.specs.types import Backend, Precision, Size
from paragon_export.system.atomic_write import encoded, to_json
from paragon_export.system.reading import parse_json, read_bytes
from paragon_export.system.text import brief, finite

DIGEST = "manifest_sha256"


MAX_MANIFEST_BYTES = 2**24


MAX_ENGINE_BYTES = 2**33


def manifest_path(engine: Path) -> Path:
    return engine.with_name(engine.name + ".json")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a manifest says, checked. None stands where it says nothing."""

    document: Mapping[str, Any]
    """All of it."""
    backend: Backend | None = None
    precision: Precision | None = None
    profile: Profile | BatchProfile | None = None
    passed: bool | None = None
    """The verdict."""
    model: ModelMetadata = field(default_factory=ModelMetadata)
    """What the ONNX file that was compiled says of itself."""


def check_manifest(document: Any) -> Manifest:
    """Check a manifest that was read; entries that are not this tool's are left alone.

    Raises:
        ValueError: Naming the first entry that is impossible.
    """
    _require(document, dict, "the manifest")
    for name, kind in _KINDS.items():
        if document.get(name) is not None:
            _require(document[name], kind, name)
    for warning in document.get("tensorrt_warnings") or []:
        _require(warning, str, "a warning")
    parity = document.get("parity") or {}
    return Manifest(
        document=document,
        backend=Backend(document["backend"]) if document.get("backend") else None,
        precision=Precision(document["precision"]) if document.get("precision") else None,
        profile=_profile(document["profile"]) if document.get("profile") else None,
        passed=_verdict(parity),
        model=ModelMetadata.from_document(document.get("onnx_metadata") or {}),
    )


_KINDS: Mapping[str, type] = {
    **dict.fromkeys(
        ("source", "source_sha256", "checkpoint_sha256", "precision", "target", "backend",
         "tensorrt", "paragon_export", "engine", "engine_sha256", "onnx", "onnx_sha256"),
        str,
    ),
    **dict.fromkeys(("switches", "profile", "onnx_metadata", "parity", "environment"), dict),
    **dict.fromkeys(("video", "rewrite"), bool),
    **dict.fromkeys(
        ("engine_bytes", "planned_device_memory_bytes", "planned_activation_bytes",
         "planned_weights_bytes"),
        int,
    ),
    "tensorrt_warnings": list,
}  # fmt: skip
"""Entries of a manifest and what they hold."""


_WORDS = {
    str: "text",
    dict: "a table",
    bool: "true or false",
    int: "a whole number",
    list: "a list",
}


def _require(value: Any, kind: type, name: str) -> None:
    """Refuse a value of another type; true and false are no numbers."""
    is_one = type(value) is kind
    if not is_one:
        raise ValueError(f"{name} is {brief(value)}; it must be {_WORDS[kind]}")


def _verdict(parity: Mapping[str, Any]) -> bool | None:
    """Return whether the verdict was passed; None where there was none."""
    unknown = sorted(set(parity) - {"passed", "judged", "seen_on_gpu", "worst"})
    if unknown:
        raise ValueError(f"parity has unknown entries {brief(unknown)}")
    for name in ("passed", "seen_on_gpu"):
        if parity.get(name) is not None:
            _require(parity[name], bool, f"{name} of parity")
    return parity.get("passed")


def checked_manifest(engine: Path) -> Manifest | None:
    """Return an engine's manifest; None if there is none.

    Raises:
        PlanError: If it cannot be read, or says what cannot be.
    """
    path = manifest_path(engine)
    if not os.path.lexists(path):
        return None
    try:
        data = read_bytes(path, MAX_MANIFEST_BYTES, "manifest", PlanError)
        return check_manifest(parse_json(data))
    except (PlanError, ValueError) as error:
        raise PlanError(
            f"{engine} has no manifest that matches its bytes; build it again with trt "
            f"({path.name}: {error})"
        ) from error


def read(engine: Path) -> dict[str, Any] | None:
    """Return all that an engine's manifest says; None if there is none that can be believed."""
    with suppress(PlanError):
        manifest = checked_manifest(engine)
        return dict(manifest.document) if manifest else None
    return None


@dataclass(frozen=True)
class EngineFile:
    """An engine and its manifest, read once: these bytes are checked and loaded."""

    path: Path
    data: bytes
    manifest: Manifest | None
    """None if there is none."""

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def mismatch(self) -> str:
        """Why the manifest does not hold for these bytes; empty if it does.

        Its digest finds slips and edits, not a forger, who would make a new one.
        """
        if self.manifest is None:
            return "there is none"
        document = self.manifest.document
        if document.get(DIGEST) != digest_of(document):
            return "the manifest there was changed after it was written, or is of an older version"
        if document.get("engine_sha256") != self.sha256:
            return "the engine's bytes are not those of its manifest"
        return ""


def read_engine(path: Path) -> EngineFile:
    """Read an engine and its manifest. Whether they belong together is said by ``mismatch``.

    Raises:
        PlanError: If the engine or its manifest cannot be read.
    """
    data = read_bytes(path, MAX_ENGINE_BYTES, "engine", PlanError)
    return EngineFile(path, data, checked_manifest(path))


def is_manifest(path: Path) -> bool:
    """Tell whether a file is a manifest that this tool wrote, by the digest in it."""
    try:
        manifest = parse_json(read_bytes(path, MAX_MANIFEST_BYTES, "manifest", PlanError))
    except (PlanError, ValueError):
        return False
    return isinstance(manifest, dict) and DIGEST in manifest


def digest_of(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of everything that a manifest says, except of this digest itself."""
    said = {name: value for name, value in manifest.items() if name != DIGEST}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _profile_entry(profile: Profile | BatchProfile) -> dict[str, Any]:
    """Batches are whole numbers, sizes are text with a batch; ``also`` lists further profiles."""
    if isinstance(profile, BatchProfile):
        return {"min": profile.smallest, "opt": profile.optimal, "max": profile.largest}
    smallest, optimal, largest = map(str, profile.sizes)
    entry = {"min": smallest, "opt": optimal, "max": largest, "batch": profile.batch}
    also = [_profile_entry(other) for other in profile.also]
    return {**entry, "also": also} if also else entry


def _profile(told: Mapping[str, Any]) -> Profile | BatchProfile:
    """Return the profile that a manifest records, the reverse of ``_profile_entry``.

    Raises:
        ValueError: If it records none that is possible.
    """
    if "also" in told:
        return _several(told)
    names = ["min", "opt", "max", *(["batch"] if "batch" in told else [])]
    if set(told) != set(names):
        raise ValueError(f"profile has {brief(sorted(told))}; it must have {', '.join(names)}")
    numbers = names[3:] or names
    for name in numbers:
        _require(told[name], int, f"{name} of the profile")
    try:
        if "batch" not in told:
            return BatchProfile(smallest=told["min"], optimal=told["opt"], largest=told["max"])
        smallest, optimal, largest = (Size.parse(str(told[key])) for key in names[:3])
        return Profile(smallest=smallest, optimal=optimal, largest=largest, batch=told["batch"])
    except PlanError as error:
        raise ValueError(f"profile: {error}") from error


def _several(told: Mapping[str, Any]) -> Profile:
    """Return the first of several profiles, with the others in ``also``.

    Raises:
        ValueError: If one of them is impossible, or is a range of batches.
    """
    _require(told["also"], list, "also of the profile")
    for other in told["also"]:
        _require(other, dict, "a profile")
    alone = {name: value for name, value in told.items() if name != "also"}
    first, *others = [_profile(entry) for entry in (alone, *told["also"])]
    sizes = tuple(other for other in others if isinstance(other, Profile))
    if not isinstance(first, Profile) or len(sizes) != len(others):
        raise ValueError("profile: several profiles must be of sizes")
    try:
        return replace(first, also=sizes)
    except PlanError as error:
        raise ValueError(f"profile: {error}") from error


def sealed(manifest: Mapping[str, Any], engine: bytes) -> dict[str, Any]:
    """Return a manifest with the digests of its engine and of itself."""
    complete = finite({**manifest, "engine_sha256": hashlib.sha256(engine).hexdigest()})
    return {**complete, DIGEST: digest_of(complete)}


def manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """Return a manifest as its file."""
    return encoded(to_json(manifest))
