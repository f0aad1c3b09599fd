"""Plans: complete requests of a user, validated before any work is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from paragon_export.errors import PlanError
from paragon_export.specs.ports import FixedExtents
from paragon_export.specs.profiles import DEFAULT_PROFILE, BatchProfile, Profile
from paragon_export.specs.types import (
    ENGINE_SUFFIXES,
    ONNX_SUFFIXES,
    TARGETS,
    Backend,
    OnnxBackend,
    Precision,
    Runtime,
    Size,
    Tracer,
    check_suffix,
)

MAX_PIXELS = 2**23
"""Pixels of a size that a model may be fixed to, or judged at. 2160x3840 is below it."""


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Options of a network that its tensors do not determine, as far as the user gave them."""

    flags: Mapping[str, Any] = field(default_factory=dict)
    """Values by option name, as in ``networks.options.FLAGS``."""
    config: Path | None = None
    """A traiNNer option file. A flag takes precedence over it."""


@dataclass(frozen=True, kw_only=True)
class ExportPlan:
    """A request for one ONNX file.

    Raises:
        PlanError: If options contradict each other or are out of range.
    """

    checkpoint: Path
    output: Path
    is_named: bool = True
    """Whether the user chose the output's name. If not, only a file of this tool is replaced."""
    options: NetworkOptions = field(default_factory=NetworkOptions)
    precision: Precision = Precision.FP32
    io: Precision = Precision.FP32
    """Type of the graph's image inputs and outputs: FP32, or that of ``precision``."""
    static: Size | None = None
    """Export for this size and batch 1 alone; None keeps batch, height and width dynamic."""
    video: bool = False
    rewrite: bool = True
    """Export an algebraically equal network that runs faster, not the network as trained."""
    runtime: Runtime = Runtime.ANY
    """The runtime that rewrites are chosen for."""
    opset: int | None = None
    """ONNX operator set; None for the oldest one that has all operators that are used."""
    at: tuple[Size, ...] | None = None
    made_for: tuple[Size, ...] = ()
    """Both as for :class:`ParityPlan`."""
    tracer: Tracer | None = None
    """How the graph is made; None tries the network's ways in order."""
    error_shares: bool = False
    """Whether to find, for a half-precision model, the tensors that cause most of the error.
    This takes additional time."""
    pictures: bool = False
    """As for :class:`ParityPlan`."""

    @property
    def to_judge(self) -> ParityPlan:
        """What the exported file is judged on."""
        return ParityPlan(at=self.at, made_for=self.made_for, pictures=self.pictures)

    @property
    def operator_set(self) -> int:
        """``opset`` or its default: 20 has Gelu, 22 is the first with bfloat16 convolutions.

        The default of a portable file is the oldest that is supported.
        """
        is_portable = self.runtime is Runtime.PORTABLE
        default = 22 if self.precision is Precision.BF16 else 18 if is_portable else 20
        return default if self.opset is None else self.opset

    def __post_init__(self) -> None:
        if self.io is not Precision.FP32 and self.io is not self.precision:
            raise PlanError(
                f"--io {self.io.value} with a {self.precision.value} model; "
                f"use --io fp32 or --io {self.precision.value}"
            )
        if self.runtime is not Runtime.ANY and not self.rewrite:
            raise PlanError(
                f"--for {self.runtime.value} selects rewrites, but --no-rewrite forbids them; "
                "leave one of the two out"
            )
        if self.runtime is Runtime.PORTABLE:
            self._check_portable()
        if self.static:
            _check_pixels("--static", self.static)
        for size in self.at or ():
            _check_pixels("--at", size)
        check_suffix(self.output, ONNX_SUFFIXES)
        oldest = 22 if self.precision is Precision.BF16 else 18
        if not oldest <= self.operator_set <= 23:
            raise PlanError(
                f"--opset {self.opset} cannot hold a {self.precision.value} model; "
                f"use {oldest} to 23"
            )

    def _check_portable(self) -> None:
        """Refuse what OpenCV or ncnn does not take, or computes wrongly (seen in 4.8 and 4.14)."""
        if self.precision.is_half:
            raise PlanError(
                f"--for portable with --{self.precision.value}: ncnn cannot load half-precision "
                "ONNX files, and both clients convert float32 files themselves; leave one out"
            )
        if self.static and 1 in (self.static.height, self.static.width):
            raise PlanError(
                f"--for portable with --static {self.static}: OpenCV 4 computes pictures of one "
                "row or column wrongly; give a size from 2x2 on"
            )


@dataclass(frozen=True, kw_only=True)
class ParityPlan:
    """What candidates are judged on.

    Raises:
        PlanError: If a size is too large.
    """

    sizes: tuple[Size, ...] = ()
    """Input sizes in place of the default ones."""
    at: tuple[Size, ...] | None = None
    """Large sizes to judge at as well. None: the default."""
    made_for: tuple[Size, ...] = ()
    """Large sizes that are judged by default, or smaller ones if that would take too long. Empty:
    the optimal and the largest sizes of an engine's profile, and 1080x1920 for an ONNX file."""
    images: Path | None = None
    """Folder of images to add."""
    backends: tuple[OnnxBackend, ...] = (OnnxBackend.ONNXRUNTIME,)
    """Each runs every ONNX file."""
    pictures: bool = False
    """Whether the report keeps the worst picture of each candidate."""

    def __post_init__(self) -> None:
        for size in self.at or ():
            _check_pixels("--at", size)


