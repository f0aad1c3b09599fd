"""Open ONNX files and engines as candidates, to be compared with a reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir

from paragon_export.engines.manifest import EngineFile, read_engine
from paragon_export.engines.open import open_engine
from paragon_export.errors import PlanError, RunError
from paragon_export.graph.inspection import FLOAT_TYPES
from paragon_export.graph.onnx_io import OnnxFile, check_types, is_onnx, read_onnx_file
from paragon_export.inputs.glyph_probes import GLYPHS
from paragon_export.inputs.large import LARGE
from paragon_export.inputs.play import play
from paragon_export.inputs.probes import Probe
from paragon_export.inputs.sizes import default_sizes
from paragon_export.networks.options import FLAGS, SET_OPTIONS
from paragon_export.precision.rounding import rounding_model, unrounded_model
from paragon_export.runtimes.base import Arrays, Runner
from paragon_export.runtimes.isolated import open_runner
from paragon_export.runtimes.named import with_standard_names
from paragon_export.specs.network import InputSpec, NetworkSpec, Port
from paragon_export.specs.ports import FixedExtents
from paragon_export.specs.profiles import BatchProfile, Profile
from paragon_export.specs.types import ENGINE_SUFFIXES, OnnxBackend, Precision, Size
from paragon_export.system.text import brief

_ADDED_NAMES = {OnnxBackend.CUDA: " on CUDA", OnnxBackend.OPENVINO: " in OpenVINO"}
"""What is added to the name of a file in a report."""

Artifact = OnnxFile | EngineFile
"""A file that has been read."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model that is to be compared with the reference."""

    name: str
    runner: Runner
    precision: Precision
    wide: Callable[[], Runner] | None = None
    """Opens a runner that computes a half-precision file in float32; None for other files."""
    unrounded: Callable[[int], Runner] | None = None
    """Opens a runner that computes a half-precision ONNX file in float32 and rounds nothing, with a
    draw of its half weights (see ``unrounded_model``); None for other files."""
    fault: str = ""
    """How its outputs differ from the reference's in number, name, type or rank; empty if not."""

    def play(self, probe: Probe, inputs: Sequence[Port]) -> tuple[Arrays, str]:
        """Run the model on a probe, whose inputs are ``inputs``.

        Returns:
            Output name to array, and an empty text. If it cannot run, no arrays and the reason.
        """
        if self.fault:
            return {}, self.fault
        try:
            return play(self.runner, probe, inputs), ""
        except (RunError, PlanError) as error:  # PlanError: it rejects an ID of the probe
            return {}, f"cannot run: {error}"


@dataclass(frozen=True, kw_only=True)
class OpenedArtifact:
    """An artifact that has been read and opened."""

    artifact: Artifact
    candidate: Candidate
    profile: Profile | BatchProfile | None = None
    """The range of sizes or batches that an engine accepts; None for ONNX files."""
    multiple: int = 1
    """Of which height and width must be multiples; see ``leaving_padding``."""
    least: int = 1
    """Least height and width if ``multiple`` is above 1."""

    @property
    def static(self) -> Size | None:
        """The only input size that it accepts; None if height and width are dynamic."""
        return self.artifact.static if isinstance(self.artifact, OnnxFile) else None

    @property
    def fixed(self) -> FixedExtents:
        """The extents that it fixes, and the largest batch of an engine."""
        if isinstance(self.artifact, OnnxFile):
            return replace(self.artifact.fixed, multiple=self.multiple, least=self.least)
        batch = self.profile.batch if isinstance(self.profile, Profile) else None
        return FixedExtents(batch=batch)

    @property
    def limits(self) -> list[str]:
        """A note on the extents that an ONNX file fixes, unless it is static at batch 1."""
        fixed = self.fixed
        is_usual = fixed.batch in (None, 1) if fixed.size else fixed == FixedExtents()
        if is_usual or not isinstance(self.artifact, OnnxFile):
            return []
        return [f"{self.candidate.name} is fixed to {fixed}; it is judged there only"]

    def allowed_sizes(self, spec: InputSpec) -> list[Size]:
        """Return the default sizes clamped to the range of an engine; empty for ONNX files."""
        if not isinstance(self.profile, Profile):
            return []
        clamped = (
            Size(
                min(max(size.height, one.smallest.height), one.largest.height),
                min(max(size.width, one.smallest.width), one.largest.width),
            )
            for one in self.profile.all
            for size, _ in default_sizes(spec.window, spec.smallest)
        )
        return list(dict.fromkeys(clamped))

    def large_sizes(self) -> list[Size]:
        """Return the sizes that it is made for: of an engine the optimal and the largest ones."""
        if not isinstance(self.profile, Profile):
            return [self.fixed.at(LARGE)]
        sizes = (size for one in self.profile.all for size in (one.optimal, one.largest))
        return list(dict.fromkeys(sizes))

    def check(self, size: Size) -> None:
        """Refuse a size that it does not accept.

        Raises:
            PlanError: Naming what it accepts.
        """
        self.fixed.check(size)
        if isinstance(self.profile, Profile) and not any(
            one.smallest.height <= size.height <= one.largest.height
            and one.smallest.width <= size.width <= one.largest.width
            for one in self.profile.all
        ):
            accepted = " and ".join(f"{p.smallest} to {p.largest}" for p in self.profile.all)
            raise PlanError(f"{self.candidate.name} accepts {accepted}, not {size}")

    @property
    def largest_batch(self) -> int:
        """Batch size at which a glyph classifier is judged."""
        return self.profile.largest if isinstance(self.profile, BatchProfile) else GLYPHS

    def disagreements(self, spec: NetworkSpec) -> list[str]:
        """Return a note for each option whose recorded value differs from the reference's."""
        notes = []
        for name, option in spec.options.items():
            recorded = self.artifact.metadata.switches.get(name)
            if recorded is None or recorded.value == option.value:
                continue
            negation = "no-" if option.value is True else ""
            flag = f"{negation}{name.replace('_', '-')}"
            value = brief(recorded.value)
            flag = f"set {name}={value}" if name in SET_OPTIONS else flag
            advice = f"; give --{flag} if the reference is wrong"
            notes.append(
                f"{self.candidate.name} was exported with {name} = {value}, the reference "
                f"has {option.value} (from the {option.source}){advice if name in FLAGS else ''}"
            )
        return notes


