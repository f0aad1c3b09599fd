"""Whether a good export is ever called wrong: every golden network, and random ones.

A network is a set of recorded weights with the switches that it was recorded with; cases that
differ in their input alone are one. Each is exported and judged as ``paragon-export onnx`` does,
at all default sizes. What the tool does not serve is refused, and listed as refused.

``--golden`` takes a folder with a ``manifest.json`` in place of the cases that lie in ``paragon_export/testing``;
``--only`` takes a pattern of case names. Writes ``false_alarms.json`` and
``false_alarms_by_generation.json``.

``--random N`` judges the small random networks of ``random_networks.py`` instead, from number 0 to
N - 1, at two or three small sizes and without the audit of ranges. A rewritten export that fails in
half precision counts as an alarm, although ``paragon-export onnx`` would export the network as trained
then. Networks whose output is no picture (beyond ``DIVERGED``) are skipped. It goes on where an
earlier run ended, on whatever machine and at whatever commit: see ``random_record.py``. ``--anew``
starts again. Writes ``random_networks.json``.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from fnmatch import fnmatch
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import torch
import typer
from common import RESULTS, write
from random_networks import RandomNetwork, options_of, random_network
from random_record import add, next_number, read_record, surroundings

from paragon_export.errors import ParagonExportError
from paragon_export.inputs.probes import photograph_crop
from paragon_export.networks.describe import read_network
from paragon_export.parity.check import judge
from paragon_export.parity.reference import build_reference
from paragon_export.parity.report import ParityReport
from paragon_export.pipeline.export import export
from paragon_export.pipeline.float32_graph import finish, float32_graph
from paragon_export.precision.half import to_precision
from paragon_export.specs.network import Task
from paragon_export.specs.plans import ExportPlan, NetworkOptions, ParityPlan
from paragon_export.specs.tolerance import DIVERGED
from paragon_export.specs.types import Precision, Size
from paragon_export.system.atomic_write import to_json
from paragon_export.testing.glyph import GOLDEN as GLYPHS
from paragon_export.testing.glyph import golden_checkpoint
from paragon_export.testing.golden.make_weights import fill
from paragon_export.testing.recorded import GOLDEN
from paragon_export.testing.tiny import save

SHARES_NAMES = {"v1": "v3"}
"""Versions whose published sizes have other defaults although their tensors are equal."""


def main(
    golden: Annotated[Path, typer.Option(help="Folder with manifest.json.")] = GOLDEN,
    only: Annotated[list[str] | None, typer.Option(help="Pattern of names. Repeatable.")] = None,
    heavy: Annotated[bool, typer.Option(help="Also the largest networks.")] = False,
    random: Annotated[int, typer.Option(help="Judge this many random networks instead.")] = 0,
    processes: Annotated[int, typer.Option(help="For random networks.")] = 1,
    anew: Annotated[bool, typer.Option(help="Forget earlier random networks.")] = False,
) -> None:
    if random:
        judge_random(random, processes, anew)
        return
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
            known = (case["signature"], case["fill"], options_of(case), "forward" in case)
            key = json.dumps(known, sort_keys=True)
            if key not in seen:
                seen.add(key)
                yield case["id"], case
    for signature in sorted(GLYPHS.glob("sig_*.json")):
        yield signature.stem.removeprefix("sig_"), {"glyph": True}


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
        checkpoint, flags = save(weights, folder / "golden.safetensors"), options_of(case)
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
    switches = {**flags, "scale": case["kwargs"]["scale"]}
    return export(
        ExportPlan(
            checkpoint=checkpoint,
            output=plan.output,
            options=NetworkOptions(flags=switches),
            precision=precision,
            video=plan.video,
        )
    ).parity


def judge_random(count: int, processes: int, anew: bool) -> None:
    """Judge the random networks below a number and keep the counts by family."""
    file, here = RESULTS / "random_networks.json", surroundings()
    if anew:
        file.unlink(missing_ok=True)
    record = read_record(file)
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        for found in pool.map(judged_random, range(next_number(record), count)):
            add(record, found, here)
            if next_number(record) % SAVED_EVERY == 0 or next_number(record) == count:
                file.write_text(to_json(record), encoding="utf-8")
                total = sum(row["judged"] for row in record["rows"])
                line = (
                    f"{next_number(record)} drawn, {total} judged, {len(record['alarms'])} alarms"
                )
                print(line, flush=True)


SAVED_EVERY = 20


def judged_random(number: int) -> dict[str, Any]:
    """Export one random network, judge it, and say what the verdict was."""
    start = time.process_time()
    torch.set_num_threads(1)
    drawn = random_network(number)
    result: dict[str, Any] = {
        "number": number, "family": drawn.family, "precision": drawn.precision.name,
        "verdict": "passed", "nearest": 0.0, "detail": "",
    }  # fmt: skip
    with TemporaryDirectory() as folder:
        try:
            report = _judged_drawn(number, drawn, Path(folder))
        except ParagonExportError as error:
            result |= {"verdict": "refused", "detail": f"refused: {error}"[:160]}
        else:
            if report is None:
                result["verdict"] = "no picture"
            else:
                result["nearest"] = _closest(report)
                failed = [
                    f"{r.output} {r.picture} {r.size}: {r.failure}"
                    for r in report.rows
                    if r.failure
                ]
                if not report.passed:
                    result |= {
                        "verdict": "alarm",
                        "detail": "; ".join(failed[:3]) or "nothing judged",
                    }
    return {**result, "seconds": time.process_time() - start}


def _judged_drawn(number: int, drawn: RandomNetwork, folder: Path) -> ParityReport | None:
    """Export and judge a random network; None if its output is no picture."""
    options = NetworkOptions(flags=drawn.flags)
    network = read_network(drawn.save(folder), options)
    if network.spec.task is Task.IMAGE:
        image = photograph_crop(network.spec.in_channels, Size(16, 16))[None]
        output = build_reference(network).runner("float64").infer({"input": image})["output"]
        if not np.abs(output).max() <= DIVERGED:
            return None
    plan = ExportPlan(
        checkpoint=network.checkpoint.path,
        output=folder / "random.onnx",
        options=options,
        precision=drawn.precision,
        video=drawn.video,
        rewrite=drawn.rewrite,
        runtime=drawn.runtime,
    )
    graph = float32_graph(network, plan)
    model = to_precision(graph.model, plan.precision, plan.io)
    has_parts = bool(network.spec.input_spec.excerpt_step)  # else large images take 20 GB
    is_large = network.spec.task is Task.IMAGE and has_parts and number % 10 == 0
    to_judge = ParityPlan(sizes=drawn.sizes, at=(_large(drawn.sizes[0]),) if is_large else ())
    return judge(graph.reference, [finish(graph, model, plan)], to_judge)


def _large(size: Size) -> Size:
    """Return a size of more than 65536 pixels, of which an excerpt is compared."""
    return Size(257 + size.height % 48, 257 + size.width)


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
