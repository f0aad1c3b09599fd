"""The flow: load, describe, build the reference, trace, simplify, verify, build the engine.

Every arrow is a value; no stage reads another stage's files by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from paragon_export.artifact import check_writable, staged
from paragon_export.checkpoint import Checkpoint, load_checkpoint
from paragon_export.families import family_named, family_of
from paragon_export.metrics import Difference
from paragon_export.plan import ExportPlan, Size, Switches
from paragon_export.report import ParityReport
from paragon_export.variant import Port, Variant

if TYPE_CHECKING:
    from paragon_export.verify import Reference


@dataclass(frozen=True, kw_only=True)
class Export:
    """What became of an export plan. The file was written only if the verdict passed."""

    output: Path
    checkpoint: Checkpoint
    variant: Variant
    parity: ParityReport
    drop_cost: Difference | None
    """How far dropping trained tensors moves the picture; None where none were dropped."""


def describe(path: Path, switches: Switches) -> tuple[Checkpoint, Variant]:
    """Load a checkpoint and work out its network."""
    checkpoint = load_checkpoint(path)
    return checkpoint, family_of(checkpoint).describe(checkpoint, switches)


def build_reference(variant: Variant, checkpoint: Checkpoint, *, video: bool = False) -> Reference:
    """Build the untouched PyTorch network that every verdict stands on."""
    from paragon_export.verify import Reference

    family = family_named(variant.family)
    inputs, outputs = family.ports(variant, video=video)
    module = family.build(variant, checkpoint, video=video)
    return Reference(module=module, inputs=inputs, outputs=outputs)


def export(plan: ExportPlan) -> Export:
    """Turn a checkpoint into a verified ONNX file.

    Raises:
        ParagonExportError: If a stage could not run; nothing is written then.
    """
    from paragon_export.onnx_file import describe_in, write_onnx
    from paragon_export.precision import to_precision
    from paragon_export.simplify import simplify
    from paragon_export.trace import trace

    check_writable(plan.output)
    checkpoint, variant = describe(plan.checkpoint, plan.switches)
    reference = build_reference(variant, checkpoint, video=plan.video)
    inputs, outputs = _ports(reference, variant, plan.static)
    traced = trace(reference.module, inputs, outputs, plan.operator_set)
    simplified = simplify(traced)
    model = to_precision(simplified, plan.precision, plan.io)
    describe_in(model, variant, checkpoint, plan)
    with staged(plan.output) as file:
        write_onnx(model, file.path)
        parity = judge(reference, variant, [file.path])
        file.keep = parity.passed
    drop_cost = measure_drop(checkpoint, variant, plan.switches) if variant.dropped else None
    return Export(
        output=plan.output,
        checkpoint=checkpoint,
        variant=variant,
        parity=parity,
        drop_cost=drop_cost,
    )


def judge(
    reference: Reference,
    variant: Variant,
    candidates: Sequence[Path],
    sizes: Sequence[Size] = (),
    images: Path | None = None,
) -> ParityReport:
    """Judge ONNX files and engines against the reference.

    ``sizes`` replaces the default sizes; ``images`` adds the pictures of a folder.
    """
    from paragon_export.candidates import open_candidate
    from paragon_export.probes import choose_probes
    from paragon_export.verify import verify

    rows, notes = [], []
    for path in candidates:
        opened = open_candidate(path, video=len(reference.inputs) > 1)
        probes = choose_probes(variant, opened.static, opened.video, sizes, images)
        rows += verify(reference, [opened.candidate], probes).rows
        notes += opened.disagreements(variant)
    return ParityReport(rows=tuple(rows), notes=tuple(notes))


def measure_drop(checkpoint: Checkpoint, variant: Variant, switches: Switches) -> Difference:
    """Measure how far the picture moves when the switches drop trained tensors."""
    from paragon_export.metrics import difference
    from paragon_export.probes import DROP_SIZE, photograph_crop

    whole = {**switches.flags, "export_safe": False, "attention_mode": "sdpa"}
    everything = family_named(variant.family).describe(checkpoint, replace(switches, flags=whole))
    picture = photograph_crop(variant.in_channels, DROP_SIZE)[None]
    pictures = [
        build_reference(v, checkpoint).runner("float64").infer({"input": picture})["output"]
        for v in (variant, everything)
    ]
    return difference(*pictures, border=0)


def _ports(
    reference: Reference, variant: Variant, static: Size | None
) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """The reference's ports, fixed to one size and batch 1 where the export is static."""
    if static is None:
        return reference.inputs, reference.outputs
    s, extents = variant.scale, {"batch": 1, "height": static.height, "width": static.width}
    extents |= {f"{s}*height": s * static.height, f"{s}*width": s * static.width}
    inputs, outputs = (
        tuple(port.at(extents) for port in ports) for ports in (reference.inputs, reference.outputs)
    )
    return inputs, outputs
