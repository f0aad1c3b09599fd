"""What the compiled kernels of plain and rewritten exports move on TensorRT, and how long they take.

TensorRT-RTX compiles both in float16 for one size, without a GPU; bytes and times are estimated
from its list of kernels (docs/concepts/kernels.md), not measured. Random weights, batch 1. A gigabyte
is 1e9 bytes.

Writes ``tensorrt_estimate.json``.
"""

from __future__ import annotations

import gc
from typing import Annotated, Any

import typer
from common import SCALES, SIZES, gigabytes, kernel_plans, network, plain, rewritten, write

from paragon_export.specs.types import Runtime, Size

INPUTS = ("540x960", "1080x1920")

CARDS = ("RTX 3060", "RTX 4090")


def main(
    variants: Annotated[list[str] | None, typer.Argument(help="Default: all four.")] = None,
    scales: Annotated[list[int] | None, typer.Option("--scale", help="Default: 2 and 4.")] = None,
) -> None:
    for variant in variants or list(SIZES):
        for scale in scales or SCALES:
            if (variant, scale) not in (("photo", 4), ("pro", 4)):
                write(
                    "tensorrt_estimate", rows(variant, scale), ("variant", "scale", "input", "card")
                )
            gc.collect()


def rows(variant: str, scale: int) -> list[dict[str, Any]]:
    """Return a row for each size and card. Default is the export for every runtime."""
    module = network(variant, scale)
    sizes = [Size.parse(size) for size in INPUTS]
    forms = {
        "plain": plain(module, scale),
        "rewritten": rewritten(module, scale, Runtime.TENSORRT),
        "default": rewritten(module, scale, Runtime.ANY),
    }
    plans = {form: kernel_plans(exported, sizes, CARDS) for form, exported in forms.items()}
    found = []
    for before, after, default in zip(*plans.values(), strict=True):
        found.append(
            {
                "variant": variant, "scale": scale, "input": str(before.size),
                "card": before.card.name, "plain GB": gigabytes(before),
                "rewritten GB": gigabytes(after),
                "rewritten / plain, bytes": gigabytes(after) / gigabytes(before),
                "default / plain, bytes": gigabytes(default) / gigabytes(before),
                "plain launches": len(before.works), "rewritten launches": len(after.works),
                "plain ms": before.milliseconds, "rewritten ms": after.milliseconds,
                "rewritten / plain, ms": after.milliseconds / before.milliseconds,
                "default / plain, ms": default.milliseconds / before.milliseconds,
            }
        )  # fmt: skip
    return found


if __name__ == "__main__":
    typer.run(main)
