"""Turn a trained super-resolution checkpoint into verified ONNX models and TensorRT engines.

The functions here are the public API. A name is imported when it is first used, so that
``import paragon_export`` loads neither PyTorch nor ONNX Runtime.

Example:
    >>> import paragon_export as pe
    >>> from paragon_export.assets import CHECKPOINT
    >>> network = pe.load_network(CHECKPOINT)
    >>> result = pe.export_onnx(network, "model.onnx", static="16x16")
    >>> result.passed, round(result.parity.worst.found.psnr_db) > 100
    (True, True)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paragon_export.bench.measure import benchmark
    from paragon_export.bench.report import BenchReport, BenchRow
    from paragon_export.errors import (
        CheckpointError,
        EngineBuildError,
        MissingDependencyError,
        OutOfMemoryError,
        ParagonExportError,
        PlanError,
        RunError,
        StageError,
        TraceError,
        UnsupportedNetworkError,
    )
    from paragon_export.networks.describe import LoadedNetwork, load_network
    from paragon_export.parity.check import check_parity
    from paragon_export.parity.report import ParityReport, ParityRow
    from paragon_export.pipeline.audit_ranges import audit_ranges
    from paragon_export.pipeline.build import build_engine
    from paragon_export.pipeline.export import export_onnx
    from paragon_export.pipeline.kernel_plan import KernelPlan, plan_kernels
    from paragon_export.pipeline.quantize import quantize
    from paragon_export.pipeline.results import BuildResult, ExportResult, QuantizeResult
    from paragon_export.precision.range_report import RangeAudit
    from paragon_export.pruning.distill import distill
    from paragon_export.pruning.prune import prune
    from paragon_export.pruning.report import SmallerResult
    from paragon_export.pruning.train import Training
    from paragon_export.reports.page import report_page
    from paragon_export.runtimes.open import open_runner
    from paragon_export.specs.network import NetworkSpec, Task
    from paragon_export.specs.profiles import BatchProfile, Profile
    from paragon_export.specs.types import Size
    from paragon_export.upscaling.flow import upscale
    from paragon_export.upscaling.results import UpscaleResult

__version__ = "0.1.0"

__all__ = [
    "BatchProfile", "BenchReport", "BenchRow", "BuildResult", "CheckpointError",
    "EngineBuildError", "ExportResult", "KernelPlan", "LoadedNetwork", "MissingDependencyError",
    "NetworkSpec",
    "OutOfMemoryError", "ParagonExportError", "ParityReport", "ParityRow", "PlanError", "Profile",
    "QuantizeResult", "RangeAudit", "RunError", "Size", "SmallerResult", "StageError", "Task", "TraceError", "Training",
    "UnsupportedNetworkError", "UpscaleResult", "__version__", "audit_ranges", "benchmark", "build_engine",
    "check_parity", "distill", "export_onnx", "load_network", "open_runner", "plan_kernels", "prune", "quantize",
    "report_page", "upscale",
]  # fmt: skip

_MODULES = {
    "bench.measure": ("benchmark",),
    "bench.report": ("BenchReport", "BenchRow"),
    "errors": (
        "CheckpointError", "EngineBuildError", "MissingDependencyError", "OutOfMemoryError",
        "ParagonExportError", "PlanError", "RunError", "StageError", "TraceError",
        "UnsupportedNetworkError",
    ),
    "networks.describe": ("LoadedNetwork", "load_network"),
    "parity.check": ("check_parity",),
    "parity.report": ("ParityReport", "ParityRow"),
    "pipeline.audit_ranges": ("audit_ranges",),
    "pipeline.build": ("build_engine",),
    "pipeline.export": ("export_onnx",),
    "pipeline.kernel_plan": ("KernelPlan", "plan_kernels"),
    "pipeline.quantize": ("quantize",),
    "pipeline.results": ("BuildResult", "ExportResult", "QuantizeResult"),
    "precision.range_report": ("RangeAudit",),
    "pruning.distill": ("distill",),
    "pruning.prune": ("prune",),
    "pruning.report": ("SmallerResult",),
    "pruning.train": ("Training",),
    "reports.page": ("report_page",),
    "runtimes.open": ("open_runner",),
    "specs.network": ("NetworkSpec", "Task"),
    "specs.profiles": ("BatchProfile", "Profile"),
    "specs.types": ("Size",),
    "upscaling.flow": ("upscale",),
    "upscaling.results": ("UpscaleResult",),
}  # fmt: skip
"""Module of each public name."""

_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
