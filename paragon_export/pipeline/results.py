"""Results of the flows, as data: exports, quantizations and engine builds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paragon_export.bench.report import BenchReport
from paragon_export.engines.manifest import EngineFile, Manifest
from paragon_export.graph.onnx_io import OnnxFile
from paragon_export.parity.metrics import Difference
from paragon_export.parity.reference import TorchReference
from paragon_export.parity.report import ParityReport
from paragon_export.precision.range_report import RangeAudit
from paragon_export.specs.network import NetworkSpec
from paragon_export.specs.profiles import BatchProfile, Profile
from paragon_export.specs.types import Tracer


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """Result of an export. The file is written only if ``passed``."""

    file: OnnxFile
    reference: TorchReference
    fired: Mapping[str, int]
    """How often each rewrite was applied, by its name."""
    parity: ParityReport
    drop_cost: Difference | None = None
    """Change of the output caused by dropped trained tensors; None if none were dropped."""
    ranges: RangeAudit | None = None
    """Range audit of a half-precision model; None in float32."""
    tracer: Tracer = Tracer.SYMBOLIC
    """How the graph was made."""
    remarks: tuple[str, ...] = ()
    """Where the export differs from what was asked."""

    @property
    def spec(self) -> NetworkSpec:
        return self.reference.spec

    @property
    def output(self) -> Path:
        return self.file.path

    @property
    def passed(self) -> bool:
        """Whether the file may be written."""
        return self.parity.passed and (self.ranges is None or self.ranges.passed)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user, in addition to the verdict."""
        ranges = self.ranges.notes if self.ranges else ()
        notes = (*self.spec.notes, *self.remarks, *ranges)
        if self.drop_cost is None:
            return notes
        cost = (
            f"without the dropped tensors the image changes by up to {self.drop_cost.max_abs:.3g}; "
            f"PSNR to the full network {self.drop_cost.psnr_db:.2f} dB"
        )
        return (*notes, cost)


@dataclass(frozen=True, kw_only=True)
class QuantizeResult(ExportResult):
    """Result of a quantization. The file is written only if ``passed``."""

    figures: Mapping[str, Any]
    """The measured loss: agreement as a share, or PSNR in dB; and file sizes in bytes."""


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """Result of an engine build. The engine is written unless a verdict failed."""

    engine: Path
    manifest: Manifest | None
    """None if no engine was built, because the verdict on the ONNX file failed."""
    cached: bool
    """Whether an existing engine was reused."""
    reason: str
    """Why the engine was built, or that it was reused."""
    parity: ParityReport | None = None
    """Verdict on the ONNX file; None if the engine was reused, or there is no reference."""
    proof: Proof | None = None
    """What was measured of the engine on a GPU; None if it was not built."""
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool | None:
        """The verdict, also of a reused engine; None if nothing was judged."""
        if self.cached:
            return self.manifest.parity.passed if self.manifest else None
        verdicts = [r.passed for r in (self.parity, self.proof and self.proof.parity) if r]
        return all(verdicts) if verdicts else None


@dataclass(frozen=True, kw_only=True)
class Proof:
    """Verdict and latencies of an engine on a GPU."""

    parity: ParityReport | None = None
    """None if the engine did not run."""
    bench: BenchReport | None = None
    notes: tuple[str, ...] = ()


Prover = Callable[[EngineFile, TorchReference | None, Profile | BatchProfile], Proof]
"""Judges and times an engine. Its arguments are those of ``prove_on_gpu``."""


@dataclass(frozen=True)
class ModelToCompile:
    """The ONNX file to compile, its verdict and its reference."""

    file: OnnxFile
    parity: ParityReport | None
    judged_against: TorchReference | None
    notes: tuple[str, ...] = ()
    is_ours: bool = False
    """Whether it was exported or converted for this engine, and is written next to it."""
