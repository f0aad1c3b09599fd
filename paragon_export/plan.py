"""Plans: what the user asks for, complete and checked before any work is done."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from paragon_export.errors import PlanError
from paragon_export.foreign import brief
from paragon_export.reading import read_bytes

ONNX_SUFFIXES = (".onnx",)

ENGINE_SUFFIXES = (".engine", ".plan", ".trt")

LARGEST_RECIPE_BYTES = 2**16

LARGEST_EXTENT = 16384
"""Pixels per side that a profile may ask for."""

MOST_STATIC_PIXELS = 2**23
"""Of the size that a model may be fixed to: 2160x3840 has fewer."""

MOST_PROFILE_PIXELS = 2**31 - 1
"""Of the largest batch of a profile: TensorRT's tensors hold no more values."""


class Precision(StrEnum):
    """The arithmetic of an artifact."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"

    @property
    def is_half(self) -> bool:
        return self is not Precision.FP32


class Quantisation(StrEnum):
    """Arithmetic in whole numbers: of phase 2 of the glyph classifier alone (see ``int8``)."""

    INT8 = "int8"


class Runtime(StrEnum):
    """What an ONNX file is meant to be run by; any of them can run any file."""

    ANY = "any"
    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"


class OnnxBackend(StrEnum):
    """What runs an ONNX file here."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"


FLOAT32_MARK = "paragon.precision"
"""Metadata key of an ONNX node that is computed in float32 whatever the artifact's precision."""


@dataclass(frozen=True, order=True)
class Size:
    """Height and width in pixels, in that order everywhere."""

    height: int
    width: int

    @classmethod
    def parse(cls, text: str) -> Size:
        """Read ``HxW``.

        Raises:
            PlanError: If it is anything else, or an extent is 0 or over ``LARGEST_EXTENT``.
        """
        match = re.fullmatch(r"\s*(\d{1,6})\s*[xX]\s*(\d{1,6})\s*", text)
        if not match:
            raise PlanError(f"size {brief(text)} is not HEIGHTxWIDTH in pixels, as in 720x1280")
        size = cls(int(match[1]), int(match[2]))
        if not (1 <= size.height <= LARGEST_EXTENT and 1 <= size.width <= LARGEST_EXTENT):
            raise PlanError(f"size {size} is outside 1x1 to {LARGEST_EXTENT}x{LARGEST_EXTENT}")
        return size

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """When a candidate counts as equal to the float64 reference. Errors are absolute, of range 1."""

    max_abs: float
    """No pixel may be further off than this."""
    times_reference: float
    """Nor further than this many times what PyTorch errs in the same precision."""
    reference_floor: float
    """PyTorch's error counts as at least this: below it, rounding is a matter of luck."""
    min_psnr_db: float
    """No picture may fall below this, peak 1."""

    @classmethod
    def for_precision(cls, precision: Precision) -> Tolerance:
        """The defaults.

        FP32: 1e-5, and 4 times what PyTorch errs or 1e-6. FP16: 1.5 times what PyTorch errs, and
        50 dB. BF16, which has three bits less: the same factor, and 30 dB.
        """
        if precision is Precision.FP32:
            return cls(
                max_abs=1e-5, times_reference=4, reference_floor=2.5e-7, min_psnr_db=-math.inf
            )
        decibels = 50.0 if precision is Precision.FP16 else 30.0
        return cls(max_abs=math.inf, times_reference=1.5, reference_floor=0.0, min_psnr_db=decibels)

    @classmethod
    def for_logits(cls, precision: Precision) -> Tolerance:
        """The defaults for rows of logits: those for pictures without a bar of decibels.

        Errors are in units of the largest logit, or of 1 where that is larger. In half precision
        1/20 of it (bfloat16: 1/4) is too much even where PyTorch overflows.
        """
        most = {Precision.FP32: 1e-5, Precision.FP16: 0.05, Precision.BF16: 0.25}[precision]
        return replace(cls.for_precision(precision), max_abs=most, min_psnr_db=-math.inf)


