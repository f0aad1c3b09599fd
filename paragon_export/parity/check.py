"""Judge ONNX files and engines against the PyTorch network that they were exported from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from paragon_export.engines.manifest import EngineFile
from paragon_export.errors import PlanError
from paragon_export.graph.onnx_io import OnnxFile
from paragon_export.inputs.fit import fitted
from paragon_export.inputs.glyph_probes import glyph_probes
from paragon_export.inputs.large import large_probe, middle_sizes, smaller
from paragon_export.inputs.probes import Probe, choose_probes
from paragon_export.inputs.sizes import check_defined
from paragon_export.networks.describe import LoadedNetwork, read_network
from paragon_export.parity.acceptance import Criteria, conversion_criteria
from paragon_export.parity.candidates import (
    Artifact,
    Candidate,
    OpenedArtifact,
    leaving_padding,
    open_candidate,
    open_onnx,
    read_artifact,
)
from paragon_export.parity.compare import verify
from paragon_export.parity.diagnosis.alternatives import Alternative, alternatives
from paragon_export.parity.diagnosis.diagnose import Subject, diagnose
from paragon_export.parity.parts import MAX_WHOLE_PIXELS, Parts
from paragon_export.parity.provenance import changed_files, network_of_artifact, other_checkpoint
from paragon_export.parity.reference import OnnxReference, TorchReference, build_reference
from paragon_export.parity.report import Finding, ParityReport
from paragon_export.parity.truth import Truths
from paragon_export.parity.worst import worst_pictures
from paragon_export.specs.plans import NetworkOptions, ParityPlan
from paragon_export.specs.types import OnnxBackend, Size, sizes_of
from paragon_export.system.progress import step

Alternatives = Callable[[], Sequence[Alternative]]
"""Returns other networks that a failed candidate may have been exported from."""


def check_parity(
    reference: LoadedNetwork | str | Path | None,
    candidates: Iterable[str | Path],
    *,
    sizes: Iterable[str | Size] = (),
    at: Iterable[str | Size] | None = None,
    images: str | Path | None = None,
    backends: Iterable[str] = ("onnxruntime",),
    other_checkpoint: bool = False,
    pictures: bool = False,
    options: NetworkOptions | None = None,
) -> ParityReport:
    """Compare ONNX files and engines with the PyTorch network, evaluated in float64.

    Args:
        reference: A network or a checkpoint. None takes the one that the only candidate names.
        candidates: ``.onnx`` and ``.engine`` files, all of them stills or all of them video models.
        sizes: Input sizes as ``"720x1280"`` (height x width), in place of the default ones.
        at: Large sizes to judge at as well. None: the default ones (see ``ParityPlan``).
        images: Folder of images to add to the probes.
        backends: What runs ONNX files: ``"onnxruntime"``, ``"openvino"`` or both.
        other_checkpoint: Also judge files whose metadata names another checkpoint.
        pictures: Keep the worst picture of each candidate in the report.
        options: Values that the tensors do not determine, if ``reference`` is a checkpoint.

    Returns:
        The report. ``passed`` is the verdict; ``findings`` says what failures look like.

    Raises:
        ParagonExportError: If a file cannot be opened or does not fit the reference.
    """
    plan = ParityPlan(
        sizes=sizes_of(sizes) or (), at=sizes_of(at), images=None if images is None else Path(images),
        backends=tuple(dict.fromkeys(map(OnnxBackend, backends))), pictures=pictures,
    )  # fmt: skip
    artifacts = [read_artifact(Path(path)) for path in candidates]
    if reference is None:
        return _check_against_recorded(artifacts, plan, options or NetworkOptions())
    network = _loaded(reference, options)
    return check_artifacts(network, artifacts, plan, allow_other=other_checkpoint)


def _loaded(reference: LoadedNetwork | str | Path, options: NetworkOptions | None) -> LoadedNetwork:
    if isinstance(reference, LoadedNetwork):
        return reference
    return read_network(Path(reference), options or NetworkOptions())


def _check_against_recorded(
    artifacts: Sequence[Artifact], plan: ParityPlan, options: NetworkOptions
) -> ParityReport:
    """Judge one artifact against the checkpoint that its metadata names.

    Raises:
        PlanError: If there is not exactly one artifact, or its checkpoint is not found.
    """
    if len(artifacts) != 1:
        raise PlanError(
            f"no reference, and {len(artifacts)} candidates; without a reference, give one ONNX "
            "file or engine"
        )
    network, notes = network_of_artifact(artifacts[0], options)
    report = check_artifacts(network, artifacts, plan)
    return replace(report, notes=(*notes, *report.notes))


def check_artifacts(
    network: LoadedNetwork,
    artifacts: Sequence[Artifact],
    plan: ParityPlan,
    *,
    allow_other: bool = False,
) -> ParityReport:
    """Compare artifacts with a network and diagnose failures.

    Raises:
        PlanError: If the metadata of a file names another checkpoint, unless ``allow_other``.
        ParagonExportError: If a file cannot be opened.
    """
    others = [other_checkpoint(artifact, network.checkpoint) for artifact in artifacts]
    if any(others) and not allow_other:
        raise PlanError(
            f"{next(filter(None, others))}; give the one that it was exported from, or "
            "--other-checkpoint to judge it against this one"
        )
    video = any(isinstance(artifact, OnnxFile) and artifact.video for artifact in artifacts)
    reference = build_reference(network, video=video)

    @cache
    def possible() -> tuple[Alternative, ...]:
        return tuple(alternatives(reference))

    report = judge(reference, artifacts, plan, possible)
    notes = (*report.notes, *filter(None, others), *changed_files(artifacts))
    return replace(report, notes=notes)


def judge(
    reference: TorchReference,
    artifacts: Sequence[Artifact],
    plan: ParityPlan | None = None,
    possible: Alternatives = tuple,
) -> ParityReport:
    """Judge ONNX files and engines against a network, and diagnose failures.

    ``plan`` holds sizes, images and backends. ``possible`` returns other networks that a failed
    file may have been exported from.

    Raises:
        ParagonExportError: If a candidate cannot be opened.
    """
    plan, truths = plan or ParityPlan(), Truths(reference)
    reports = []
    for artifact in artifacts:
        for backend in plan.backends[: 1 if isinstance(artifact, EngineFile) else None]:
            opened = open_candidate(artifact, reference.inputs, reference.outputs, backend)
            opened = leaving_padding(opened, reference.spec)
            reports.append(_judge_one(reference, truths, opened, plan, possible))
    return ParityReport(
        rows=tuple(row for report in reports for row in report.rows),
        notes=tuple(dict.fromkeys(note for report in reports for note in report.notes)),
        findings=tuple(finding for report in reports for finding in report.findings),
        pictures=tuple(picture for report in reports for picture in report.pictures),
        spec=reference.spec,
    )


def judge_runner(
    reference: TorchReference,
    truths: Truths,
    file: OnnxFile,
    candidate: Candidate,
    plan: ParityPlan,
    criteria: Criteria | None = None,
) -> ParityReport:
    """Judge what another program made of an ONNX file, on the probes of that file.

    Args:
        reference: The network.
        truths: What it computes; several candidates share them.
        file: The ONNX file.
        candidate: The opened model of the other program.
        plan: Sizes.
        criteria: The rule, in place of that of the candidate's precision.

    Raises:
        ParagonExportError: If sizes do not fit.
    """
    opened = OpenedArtifact(artifact=file, candidate=candidate)
    report = _judge_one(reference, truths, opened, plan, tuple, criteria)
    return replace(report, spec=reference.spec)


def _judge_one(
    reference: TorchReference,
    truths: Truths,
    opened: OpenedArtifact,
    plan: ParityPlan,
    possible: Alternatives,
    criteria: Criteria | None = None,
) -> ParityReport:
    """Judge one opened candidate, and diagnose its failure."""
    probes = _probes(reference, opened, plan)
    large, remarks = _large_probes(truths.parts, opened, plan)
    known = {probe.size for probe in probes}
    probes += [probe for probe in large if probe.size not in known]
    rules = {opened.candidate.precision: criteria} if criteria else None
    report = verify(reference, [opened.candidate], probes, rules, truths)
    findings: tuple[Finding, ...] = ()
    if not report.passed:
        failed = Subject(
            candidate=opened.candidate, reference=reference, probes=probes, possible=possible
        )
        with step("diagnosing the failure"):
            findings = diagnose(failed, report.rows)
    pictures = worst_pictures(truths, opened.candidate, probes, report) if plan.pictures else ()
    notes = *report.notes, *opened.limits, *remarks, *opened.disagreements(reference.spec)
    return replace(report, notes=notes, findings=findings, pictures=pictures)


def judge_conversion(source: OnnxFile, converted: OnnxFile) -> ParityReport:
    """Judge a half-precision model against the float32 file that it was converted from.

    PyTorch's own error in half precision is unknown, so the PSNR decides.

    Raises:
        PlanError: If the number of the input's channels is not fixed.
    """
    inputs, outputs = source.ports
    opened = open_onnx(converted, outputs)
    spec, precision = source.input_spec, converted.precision
    probes = (
        glyph_probes(inputs[0])
        if spec.task.is_classifier
        else fitted(
            choose_probes(
                spec, static=converted.static, video=converted.video, data=converted.data
            ),
            converted.fixed,
        )
    )
    reference = OnnxReference(file=source, inputs=inputs, outputs=outputs)
    criteria = {precision: conversion_criteria(precision)}
    report = verify(reference, [opened.candidate], probes, criteria)
    return replace(report, notes=(*report.notes, *opened.limits))


def _probes(reference: TorchReference, opened: OpenedArtifact, plan: ParityPlan) -> list[Probe]:
    """Return the probes that a candidate is judged on."""
    spec = reference.input_spec
    if spec.task.is_classifier:
        if plan.sizes or plan.images:
            option = "--sizes" if plan.sizes else "--images"
            raise PlanError(f"{option} is for networks that take images, not glyphs; leave it out")
        return glyph_probes(reference.inputs[0], opened.largest_batch)
    for size in plan.sizes if opened.static is None else ():
        opened.fixed.check(size)
    if plan.images and (opened.fixed.height or opened.fixed.width):
        raise PlanError(f"--images is for models of any size; the model is fixed to {opened.fixed}")
    probes = choose_probes(
        spec,
        static=opened.static,
        video=reference.video,
        sizes=plan.sizes or opened.allowed_sizes(spec),
        images=plan.images,
        data=opened.artifact.data if opened.profile is None else None,
    )
    return fitted(probes, opened.fixed)


def _large_probes(
    parts: Parts, opened: OpenedArtifact, plan: ParityPlan
) -> tuple[list[Probe], list[str]]:
    """Return the large probes of a candidate, and a note for each default size that is replaced.

    Raises:
        PlanError: If a size was asked for that the candidate does not accept.
    """
    spec = parts.reference.input_spec
    if spec.task.is_classifier:
        if plan.at:
            raise PlanError("--at is for networks that take images, not glyphs; leave it out")
        return [], []
    sizes, notes = list(plan.at or ()), list[str]()
    for size in sizes:
        opened.check(size)
    check_defined(sizes, spec.smallest)
    middle: list[tuple[Size, int]] = []
    if plan.at is None and not plan.sizes and opened.static is None:
        sizes, notes = _default_large(parts, opened, plan)
        if opened.profile is None and not plan.made_for:
            middle = middle_sizes(parts.middle_pixels(sizes[0]), spec.smallest)
    video = len(parts.reference.inputs) > 1
    wanted = [*((size, 1) for size in dict.fromkeys(sizes)), *middle]
    probes = [large_probe(spec.channels, *one, video=video) for one in wanted]
    return fitted(probes, opened.fixed), notes


def _default_large(
    parts: Parts, opened: OpenedArtifact, plan: ParityPlan
) -> tuple[list[Size], list[str]]:
    """Return the large sizes by default, and a note for each that is made smaller."""
    sizes: list[Size] = []
    notes: list[str] = []
    batch, smallest = opened.fixed.batch or 1, parts.reference.input_spec.smallest
    for size in plan.made_for or opened.large_sizes():
        found = wanted = opened.fixed.at(size)
        if batch * wanted.height * wanted.width > MAX_WHOLE_PIXELS:
            found = opened.fixed.at(smaller(wanted, parts.most_pixels // batch, smallest))
        sizes.append(found)
        if found != wanted:
            notes.append(
                f"{opened.candidate.name} is judged at {found} in place of {wanted}, which takes "
                f"long or much memory here; --at {wanted} judges it there"
            )
    return sizes, notes
