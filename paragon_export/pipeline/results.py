"""Outcomes: what became of a plan. Data only; the command line decides what it means."""

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


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What became of an export plan. The file is written only if the verdict passed."""

    file: OnnxFile
    reference: TorchReference
    fired: Mapping[str, int]
    """Rewrites, and how often each fired."""
    parity: ParityReport
    drop_cost: Difference | None = None
    """How far dropping trained tensors moves the picture; None where none were dropped."""
    ranges: RangeAudit | None = None
    """What half precision has to hold, of half models."""
    remarks: tuple[str, ...] = ()
    """What was done otherwise than asked."""

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
        """What the user should be told besides the verdict."""
        ranges = self.ranges.notes if self.ranges else ()
        notes = (*self.spec.notes, *self.remarks, *ranges)
        if self.drop_cost is None:
            return notes
        cost = (
            f"without the dropped tensors the picture moves by up to {self.drop_cost.max_abs:.3g}; "
            f"PSNR to the full network {self.drop_cost.psnr_db:.2f} dB"
        )
        return (*notes, cost)


@dataclass(frozen=True, kw_only=True)
class QuantizeResult(ExportResult):
    """What became of a quantization. The file was written only if the verdict passed."""

    figures: Mapping[str, Any]
    """What INT8 costs: agreement or PSNR in dB, and file sizes in bytes."""


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """What became of an engine plan. The engine was written only if no verdict failed."""

    engine: Path
    manifest: Manifest | None
    """None if no engine was built, because the verdict on the ONNX file failed."""
    cached: bool
    reason: str
    """Why the engine was built, or that it was reused."""
    parity: ParityReport | None = None
    """Of the ONNX file; None where the engine was reused, or there was no reference."""
    proof: Proof | None = None
    """Of the engine itself, where a GPU is present."""
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool | None:
        """The verdict, also of a reused engine; None where none was given."""
        if self.cached:
            return self.manifest.parity.passed if self.manifest else None
        verdicts = [r.passed for r in (self.parity, self.proof and self.proof.parity) if r]
        return all(verdicts) if verdicts else None


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What a GPU has shown of an engine."""

    parity: ParityReport | None = None
    """None where the engine did not run."""
    bench: BenchReport | None = None
    notes: tuple[str, ...] = ()


Prover = Callable[[EngineFile, TorchReference | None, Profile | BatchProfile], Proof]
"""Judges and times an engine."""


@dataclass(frozen=True)
class ModelToCompile:
    """The ONNX file that is compiled, and what is known of it."""

    file: OnnxFile
    parity: ParityReport | None
    judged_against: TorchReference | None
    notes: tuple[str, ...] = ()
    is_ours: bool = False
    """Whether it was made for this engine and is kept beside it."""
