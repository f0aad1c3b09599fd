"""Verify: one judge for all artifacts.

The truth is the untouched PyTorch network in float64. Beside every candidate's error stands
the error of PyTorch itself in the candidate's precision, measured against the same truth on
the same pictures. Every pixel counts, the worst one decides, and a candidate that cannot be
compared has failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import onnx_ir as ir

from paragon_export.engines.manifest import EngineFile, read_engine
from paragon_export.engines.open import open_engine
from paragon_export.errors import PlanError
from paragon_export.graph.inspection import metadata_of, precision_of, static_size
from paragon_export.graph.metadata import ModelMetadata
from paragon_export.graph.onnx_io import OnnxFile, is_onnx, read_onnx_file
from paragon_export.inputs.glyph_probes import GLYPHS
from paragon_export.inputs.probes import default_sizes
from paragon_export.networks.options import FLAGS, RARER
from paragon_export.parity.reference import Reference
from paragon_export.precision.rounding import rounding_model
from paragon_export.runtimes.base import Runner
from paragon_export.runtimes.isolated import open_runner
from paragon_export.specs.network import NetworkSpec, Port
from paragon_export.specs.profiles import BatchProfile, Profile
from paragon_export.specs.types import ENGINE_SUFFIXES, OnnxBackend, Precision, Size
from paragon_export.system.text import brief


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Something that claims to compute the same picture."""

    name: str
    runner: Runner
    precision: Precision
    wide: Callable[[], Runner] | None = None
    """Of a half-precision file: what computes it in float32 from end to end."""
    fault: str = ""
    """How its outputs differ from the reference's before anything is run; empty if they do not."""


Artifact = OnnxFile | EngineFile


FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
"""Types that an output may have."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A file ready to be judged, and what it says of itself."""

    candidate: Candidate
    metadata: ModelMetadata = field(default_factory=ModelMetadata)
    static: Size | None = None
    """The only size it accepts; None where height and width are dynamic."""
    video: bool = False
    profile: Profile | BatchProfile | None = None
    """The range of sizes or batches that an engine accepts; None for other files."""

    def allowed_sizes(self, window: int, smallest: int = 1) -> list[Size]:
        """Return the default sizes brought into an engine's range; empty where none is needed."""
        if not isinstance(self.profile, Profile):
            return []
        brought = (
            Size(
                min(max(size.height, one.smallest.height), one.largest.height),
                min(max(size.width, one.smallest.width), one.largest.width),
            )
            for one in self.profile.all
            for size, _ in default_sizes(window, smallest)
        )
        return list(dict.fromkeys(brought))

    @property
    def largest_batch(self) -> int:
        """Items of a batch that a glyph classifier may be fed in its judgement."""
        return self.profile.largest if isinstance(self.profile, BatchProfile) else GLYPHS

    def disagreements(self, spec: NetworkSpec) -> list[str]:
        """Say where the file was made with other switches than the reference has."""
        notes = []
        for name, setting in spec.options.items():
            recorded = self.metadata.switches.get(name)
            if recorded is None or recorded.value == setting.value:
                continue
            negation = "no-" if setting.value is True else ""
            flag = f"{negation}{name.replace('_', '-')}"
            value = brief(recorded.value)
            flag = f"set {name}={value}" if name in RARER else flag
            advice = f"; give --{flag} if the reference is wrong"
            notes.append(
                f"{self.candidate.name} was made with {name} = {value}, the reference "
                f"has {setting.value} (from the {setting.source}){advice if name in FLAGS else ''}"
            )
        return notes


def is_video(inputs: Iterable[Port | ir.Value]) -> bool:
    """Tell by the inputs whether a model carries features from frame to frame."""
    return any(port.name == "prev_feat" for port in inputs)


def is_engine(path: Path) -> bool:
    return path.suffix.lower() in ENGINE_SUFFIXES


def read_artifact(path: Path) -> Artifact:
    """Read an ONNX file or an engine, once. It is opened by ``open_candidate``.

    Raises:
        RunError: If it is not a self-contained ONNX file.
        PlanError: If it is neither, or an engine cannot be read.
    """
    if is_engine(path):
        return read_engine(path)
    if not is_onnx(path):
        raise PlanError(f"{path}: a candidate must be an .onnx file or an .engine file")
    return read_onnx_file(path)


