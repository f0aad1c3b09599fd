"""Each rewrite rule alone: what is lost when it is left out and all others are kept.

Latency is that of ONNX Runtime on networks made for it, all contenders taking turns in one run;
a ratio is the median of the ratios within each round. Memory is what TensorRT-RTX plans for an
RTX 30 card in float16, on networks made for TensorRT. Above 1: the rule pays. Some rules need
others before them, so that the ratios do not multiply to the whole gain. Scale 2, random weights.

Writes ``rules.json``.
"""

from __future__ import annotations

import gc
from typing import Annotated, Any

import torch
import typer
from common import (
    MEASURED_AT,
    SIZES,
    Exported,
    check_equal,
    interleave,
    median_ratio,
    network,
    onnx_runtime,
    plain,
    planned_megabytes,
    random_picture,
    rewritten,
    short_reason,
    write,
)

from paragon_export.errors import ParagonExportError
from paragon_export.rewrite.rules import RULES
from paragon_export.specs.types import Runtime, Size

SCALE = 2

ALL = "all rules"


def main(
    variants: Annotated[list[str] | None, typer.Argument(help="Default: all four.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Rounds that are timed.")] = 7,
    size: Annotated[
        str, typer.Option(help="Largest input that memory is planned for.")
    ] = "1080x1920",
) -> None:
    for variant in variants or list(SIZES):
        module = network(variant, SCALE)
        latency = latency_ratios(variant, module, samples)
        gc.collect()
        memory = memory_ratios(module, Size.parse(size))
        rows: list[dict[str, Any]] = []
        for rule in RULES:
            if rule.name in latency or rule.name in memory:
                rows.append(
                    {
                        "variant": variant,
                        "rule": rule.name,
                        "latency without / with": latency.get(rule.name, "-"),
                        "planned memory without / with": memory.get(rule.name, "-"),
                    }
                )
        write("rules", rows, ("variant", "rule"))


def ablations(module: torch.nn.Module, runtime: Runtime) -> dict[str, Exported]:
    """Return the network with all rules of a runtime, and without each that fired."""
    exports = {ALL: rewritten(module, SCALE, runtime)}
    for name in exports[ALL].fired:
        rest = [rule for rule in RULES if rule.name != name]
        exports[name] = rewritten(module, SCALE, runtime, rest)
    return exports


def latency_ratios(variant: str, module: torch.nn.Module, samples: int) -> dict[str, float]:
    picture = random_picture(MEASURED_AT[variant])
    exports = ablations(module, Runtime.ONNXRUNTIME)
    contenders = {name: onnx_runtime(exported, picture) for name, exported in exports.items()}
    truth = onnx_runtime(plain(module, SCALE), picture)()
    for name, run in contenders.items():
        check_equal(f"{variant} without {name}", run(), truth)
    taken = interleave(contenders, samples)
    return {name: median_ratio(taken[name], taken[ALL]) for name in taken if name != ALL}


def memory_ratios(module: torch.nn.Module, largest: Size) -> dict[str, float | str]:
    exports = ablations(module, Runtime.TENSORRT)
    everything = planned_megabytes(exports.pop(ALL), largest)
    ratios: dict[str, float | str] = {}
    for name, exported in exports.items():
        try:
            ratios[name] = planned_megabytes(exported, largest) / everything
        except ParagonExportError as error:
            ratios[name] = short_reason(error)
    return ratios


if __name__ == "__main__":
    typer.run(main)