@dataclass(frozen=True, kw_only=True)
class EnginePlan:
    """A request for one engine, or for one engine per target.

    Raises:
        PlanError: If options contradict each other or are out of range.
    """

    source: Path
    """A checkpoint or an ONNX file."""
    output: Path
    is_named: bool = True
    """As for :class:`ExportPlan`."""
    checkpoint: Path | None = None
    """The reference of an ONNX source. A checkpoint source is its own reference."""
    options: NetworkOptions = field(default_factory=NetworkOptions)
    precision: Precision = Precision.FP32
    backend: Backend = Backend.RTX
    targets: tuple[str, ...] = ()
    """Elements of ``TARGETS``. Empty: Ampere and later in one engine (rtx), or the GPU of this
    machine (tensorrt)."""
    rewrite: bool = True
    """As for :class:`ExportPlan`. An ONNX source is compiled as it is."""
    profile: Profile | BatchProfile | None = None
    """None: ``DEFAULT_PROFILE``, or the only size of a static model."""
    video: bool = False

    @property
    def compiled_onnx(self) -> Path:
        """The ONNX file that is written next to the engine if the source is a checkpoint."""
        return compiled_onnx(self.output)

    def __post_init__(self) -> None:
        check_suffix(self.output, ENGINE_SUFFIXES)
        for target in self.targets:
            if target not in TARGETS:
                raise PlanError(f"unknown target {target!r}; choose from {', '.join(TARGETS)}")
        if self.targets and self.backend is Backend.TENSORRT:
            raise PlanError(
                "--target is for --backend rtx; full TensorRT builds for the GPU of this machine: "
                "leave --target out"
            )

    @property
    def made_for(self) -> tuple[Size, ...]:
        """The optimal and the largest sizes of the requested profile, each once."""
        profiles = self.profile.all if isinstance(self.profile, Profile) else ()
        return tuple(dict.fromkeys(s for one in profiles for s in (one.optimal, one.largest)))

    def profile_for(self, fixed: FixedExtents, smallest: int = 1) -> Profile:
        """Return the profile of an image network: the requested one, or the default.

        Args:
            fixed: The extents that the model fixes.
            smallest: Least height and width in pixels at which the network is defined.

        Raises:
            PlanError: If the requested profile contradicts ``fixed``, has sizes below
                ``smallest``, or is a range of batches.
        """
        if isinstance(self.profile, BatchProfile):
            raise PlanError(
                "--min, --opt and --max are sizes of pictures here, as in 720x1280; a range of "
                "batches is for glyph classifiers"
            )
        if self.profile:
            return _requested_profile(self.profile, fixed, smallest)
        sizes = (Size(smallest, smallest), DEFAULT_PROFILE.optimal, DEFAULT_PROFILE.largest)
        low, optimal, high = (fixed.at(size) for size in sizes)
        return Profile(smallest=low, optimal=optimal, largest=high, batch=fixed.batch or 1)

    def batches(self) -> BatchProfile:
        """Return the profile of a glyph classifier: the requested one, or the default.

        Raises:
            PlanError: If image sizes are requested.
        """
        if isinstance(self.profile, Profile):
            raise PlanError(
                "a glyph classifier has one grid size; give a range of batches instead of sizes, "
                "as in --min 1 --opt 32 --max 256"
            )
        return self.profile or BatchProfile()


def _check_pixels(option: str, size: Size) -> None:
    """Refuse a size of more than ``MAX_PIXELS``.

    Raises:
        PlanError: Naming the option.
    """
    if size.height * size.width > MAX_PIXELS:
        raise PlanError(
            f"{option} {size} has more than {MAX_PIXELS} pixels; give a smaller size, or leave "
            f"{option} out"
        )


def _requested_profile(profile: Profile, fixed: FixedExtents, smallest: int) -> Profile:
    """Return a requested profile with the batch of the model, if the model accepts its sizes.

    Raises:
        PlanError: If it does not.
    """
    advice = (
        "leave --min, --opt, --max and --recipe out"
        if fixed.size
        else f"give --min, --opt, --max or a --recipe with {fixed}"
    )
    for one in profile.all:
        if any(fixed.at(size) != size for size in one.sizes) or one.batch not in (
            1,
            fixed.batch or one.batch,
        ):
            raise PlanError(
                f"impossible profile: the model is fixed to {fixed.size or fixed}; {advice}"
            )
        low = one.smallest
        if not fixed.size and min(low.height, low.width) < smallest:
            raise PlanError(
                f"impossible profile: the network is defined from {Size(smallest, smallest)} on, "
                f"not at {low}; give --min {fixed.at(Size(smallest, smallest))}"
            )
    if fixed.batch is None:
        return profile
    also = tuple(replace(one, batch=fixed.batch) for one in profile.also)
    return replace(profile, batch=fixed.batch, also=also)


def compiled_onnx(engine: Path) -> Path:
    """Return where the ONNX file of an engine is kept, if this tool made it."""
    return engine.with_name(engine.name + ".onnx")
