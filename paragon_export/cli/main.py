"""The command line: parse, plan, call, show. Heavy libraries are imported inside commands."""

from __future__ import annotations

import itertools
import os
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

import typer

from paragon_export.errors import COULD_NOT_RUN, PlanError, reason_of
from paragon_export.networks.options import SET_OPTIONS, parse_option
from paragon_export.specs.plans import EnginePlan, ExportPlan, NetworkOptions
from paragon_export.specs.profiles import DEFAULT_PROFILE, BatchProfile, Profile, read_recipe
from paragon_export.specs.types import (
    ENGINE_SUFFIXES,
    ONNX_SUFFIXES,
    TARGETS,
    Backend,
    OnnxBackend,
    Precision,
    Runtime,
    Size,
    check_suffix,
)
from paragon_export.system.streams import guarded
from paragon_export.system.text import one_line

app = typer.Typer(
    name="paragon-export",
    help="From a trained super-resolution checkpoint to verified ONNX models and TensorRT engines.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: importing Rich would take longer than all the rest
)

FAILED = 1
"""Exit code of a failed verdict."""

Config = Annotated[
    Path | None, typer.Option(help="traiNNer option file that the network was trained with.")
]
AttentionMode = Annotated[str | None, typer.Option(help="sdpa, flex or none (drops attention).")]
ExportSafe = Annotated[
    bool | None,
    typer.Option("--export-safe/--no-export-safe", help="Drop attention, as the trainer's switch."),
]
UpsamplerAlpha = Annotated[
    float | None, typer.Option(help="Blend of the base upsampler; weights cannot tell it.")
]
WindowSize = Annotated[
    int | None, typer.Option(help="Attention window in pixels; weights cannot tell it.")
]
Scale = Annotated[
    int | None, typer.Option(help="Of networks whose tensors do not tell it: 2 for twice as wide.")
]
More = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help=f"Rarer: {', '.join(SET_OPTIONS)}. Repeatable."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
CheckpointFile = Annotated[Path, typer.Argument(help=".safetensors, .pth or .pt file.")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="File to write.")]
Fp16 = Annotated[bool, typer.Option("--fp16", help="Half precision, strongly typed.")]
Bf16 = Annotated[bool, typer.Option("--bf16", help="bfloat16, strongly typed.")]
Rewrite = Annotated[
    bool,
    typer.Option(help="Export an equal network that runs faster, or the network as trained."),
]
Images = Annotated[Path | None, typer.Option(help="Folder of pictures to add.")]
Backends = Annotated[
    list[OnnxBackend] | None,
    typer.Option("--backend", help="What runs ONNX files. Repeatable; default onnxruntime."),
]
Video = Annotated[
    bool, typer.Option("--video", help="Add prev_feat and alpha in, feature_map out.")
]


def options_of(
    config: Config = None,
    attention_mode: AttentionMode = None,
    export_safe: ExportSafe = None,
    upsampler_alpha: UpsamplerAlpha = None,
    window_size: WindowSize = None,
    scale: Scale = None,
    more: More = None,
) -> NetworkOptions:
    """Collect what is said of a network on the command line.

    Raises:
        PlanError: If a switch is given twice or is none.
    """
    told = {
        "attention_mode": attention_mode,
        "export_safe": export_safe,
        "upsampler_alpha": upsampler_alpha,
        "window_size": window_size,
        "scale": scale,
    }
    given = {name: value for name, value in told.items() if value is not None}
    for text in more or ():
        name, value = parse_option(text)
        if name in given:
            raise PlanError(f"{name} is given twice; give it once")
        given[name] = value
    return NetworkOptions(flags=given, config=config)


def takes_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of ``options_of`` in the place of its parameter ``switches``."""
    options = signature(options_of, eval_str=True).parameters
    own = signature(command, eval_str=True)

    @wraps(command)
    def called(**given: Any) -> None:
        told = {name: given.pop(name) for name in options}
        command(**given, options=options_of(**told))

    shown = (options.values() if p.name == "options" else [p] for p in own.parameters.values())
    flat = [p.replace(kind=p.KEYWORD_ONLY) for p in itertools.chain.from_iterable(shown)]
    called.__signature__ = own.replace(parameters=flat)  # type: ignore[attr-defined]
    return called


@app.callback()
def settings(
    context: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", help="Also print the traceback of an error.")
    ] = False,
) -> None:
    """From a trained super-resolution checkpoint to verified ONNX models and TensorRT engines."""
    if context.invoked_subcommand != "bench":
        # PyTorch's threads spin while they wait; on a busy machine a judgement that takes a
        # third of a second then takes fourteen. A benchmark leaves PyTorch as its users have it.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@app.command()
@takes_options
def inspect(
    checkpoint: CheckpointFile,
    *,
    options: NetworkOptions,
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Try values of what weights cannot tell on a photograph."),
    ] = False,
    json: Json = False,
) -> None:
    """Say what a checkpoint is, and where every switch's value comes from."""
    from paragon_export.cli import render
    from paragon_export.networks.describe import read_network

    network = read_network(checkpoint, options)
    fits = None
    if probe:
        from paragon_export.pipeline.fit_options import fit_options

        fits = fit_options(network)
    render.show(json, render.inspection(network, fits), render.inspection_table)


