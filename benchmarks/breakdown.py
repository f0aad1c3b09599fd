"""Where the time of a rewritten export goes in ONNX Runtime, by kind of operator.

ONNX Runtime's own profile of exports made for it: random weights, batch 1, float32, scale 2.
Profiling costs time of its own, so that the sums are above the latencies measured without.

Writes ``breakdown.json``.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from common import MEASURED_AT, SIZES, Exported, median, network, random_picture, rewritten, write

from paragon_export.specs.types import Runtime, Size
from paragon_export.system.optional import import_without_telemetry

onnxruntime = import_without_telemetry("onnxruntime")

SCALE = 2

SHOWN = 0.02
"""Operators with a smaller share are summed up."""


def main(
    variants: Annotated[list[str] | None, typer.Argument(help="Default: all four.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Runs that are profiled.")] = 7,
) -> None:
    for variant in variants or list(SIZES):
        exported = rewritten(network(variant, SCALE), SCALE, Runtime.ONNXRUNTIME)
        spent = profile(exported, MEASURED_AT[variant], samples)
        total = sum(spent.values())
        shown = {name: ms for name, ms in spent.items() if ms >= SHOWN * total}
        shown["all others"] = total - sum(shown.values())
        rows: list[dict[str, Any]] = [
            {
                "variant": variant,
                "size": str(MEASURED_AT[variant]),
                "operator": name,
                "ms": ms,
                "share": ms / total,
            }
            for name, ms in shown.items()
        ]
        write("breakdown", rows, ("variant", "operator"))


def profile(exported: Exported, size: Size, samples: int) -> dict[str, float]:
    """Return the median milliseconds that each kind of operator takes in one run."""
    feeds = {"input": random_picture(size)}
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "run")
        session = onnxruntime.InferenceSession(exported.data, options)
        for _ in range(samples + 2):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return {kind: median(runs) for kind, runs in _by_run(events).items()}


def _by_run(events: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Return for each kind of operator its milliseconds in every run but the first two."""
    runs: list[Counter[str]] = []
    seen: Counter[str] = Counter()
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("kernel_time"):
            continue
        run, kind = seen[event["name"]], event["args"]["op_name"]
        seen[event["name"]] += 1
        while len(runs) <= run:
            runs.append(Counter())
        runs[run][kind] += event["dur"] / 1000
    kinds = {kind for run in runs for kind in run}
    return {kind: [run[kind] for run in runs[2:]] for kind in sorted(kinds)}


if __name__ == "__main__":
    typer.run(main)
