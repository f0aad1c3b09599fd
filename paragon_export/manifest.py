"""Manifest: the JSON beside an engine that says what it is, and whether it may be reused."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paragon_export
from paragon_export.artifact import settle, sha256_of, to_json
from paragon_export.environment import cuda_gpu, environment
from paragon_export.errors import PlanError
from paragon_export.foreign import one_line
from paragon_export.onnx_file import (
    is_classifier,
    is_onnx,
    metadata_of,
    precision_of,
    read_onnx,
    smallest_of,
    static_size,
)
from paragon_export.plan import BatchProfile, EnginePlan, Profile, Size
from paragon_export.polygraphy_bridge import tensorrt
from paragon_export.reading import parse_json, read_bytes

if TYPE_CHECKING:
    import onnx_ir as ir

    from paragon_export.engine import BuiltEngine
    from paragon_export.outcome import Proof, Source


DIGEST = "manifest_sha256"

LARGEST_MANIFEST_BYTES = 2**24


def manifest_path(engine: Path) -> Path:
    return engine.with_name(engine.name + ".json")


def read(engine: Path) -> dict[str, Any] | None:
    """Return an engine's manifest; None if there is none that can be read.

    Where a run was killed while it put engine and manifest in their places, that is finished first.
    """
    with suppress(PlanError):  # then bytes and manifest disagree, and are not used
        settle(engine.parent)
    try:
        data = read_bytes(manifest_path(engine), LARGEST_MANIFEST_BYTES, "manifest", PlanError)
        manifest = parse_json(data)
    except (PlanError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) else None


def why_not_believed(engine: Path, manifest: Mapping[str, Any]) -> str:
    """Say in words why an engine's manifest cannot be taken at its word; empty if it can.

    Its digest tells slips and edits, not a forger, who would make a new one.
    """
    if manifest.get(DIGEST) != digest_of(manifest):
        return "the manifest there was changed after it was written, or is of an older version"
    if manifest.get("engine_sha256") != sha256_of(engine):
        return "the engine's bytes are not those of its manifest"
    return ""


def digest_of(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of everything that a manifest says, except of this digest itself."""
    said = {name: value for name, value in manifest.items() if name != DIGEST}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def identify(plan: EnginePlan) -> dict[str, Any]:
    """Return everything that decides an engine's bytes: it is reused only if all of it matches.

    Raises:
        ParagonExportError: If the source cannot be read or the TensorRT flavour is missing.
    """
    from paragon_export.reference import describe

    precision, video, static = plan.precision, plan.video, None
    smallest = 1
    rewritten: bool | None = plan.rewrite
    if is_onnx(plan.source):
        model = read_onnx(plan.source)
        facts = metadata_of(model)
        switches, checkpoint = facts.get("switches"), facts.get("checkpoint_sha256")
        static, smallest = static_size(model), smallest_of(model)
        batches = is_classifier(model)
        rewritten = None
        precision = precision if precision.is_half else precision_of(model)
        video = any(value.name == "prev_feat" for value in model.graph.inputs)
    else:
        loaded, variant = describe(plan.source, plan.switches)
        switches = {name: asdict(setting) for name, setting in variant.switches.items()}
        checkpoint, smallest = loaded.sha256, variant.smallest
        batches = variant.is_classifier
    profile = plan.batches() if batches else plan.profile_for(static, smallest)
    return {
        "source": plan.source.name,
        "source_sha256": _sha256(plan.source),
        "checkpoint_sha256": checkpoint,
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


def profile_of(manifest: Mapping[str, Any]) -> Profile | BatchProfile:
    """Return the profile that a manifest records.

    Raises:
        PlanError: If it records none that is possible.
    """
    try:
        return _profile_told(manifest["profile"])
    except (KeyError, TypeError) as error:
        raise PlanError(
            f"the manifest holds no profile: {error!r}; build the engine again"
        ) from error


def _profile_told(told: Mapping[str, Any]) -> Profile | BatchProfile:
    if "batch" not in told:
        return BatchProfile(smallest=told["min"], optimal=told["opt"], largest=told["max"])
    sizes = (Size.parse(told[key]) for key in ("min", "opt", "max"))
    smallest, optimal, largest = sizes
    return Profile(smallest=smallest, optimal=optimal, largest=largest, batch=told["batch"])


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise PlanError(f"cannot read {path}: {error.strerror or error}") from error


def target_name(plan: EnginePlan) -> str:
    """Return the compute capabilities of an engine as one word."""
    if plan.targets:
        return ",".join(plan.targets)
    return "sm80 and later" if plan.backend.value == "rtx" else "this GPU"


def why_rebuild(engine: Path, wanted: Mapping[str, Any]) -> str:
    """Say in words why the engine there cannot be used; empty if it can."""
    manifest = read(engine)
    if not engine.is_file():
        return "no engine was there"
    if manifest is None:
        return "the engine there has no readable manifest"
    if reason := why_not_believed(engine, manifest):
        return reason
    for name, value in wanted.items():
        if manifest.get(name) != value:
            words = name.replace("_", " ")
            return f"{words} changed from {_brief(manifest.get(name))} to {_brief(value)}"
    onnx = engine.parent / str(manifest.get("onnx"))
    if not onnx.is_file() or manifest.get("onnx_sha256") != sha256_of(onnx):
        return f"the ONNX file it was compiled from ({onnx.name}) is gone or changed"
    return ""


def why_judge_again(plan: EnginePlan) -> str:
    """Say in words what verdict the engine there lacks that can be given now; empty if none."""
    parity = (read(plan.output) or {}).get("parity")
    parity = parity if isinstance(parity, dict) else {}
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
    model: ir.Model,
    built: BuiltEngine,
) -> dict[str, Any]:
    """Return the manifest of an engine that has just been built."""
    parity = source.parity
    onnx = plan.compiled_onnx if source.is_ours else source.path
    return {
        **identity,
        "engine": plan.output.name,
        "engine_bytes": len(built.data),
        "onnx": os.path.relpath(onnx, plan.output.parent),
        "onnx_sha256": sha256_of(source.path),
        "onnx_metadata": metadata_of(model),
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


def write_engine(engine: Path, data: bytes, manifest: dict[str, Any]) -> None:
    """Write an engine and its manifest side by side, where both are staged.

    Raises:
        OSError: If either cannot be written.
    """
    engine.write_bytes(data)
    manifest["engine_sha256"] = sha256_of(engine)
    write_manifest(engine, manifest)


def write_manifest(engine: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest again that has learnt something."""
    manifest[DIGEST] = digest_of(manifest)
    manifest_path(engine).write_text(to_json(manifest), encoding="utf-8")


def add_proof(manifest: dict[str, Any], proof: Proof) -> None:
    """Record in the manifest what a GPU has shown of the engine."""
    if proof.parity is None:
        return
    parity = manifest["parity"]
    parity["judged"] = "the engine on a GPU, and the ONNX file that was compiled"
    parity["seen_on_gpu"] = True
    parity["passed"] = proof.parity.passed and parity["passed"] is not False
    parity["worst"] = proof.parity.to_json()["worst"]
    manifest["gpu_bench"] = proof.bench.to_json() if proof.bench else None
