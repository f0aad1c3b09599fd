"""Device memory that TensorRT-RTX plans for the plain and the rewritten export, in float16.

Built ahead of time for an RTX 30 card (sm86), without a GPU: the figure is TensorRT's own plan of
activations and weights for the largest size of the profile, not a measurement on a card. Random
weights, batch 1. Megabytes are millions of bytes.

Writes ``memory.json``.
"""

from __future__ import annotations

import gc
import time
from typing import Annotated, Any

import typer
from common import (
    SCALES,
    SIZES,
    Exported,
    network,
    plain,
    planned_megabytes,
    rewritten,
    short_reason,
    write,
)

from paragon_export.errors import ParagonExportError
from paragon_export.specs.types import Runtime, Size

LARGEST = ("720x1280", "1080x1920", "2160x3840")


def main(
    variants: Annotated[list[str] | None, typer.Argument(help="Default: all four.")] = None,
    scales: Annotated[list[int] | None, typer.Option("--scale", help="Default: 2 and 4.")] = None,
    sizes: Annotated[
        list[str] | None, typer.Option("--size", help="Largest inputs, HEIGHTxWIDTH.")
    ] = None,
) -> None:
    for variant in variants or list(SIZES):
        for scale in scales or SCALES:
            module = network(variant, scale)
            exports = (plain(module, scale), rewritten(module, scale, Runtime.TENSORRT))
            for size in sizes or LARGEST:
                (before, slow), (after, quick) = (planned(e, Size.parse(size)) for e in exports)
                row: dict[str, Any] = {
                    "variant": variant,
                    "scale": scale,
                    "up to": size,
                    "plain MB": before,
                    "rewritten MB": after,
                    "rewritten / plain": ratio(after, before),
                    "build s plain": slow,
                    "build s rewritten": quick,
                }
                write("memory", [row], ("variant", "scale", "up to"))


def planned(exported: Exported, largest: Size) -> tuple[int | str, float]:
    """Return planned megabytes, or why there is no engine; and the seconds that took."""
    start = time.perf_counter()
    try:
        figure: int | str = round(planned_megabytes(exported, largest))
    except ParagonExportError as error:
        figure = short_reason(error)
    gc.collect()
    return figure, time.perf_counter() - start


def ratio(over: int | str, under: int | str) -> float | str:
    return over / under if isinstance(over, int) and isinstance(under, int) else "-"


if __name__ == "__main__":
    typer.run(main)
