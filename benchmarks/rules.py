"""Each rewrite rule alone: what is lost when it is left out and all others are kept.

Latency is that of ONNX Runtime on networks made for it, all contenders taking turns in one run;
a ratio is the median of the ratios within each round. On networks made for TensorRT, float16, an RTX
30 card and one size, memory is what TensorRT-RTX plans, and bytes and time are estimated from the
kernels that it compiles; nothing is run. Above 1: the rule pays. Some rules need others before
them, so that the ratios do not multiply to the whole gain. Scale 2, random weights.

Writes ``rules.json`` (latency) and ``rules_tensorrt.json``.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Annotated, Any

import torch
import typer
from common import (
    MEASURED_AT,
    SIZES,
    Exported,
    check_equal,
    gigabytes,
    interleave,
    kernel_plans,
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


CARD = "RTX 3060"


def main(
    variants: Annotated[list[str] | None, typer.Argument(help="Default: all four.")] = None,
    samples: Annotated[int, typer.Option(min=0, help="Rounds that are timed; 0: none.")] = 7,
    size: Annotated[str, typer.Option(help="Input that TensorRT compiles for.")] = "1080x1920",
) -> None:
    for variant in variants or list(SIZES):
        module = network(variant, SCALE)
        latency = latency_ratios(variant, module, samples) if samples else {}
        gc.collect()
        rows = [
            {"variant": variant, "rule": rule, "latency without / with": ratio}
            for rule, ratio in in_order(latency)
        ]
        if rows:
            write("rules", rows, ("variant", "rule"))
        compiled = tensorrt_ratios(module, Size.parse(size))
        rows = [{"variant": variant, "rule": rule, **row} for rule, row in in_order(compiled)]
        write("rules_tensorrt", rows, ("variant", "rule"))


def in_order(found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return rules and their results in the order in which rules are applied."""
    return [(rule.name, found[rule.name]) for rule in RULES if rule.name in found]


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


def tensorrt_ratios(module: torch.nn.Module, size: Size) -> dict[str, dict[str, float | str]]:
    exports = ablations(module, Runtime.TENSORRT)
    everything = compiled_figures(exports.pop(ALL), size)
    found: dict[str, dict[str, float | str]] = {}
    for name, exported in exports.items():
        try:
            figures = compiled_figures(exported, size)
            found[name] = {
                f"{key} without / with": figures[key] / everything[key] for key in figures
            }
        except ParagonExportError as error:
            found[name] = {f"{key} without / with": short_reason(error) for key in everything}
        gc.collect()
    return found


def compiled_figures(exported: Exported, size: Size) -> dict[str, float]:
    """Return planned memory, bytes moved and milliseconds, the latter two estimated."""
    (plan,) = kernel_plans(exported, [size], [CARD])
    return {
        "planned memory": planned_megabytes(exported, size),
        "bytes": gigabytes(plan),
        "estimated ms": plan.milliseconds,
    }


if __name__ == "__main__":
    typer.run(main)