def leaving_padding(opened: OpenedArtifact, spec: NetworkSpec) -> OpenedArtifact:
    """Find out whether a file of others leaves padding to its caller.

    It does if it fails to run at a size that is no multiple of 2 and runs at multiples of some divisor
    of ``Padding.step``, to which the network itself is padded. A file that runs and gives a wrong image is not excused, nor is a
    file of this tool.

    Returns:
        The artifact with the least such multiple, or unchanged.
    """
    file = opened.artifact
    if not isinstance(file, OnnxFile) or file.is_ours or file.static:
        return opened
    step = spec.padding.step
    if step == 1 or _runs(opened, spec, Size(step + 1, 2 * step + 1)):
        return opened
    for multiple in range(spec.padding.multiple, step + 1, spec.padding.multiple):
        if multiple == 1 or step % multiple:
            continue
        size = Size(step + multiple, 2 * step + multiple)
        if _runs(opened, spec, size):
            return replace(opened, multiple=multiple, least=spec.padding.least)
    return opened


def _runs(opened: OpenedArtifact, spec: NetworkSpec, size: Size) -> bool:
    """Return whether a candidate runs at a size, whatever it computes."""
    size = opened.fixed.at(size)
    shape = opened.fixed.batch or 1, spec.in_channels, size.height, size.width
    try:
        opened.candidate.runner.infer({"input": np.full(shape, 0.5, np.float32)})
    except RunError:
        return False
    return True


def is_engine(path: Path) -> bool:
    """Return whether a file name has the suffix of an engine."""
    return path.suffix.lower() in ENGINE_SUFFIXES


def read_artifact(path: Path) -> Artifact:
    """Read an ONNX file or an engine. :func:`open_candidate` opens it.

    Raises:
        RunError: If it is not a self-contained ONNX file.
        PlanError: If it is neither an ONNX file nor an engine, or an engine cannot be read.
    """
    if is_engine(path):
        return read_engine(path)
    if not is_onnx(path):
        raise PlanError(f"{path}: a candidate must be an .onnx file or an .engine file")
    return read_onnx_file(path)


