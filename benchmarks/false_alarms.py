"""Whether a good export is ever called wrong: every golden network, float32 and float16.

A network is a set of recorded weights with the switches that it was recorded with; cases that
differ in their input alone are one. Each is exported and judged as ``paragon-export onnx`` does,
at all default sizes. What the tool does not serve is refused, and listed as refused.

``--golden`` takes a folder with a ``manifest.json`` in place of the cases that lie in ``paragon_export/testing``;
``--only`` takes a pattern of case names. Writes ``false_alarms.json`` and
``false_alarms_by_generation.json``.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from common import RESULTS, write

from paragon_export.errors import ParagonExportError
from paragon_export.parity.report import ParityReport
from paragon_export.pipeline.export import export
from paragon_export.specs.plans import ExportPlan, NetworkOptions
from paragon_export.specs.types import Precision
from paragon_export.testing.glyph import GOLDEN as GLYPHS
from paragon_export.testing.glyph import golden_checkpoint
from paragon_export.testing.golden.make_weights import fill
from paragon_export.testing.recorded import GOLDEN
from paragon_export.testing.tiny import save

SWITCHES = ("upsampler_alpha", "window_size", "export_safe", "use_norm")
"""Arguments of the recorded networks that tensors do not tell."""

SHARES_NAMES = {"v1": "v3"}
"""Versions whose published sizes have other defaults although their tensors are equal."""


def main(
    golden: Annotated[Path, typer.Option(help="Folder with manifest.json.")] = GOLDEN,
    only: Annotated[list[str] | None, typer.Option(help="Pattern of names. Repeatable.")] = None,
    heavy: Annotated[bool, typer.Option(help="Also the largest networks.")] = False,
) -> None:
    for name, case in networks(golden):
        wanted = any(fnmatch(name, pattern) for pattern in only or ["*"])
        if wanted and (heavy or not case.get("heavy")):
            rows = [judged(name, case, golden, p) for p in (Precision.FP32, Precision.FP16)]
            write("false_alarms", rows, ("network", "precision"))
    summarise()


def summarise() -> None:
    """Write the table by generation that the documentation shows."""
    groups: dict[str, list[dict[str, Any]]] = {}
    rows = json.loads((RESULTS / "false_alarms.json").read_text(encoding="utf-8"))["rows"]
    for row in rows:
        version = row["network"].split("_")[0]
        known = version[0] == "v" or version.startswith(("psr1", "munet"))
        groups.setdefault(version if known else "glyph", []).append(row)
    write(
        "false_alarms_by_generation", [summary(n, g) for n, g in groups.items()], ("networks of",)
    )


def summary(version: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Count the networks of a generation that passed, and those that are not served."""
    served = [row for row in rows if not row["verdict"].startswith("refused")]
    counts: dict[str, Any] = {"networks of": version}
    for precision in (Precision.FP32, Precision.FP16):
        of = [row for row in served if row["precision"] == precision.value]
        passed = sum(row["verdict"] == "passed" for row in of)
        counts[f"passed {precision.name}"] = f"{passed} of {len(of)}"
        nearest = max((row["error / limit"] for row in of), default=0.0)
        coarse = sum(row["verdict"].startswith("too coarse") for row in of)
        counts[f"passed {precision.name}"] += f", {coarse} too coarse" if coarse else ""
        counts[f"nearest to the limit {precision.name}"] = nearest
    return {**counts, "refused": (len(rows) - len(served)) // 2}


def networks(golden: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the name of the first case of every network, and the case."""
    seen = set()
    for file in ("manifest.json", "older.json", "munet.json"):
        path = golden / file
        for case in json.loads(path.read_text(encoding="utf-8")) if path.exists() else ():
            told = (case["signature"], case["fill"], _flags(case), "forward" in case)
            key = json.dumps(told, sort_keys=True)
            if key not in seen:
                seen.add(key)
                yield case["id"], case
    for signature in sorted(GLYPHS.glob("sig_*.json")):
        yield signature.stem.removeprefix("sig_"), {"glyph": True}


def _flags(case: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a user would have to say of a case."""
    flags = {k: v for k, v in case["kwargs"].items() if k in SWITCHES}
    switches = case.get("switches", {})
    if switches.get("dynamic_inference"):
        flags["dynamic_inference"] = True
    if case["fill"].get("tracked") == 0:
        flags["obey_tracked_flag"] = True
    if switches.get("hier"):
        flags["attention_mode"] = "hierarchical"
    if case["version"] == "v5h":
        flags["attention_mode"] = "global"
    if case["version"].startswith("munet"):
        flags["generation"] = case["version"]
    return flags


def judged(name: str, case: Mapping[str, Any], golden: Path, precision: Precision) -> dict:
    """Export one network in one precision; say what the verdict was and how near to its limit."""
    start = time.perf_counter()
    with TemporaryDirectory() as folder:
        try:
            report = _export(name, case, golden, precision, Path(folder))
        except ParagonExportError as error:
            verdict, closest = f"refused: {str(error).split('golden.safetensors')[-1][:60]}", 0.0
        else:
            verdict = "passed" if report.passed else _failure(report)
            closest = _closest(report)
    return {
        "network": name,
        "precision": precision.value,
        "verdict": verdict,
        "error / limit": closest,
        "seconds": time.perf_counter() - start,
    }


def _export(
    name: str, case: Mapping[str, Any], golden: Path, precision: Precision, folder: Path
) -> ParityReport:
    if "glyph" in case:
        checkpoint, flags = golden_checkpoint(name, folder), {}
    else:
        signature = json.loads((golden / case["signature"]).read_text(encoding="utf-8"))
        weights = fill(signature["state_dict"], **case["fill"])
        checkpoint, flags = save(weights, folder / "golden.safetensors"), _flags(case)
    plan = ExportPlan(
        checkpoint=checkpoint,
        output=folder / "golden.onnx",
        options=NetworkOptions(flags=flags),
        precision=precision,
        video="forward" in case,
    )
    try:
        return export(plan).parity
    except ParagonExportError as error:
        if "--scale" not in str(error):
            raise
    told = {**flags, "scale": case["kwargs"]["scale"]}
    return export(
        ExportPlan(
            checkpoint=checkpoint,
            output=plan.output,
            options=NetworkOptions(flags=told),
            precision=precision,
            video=plan.video,
        )
    ).parity


def _failure(report: ParityReport) -> str:
    """Tell a network that half precision is too coarse for, PyTorch's as well, from a false alarm.

    Its errors are within what PyTorch errs, and below the bar of decibels all the same.
    """
    failures = {row.failure for row in report.rows if row.failure}
    return "too coarse in half" if failures == {"PSNR"} else f"FALSE ALARM: {failures}"


def _closest(report: ParityReport) -> float:
    """Return the largest error of any judged row as a share of what it may be."""
    shares = [row.found.max_abs / row.limit for row in report.rows if row.is_judged]
    return max((share for share in shares if math.isfinite(share)), default=0.0)


if __name__ == "__main__":
    typer.run(main)
