"""Manifest: the JSON beside an engine that says what it is, and whether it may be reused."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paragon_export
from paragon_export.artifact import encoded, sha256_of, to_json
from paragon_export.environment import cuda_gpu, environment
from paragon_export.errors import PlanError
from paragon_export.foreign import brief, finite, one_line
from paragon_export.metadata import ModelMetadata
from paragon_export.onnx_file import (
    OnnxFile,
    is_classifier,
    is_onnx,
    metadata_of,
    precision_of,
    read_onnx_file,
    static_size,
)
from paragon_export.plan import Backend, BatchProfile, EnginePlan, Precision, Profile, Size
from paragon_export.polygraphy_bridge import tensorrt
from paragon_export.reading import parse_json, read_bytes

if TYPE_CHECKING:
    from paragon_export.engine import BuiltEngine
    from paragon_export.outcome import Proof, Source
    from paragon_export.reference import Described


DIGEST = "manifest_sha256"

LARGEST_MANIFEST_BYTES = 2**24

LARGEST_ENGINE_BYTES = 2**33


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
        data = read_bytes(path, LARGEST_MANIFEST_BYTES, "manifest", PlanError)
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
    data = read_bytes(path, LARGEST_ENGINE_BYTES, "engine", PlanError)
    return EngineFile(path, data, checked_manifest(path))


def is_manifest(path: Path) -> bool:
    """Tell whether a file is a manifest that this tool wrote, by the digest in it."""
    try:
        manifest = parse_json(read_bytes(path, LARGEST_MANIFEST_BYTES, "manifest", PlanError))
    except (PlanError, ValueError):
        return False
    return isinstance(manifest, dict) and DIGEST in manifest


def digest_of(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of everything that a manifest says, except of this digest itself."""
    said = {name: value for name, value in manifest.items() if name != DIGEST}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def read_source(plan: EnginePlan) -> OnnxFile | Described:
    """Read what an engine is made from, once: an ONNX file, or a checkpoint and its network.

    Raises:
        ParagonExportError: If it cannot be read.
    """
    from paragon_export.reference import describe

    if is_onnx(plan.source):
        return read_onnx_file(plan.source)
    return describe(plan.source, plan.switches)


def identify(plan: EnginePlan, source: OnnxFile | Described) -> dict[str, Any]:
    """Return everything that decides an engine's bytes: it is reused only if all of it matches.

    Raises:
        ParagonExportError: If the profile is impossible or the TensorRT flavour is missing.
    """
    precision, video, static = plan.precision, plan.video, None
    smallest = 1
    rewritten: bool | None = plan.rewrite
    if isinstance(source, OnnxFile):
        model, sha256 = source.model, source.sha256
        facts = metadata_of(model)
        switches = facts.to_document()["switches"]
        checkpoint_sha256, static, smallest = (
            facts.checkpoint_sha256, static_size(model), facts.smallest,
        )  # fmt: skip
        batches = is_classifier(model)
        rewritten = None
        precision = precision if precision.is_half else precision_of(model)
        video = any(value.name == "prev_feat" for value in model.graph.inputs)
    else:
        checkpoint, variant = source
        switches = {name: asdict(setting) for name, setting in variant.switches.items()}
        sha256 = checkpoint_sha256 = checkpoint.sha256
        smallest, batches = variant.smallest, variant.is_classifier
    profile = plan.batches() if batches else plan.profile_for(static, smallest)
    return {
        "source": plan.source.name,
        "source_sha256": sha256,
        "checkpoint_sha256": checkpoint_sha256,
        "switches": switches,
        "precision": precision.value,
        "video": video,
        "rewrite": rewritten,
        "profile": _profile_entry(profile),
        "target": target_name(plan),
        "backend": plan.backend.value,
        "tensorrt": str(tensorrt(plan.backend.value).__version__),
        "paragon_export": paragon_export.__version__,
    }


def _profile_entry(profile: Profile | BatchProfile) -> dict[str, Any]:
    """Batches are whole numbers, sizes are text with a batch beside them."""
    if isinstance(profile, BatchProfile):
        return {"min": profile.smallest, "opt": profile.optimal, "max": profile.largest}
    smallest, optimal, largest = map(str, profile.sizes)
    return {"min": smallest, "opt": optimal, "max": largest, "batch": profile.batch}


