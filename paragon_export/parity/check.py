"""Judge: files against a reference, on probes that suit them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from paragon_export.engines.manifest import EngineFile
from paragon_export.errors import PlanError
from paragon_export.graph.inspection import ports_of
from paragon_export.graph.onnx_io import OnnxFile
from paragon_export.inputs.glyph_probes import glyph_probes
from paragon_export.inputs.probes import Probe, choose_probes
from paragon_export.networks.describe import describe
from paragon_export.parity.candidates import (
    Artifact,
    Opened,
    is_video,
    open_candidate,
    open_onnx,
    read_artifact,
)
from paragon_export.parity.compare import verify
from paragon_export.parity.diagnosis.alternatives import Alternative, alternatives
from paragon_export.parity.diagnosis.diagnose import Subject, diagnose
from paragon_export.parity.provenance import (
    another_checkpoint,
    changed_files,
    checkpoint_named,
    facts_of,
    with_recorded,
)
from paragon_export.parity.reference import OnnxReference, Reference, build_reference
from paragon_export.parity.report import Finding, ParityReport, ParityRow
from paragon_export.specs.network import NetworkSpec
from paragon_export.specs.plans import NetworkOptions
from paragon_export.specs.tolerance import Tolerance
from paragon_export.specs.types import OnnxBackend, Size
from paragon_export.system.progress import step
from paragon_export.system.text import brief


def judge(
    reference: Reference,
    spec: NetworkSpec,
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
        probes = _probes(reference, spec, opened, sizes, images)
        report = verify(reference, [opened.candidate], probes, is_picture=spec.is_picture)
        rows += report.rows
        notes += [*report.notes, *opened.disagreements(spec)]
        if not report.passed:
            subject = Subject(
                candidate=opened.candidate,
                reference=reference,
                spec=spec,
                probes=probes,
                instead=instead,
            )
            with step("diagnosing the failure"):
                findings += diagnose(subject, report.rows)
    return ParityReport(
        rows=tuple(rows), notes=tuple(dict.fromkeys(notes)), findings=tuple(findings)
    )


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
    spec: NetworkSpec,
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
    wanted = sizes or opened.allowed_sizes(spec.window, spec.smallest)
    return choose_probes(
        spec.in_channels,
        spec.window,
        opened.static,
        opened.video,
        wanted,
        images,
        spec.smallest,
        spec.also_probed,
    )


def judge_files(
    checkpoint: Path,
    options: NetworkOptions,
    candidates: Sequence[Path],
    sizes: Sequence[Size] = (),
    images: Path | None = None,
    backends: Sequence[OnnxBackend] = (OnnxBackend.ONNXRUNTIME,),
    *,
    other_checkpoint: bool = False,
) -> tuple[ParityReport, NetworkSpec]:
    """Judge files against a checkpoint; all of them are stills, or all are video models.

    Raises:
        ParagonExportError: If a file cannot be opened.
        PlanError: If a file says that it was made from another checkpoint, unless
            ``other_checkpoint`` allows it.
    """
    files = [read_artifact(path) for path in candidates]
    return _judge_artifacts(
        checkpoint, options, files, sizes, images, backends, other_checkpoint=other_checkpoint
    )


def _judge_artifacts(
    checkpoint: Path,
    options: NetworkOptions,
    files: Sequence[Artifact],
    sizes: Sequence[Size],
    images: Path | None,
    backends: Sequence[OnnxBackend],
    *,
    other_checkpoint: bool = False,
) -> tuple[ParityReport, NetworkSpec]:
    loaded, spec = describe(checkpoint, options)
    others = [another_checkpoint(file, loaded) for file in files]
    if any(others) and not other_checkpoint:
        raise PlanError(
            f"{next(filter(None, others))}; give the one it was made from, or --other-checkpoint "
            "to judge it all the same"
        )
    video = any(isinstance(f, OnnxFile) and is_video(f.model.graph.inputs) for f in files)
    reference = build_reference(loaded, spec, video=video)

    @cache
    def instead() -> tuple[Alternative, ...]:
        return tuple(alternatives(loaded, spec, options, reference))

    report = judge(reference, spec, files, sizes, images, backends, instead)
    notes = (*report.notes, *filter(None, others), *changed_files(files))
    return replace(report, notes=notes), spec


def rejudge(
    file: Path,
    options: NetworkOptions,
    sizes: Sequence[Size] = (),
    images: Path | None = None,
    backends: Sequence[OnnxBackend] = (OnnxBackend.ONNXRUNTIME,),
) -> tuple[ParityReport, NetworkSpec]:
    """Judge an ONNX file or an engine against the checkpoint that it was made from.

    It is the file that the metadata names, beside the model or in the working folder, if its hash
    is the one told there. NetworkOptions that are not given are those that the metadata records.

    Raises:
        PlanError: If the file names no checkpoint, or there is none such.
        ParagonExportError: If it cannot be opened.
    """
    artifact = read_artifact(file)
    facts = facts_of(artifact)
    name, told = facts.checkpoint, facts.checkpoint_sha256
    if name is None or told is None:
        raise PlanError(
            f"{file} does not say what checkpoint it was made from; give it before the file"
        )
    checkpoint = checkpoint_named(file, facts)
    if checkpoint is None:
        raise PlanError(
            f"{file} was made from {brief(name)} with SHA-256 {brief(told)}, neither beside it nor in "
            "the working folder; give the checkpoint before the file"
        )
    recorded = with_recorded(options, facts)
    report, spec = _judge_artifacts(checkpoint, recorded, [artifact], sizes, images, backends)
    note = f"judged against {checkpoint}, with the switches that {file.name} records"
    return replace(report, notes=(note, *report.notes)), spec