@dataclass(frozen=True, kw_only=True)
class Switches:
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
    switches: Switches = field(default_factory=Switches)
    precision: Precision = Precision.FP32
    io: Precision = Precision.FP32
    """Type of the graph's image inputs and outputs: FP32, or that of ``precision``."""
    static: Size | None = None
    """Export for this size and batch 1 alone; None keeps batch, height and width dynamic."""
    video: bool = False
    rewrite: bool = True
    """Export an algebraically equal network that runs faster, not the network as trained."""
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
        if self.static and self.static.height * self.static.width > MOST_STATIC_PIXELS:
            raise PlanError(
                f"--static {self.static} has more than {MOST_STATIC_PIXELS} pixels; give a smaller "
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
class Profile:
    """The range of sizes that an engine accepts and the one it is tuned for."""

    smallest: Size
    optimal: Size
    largest: Size
    batch: int = 1

    def __post_init__(self) -> None:
        for axis in ("height", "width"):
            low, best, high = (
                getattr(s, axis) for s in (self.smallest, self.optimal, self.largest)
            )
            if not low <= best <= high:
                raise PlanError(
                    f"impossible profile: {axis} must rise from min {low} over opt {best} "
                    f"to max {high}"
                )
        if not 1 <= self.batch <= LARGEST_EXTENT:
            raise PlanError(f"impossible profile: batch {self.batch}; use 1 to {LARGEST_EXTENT}")
        if self.batch * self.largest.height * self.largest.width > MOST_PROFILE_PIXELS:
            raise PlanError(
                f"impossible profile: {self.batch} pictures of {self.largest} have more than "
                f"{MOST_PROFILE_PIXELS} pixels, which TensorRT cannot hold"
            )

    @property
    def sizes(self) -> tuple[Size, Size, Size]:
        return self.smallest, self.optimal, self.largest


@dataclass(frozen=True, kw_only=True)
class BatchProfile:
    """The range of batches that an engine of a glyph classifier accepts; its grid is fixed."""

    smallest: int = 1
    optimal: int = 32
    largest: int = 256

    def __post_init__(self) -> None:
        if not 1 <= self.smallest <= self.optimal <= self.largest <= LARGEST_EXTENT:
            raise PlanError(
                f"impossible profile: batches must rise from min {self.smallest} over opt "
                f"{self.optimal} to max {self.largest}, within 1 to {LARGEST_EXTENT}"
            )


DEFAULT_PROFILE = Profile(smallest=Size(1, 1), optimal=Size(720, 1280), largest=Size(1080, 1920))
"""Everything up to 1080p, tuned for 720p."""


class Backend(StrEnum):
    """Which TensorRT builds the engine."""

    RTX = "rtx"
    TENSORRT = "tensorrt"


TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
"""Compute capabilities that TensorRT-RTX compiles for ahead of time."""


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
    switches: Switches = field(default_factory=Switches)
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
            if min(profile.smallest.height, profile.smallest.width) < smallest:
                raise PlanError(
                    f"impossible profile: the network is defined from {least} on, not at "
                    f"{profile.smallest}; give --min {least}"
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


def check_suffix(path: Path, suffixes: tuple[str, ...]) -> None:
    """Refuse a file name by which the file would not be known again.

    Raises:
        PlanError: If the name ends in none of ``suffixes``.
    """
    if path.suffix.lower() not in suffixes:
        raise PlanError(f"output {path} must end in {' or '.join(suffixes)}")


def read_recipe(path: Path) -> Profile:
    """Read the profile of a recipe file (TOML, table ``profile``; see ``engines/README.md``).

    Raises:
        PlanError: If the file cannot be read or does not hold one possible profile.
    """
    data = read_bytes(path, LARGEST_RECIPE_BYTES, "recipe", PlanError)
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise PlanError(f"recipe {path} is not TOML: {error}") from error
    table = document.get("profile")
    if not isinstance(table, dict):
        raise PlanError(f"recipe {path} has no [profile] table with min, opt and max")
    unknown = sorted(set(table) - {"min", "opt", "max", "batch"})
    missing = sorted({"min", "opt", "max"} - set(table))
    if unknown or missing:
        raise PlanError(f"recipe {path}: profile lacks {missing}, has unknown {unknown}")
    batch = table.get("batch", 1)
    if isinstance(batch, bool) or not isinstance(batch, int):
        raise PlanError(f"recipe {path}: batch {brief(batch)} is not a whole number")
    try:
        smallest, optimal, largest = (Size.parse(str(table[key])) for key in ("min", "opt", "max"))
        return Profile(smallest=smallest, optimal=optimal, largest=largest, batch=batch)
    except PlanError as error:
        raise PlanError(f"recipe {path}: {error}") from error
