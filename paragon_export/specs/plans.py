"""Plans: what the user asks for, complete and checked before any work is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from paragon_export.errors import PlanError
from paragon_export.specs.profiles import DEFAULT_PROFILE, BatchProfile, Profile
from paragon_export.specs.types import (
    ENGINE_SUFFIXES,
    ONNX_SUFFIXES,
    TARGETS,
    Backend,
    Precision,
    Runtime,
    Size,
    check_suffix,
)

MAX_STATIC_PIXELS = 2**23
"""Of the size that a model may be fixed to: 2160x3840 has fewer."""


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """The user's word on what tensors cannot tell. A switch that is absent was not given."""

    flags: Mapping[str, Any] = field(default_factory=dict)
    config: Path | None = None
    """A traiNNer option file."""


@dataclass(frozen=True, kw_only=True)
class ExportPlan:
    """One ONNX file."""

    checkpoint: Path
    output: Path
    is_named: bool = True
    """Whether the user named the output. If not, only a file of this tool is replaced."""
    options: NetworkOptions = field(default_factory=NetworkOptions)
    precision: Precision = Precision.FP32
    io: Precision = Precision.FP32
    """Type of the graph's image inputs and outputs: FP32, or that of ``precision``."""
    static: Size | None = None
    """ExportResult for this size and batch 1 alone; None keeps batch, height and width dynamic."""
    video: bool = False
    rewrite: bool = True
    """ExportResult an algebraically equal network that runs faster, not the network as trained."""
    runtime: Runtime = Runtime.ANY
    """What the rewritten network is to run best on."""
    opset: int | None = None
    """ONNX operator set; None takes the oldest that holds every operator wanted."""
    error_shares: bool = False
    """Of half models: also find the tensors that most of the error comes from. Takes time."""

    @property
    def operator_set(self) -> int:
        """20 has Gelu; 22 is the first in which convolutions may be bfloat16."""
        oldest = 22 if self.precision is Precision.BF16 else 20
        return oldest if self.opset is None else self.opset

    def __post_init__(self) -> None:
        if self.io is not Precision.FP32 and self.io is not self.precision:
            raise PlanError(
                f"--io {self.io.value} with a {self.precision.value} model; "
                f"use --io fp32 or --io {self.precision.value}"
            )
        if self.runtime is not Runtime.ANY and not self.rewrite:
            raise PlanError(
                f"--for {self.runtime.value} chooses among rewrites and --no-rewrite forbids them; "
                "leave one of the two out"
            )
        if self.static and self.static.height * self.static.width > MAX_STATIC_PIXELS:
            raise PlanError(
                f"--static {self.static} has more than {MAX_STATIC_PIXELS} pixels; give a smaller "
                "size, or leave it out"
            )
        check_suffix(self.output, ONNX_SUFFIXES)
        oldest = 22 if self.precision is Precision.BF16 else 18
        if not oldest <= self.operator_set <= 23:
            raise PlanError(
                f"--opset {self.opset} cannot hold a {self.precision.value} model; "
                f"use {oldest} to 23"
            )


@dataclass(frozen=True, kw_only=True)
class EnginePlan:
    """One engine, or one for each target."""

    source: Path
    """A checkpoint or an ONNX file."""
    output: Path
    is_named: bool = True
    """As for :class:`ExportPlan`."""
    checkpoint: Path | None = None
    """Reference for an ONNX source; a checkpoint source is its own."""
    options: NetworkOptions = field(default_factory=NetworkOptions)
    precision: Precision = Precision.FP32
    backend: Backend = Backend.RTX
    targets: tuple[str, ...] = ()
    """Empty: Ampere and later in one engine (rtx), or the GPU at hand (tensorrt)."""
    rewrite: bool = True
    """As for :class:`ExportPlan`; of checkpoints alone, an ONNX file is compiled as it is."""
    profile: Profile | BatchProfile | None = None
    """None: ``DEFAULT_PROFILE``, or the only size of a static model."""
    video: bool = False

    @property
    def compiled_onnx(self) -> Path:
        """The ONNX file that is compiled, where it is not the source itself."""
        return self.output.with_name(self.output.name + ".onnx")

    def __post_init__(self) -> None:
        check_suffix(self.output, ENGINE_SUFFIXES)
        for target in self.targets:
            if target not in TARGETS:
                raise PlanError(f"unknown target {target!r}; choose from {', '.join(TARGETS)}")
        if self.targets and self.backend is Backend.TENSORRT:
            raise PlanError(
                "--target is for --backend rtx; full TensorRT builds for the GPU it runs on"
            )

    def profile_for(self, static: Size | None, smallest: int = 1) -> Profile:
        """Return the profile to build: the one asked for, or the only one a static model has.

        Raises:
            PlanError: If one is asked for that a model fixed to size ``static`` cannot have, or
                that goes below the ``smallest`` extent at which the network is defined.
        """
        if isinstance(self.profile, BatchProfile):
            raise PlanError(
                "--min, --opt and --max are sizes of pictures here, as in 720x1280; a range of "
                "batches is for glyph classifiers"
            )
        if static is None:
            least = Size(smallest, smallest)
            profile = self.profile or replace(DEFAULT_PROFILE, smallest=least)
            for low in (one.smallest for one in profile.all):
                if min(low.height, low.width) < smallest:
                    raise PlanError(
                        f"impossible profile: the network is defined from {least} on, not at "
                        f"{low}; give --min {least}"
                    )
            return profile
        only = Profile(smallest=static, optimal=static, largest=static)
        if self.profile not in (None, only):
            raise PlanError(
                f"impossible profile: the model is fixed to {static}; "
                "leave --min, --opt, --max and --recipe out"
            )
        return only

    def batches(self) -> BatchProfile:
        """Return the batches to build a glyph classifier for.

        Raises:
            PlanError: If sizes of pictures are asked for.
        """
        if isinstance(self.profile, Profile):
            raise PlanError(
                "a glyph classifier has one grid; give a range of batches instead of sizes, as "
                "in --min 1 --opt 32 --max 256"
            )
        return self.profile or BatchProfile()
