"""``upscale``: pictures and videos in, larger ones out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from paragon_export.cli.options import SIZE, Json, exit_on_failure, size_of, takes_options
from paragon_export.specs.plans import NetworkOptions
from paragon_export.specs.types import ADDRESS, LOCAL, OnnxBackend

Model = Annotated[Path, typer.Argument(help="Checkpoint, ONNX file or engine.")]
Inputs = Annotated[list[Path], typer.Argument(help="Pictures, videos and folders.")]
Output = Annotated[
    Path, typer.Option("-o", "--output", help="Folder to write to; or a file, for one input.")
]
Tile = Annotated[
    str,
    typer.Option(
        metavar=f"auto|none|{SIZE}",
        help="Size of tiles; they give the picture that the whole gives. auto: where memory is short.",
    ),
]
Blend = Annotated[
    bool,
    typer.Option(
        "--blend",
        help="Blend overlapping tiles of networks that see the whole picture. The result is not that of the whole "
        "picture; the difference is measured.",
    ),
]
RunBackend = Annotated[OnnxBackend, typer.Option("--backend", help="Runtime of an ONNX file.")]
Fit = Annotated[
    str | None, typer.Option(metavar=SIZE, help="Reduce larger results to fit into this size.")
]
Format = Annotated[
    str | None,
    typer.Option(
        help="Of pictures: png (default), jpg, webp, tiff or avif; png and tiff keep 16 bits. Of videos: mkv, "
        "mp4, mov or webm; default as the input, if it is one of them, or mkv."
    ),
]
Quality = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=100,
        help="Of jpg (default 95), webp (90), avif (80) and videos (68; HEVC and VP9 65).",
    ),
]
SkipExisting = Annotated[
    bool, typer.Option("--skip-existing", help="Leave out what is there already.")
]

Ray = Annotated[
    str | None,
    typer.Option(
        metavar="[ADDRESS]",
        help="Compute on a Ray cluster: HOST:PORT, auto, or local (default), which starts one here.",
    ),
]
RayCores = Annotated[
    int, typer.Option(min=1, help="With --ray: processor cores, and threads, of each worker.")
]


def with_address(arguments: Sequence[str]) -> list[str]:
    """Return a command line in which ``--ray`` has a value; what follows it may be an input."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    following = [*arguments[1:end], ""]
    given = [
        f"{one}={LOCAL}" if one == "--ray" and not ADDRESS.fullmatch(after) else one
        for one, after in zip(arguments[:end], following, strict=False)
    ]
    return [*given, *arguments[end:]]


@takes_options
def upscale(
    model: Model,
    inputs: Inputs,
    output: Output,
    tile: Tile = "auto",
    blend: Blend = False,
    backend: RunBackend = OnnxBackend.ONNXRUNTIME,
    fit: Fit = None,
    format: Format = None,
    quality: Quality = None,
    skip_existing: SkipExisting = False,
    ray: Ray = None,
    ray_cores: RayCores = 1,
    *,
    options: NetworkOptions,
    json: Json = False,
) -> None:
    """Upscale pictures and videos. Exit code 1 if one of them failed; the others are written.

    A video that was interrupted goes on after its last whole segment.
    """
    from paragon_export.cli.run.show_upscale import show_result
    from paragon_export.upscaling.flow import upscale_files
    from paragon_export.upscaling.plan import TILE_WORDS, UpscalePlan

    plan = UpscalePlan(
        model=model,
        inputs=tuple(inputs),
        output=output,
        tile=tile if tile in TILE_WORDS else size_of(tile, "--tile"),
        blend=blend,
        backend=backend,
        fit=size_of(fit, "--fit") if fit else None,
        format=format, quality=quality, skip_existing=skip_existing, options=options,
        ray=ray, ray_cores=ray_cores,
    )  # fmt: skip
    result = upscale_files(plan)
    show_result(result, json=json)
    exit_on_failure(result.passed)