def open_candidate(
    artifact: Artifact,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    backend: OnnxBackend = OnnxBackend.ONNXRUNTIME,
) -> OpenedArtifact:
    """Open an artifact for comparison with a reference.

    Args:
        artifact: The ONNX file or engine.
        inputs: Input ports of the reference.
        outputs: Output ports of the reference.
        backend: What runs ONNX files; TensorRT runs engines.

    Raises:
        RunError: If the file cannot be run.
        PlanError: If its inputs are not those of the reference.
    """
    if isinstance(artifact, EngineFile):
        runner, precision, profile = open_engine(artifact)
        candidate = Candidate(name=artifact.path.name, runner=runner, precision=precision)
        return OpenedArtifact(artifact=artifact, candidate=candidate, profile=profile)
    opened = open_onnx(artifact, outputs, backend)
    if artifact.video != (len(inputs) > 1):
        kind = "a video" if artifact.video else "a still"
        raise PlanError(
            f"{artifact.path} is {kind} model; judge stills and video models in separate runs"
        )
    return opened


def open_onnx(
    file: OnnxFile, outputs: Sequence[Port], backend: OnnxBackend = OnnxBackend.ONNXRUNTIME
) -> OpenedArtifact:
    """Open an ONNX file for comparison. ``outputs`` are the output ports of the reference.

    On a CPU, half precision is computed node by node in float32 and rounded after each node, so that
    it rounds and overflows where a GPU would. A GPU runs the file as it is. A file that says it is fp32 is judged as fp32 also then.

    Raises:
        RunError: If the backend refuses it.
        PlanError: If its inputs are not those of a supported network, or a half-precision model
            is to be run in OpenVINO or holds sizes in half precision.
    """
    path, precision, names = file.path, file.precision, file.names
    _check_precision(file, backend)

    def open_it(data: bytes, backend: OnnxBackend = OnnxBackend.ONNXRUNTIME) -> Runner:
        runner = open_runner(data, backend, is_own=file.is_own, title=str(path))
        return with_standard_names(runner, names)

    def open_unrounded(draw: int) -> Runner:
        model = unrounded_model(file.model, draw)
        return open_it(ir.to_proto(model).SerializeToString())

    data, wide = file.data, None
    if precision is not Precision.FP32 and backend is not OnnxBackend.CUDA:
        data = _rounded(file)
        # ONNX Runtime's CPU provider computes FP16 graphs in float32 from end to end.
        wide = partial(open_it, file.data) if precision is Precision.FP16 else None
    name = path.name + _ADDED_NAMES.get(backend, "")
    candidate = Candidate(
        name=name,
        runner=open_it(data, backend),
        precision=Precision.FP32 if file.metadata.precision == "fp32" else precision,
        wide=wide,
        unrounded=open_unrounded if precision.is_half else None,
        fault=_outputs_fault(file, outputs),
    )
    return OpenedArtifact(artifact=file, candidate=candidate)


def _rounded(file: OnnxFile) -> bytes:
    """Return the float32 model that simulates a half one; refuse sizes in half precision.

    Raises:
        RunError: If the types of the half model contradict each other, so that no runtime loads it.
        PlanError: If it holds sizes in half precision.
    """
    check_types(file)
    return ir.to_proto(rounding_model(file.model, str(file.path))).SerializeToString()


def _check_precision(file: OnnxFile, backend: OnnxBackend) -> None:
    """Check that a backend computes a file in its own precision.

    Raises:
        PlanError: If the file is INT8, or in half precision and for OpenVINO.
    """
    if any(node.op_type == "QuantizeLinear" for node in file.model.graph):
        raise PlanError(
            f"{file.path} is INT8: it cannot be judged here; quantize judges it on real inputs"
        )
    if file.precision is not Precision.FP32 and backend is OnnxBackend.OPENVINO:
        raise PlanError(
            f"{file.path} is {file.precision.value}: OpenVINO computes it in float32 here and would "
            "hide every overflow; judge it with --backend onnxruntime"
        )


def _outputs_fault(file: OnnxFile, expected: Sequence[Port]) -> str:
    """Return how outputs differ from the expected ones in number, name, type or rank; or ''."""
    listed = [port.name for port in file.ports[1]]
    found = dict(zip(listed, file.model.graph.outputs, strict=True))
    names = [port.name for port in expected]
    if set(found) - set(names) or len(found) != len(listed):
        return f"wrong outputs {brief(listed)}, expected {brief(names)}"
    for port in expected:
        value = found.get(port.name)
        if value is None:
            continue  # reported as "output missing" after the run
        if value.dtype is not None and value.dtype not in FLOAT_TYPES:
            kind = value.dtype.name.lower()
            return f"wrong type of {port.name}: {kind}, expected float32 or half"
        if value.shape is not None and port.dims and len(value.shape) != len(port.dims):
            return (
                f"wrong shape of {port.name}: {len(value.shape)} dimensions, "
                f"expected {len(port.dims)}"
            )
    return ""
