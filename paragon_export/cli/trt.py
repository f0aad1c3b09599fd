"""``trt``: a checkpoint or an ONNX file becomes a TensorRT engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from paragon_export.cli.options import (
    Bf16,
    EngineSource,
    Fp16,
    Json,
    MaxSize,
    MinSize,
    OptSize,
    Output,
    Recipe,
    ReferenceCheckpoint,
    Rewrite,
    Target,
    TensorRtBackend,
    Video,
    default_name,
    existing,
    exit_on_failure,
    precision_of,
    replaced,
    size_of,
    takes_options,
)
from paragon_export.errors import PlanError
from paragon_export.specs.plans import EnginePlan, NetworkOptions
from paragon_export.specs.profiles import (
    DEFAULT_PROFILE,
    AnyProfile,
    BatchProfile,
    Profile,
    find_recipe,
    read_recipe,
)
from paragon_export.specs.types import Backend


@takes_options
def trt(
    source: EngineSource,
    output: Output = None,
    fp16: Fp16 = False,
    bf16: Bf16 = False,
    backend: TensorRtBackend = Backend.RTX,
    target: Target = None,
    min: MinSize = None,
    opt: OptSize = None,
    max: MaxSize = None,
    recipe: Recipe = None,
    checkpoint: ReferenceCheckpoint = None,
    video: Video = False,
    rewrite: Rewrite = True,
    *,
    options: NetworkOptions,
    json: Json = False,
) -> None:
    """Build a TensorRT engine. It gets a manifest; an engine that matches is reused."""
    precision = precision_of(fp16, bf16)
    profile, profile_name = _profile(min, opt, max, recipe)
    plan = EnginePlan(
        source=source,
        output=output or Path("unnamed.engine"),
        is_named=output is not None,
        checkpoint=checkpoint,
        options=options,
        precision=precision,
        backend=backend,
        targets=tuple(dict.fromkeys(target or ())),
        profile=profile,
        video=video,
        rewrite=rewrite,
    )
    name = _default_output(plan, profile_name)
    _build(plan if output else replace(plan, output=name), json)


def _default_output(plan: EnginePlan, profile: str) -> Path:
    """Return the default output; ``profile`` is the profile's name, empty for the default one."""
    parts = [
        "video" if plan.video else "",
        plan.precision.value if plan.precision.is_half else "",
        *plan.targets,
        "" if plan.backend is Backend.RTX else plan.backend.value,
        profile,
        "" if plan.rewrite else "no-rewrite",
    ]
    return default_name(plan.source, parts, ".engine")


def _build(plan: EnginePlan, json: bool) -> None:
    from paragon_export.cli.show.console import show
    from paragon_export.cli.show.trt import build_table, built
    from paragon_export.pipeline.build import build

    there = existing(plan.output)
    result = build(plan)
    there = there if result.passed is not False and not result.cached else []
    document = built(result)
    document["notes"] += replaced(there)
    show(json, document, build_table, result, bool(there))
    exit_on_failure(result.passed)


def _profile(
    smallest: str | None, optimal: str | None, largest: str | None, recipe: str | None
) -> tuple[AnyProfile | None, str]:
    """Return the profile that is asked for, and how it is called in a file's name.

    Raises:
        PlanError: If it is given in two ways, in part, or is none.
    """
    given = [smallest, optimal, largest]
    if recipe and any(given):
        raise PlanError("give --recipe, or --min, --opt and --max, not both")
    if recipe:
        path = find_recipe(recipe)
        return read_recipe(path), path.stem
    if not any(given):
        return None, ""
    if smallest is None or optimal is None or largest is None:
        raise PlanError(
            "a profile needs --min, --opt and --max together, as in "
            f"--min {DEFAULT_PROFILE.smallest} --opt {DEFAULT_PROFILE.optimal} "
            f"--max {DEFAULT_PROFILE.largest}"
        )
    if all(text.isdecimal() and len(text) < 7 for text in (smallest, optimal, largest)):
        low, best, high = (int(text) for text in (smallest, optimal, largest))
        batches = BatchProfile(smallest=low, optimal=best, largest=high)
        return batches, f"{low}-{best}-{high}"
    texts = {"--min": smallest, "--opt": optimal, "--max": largest}
    sizes = [size_of(text, flag) for flag, text in texts.items()]
    profile = Profile(smallest=sizes[0], optimal=sizes[1], largest=sizes[2])
    return profile, "-".join(map(str, sizes))