@app.command()
@takes_options
def onnx(
    checkpoint: CheckpointFile,
    output: Output = None,
    fp16: Fp16 = False,
    bf16: Bf16 = False,
    io: Annotated[
        Precision, typer.Option(help="Type of image inputs and outputs of a half model.")
    ] = Precision.FP32,
    static: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Export for this size and batch 1 alone."),
    ] = None,
    video: Video = False,
    rewrite: Rewrite = True,
    runtime: Annotated[
        Runtime, typer.Option("--for", help="What the rewritten network is to run best on.")
    ] = Runtime.ANY,
    opset: Annotated[
        int | None,
        typer.Option(
            help="ONNX operator set, 18 to 23, with the IR version that came with it. Default 20, "
            "of --bf16 22; ONNX Runtime before 1.17 wants 18 or 19."
        ),
    ] = None,
    audit: Annotated[
        Path | None, typer.Option(help="JSON file to write: the range of every tensor in half.")
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="8-bit, if what it costs on real inputs is little.")
    ] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(help="Real inputs for --int8: a folder of pictures or rasters, .npy, .npz."),
    ] = None,
    phase_1: Annotated[
        Path | None, typer.Option("--phase-1", help="Turns rasters of --calibrate into grids.")
    ] = None,
    agreement: Annotated[
        float, typer.Option(min=0, max=1, help="Share of best classes that INT8 must keep.")
    ] = 0.95,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Write an INT8 picture network whatever it loses.")
    ] = False,
    *,
    options: NetworkOptions,
    json: Json = False,
) -> None:
    """Export a checkpoint to one verified ONNX file; a file that fails is not written."""
    from paragon_export.cli import render
    from paragon_export.pipeline.export import export
    from paragon_export.pipeline.results import ExportResult
    from paragon_export.system.atomic_write import to_json, write_text

    precision = _precision(fp16, bf16)
    if (calibrate or phase_1 or accept_loss) and not int8:
        raise PlanError("--calibrate, --phase-1 and --accept-loss need --int8")
    if int8 and (precision.is_half or static or video or io is not Precision.FP32):
        raise PlanError("--int8 goes with float32 inputs and outputs and no other precision")
    kind = "int8" if int8 else precision.value if precision.is_half else ""
    suffixes = [s for s in (kind, static) if s]
    name = "_".join([checkpoint.stem, *(["video"] if video else []), *suffixes])
    plan = ExportPlan(
        checkpoint=checkpoint,
        output=output or Path(f"{name}.onnx"),
        is_named=output is not None,
        options=options,
        precision=precision,
        io=io,
        static=Size.parse(static) if static else None,
        video=video,
        rewrite=rewrite,
        runtime=runtime,
        opset=opset,
        error_shares=audit is not None,
    )
    if audit:
        _check_report(audit, plan)
    if int8:
        from paragon_export.pipeline.quantize import Calibration, export_int8

        calibration = Calibration(
            path=calibrate, phase_1=phase_1, agreement=agreement, accept_loss=accept_loss
        )
        result: ExportResult = export_int8(plan, calibration)
    else:
        result = export(plan)
    if audit and result.ranges:
        write_text(audit, to_json(result.ranges.to_json()))
    render.show(json, render.exported(result), render.export_table)
    _exit_on_failure(result.passed)


@app.command(name="audit")
@takes_options
def audit_ranges(
    source: Annotated[Path, typer.Argument(help="Checkpoint or float32 ONNX file.")],
    bf16: Annotated[bool, typer.Option("--bf16", help="Of bfloat16, not float16.")] = False,
    video: Video = False,
    rewrite: Rewrite = True,
    images: Images = None,
    *,
    options: NetworkOptions,
    json: Json = False,
) -> None:
    """Say how every tensor fits into half precision. Exit code 1 if float32 islands cannot help."""
    from paragon_export.cli import render
    from paragon_export.pipeline.audit_ranges import audit_source

    plan = ExportPlan(
        checkpoint=source,
        output=Path("unwritten.onnx"),
        options=options,
        precision=Precision.BF16 if bf16 else Precision.FP16,
        video=video,
        rewrite=rewrite,
    )
    ranges = audit_source(plan, images)
    render.show(json, render.audited(ranges), render.audit_table)
    _exit_on_failure(ranges.passed)


