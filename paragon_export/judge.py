"""Judge: files against a reference, on probes that suit them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from paragon_export.alternatives import Alternative, alternatives
from paragon_export.artifact import sha256_of
from paragon_export.candidates import (
    Artifact,
    Opened,
    is_video,
    open_candidate,
    open_onnx,
    read_artifact,
)
from paragon_export.diagnose import Subject, diagnose
from paragon_export.errors import PlanError
from paragon_export.foreign import brief
from paragon_export.glyph_probes import glyph_probes
from paragon_export.manifest import EngineFile
from paragon_export.metadata import ModelMetadata
from paragon_export.onnx_file import OnnxFile, metadata_of, ports_of
from paragon_export.plan import EnginePlan, OnnxBackend, Size, Switches, Tolerance
from paragon_export.probes import Probe, choose_probes
from paragon_export.reference import (
    OnnxReference,
    Reference,
    TorchReference,
    build_reference,
    describe,
)
from paragon_export.report import Finding, ParityReport, ParityRow
from paragon_export.switches import FLAGS
from paragon_export.variant import Variant
from paragon_export.verify import verify

if TYPE_CHECKING:
    from paragon_export.checkpoint import Checkpoint


def judge(
    reference: Reference,
    variant: Variant,
    candidates: Sequence[Artifact],
    sizes: Sequence[Size] = (),
    images: Path | None = None,
    backends: Sequence[OnnxBackend] = (OnnxBackend.ONNXRUNTIME,),
    instead: Callable[[], Sequence[Alternative]] = tuple,
) -> ParityReport:
    """Judge ONNX files and engines against the network they claim to be.

    ``sizes`` replaces the default sizes; ``images`` adds the pictures of a folder; each of
    ``backends`` runs every ONNX file. A failure is named, ``instead`` says after what.

    Raises:
        ParagonExportError: If a candidate cannot be opened.
    """
    rows: list[ParityRow] = []
    notes: list[str] = []
    findings: list[Finding] = []
    opened_by = [
        (file, backend)
        for file in candidates
        for backend in (backends[:1] if isinstance(file, EngineFile) else dict.fromkeys(backends))
    ]
    for file, backend in opened_by:
        opened = open_candidate(file, reference, backend)
        probes = _probes(reference, variant, opened, sizes, images)
        report = verify(reference, [opened.candidate], probes, is_picture=variant.is_picture)
        rows += report.rows
        notes += [*report.notes, *opened.disagreements(variant)]
        if not report.passed:
            subject = Subject(
                candidate=opened.candidate,
                reference=reference,
                variant=variant,
                probes=probes,
                instead=instead,
            )
            findings += diagnose(subject, report.rows)
    return ParityReport(
        rows=tuple(rows), notes=tuple(dict.fromkeys(notes)), findings=tuple(findings)
    )


def reference_for(
    plan: EnginePlan, file: OnnxFile
) -> tuple[tuple[TorchReference, Variant] | None, tuple[str, ...]]:
    """Find the network that an ONNX source was made from, and say which it is.

    It is the plan's checkpoint, or else the file that the model's metadata names, beside the
    model or in the working folder, if its hash is the one told there. Switches that the plan
    does not give are those that the metadata records.

    Raises:
        PlanError: If the plan's checkpoint is not the one that the model was made from.
    """
    facts = metadata_of(file.model)
    told = facts.checkpoint_sha256
    path = plan.checkpoint or _checkpoint_named(plan.source, facts)
    if path is None:
        return None, ("no checkpoint to judge the ONNX file against; give --checkpoint",)
    checkpoint, variant = describe(path, _with_recorded(plan.switches, facts))
    if told not in (None, checkpoint.sha256):
        raise PlanError(
            f"{plan.source} was made from a checkpoint with SHA-256 {told}, and {path} has "
            f"{checkpoint.sha256}; give the one it was made from"
        )
    video = is_video(file.model.graph.inputs)
    known = (build_reference(checkpoint, variant, video=video), variant)
    return known, (f"judged against {path}, with the switches that the ONNX file records",)


def _checkpoint_named(onnx: Path, facts: ModelMetadata) -> Path | None:
    """Return a file of the recorded name whose bytes have the recorded hash; None if none has."""
    if facts.checkpoint is None or facts.checkpoint_sha256 is None:
        return None
    for folder in (onnx.parent, Path()):
        path = folder / Path(facts.checkpoint).name
        with suppress(OSError, ValueError):  # a name too long, not to be read, or with a NUL
            if path.is_file() and sha256_of(path) == facts.checkpoint_sha256:
                return path
    return None


def _with_recorded(switches: Switches, facts: ModelMetadata) -> Switches:
    """Fill in what a file's metadata records, unless an option file is to tell it.

    These are the switches that a flag can set and that tensors did not decide.
    """
    recorded = {} if switches.config else facts.switches
    flags = {n: s.value for n, s in recorded.items() if n in FLAGS and s.source != "tensors"}
    return replace(switches, flags={**flags, **switches.flags})


def judge_conversion(source: OnnxFile, converted: OnnxFile) -> ParityReport:
    """Judge a half-precision model against the float32 file it was made from.

    Nobody's error in half precision is known for it, so the bar of decibels decides alone.
    """
    inputs, outputs = ports_of(source.model)
    opened = open_onnx(converted, outputs)
    facts = opened.metadata
    channels = inputs[0].dims[1]
    is_glyph = outputs[0].is_logits
    if not isinstance(channels, int):
        raise PlanError(f"{source.path}: the number of input channels must be fixed")
    precision = opened.candidate.precision
    usual = Tolerance.for_precision(precision)
    bar = Tolerance(
        max_abs=math.inf,
        times_reference=1,
        reference_floor=math.inf,
        min_psnr_db=usual.min_psnr_db,
    )
    probes = (
        glyph_probes(inputs[0])
        if is_glyph
        else choose_probes(
            channels, facts.window, opened.static, opened.video, smallest=facts.smallest
        )
    )
    reference = OnnxReference(file=source, inputs=inputs, outputs=outputs)
    bars = {precision: bar}
    return verify(reference, [opened.candidate], probes, bars, is_picture=facts.is_picture)


def _probes(
    reference: Reference,
    variant: Variant,
    opened: Opened,
    sizes: Sequence[Size],
    images: Path | None,
) -> list[Probe]:
    """Return what a candidate is judged on."""
    if reference.outputs[0].is_logits:
        if sizes or images:
            given = "--sizes" if sizes else "--images"
            raise PlanError(f"{given} is for networks that take pictures; leave it out")
        return glyph_probes(reference.inputs[0], opened.largest_batch)
    wanted = sizes or opened.allowed_sizes(variant.window, variant.smallest)
    return choose_probes(
        variant.in_channels,
        variant.window,
        opened.static,
        opened.video,
        wanted,
        images,
        variant.smallest,
        variant.also_probed,
    )


def judge_files(
    checkpoint: Path,
    switches: Switches,
    candidates: Sequence[Path],
    sizes: Sequence[Size] = (),
    images: Path | None = None,
    backends: Sequence[OnnxBackend] = (OnnxBackend.ONNXRUNTIME,),
    *,
    other_checkpoint: bool = False,
) -> tuple[ParityReport, Variant]:
    """Judge files against a checkpoint; all of them are stills, or all are video models.

    Raises:
        ParagonExportError: If a file cannot be opened.
        PlanError: If a file says that it was made from another checkpoint, unless
            ``other_checkpoint`` allows it.
    """
    files = [read_artifact(path) for path in candidates]
    return _judge_artifacts(
        checkpoint, switches, files, sizes, images, backends, other_checkpoint=other_checkpoint
    )


def _judge_artifacts(
    checkpoint: Path,
    switches: Switches,
    files: Sequence[Artifact],
    sizes: Sequence[Size],
    images: Path | None,
    backends: Sequence[OnnxBackend],
    *,
    other_checkpoint: bool = False,
) -> tuple[ParityReport, Variant]:
    loaded, variant = describe(checkpoint, switches)
    others = [_another_checkpoint(file, loaded) for file in files]
    if any(others) and not other_checkpoint:
        raise PlanError(
            f"{next(filter(None, others))}; give the one it was made from, or --other-checkpoint "
            "to judge it all the same"
        )
    video = any(isinstance(f, OnnxFile) and is_video(f.model.graph.inputs) for f in files)
    reference = build_reference(loaded, variant, video=video)

    @cache
    def instead() -> tuple[Alternative, ...]:
        return tuple(alternatives(loaded, variant, switches, reference))

    report = judge(reference, variant, files, sizes, images, backends, instead)
    notes = (*report.notes, *filter(None, others), *_changed(files))
    return replace(report, notes=notes), variant


def rejudge(
    file: Path,
    switches: Switches,
    sizes: Sequence[Size] = (),
    images: Path | None = None,
    backends: Sequence[OnnxBackend] = (OnnxBackend.ONNXRUNTIME,),
) -> tuple[ParityReport, Variant]:
    """Judge an ONNX file or an engine against the checkpoint that it was made from.

    It is the file that the metadata names, beside the model or in the working folder, if its hash
    is the one told there. Switches that are not given are those that the metadata records.

    Raises:
        PlanError: If the file names no checkpoint, or there is none such.
        ParagonExportError: If it cannot be opened.
    """
    artifact = read_artifact(file)
    facts = _facts_of(artifact)
    name, told = facts.checkpoint, facts.checkpoint_sha256
    if name is None or told is None:
        raise PlanError(
            f"{file} does not say what checkpoint it was made from; give it before the file"
        )
    checkpoint = _checkpoint_named(file, facts)
    if checkpoint is None:
        raise PlanError(
            f"{file} was made from {brief(name)} with SHA-256 {brief(told)}, neither beside it nor in "
            "the working folder; give the checkpoint before the file"
        )
    recorded = _with_recorded(switches, facts)
    report, variant = _judge_artifacts(checkpoint, recorded, [artifact], sizes, images, backends)
    note = f"judged against {checkpoint}, with the switches that {file.name} records"
    return replace(report, notes=(note, *report.notes)), variant


def _facts_of(file: Artifact) -> ModelMetadata:
    """Return what a file says of itself; of an engine what its manifest says of its ONNX file."""
    if isinstance(file, OnnxFile):
        return metadata_of(file.model)
    return file.manifest.model if file.manifest else ModelMetadata()


def _another_checkpoint(file: Artifact, checkpoint: Checkpoint) -> str:
    """Say that a file was made from another checkpoint than the reference; empty if not."""
    told = _facts_of(file).checkpoint_sha256
    if told in (None, checkpoint.sha256):
        return ""
    return (
        f"{file.path} was made from a checkpoint with SHA-256 {told}, and {checkpoint.path} has "
        f"{checkpoint.sha256}"
    )


def _changed(files: Sequence[Artifact]) -> list[str]:
    """Name the files that are no longer what this tool wrote."""
    return [
        f"{file.path} was changed after it was made: its content is not what its metadata records"
        for file in files
        if isinstance(file, OnnxFile) and file.was_changed
    ]
