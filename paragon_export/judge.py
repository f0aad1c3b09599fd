"""Judge: files against a reference, on probes that suit them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from paragon_export.candidates import is_onnx, open_candidate, open_onnx, ports_of
from paragon_export.errors import PlanError
from paragon_export.onnx_file import read_onnx
from paragon_export.plan import EnginePlan, Size, Switches, Tolerance
from paragon_export.probes import choose_probes
from paragon_export.reference import OnnxReference, Reference, build_reference, describe
from paragon_export.report import ParityReport, ParityRow
from paragon_export.variant import Variant
from paragon_export.verify import verify


def judge(
    reference: Reference,
    variant: Variant,
    candidates: Sequence[Path],
    sizes: Sequence[Size] = (),
    images: Path | None = None,
) -> ParityReport:
    """Judge ONNX files and engines against the network they claim to be.

    ``sizes`` replaces the default sizes; ``images`` adds the pictures of a folder.

    Raises:
        ParagonExportError: If a candidate cannot be opened.
    """
    rows: list[ParityRow] = []
    notes: list[str] = []
    for path in candidates:
        opened = open_candidate(path, video=len(reference.inputs) > 1)
        probes = choose_probes(
            variant.in_channels, variant.window, opened.static, opened.video, sizes, images
        )
        report = verify(reference, [opened.candidate], probes)
        rows += report.rows
        notes += [*report.notes, *opened.disagreements(variant)]
    return ParityReport(rows=tuple(rows), notes=tuple(dict.fromkeys(notes)))


def judge_given(plan: EnginePlan, onnx: Path) -> ParityReport | None:
    """Judge the ONNX file that an engine is compiled from, when the plan's source is one.

    Against the plan's checkpoint if it names one; else a converted file is judged against the
    source it was converted from; else there is nothing to judge against, and None comes back.

    Raises:
        PlanError: If the ONNX file says that it was made from another checkpoint.
    """
    if plan.checkpoint is None:
        return None if onnx == plan.source else _judge_conversion(plan.source, onnx)
    opened = open_onnx(onnx)
    checkpoint, variant = describe(plan.checkpoint, plan.switches)
    told = opened.metadata.get("checkpoint_sha256", checkpoint.sha256)
    if told != checkpoint.sha256:
        raise PlanError(
            f"{plan.source} was made from a checkpoint with SHA-256 {told}, and "
            f"{plan.checkpoint} has {checkpoint.sha256}; give the one it was made from"
        )
    return judge(build_reference(checkpoint, variant, video=opened.video), variant, [onnx])


def _judge_conversion(source: Path, converted: Path) -> ParityReport:
    """Judge a half-precision model against the float32 file it was made from.

    Nobody's error in half precision is known for it, so the bar of decibels decides alone.
    """
    inputs, outputs = ports_of(read_onnx(source))
    opened = open_onnx(converted)
    window = opened.metadata.get("window", 1)
    channels = inputs[0].dims[1]
    if not isinstance(channels, int) or not isinstance(window, int):
        raise PlanError(f"{source}: the number of input channels must be fixed")
    precision = opened.candidate.precision
    usual = Tolerance.for_precision(precision)
    bar = Tolerance(
        max_abs=math.inf,
        times_reference=1,
        reference_floor=math.inf,
        min_psnr_db=usual.min_psnr_db,
    )
    probes = choose_probes(channels, window, opened.static, opened.video)
    reference = OnnxReference(path=source, inputs=inputs, outputs=outputs)
    return verify(reference, [opened.candidate], probes, {precision: bar})


def judge_files(
    checkpoint: Path,
    switches: Switches,
    candidates: Sequence[Path],
    sizes: Sequence[Size] = (),
    images: Path | None = None,
) -> tuple[ParityReport, Variant]:
    """Judge files against a checkpoint; all of them are stills, or all are video models.

    Raises:
        ParagonExportError: If a file cannot be opened.
    """
    loaded, variant = describe(checkpoint, switches)
    video = any(is_onnx(path) and open_onnx(path).video for path in candidates)
    reference = build_reference(loaded, variant, video=video)
    return judge(reference, variant, candidates, sizes, images), variant