@app.command()
@takes_options
def trt(
    source: Annotated[Path, typer.Argument(help="Checkpoint or ONNX file.")],
    output: Output = None,
    fp16: Fp16 = False,
    bf16: Bf16 = False,
    backend: Annotated[Backend, typer.Option(help="Which TensorRT builds.")] = Backend.RTX,
    target: Annotated[
        list[str] | None,
        typer.Option(help=f"GPU generations in one engine: {', '.join(TARGETS)}. Repeatable."),
    ] = None,
    min: Annotated[
        str | None, typer.Option(metavar="HxW", help="Smallest input, or batch.")
    ] = None,
    opt: Annotated[
        str | None, typer.Option(metavar="HxW", help="Size or batch to tune for.")
    ] = None,
    max: Annotated[str | None, typer.Option(metavar="HxW", help="Largest input, or batch.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="Profile from a file in engines/.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Reference to judge an ONNX source against.")
    ] = None,
    video: Video = False,
    rewrite: Rewrite = True,
    *,
    options: NetworkOptions,
    json: Json = False,
) -> None:
    """Build a TensorRT engine with a manifest, or reuse the one there if all of it matches."""
    from paragon_export.cli import render
    from paragon_export.pipeline.build import build

    precision = _precision(fp16, bf16)
    targets = tuple(dict.fromkeys(target or ()))
    parts = [source.stem, *([precision.value] if precision.is_half else []), *targets]
    plan = EnginePlan(
        source=source,
        output=output or Path("_".join(parts) + ".engine"),
        is_named=output is not None,
        checkpoint=checkpoint,
        options=options,
        precision=precision,
        backend=backend,
        targets=targets,
        profile=_profile(min, opt, max, recipe),
        video=video,
        rewrite=rewrite,
    )
    result = build(plan)
    render.show(json, render.built(result), render.build_table)
    _exit_on_failure(result.passed)


@app.command()
@takes_options
def parity(
    reference: Annotated[
        Path, typer.Argument(help="Checkpoint; or one ONNX file or engine, which names its own.")
    ],
    candidates: Annotated[list[Path] | None, typer.Argument(help="ONNX files and engines.")] = None,
    sizes: Annotated[
        str | None, typer.Option(metavar="HxW,...", help="Sizes instead of the default ones.")
    ] = None,
    images: Images = None,
    backend: Backends = None,
    junit: Annotated[Path | None, typer.Option(help="JUnit XML file to write.")] = None,
    other_checkpoint: Annotated[
        bool,
        typer.Option("--other-checkpoint", help="Also judge what was made from another one."),
    ] = False,
    *,
    options: NetworkOptions,
    json: Json = False,
) -> None:
    """Judge artifacts against the PyTorch network in float64. Exit code 1 if any fails."""
    from paragon_export.cli import render
    from paragon_export.parity.check import check_parity
    from paragon_export.parity.junit import junit as junit_xml
    from paragon_export.system.atomic_write import check_writable, write_text

    files = candidates or [reference]
    if not candidates and not _is_artifact(reference):
        raise typer.BadParameter("give the ONNX files and engines to judge against it")
    if junit:
        check_writable(junit, reference, *files, options.config)
    report = check_parity(
        reference if candidates else None,
        files,
        sizes=sizes.split(",") if sizes is not None else (),
        images=images,
        backends=_backends(backend),
        other_checkpoint=other_checkpoint,
        options=options,
    )
    if junit:
        write_text(junit, junit_xml(report))
    render.show(json, render.judged(report, files), render.parity_table)
    _exit_on_failure(report.passed)


@app.command()
@takes_options
def bench(
    artifacts: Annotated[list[Path], typer.Argument(help="Checkpoints, ONNX files, engines.")],
    size: Annotated[
        list[str] | None, typer.Option(metavar="HxW", help="Input size. Repeatable.")
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Glyphs at a time. Repeatable.")
    ] = None,
    backend: Backends = None,
    report: Annotated[
        Path | None, typer.Option(help="Markdown file to write, and JSON beside it.")
    ] = None,
    *,
    options: NetworkOptions,
    json: Json = False,
) -> None:
    """Measure frames per second of every backend, interleaved in one run."""
    from paragon_export.bench.measure import benchmark, is_report
    from paragon_export.cli import render
    from paragon_export.system.atomic_write import check_writable, to_json, write_texts

    if report:
        check_suffix(report, (".md",))
    files = [report, report.with_suffix(".json")] if report else []
    for file in files:
        check_writable(file, *artifacts, options.config, named=file == report, is_ours=is_report)
    result = benchmark(
        artifacts,
        sizes=size or (),
        batches=batch or (),
        backends=_backends(backend),
        options=options,
    )
    if files:
        texts = (render.bench_markdown(result), to_json(result.to_json()))
        write_texts(dict(zip(files, texts, strict=True)))
    render.show(json, result.to_json(), render.bench_table)


@app.command()
def glyphs(
    phase_1: Annotated[Path, typer.Argument(help="Checkpoint or ONNX file of phase 1.")],
    phase_2: Annotated[Path, typer.Argument(help="Of phase 2; the order does not matter.")],
    rasters: Annotated[list[Path], typer.Argument(help="Grey pictures of 128x128 pixels.")],
    label_map: Annotated[
        Path | None, typer.Option(help="JSON file {label: class}; default: the checkpoint's own.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes to name for each glyph.")] = 5,
    backend: Annotated[
        OnnxBackend, typer.Option(help="What runs both phases.")
    ] = OnnxBackend.ONNXRUNTIME,
    config: Config = None,
    more: More = None,
    json: Json = False,
) -> None:
    """Name the glyphs on rasters with both phases of the glyph classifier."""
    import numpy as np

    from paragon_export.cli import render
    from paragon_export.pipeline.glyph_chain import name_glyphs, open_chain, read_raster

    pictures = np.stack([read_raster(path) for path in rasters])
    chain = open_chain((phase_1, phase_2), options_of(config=config, more=more), label_map, backend)
    grids, named = name_glyphs(chain, pictures, top)
    document = render.glyphs(rasters, grids, named, backend.value, chain.notes)
    render.show(json, document, render.glyphs_table)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to fill.")] = Path("demo"),
) -> None:
    """Run everything on the shipped checkpoint and photograph."""
    from paragon_export.cli.demo import run

    _exit_on_failure(run(output))


