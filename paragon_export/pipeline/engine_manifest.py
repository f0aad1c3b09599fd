"""Content of an engine's manifest: what was built, from what, and with which verdict."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from paragon_export.engines.manifest import Manifest, Verdict
from paragon_export.specs.plans import EnginePlan
from paragon_export.system.environment import environment

if TYPE_CHECKING:
    from paragon_export.engines.build import BuiltEngine
    from paragon_export.engines.kernels.estimate import Estimate
    from paragon_export.pipeline.results import ModelToCompile, Proof


def describe_engine(
    plan: EnginePlan,
    identity: Mapping[str, Any],
    source: ModelToCompile,
    built: BuiltEngine,
    kernels: tuple[Estimate, ...] = (),
) -> Manifest:
    """Return the manifest of a new engine, not sealed, with the verdict on its ONNX file.

    Args:
        plan: What was to be built.
        identity: The part of the manifest that decides about reuse.
        source: The ONNX file that was compiled.
        built: The engine.
        kernels: Estimates of its time.
    """
    parity = source.parity
    onnx = plan.compiled_onnx if source.is_ours else plan.source
    return replace(
        Manifest.from_document(identity),
        engine=plan.output.name,
        engine_bytes=len(built.data),
        onnx=os.path.relpath(onnx, plan.output.parent),
        onnx_sha256=source.file.sha256,
        onnx_metadata=source.file.metadata,
        planned_device_memory_bytes=built.planned_bytes,
        planned_activation_bytes=built.activation_bytes,
        planned_weights_bytes=built.weights_bytes,
        planned_memory_doubt=built.memory_doubt,
        tensorrt_warnings=built.warnings,
        kernels=kernels,
        parity=Verdict(
            passed=parity.passed if parity else None,
            judged="the ONNX file that was compiled",
            seen_on_gpu=False,
            worst=parity.to_json()["worst"] if parity else None,
        ),
        environment=environment(),
    )


def add_proof(manifest: Manifest, proof: Proof) -> Manifest:
    """Return the manifest with the verdict and the latencies of the engine on a GPU, if it ran."""
    if proof.parity is None:
        return manifest
    parity = Verdict(
        passed=proof.parity.passed and manifest.parity.passed is not False,
        judged="the engine on a GPU, and the ONNX file that was compiled",
        seen_on_gpu=True,
        worst=proof.parity.to_json()["worst"],
    )
    return replace(
        manifest, parity=parity, gpu_bench=proof.bench.to_json() if proof.bench else None
    )