def open_candidate(
    file: Artifact, reference: Reference, backend: OnnxBackend = OnnxBackend.ONNXRUNTIME
) -> Opened:
    """Open an ONNX file or an engine for judgement against a reference.

    ``backend`` runs ONNX files; engines are run by TensorRT.

    Raises:
        RunError: If the file cannot be run.
        PlanError: If its inputs are not those of the reference.
    """
    video = is_video(reference.inputs)
    if isinstance(file, EngineFile):
        runner, precision, profile = open_engine(file)
        candidate = Candidate(name=file.path.name, runner=runner, precision=precision)
        return Opened(candidate=candidate, profile=profile, video=video)
    opened = open_onnx(file, reference.outputs, backend)
    if opened.video != video:
        kind = "a video" if opened.video else "a still"
        raise PlanError(
            f"{file.path} is {kind} model; judge it apart from models of the other kind"
        )
    return opened


def open_onnx(
    file: OnnxFile, outputs: Sequence[Port], backend: OnnxBackend = OnnxBackend.ONNXRUNTIME
) -> Opened:
    """Open an ONNX file for judgement. ``outputs`` are those of the reference.

    Half precision is computed node by node in float32 and rounded after each, so that the CPU
    errs and overflows where a GPU would.

    Raises:
        RunError: If the backend refuses it.
        PlanError: If its inputs are not those of a network that is served, or a half-precision
            model is to be judged in OpenVINO.
    """
    path, model = file.path, file.model
    _check_ports(path, model)
    if any(node.op_type == "QuantizeLinear" for node in model.graph):
        raise PlanError(f"{path} is INT8: onnx --int8 judges it, on real inputs held back")
    precision = precision_of(model)
    if precision is not Precision.FP32 and backend is OnnxBackend.OPENVINO:
        raise PlanError(
            f"{path} is {precision.value}: OpenVINO computes it in float32 here and would hide "
            "every overflow; judge it with --backend onnxruntime"
        )
    open_it = partial(open_runner, is_own=file.is_own, title=str(path))
    data, wide = file.data, None
    if precision is not Precision.FP32:
        data = ir.to_proto(rounding_model(model)).SerializeToString()
        # ONNX Runtime's CPU provider computes FP16 graphs in float32 from end to end.
        wide = partial(open_it, file.data) if precision is Precision.FP16 else None
    name = path.name if backend is OnnxBackend.ONNXRUNTIME else f"{path.name} in OpenVINO"
    return Opened(
        candidate=Candidate(
            name=name,
            runner=open_it(data, backend),
            precision=precision,
            wide=wide,
            fault=_outputs_fault(model, outputs),
        ),
        metadata=metadata_of(model),
        static=static_size(model),
        video=is_video(model.graph.inputs),
    )


def _check_ports(path: Path, model: ir.Model) -> None:
    """Refuse a model that cannot be fed, or gives nothing by the expected name.

    Raises:
        PlanError: If it has no ports named input and output.
    """
    inputs = [str(value.name) for value in model.graph.inputs]
    outputs = [str(value.name) for value in model.graph.outputs]
    if "input" not in inputs or "output" not in outputs:
        raise PlanError(
            f"{path}: ports are {brief(inputs)} and {brief(outputs)}; expected input and output"
        )


def _outputs_fault(model: ir.Model, wanted: Sequence[Port]) -> str:
    """Say how a model's outputs differ from the reference's in number, name, type or rank."""
    found = {str(value.name): value for value in model.graph.outputs}
    names = [port.name for port in wanted]
    if set(found) - set(names) or len(found) != len(model.graph.outputs):
        given = [str(value.name) for value in model.graph.outputs]
        return f"wrong outputs {brief(given)}, expected {brief(names)}"
    for port in wanted:
        value = found.get(port.name)
        if value is None:
            continue  # missing: judged as such
        if value.dtype is not None and value.dtype not in FLOATS:
            kind = value.dtype.name.lower()
            return f"wrong type of {port.name}: {kind}, expected float32 or half"
        if value.shape is not None and len(value.shape) != len(port.dims):
            return (
                f"wrong shape of {port.name}: {len(value.shape)} dimensions, "
                f"expected {len(port.dims)}"
            )
    return ""