def _profile(told: Mapping[str, Any]) -> Profile | BatchProfile:
    """Return the profile that a manifest records, the reverse of ``_profile_entry``.

    Raises:
        ValueError: If it records none that is possible.
    """
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


def target_name(plan: EnginePlan) -> str:
    """Return the compute capabilities of an engine as one word."""
    if plan.targets:
        return ",".join(plan.targets)
    return "sm80 and later" if plan.backend.value == "rtx" else "this GPU"


def why_rebuild(engine: Path, wanted: Mapping[str, Any]) -> str:
    """Say in words why the engine there cannot be used; empty if it can."""
    if not engine.is_file():
        return "no engine was there"
    try:
        there = read_engine(engine)
    except PlanError:
        return "the engine there has no readable manifest"
    if there.manifest is None:
        return "the engine there has no readable manifest"
    if there.mismatch:
        return there.mismatch
    manifest = there.manifest.document
    for name, value in wanted.items():
        if manifest.get(name) != value:
            words = name.replace("_", " ")
            return f"{words} changed from {_brief(manifest.get(name))} to {_brief(value)}"
    onnx = engine.parent / str(manifest.get("onnx"))
    with suppress(OSError, ValueError):  # it cannot be read, or its name is none
        if onnx.is_file() and manifest.get("onnx_sha256") == sha256_of(onnx):
            return ""
    return f"the ONNX file it was compiled from ({onnx.name}) is gone or changed"


def why_judge_again(plan: EnginePlan) -> str:
    """Say in words what verdict the engine there lacks that can be given now; empty if none."""
    parity = (read(plan.output) or {}).get("parity") or {}
    if parity.get("passed") is None and plan.checkpoint is not None:
        return "it was never judged, and now there is a checkpoint to judge it against"
    if parity.get("passed") is False:
        return "its manifest says that the verdict failed"
    if not parity.get("seen_on_gpu") and cuda_gpu() is not None:
        return "it has not run on a GPU yet, and there is one here"
    return ""


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        pairs = (f"{k} {v.get('value') if isinstance(v, dict) else v}" for k, v in value.items())
        return one_line("{" + ", ".join(pairs) + "}")
    return one_line(str(value))


def describe_engine(
    plan: EnginePlan,
    identity: Mapping[str, Any],
    source: Source,
    built: BuiltEngine,
) -> dict[str, Any]:
    """Return the manifest of an engine that has just been built."""
    parity = source.parity
    onnx = plan.compiled_onnx if source.is_ours else plan.source
    return {
        **identity,
        "engine": plan.output.name,
        "engine_bytes": len(built.data),
        "onnx": os.path.relpath(onnx, plan.output.parent),
        "onnx_sha256": source.file.sha256,
        "onnx_metadata": metadata_of(source.file.model).to_document(),
        "planned_device_memory_bytes": built.planned_bytes,
        "planned_activation_bytes": built.activation_bytes,
        "planned_weights_bytes": built.weights_bytes,
        "planned_memory_doubt": built.memory_doubt,
        "tensorrt_warnings": list(built.warnings),
        "parity": {
            "passed": parity.passed if parity else None,
            "judged": "the ONNX file that was compiled",
            "seen_on_gpu": False,
            "worst": parity.to_json()["worst"] if parity else None,
        },
        "environment": environment(),
    }


def sealed(manifest: Mapping[str, Any], engine: bytes) -> dict[str, Any]:
    """Return a manifest with the digests of its engine and of itself."""
    complete = finite({**manifest, "engine_sha256": hashlib.sha256(engine).hexdigest()})
    return {**complete, DIGEST: digest_of(complete)}


def manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """Return a manifest as its file."""
    return encoded(to_json(manifest))


def add_proof(manifest: Mapping[str, Any], proof: Proof) -> dict[str, Any]:
    """Return a manifest with what a GPU has shown of the engine."""
    if proof.parity is None:
        return dict(manifest)
    parity = {
        **manifest["parity"],
        "judged": "the engine on a GPU, and the ONNX file that was compiled",
        "seen_on_gpu": True,
        "passed": proof.parity.passed and manifest["parity"]["passed"] is not False,
        "worst": proof.parity.to_json()["worst"],
    }
    bench = proof.bench.to_json() if proof.bench else None
    return {**manifest, "parity": parity, "gpu_bench": bench}
