"""Candidates: open a file that claims to be the network, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import onnx_ir as ir

from paragon_export.errors import PlanError
from paragon_export.foreign import brief
from paragon_export.glyph_probes import GLYPHS
from paragon_export.metadata import ModelMetadata
from paragon_export.onnx_file import is_onnx, metadata_of, precision_of, read_onnx, static_size
from paragon_export.plan import ENGINE_SUFFIXES, BatchProfile, OnnxBackend, Precision, Profile, Size
from paragon_export.precision import rounding_model
from paragon_export.probes import default_sizes
from paragon_export.runners import OnnxRunner, open_runner
from paragon_export.switches import FLAGS, RARER
from paragon_export.variant import Variant
from paragon_export.verify import Candidate


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
        low, high = self.profile.smallest, self.profile.largest
        brought = (
            Size(
                min(max(size.height, low.height), high.height),
                min(max(size.width, low.width), high.width),
            )
            for size, _ in default_sizes(window, smallest)
        )
        return list(dict.fromkeys(brought))

    @property
    def largest_batch(self) -> int:
        """Items of a batch that a glyph classifier may be fed in its judgement."""
        return self.profile.largest if isinstance(self.profile, BatchProfile) else GLYPHS

    def disagreements(self, variant: Variant) -> list[str]:
        """Say where the file was made with other switches than the reference has."""
        notes = []
        for name, setting in variant.switches.items():
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


def is_engine(path: Path) -> bool:
    return path.suffix.lower() in ENGINE_SUFFIXES


def open_candidate(
    path: Path, *, video: bool, backend: OnnxBackend = OnnxBackend.ONNXRUNTIME
) -> Opened:
    """Open an ONNX file or an engine for judgement against a still or a video reference.

    ``backend`` runs ONNX files; engines are run by TensorRT.

    Raises:
        RunError: If the file cannot be read or run.
        PlanError: If it is neither, or its ports are not those of the reference.
    """
    if is_engine(path):
        from paragon_export.engine import open_engine

        runner, precision, profile = open_engine(path)
        candidate = Candidate(name=path.name, runner=runner, precision=precision)
        return Opened(candidate=candidate, profile=profile, video=video)
    if not is_onnx(path):
        raise PlanError(f"{path}: a candidate must be an .onnx file or an .engine file")
    opened = open_onnx(path, backend)
    if opened.video != video:
        kind = "a video" if opened.video else "a still"
        raise PlanError(f"{path} is {kind} model; judge it apart from models of the other kind")
    return opened


def open_onnx(path: Path, backend: OnnxBackend = OnnxBackend.ONNXRUNTIME) -> Opened:
    """Open an ONNX file for judgement.

    Half precision is computed node by node in float32 and rounded after each, so that the CPU
    errs and overflows where a GPU would.

    Raises:
        RunError: If it is not a self-contained ONNX file, or the backend refuses it.
        PlanError: If its ports are not those of a network that is served, or a half-precision
            model is to be judged in OpenVINO.
    """
    model = read_onnx(path)
    inputs = [str(value.name) for value in model.graph.inputs]
    outputs = [str(value.name) for value in model.graph.outputs]
    if "input" not in inputs or "output" not in outputs:
        raise PlanError(
            f"{path}: ports are {brief(inputs)} and {brief(outputs)}; expected input and output"
        )
    if any(node.op_type == "QuantizeLinear" for node in model.graph):
        raise PlanError(f"{path} is INT8: onnx --int8 judges it, on real inputs held back")
    precision = precision_of(model)
    source: Path | bytes = path
    if precision is not Precision.FP32 and backend is OnnxBackend.OPENVINO:
        raise PlanError(
            f"{path} is {precision.value}: OpenVINO computes it in float32 here and would hide "
            "every overflow; judge it with --backend onnxruntime"
        )
    wide = None
    if precision is not Precision.FP32:
        source = ir.to_proto(rounding_model(model)).SerializeToString()
        # ONNX Runtime's CPU provider computes FP16 graphs in float32 from end to end.
        wide = partial(OnnxRunner, path) if precision is Precision.FP16 else None
    name = path.name if backend is OnnxBackend.ONNXRUNTIME else f"{path.name} in OpenVINO"
    runner = open_runner(source, backend)
    return Opened(
        candidate=Candidate(name=name, runner=runner, precision=precision, wide=wide),
        metadata=metadata_of(model),
        static=static_size(model),
        video="prev_feat" in inputs,
    )
