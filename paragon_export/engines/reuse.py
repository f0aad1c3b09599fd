"""Reuse: decide whether an existing engine can be reused."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paragon_export
from paragon_export.engines.manifest import Verdict, profile_entry, read_engine, read_manifest
from paragon_export.errors import PlanError
from paragon_export.graph.inspection import is_classifier, metadata_of, precision_of, static_size
from paragon_export.graph.onnx_io import OnnxFile, is_onnx, read_onnx_file
from paragon_export.runtimes.polygraphy import tensorrt
from paragon_export.specs.plans import EnginePlan
from paragon_export.system.atomic_write import sha256_of
from paragon_export.system.environment import cuda_gpu
from paragon_export.system.text import one_line

if TYPE_CHECKING:
    from paragon_export.networks.describe import Described


def read_source(plan: EnginePlan) -> OnnxFile | Described:
    """Read what an engine is compiled from, once: an ONNX file, or a checkpoint and its network.

    Raises:
        ParagonExportError: If it cannot be read.
    """
    from paragon_export.networks.describe import describe

    if is_onnx(plan.source):
        return read_onnx_file(plan.source)
    return describe(plan.source, plan.options)


def identify(plan: EnginePlan, source: OnnxFile | Described) -> dict[str, Any]:
    """Return the entries of a manifest that decide an engine's bytes. It is reused only if all match.

    Raises:
        ParagonExportError: If the profile is invalid, or TensorRT is not installed.
    """
    precision, video, static = plan.precision, plan.video, None
    smallest = 1
    rewritten: bool | None = plan.rewrite
    if isinstance(source, OnnxFile):
        model, sha256 = source.model, source.sha256
        facts = metadata_of(model)
        options = facts.to_document()["switches"]
        checkpoint_sha256, static, smallest = (
            facts.checkpoint_sha256, static_size(model), facts.smallest,
        )  # fmt: skip
        batches = is_classifier(model)
        rewritten = None
        precision = precision if precision.is_half else precision_of(model)
        video = any(value.name == "prev_feat" for value in model.graph.inputs)
    else:
        checkpoint, spec = source
        options = {name: asdict(setting) for name, setting in spec.options.items()}
        sha256 = checkpoint_sha256 = checkpoint.sha256
        smallest, batches = spec.smallest, spec.is_classifier
    profile = plan.batches() if batches else plan.profile_for(static, smallest)
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


def why_rebuild(engine: Path, wanted: Mapping[str, Any]) -> str:
    """Return why an existing engine cannot be reused; empty if it can.

    ``wanted`` is the identity of the engine that would be built.
    """
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
    document = there.manifest.to_document()
    for name, value in wanted.items():
        if document.get(name) != value:
            words = name.replace("_", " ")
            return f"{words} changed from {_brief(document.get(name))} to {_brief(value)}"
    onnx = engine.parent / str(there.manifest.onnx)
    with suppress(OSError, ValueError):  # it cannot be read, or its name is invalid
        if onnx.is_file() and there.manifest.onnx_sha256 == sha256_of(onnx):
            return ""
    return f"the ONNX file it was compiled from ({onnx.name}) is gone or changed"


def why_judge_again(plan: EnginePlan) -> str:
    """Return which verdict an existing engine lacks that can be reached now; empty if none."""
    parity = Verdict()
    with suppress(PlanError):
        manifest = read_manifest(plan.output)
        parity = manifest.parity if manifest else parity
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
