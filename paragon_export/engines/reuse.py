"""Decide whether an existing engine can be reused."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import paragon_export
from paragon_export.engines.manifest import (
    EngineFile,
    Manifest,
    Verdict,
    read_engine,
)
from paragon_export.engines.profile_entry import profile_entry
from paragon_export.errors import PlanError, RunError
from paragon_export.graph.onnx_io import OnnxFile, is_onnx, read_onnx_file
from paragon_export.networks.describe import LoadedNetwork, read_network
from paragon_export.runtimes.polygraphy import tensorrt
from paragon_export.specs.plans import EnginePlan, compiled_onnx
from paragon_export.specs.ports import FixedExtents
from paragon_export.system.atomic_write import sha256_of
from paragon_export.system.environment import cuda_gpu
from paragon_export.system.text import one_line

Source = OnnxFile | LoadedNetwork
"""What an engine is made from, read once."""


def read_source(plan: EnginePlan) -> Source:
    """Read what an engine is compiled from, once: an ONNX file, or a checkpoint and its network.

    Raises:
        ParagonExportError: If it cannot be read.
    """
    if is_onnx(plan.source):
        return read_onnx_file(plan.source)
    return read_network(plan.source, plan.options)


def identify(plan: EnginePlan, source: Source) -> dict[str, Any]:
    """Return the entries of a manifest that decide an engine's bytes. It is reused only if all match.

    Raises:
        ParagonExportError: If the profile is invalid, or TensorRT is not installed.
    """
    precision, video, fixed = plan.precision, plan.video, FixedExtents()
    rewritten: bool | None = plan.rewrite
    if isinstance(source, OnnxFile):
        sha256, metadata, task = source.sha256, source.metadata, source.task
        options = metadata.to_document()["switches"]
        checkpoint_sha256, smallest = metadata.checkpoint_sha256, metadata.smallest
        fixed, video, rewritten = source.fixed, source.video, None
        precision = precision if precision.is_half else source.precision
    else:
        spec, task = source.spec, source.spec.task
        options = {name: asdict(option) for name, option in spec.options.items()}
        sha256 = checkpoint_sha256 = source.checkpoint.sha256
        smallest = spec.smallest
    profile = plan.batches() if task.is_classifier else plan.profile_for(fixed, smallest)
    return {
        "source": plan.source.name,
        "source_sha256": sha256,
        "checkpoint_sha256": checkpoint_sha256,
        "switches": options,
        "precision": precision.value,
        "video": video,
        "rewrite": rewritten,
        "profile": profile_entry(profile),
        "target": target_name(plan),
        "backend": plan.backend.value,
        "tensorrt": str(tensorrt(plan.backend.value).__version__),
        "paragon_export": paragon_export.__version__,
    }


def target_name(plan: EnginePlan) -> str:
    """Return the compute capabilities of an engine as text."""
    if plan.targets:
        return ",".join(plan.targets)
    return "sm80 and later" if plan.backend.value == "rtx" else "this GPU"


@dataclass(frozen=True)
class ExistingEngine:
    """What lies where an engine is to be written, read once."""

    path: Path
    engine: EngineFile | None
    """None if there is no engine, or it or its manifest cannot be read."""
    onnx: OnnxFile | None
    """The ONNX file that was compiled, where this tool keeps one next to the engine."""

    @property
    def manifest(self) -> Manifest | None:
        """The manifest; None if there is none, or it cannot be read."""
        return self.engine.manifest if self.engine else None


def read_existing(output: Path) -> ExistingEngine:
    """Read the engine, its manifest and its ONNX file that lie where an engine is to be written."""
    engine = onnx = None
    compiled = compiled_onnx(output)
    with suppress(PlanError, OSError):  # OSError: the name is too long
        engine = read_engine(output) if output.is_file() else None
    with suppress(PlanError, RunError, OSError):
        onnx = read_onnx_file(compiled) if compiled.is_file() else None
    return ExistingEngine(output, engine, onnx)


def why_rebuild(
    existing: ExistingEngine, identity: Mapping[str, Any], source: Source | None = None
) -> str:
    """Return why an existing engine cannot be used; empty if it can.

    ``source`` is what the engine would be made from, if it was read.
    """
    if not existing.path.is_file():
        return "no engine was there"
    if existing.engine is None or existing.engine.manifest is None:
        return "the engine there has no readable manifest"
    if existing.engine.mismatch:
        return existing.engine.mismatch
    manifest = existing.engine.manifest
    document = manifest.to_document()
    for name, value in identity.items():
        if document.get(name) != value:
            words = name.replace("_", " ")
            return f"{words} changed from {_brief(document.get(name))} to {_brief(value)}"
    name = str(manifest.onnx)
    digest = _onnx_digest(existing, name, source)
    if digest is not None and digest == manifest.onnx_sha256:
        return ""
    return f"the ONNX file it was compiled from ({Path(name).name}) is gone or changed"


def _onnx_digest(existing: ExistingEngine, name: str, source: Source | None) -> str | None:
    """Return the SHA-256 of the ONNX file that a manifest names; None if there is none."""
    read = [existing.onnx, source if isinstance(source, OnnxFile) else None]
    with suppress(OSError, ValueError):  # the name is invalid
        path = (existing.path.parent / name).resolve()
        known = [file.sha256 for file in read if file and file.path.resolve() == path]
        return known[0] if known else sha256_of(path) if path.is_file() else None
    return None


def why_judge_again(existing: ExistingEngine, plan: EnginePlan) -> str:
    """Return which verdict an existing engine lacks that can be given now; empty if none."""
    parity = existing.manifest.parity if existing.manifest else Verdict()
    if parity.passed is None and plan.checkpoint is not None:
        return "it was never judged, and now there is a checkpoint to judge it against"
    if parity.passed is False:
        return "its manifest says that the verdict failed"
    if not parity.seen_on_gpu and cuda_gpu() is not None:
        return "it has not run on a GPU yet, and there is one here"
    return ""


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        pairs = (f"{k} {v.get('value') if isinstance(v, dict) else v}" for k, v in value.items())
        return one_line("{" + ", ".join(pairs) + "}")
    return one_line(str(value))
