"""``script``: upscale a video in a player."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paragon_export.cli.options import Json, Output, default_name, existing, replaced, size_of
from paragon_export.specs.types import OnnxBackend, Player, check_suffix

Model = Annotated[Path, typer.Argument(help="ONNX file or engine.")]
ForPlayer = Annotated[Player, typer.Option("--for", help="Player that runs the script.")]
PlayBackend = Annotated[OnnxBackend, typer.Option("--backend", help="What runs an ONNX file.")]
Tile = Annotated[
    str | None,
    typer.Option(metavar="HEIGHTxWIDTH", help="Largest tile; default whole frames where they fit."),
]
Streams = Annotated[
    int | None,
    typer.Option(min=1, max=64, help="Frames at a time; default 1 on a processor, 2 on a GPU."),
]


def script(
    model: Model,
    output: Output = None,
    player: ForPlayer = Player.VAPOURSYNTH,
    backend: PlayBackend = OnnxBackend.ONNXRUNTIME,
    tile: Tile = None,
    streams: Streams = None,
    json: Json = False,
) -> None:
    """Write a script that upscales a video with an ONNX file or engine in VapourSynth or mpv."""
    from paragon_export.cli.show.console import line, show
    from paragon_export.players.vapoursynth import is_our_script, vapoursynth_script
    from paragon_export.system.atomic_write import check_writable, write_text

    path = output or default_name(model, [], player.suffix)
    check_suffix(path, (player.suffix,))
    check_writable(path, model, named=output is not None, is_ours=is_our_script)
    there = existing(path)
    text = vapoursynth_script(
        model,
        path,
        backend=backend,
        tile=size_of(tile, "--tile") if tile else None,
        streams=streams,
    )
    write_text(path, text)
    document = {"written": str(path), "notes": replaced(there)}
    show(json, document, lambda console: line(console, f"wrote {path}"))
