"""The options that several commands share, and how their values are read."""

from __future__ import annotations

import itertools
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

import typer

from paragon_export.cli.show.held_notes import hold_note
from paragon_export.errors import PlanError
from paragon_export.networks.options import FLAGS, parse_option
from paragon_export.reports.files import ReportFiles
from paragon_export.specs.plans import NetworkOptions
from paragon_export.specs.profiles import recipe_names
from paragon_export.specs.types import (
    ENGINE_SUFFIXES,
    ONNX_SUFFIXES,
    TARGETS,
    Backend,
    OnnxBackend,
    Precision,
    Runtime,
    Size,
)
from paragon_export.system.reading import INDEX_SUFFIX

FAILED = 1
"""Exit code of a failed verdict."""

SIZE = "HEIGHTxWIDTH"
"""How help texts name a size."""

Config = Annotated[
    Path | None, typer.Option(help="traiNNer option file that the network was trained with.")
]
AttentionMode = Annotated[
    str | None,
    typer.Option(
        help="Attention: sdpa, flex or none (drops the trained attention).",
        autocompletion=lambda: ["sdpa", "flex", "none"],
    ),
]
ExportSafe = Annotated[
    bool | None,
    typer.Option("--export-safe/--no-export-safe", help="Drop attention, as traiNNer's option."),
]
UpsamplerAlpha = Annotated[
    float | None,
    typer.Option(help="Blend factor of the base upsampler; the checkpoint does not determine it."),
]
WindowSize = Annotated[
    int | None,
    typer.Option(help="Side of attention windows in pixels; the checkpoint does not determine it."),
]
Scale = Annotated[
    int | None, typer.Option(help="Upscaling factor, if the checkpoint does not determine it.")
]
More = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help=f"Set any network option (repeatable): {', '.join(FLAGS)}.",
        autocompletion=lambda: [f"{name}=" for name in FLAGS],
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
CheckpointFile = Annotated[
    Path, typer.Argument(help=".safetensors, .pth or .pt file, or the index of several shards.")
]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="File to write.")]
Fp16 = Annotated[bool, typer.Option("--fp16", help="Compute in float16, strongly typed.")]
Bf16 = Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16, strongly typed.")]
Rewrite = Annotated[
    bool, typer.Option(help="Export an equal network that runs faster, or the network as trained.")
]
Opset = Annotated[
    int | None,
    typer.Option(
        help="ONNX operator set, 18 to 23 (default 20, with --bf16 22, --for portable 18); ONNX Runtime before 1.17 "
        "needs 18 or 19."
    ),
]
Images = Annotated[Path | None, typer.Option(help="Folder of images to add.")]
Backends = Annotated[
    list[OnnxBackend] | None,
    typer.Option("--backend", help="Runtime of ONNX files (repeatable); default onnxruntime."),
]
Video = Annotated[
    bool,
    typer.Option("--video", help="Add the inputs prev_feat and alpha and the output feature_map."),
]
Target = Annotated[
    list[str] | None,
    typer.Option(
        help=f"GPU generation of the engine (repeatable): {', '.join(TARGETS)}.",
        autocompletion=lambda: list(TARGETS),
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="Optimization profiles from a shipped recipe or a TOML file.",
        autocompletion=recipe_names,
    ),
]
Calibrate = Annotated[
    Path | None,
    typer.Option(help="Real inputs to calibrate on: a folder of images or rasters, .npy or .npz."),
]
Phase1 = Annotated[
    Path | None,
    typer.Option("--phase-1", help="Phase 1 of the glyph classifier, if rasters are given."),
]
Agreement = Annotated[
    float, typer.Option(min=0, max=1, help="Share of glyphs that must keep their best class.")
]
AcceptLoss = Annotated[
    bool, typer.Option("--accept-loss", help="Write the file whatever quality images lose.")
]