def _check_report(audit: Path, plan: ExportPlan) -> None:
    """Refuse an audit that would not be made, or would take the place of another file."""
    from paragon_export.system.atomic_write import check_writable

    if not plan.precision.is_half:
        raise PlanError("--audit is about half precision; give --fp16 or --bf16 as well")
    check_writable(audit, plan.checkpoint, plan.options.config)
    if audit.resolve() == plan.output.resolve():
        raise PlanError(f"--audit {audit} is the file to export to; choose another")


def _precision(fp16: bool, bf16: bool) -> Precision:
    if fp16 and bf16:
        raise typer.BadParameter("give --fp16 or --bf16, not both")
    return Precision.FP16 if fp16 else Precision.BF16 if bf16 else Precision.FP32


def _backends(given: list[OnnxBackend] | None) -> list[OnnxBackend]:
    return list(dict.fromkeys(given or [OnnxBackend.ONNXRUNTIME]))


def _profile(
    smallest: str | None, optimal: str | None, largest: str | None, recipe: Path | None
) -> Profile | BatchProfile | None:
    given = [smallest, optimal, largest]
    if recipe and any(given):
        raise PlanError("give --recipe, or --min, --opt and --max, not both")
    if recipe:
        return read_recipe(recipe)
    if not any(given):
        return None
    if smallest is None or optimal is None or largest is None:
        raise PlanError(
            "a profile needs --min, --opt and --max together, as in "
            f"--min {DEFAULT_PROFILE.smallest} --opt {DEFAULT_PROFILE.optimal} "
            f"--max {DEFAULT_PROFILE.largest}"
        )
    if all(text.isdecimal() and len(text) < 7 for text in (smallest, optimal, largest)):
        low, best, high = (int(text) for text in (smallest, optimal, largest))
        return BatchProfile(smallest=low, optimal=best, largest=high)
    return Profile(
        smallest=Size.parse(smallest), optimal=Size.parse(optimal), largest=Size.parse(largest)
    )


def _is_artifact(path: Path) -> bool:
    return path.suffix.lower() in (*ONNX_SUFFIXES, *ENGINE_SUFFIXES)


def _exit_on_failure(passed: bool | None) -> None:
    """A verdict that failed is exit code 1; no verdict at all is not a failure."""
    if passed is False:
        raise typer.Exit(FAILED)


def main() -> None:
    """Run the command line. Whatever is raised is one line and exit code 3.

    ``--debug``, anywhere on the command line, prints the traceback as well.
    """
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    with guarded():
        try:
            app(args=arguments)
        except Exception as error:  # the last place where it can be told
            if "--debug" in sys.argv[1:]:
                traceback.print_exc()
            reason = one_line(reason_of(error))
            if "--json" in arguments:
                from paragon_export.cli.render import show_error

                show_error(reason)
            print(f"paragon-export: {reason}", file=sys.stderr)
            sys.exit(COULD_NOT_RUN)