Io = Annotated[
    Precision, typer.Option(help="Type of the image inputs and outputs of a half model.")
]
Static = Annotated[
    str | None, typer.Option(metavar=SIZE, help="Export for this input size and batch 1 only.")
]
ForRuntime = Annotated[
    Runtime,
    typer.Option(
        "--for",
        help="Runtime that the rewritten network is optimized for; portable: plain operators, for "
        "OpenCV and ncnn (OpenCV before 4.11 takes one size only: --static).",
    ),
]
AuditFile = Annotated[
    Path | None,
    typer.Option(help="JSON file to write: the range of every tensor in half precision."),
]
Int8Alias = Annotated[bool, typer.Option("--int8", hidden=True)]
CalibrateAlias = Annotated[Path | None, typer.Option(hidden=True)]
Phase1Alias = Annotated[Path | None, typer.Option("--phase-1", hidden=True)]
AgreementAlias = Annotated[float, typer.Option(min=0, max=1, hidden=True)]
AcceptLossAlias = Annotated[bool, typer.Option("--accept-loss", hidden=True)]
Reference = Annotated[
    Path, typer.Argument(help="Checkpoint; or one ONNX file or engine, which names its own.")
]
Candidates = Annotated[list[Path] | None, typer.Argument(help="ONNX files and engines.")]
Sizes = Annotated[
    str | None,
    typer.Option(metavar=f"{SIZE},...", help="Input sizes to judge at, not the default ones."),
]
At = Annotated[
    list[str] | None,
    typer.Option(
        "--at",
        metavar=SIZE,
        help="Large size to judge at as well (repeatable), in place of the default one.",
    ),
]
JunitFile = Annotated[Path | None, typer.Option(help="JUnit XML file to write.")]
OtherCheckpoint = Annotated[
    bool,
    typer.Option(
        "--other-checkpoint", help="Also judge files that were made from another checkpoint."
    ),
]
EngineSource = Annotated[Path, typer.Argument(help="Checkpoint or ONNX file.")]
PlanSource = Annotated[Path, typer.Argument(help="Checkpoint, ONNX file or engine.")]
TensorRtBackend = Annotated[Backend, typer.Option(help="TensorRT that builds the engine.")]
MinSize = Annotated[str | None, typer.Option(metavar=SIZE, help="Smallest input size, or batch.")]
OptSize = Annotated[str | None, typer.Option(metavar=SIZE, help="Input size or batch to tune for.")]
MaxSize = Annotated[str | None, typer.Option(metavar=SIZE, help="Largest input size, or batch.")]
ReferenceCheckpoint = Annotated[
    Path | None, typer.Option(help="Checkpoint to judge an ONNX source against.")
]
Artifacts = Annotated[list[Path], typer.Argument(help="Checkpoints, ONNX files and engines.")]
BenchSizes = Annotated[
    list[str] | None, typer.Option(metavar=SIZE, help="Input size (repeatable).")
]
BenchBatches = Annotated[
    list[int] | None, typer.Option(min=1, help="Glyphs at a time (repeatable).")
]
TimeVideo = Annotated[bool, typer.Option("--video", help="Time checkpoints as video networks.")]
ReportFile = Annotated[
    Path | None, typer.Option(help="Markdown file to write, and JSON with the same name.")
]
HtmlFile = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="HTML page to write, with pictures.")
]
MarkdownFile = Annotated[
    Path | None, typer.Option("--markdown", metavar="FILE", help="Short Markdown report to write.")
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
    """Collect the network options of a command line.

    Raises:
        PlanError: If an option is given twice or does not exist.
    """
    own = {
        "attention_mode": attention_mode,
        "export_safe": export_safe,
        "upsampler_alpha": upsampler_alpha,
        "window_size": window_size,
        "scale": scale,
    }
    given = {name: value for name, value in own.items() if value is not None}
    for text in more or ():
        name, value = parse_option(text)
        if name in given:
            raise PlanError(f"{name} is given twice; give it once")
        given[name] = value
    return NetworkOptions(flags=given, config=config)


def report_files_of(html: HtmlFile = None, markdown: MarkdownFile = None) -> ReportFiles:
    """Collect the files of a report of a command line."""
    command = " ".join(map(shlex.quote, ["paragon-export", *sys.argv[1:]]))
    return ReportFiles(html=html, markdown=markdown, command=command)


COLLECTED: Mapping[str, Callable[..., Any]] = {"options": options_of, "reports": report_files_of}
"""Parameters of commands that several options are collected in, by what collects them."""


def takes_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of each of its ``COLLECTED`` parameters in the parameter's place."""
    own = signature(command, eval_str=True)
    options = {
        name: signature(collect, eval_str=True).parameters
        for name, collect in COLLECTED.items()
        if name in own.parameters
    }

    @wraps(command)
    def called(**given: Any) -> None:
        values = {n: {each: given.pop(each) for each in options[n]} for n in options}
        command(**given, **{n: COLLECTED[n](**values[n]) for n in options})

    shown = (
        options[p.name].values() if p.name in options else [p] for p in own.parameters.values()
    )
    flat = [p.replace(kind=p.KEYWORD_ONLY) for p in itertools.chain.from_iterable(shown)]
    called.__signature__ = own.replace(parameters=flat)  # type: ignore[attr-defined]
    return called


def precision_of(fp16: bool, bf16: bool) -> Precision:
    """Return the precision that two flags ask for.

    Raises:
        typer.BadParameter: If both are given.
    """
    if fp16 and bf16:
        raise typer.BadParameter("give --fp16 or --bf16, not both")
    return Precision.FP16 if fp16 else Precision.BF16 if bf16 else Precision.FP32


def backends_of(given: list[OnnxBackend] | None) -> list[OnnxBackend]:
    return list(dict.fromkeys(given or [OnnxBackend.ONNXRUNTIME]))


def size_of(text: str, flag: str) -> Size:
    """Read a size, and note it if it is higher than wide, because it may be WIDTHxHEIGHT.

    Raises:
        PlanError: If it is no size.
    """
    size = Size.parse(text)
    if size.height > size.width:
        hold_note(
            f"{flag} {size} is {size.height} pixels high, {size.width} wide: portrait; sizes are "
            f"{SIZE}"
        )
    return size


def sizes_in(flag: str, given: str | Sequence[str] | None) -> tuple[Size, ...] | None:
    """Read the sizes of an option, a list or a text with commas; None if it was left out.

    Raises:
        PlanError: If one is no size.
    """
    texts = given.split(",") if isinstance(given, str) else given
    return None if texts is None else tuple(size_of(text, flag) for text in texts)


def default_name(source: Path, parts: Sequence[str], suffix: str) -> Path:
    """Return the name of an output that the user did not name, without the parts that are empty."""
    stem = Path(source.name.removesuffix(INDEX_SUFFIX)).stem
    return Path("_".join([stem, *filter(None, parts)]) + suffix)


def existing(*paths: Path | None) -> list[Path]:
    """Return the files that are there: what is written later replaces them."""
    return [path for path in paths if path is not None and os.path.isfile(path)]


def replaced(paths: Sequence[Path]) -> list[str]:
    """Return a note for each file that was replaced."""
    return [f"replaced {path}" for path in paths]


def is_artifact(path: Path) -> bool:
    """Tell by the name whether a file is an ONNX file or an engine."""
    return path.suffix.lower() in (*ONNX_SUFFIXES, *ENGINE_SUFFIXES)


def exit_on_failure(passed: bool | None) -> None:
    """Exit with code 1 if a verdict failed; no verdict at all is not a failure."""
    if passed is False:
        raise typer.Exit(FAILED)
