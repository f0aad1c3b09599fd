"""Which wrong models a check catches: this tool's verdict, and the two checks in common use.

Every sabotage of ``paragon_export/testing/sabotage`` is written as a file and judged. ``allclose`` compares one
random tensor of the trace size with PyTorch, ``rtol=1e-2, atol=1e-3``. ``50 dB`` asks for that
average PSNR of 8-bit photographs of the trace size, without a border of scale + 4 pixels.

Those that are wrong only at some sizes, batches or images are a table of their own: they are judged at
all default sizes, and those that are wrong only on large images at one large size too.

Writes ``sabotage.json`` and ``sabotage_rare.json``.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from common import write

from paragon_export.errors import ParagonExportError, PlanError
from paragon_export.inputs.play import play
from paragon_export.inputs.probes import Probe, photograph_crop
from paragon_export.parity.candidates import open_candidate, read_artifact
from paragon_export.parity.check import judge
from paragon_export.parity.diagnosis.alternatives import Alternative, alternatives
from paragon_export.parity.metrics import psnr_db
from paragon_export.parity.report import ParityReport
from paragon_export.runtimes.base import Runner
from paragon_export.specs.plans import ParityPlan
from paragon_export.specs.types import Precision, Size
from paragon_export.testing.sabotage.case import TRACED_AT, Case
from paragon_export.testing.sabotage.rare import RARE
from paragon_export.testing.sabotage.suite import SUITE, Sabotage, subjects, written

PHOTOGRAPHS = 8

NAMES = ("called", "named rightly")
"""Columns of the name that the verdict gives."""


def main() -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        cases = subjects(folder)
        for table, suite in (("sabotage", SUITE), ("sabotage_rare", RARE)):
            rows = [row(s, cases[s.subject], folder / "wrong.onnx") for s in suite]
            if suite is RARE:  # any name will do
                rows = [{k: v for k, v in r.items() if k not in NAMES} for r in rows]
            write(table, rows, ("sabotage",))
            for column in ("caught", "named rightly", "in FP16", "allclose", "50 dB"):
                found = [row[column] for row in rows if column in row]
                print(f"{table}: {column}: {found.count('yes')} of {len(found)}")


def row(sabotage: Sabotage, case: Case, path: Path) -> dict[str, Any]:
    report = verdict(case, written(sabotage, case, path), sabotage.at)
    named = {finding.output: finding.symptom for finding in report.findings}.get("output", "")
    comparable = [r for r in report.rows if r.output == "output" and not r.fault]
    worst = max((r.found.max_abs for r in comparable), default=math.inf)
    caught = yes(not report.passed)
    plain = {"allclose": yes(not close(case, path)), "50 dB": yes(not fifty_decibels(case, path))}
    half = caught if sabotage.precision.is_half else in_half(sabotage, case, path)
    return {
        "sabotage": sabotage.what,
        "error": f"{worst:.1e}",
        "caught": caught,
        "called": named,
        "named rightly": yes(named == sabotage.looks_like),
        "in FP16": half,
        **plain,
    }


def in_half(sabotage: Sabotage, case: Case, path: Path) -> str:
    """Say whether the same mistake is caught in a float16 file."""
    made = Sabotage(sabotage.what, "", sabotage.make, sabotage.subject, Precision.FP16, sabotage.at)
    try:
        return yes(not verdict(case, written(made, case, path), made.at).passed)
    except PlanError:
        return "refused"  # half precision cannot hold it


def yes(caught: bool) -> str:
    return "yes" if caught else "no"


def verdict(case: Case, path: Path, at: tuple[Size, ...]) -> ParityReport:
    @cache
    def instead() -> tuple[Alternative, ...]:
        return tuple(alternatives(case.reference))

    plan = ParityPlan(at=at)  # at the default large size each file would take 2 s more
    return judge(case.reference, [read_artifact(path)], plan, instead)


def close(case: Case, path: Path) -> bool:
    """The check of most converters: one random tensor of the size that was traced."""
    rng = np.random.default_rng(0)
    random = rng.random((1, 3, TRACED_AT.height, TRACED_AT.width), dtype=np.float32)
    try:
        found, truth = both(case, path, [random])
    except (ParagonExportError, KeyError):
        return False
    return found.shape == truth.shape and np.allclose(found, truth, rtol=1e-2, atol=1e-3)


def fifty_decibels(case: Case, path: Path) -> bool:
    """The check of the networks' author, without its overflow of 8-bit squares."""
    photographs = [photograph_crop(3, TRACED_AT, index)[None] for index in range(PHOTOGRAPHS)]
    try:
        found, truth = both(case, path, photographs)
    except (ParagonExportError, KeyError):
        return False
    if found.shape != truth.shape:
        return False
    b = case.variant.scale + 4
    bytes_of = [np.nan_to_num(a).clip(0, 1)[..., b:-b, b:-b] * 255 for a in (found, truth)]
    first, second = (a.round() / 255 for a in bytes_of)
    return (
        float(np.mean([min(psnr_db(a - b), 100) for a, b in zip(first, second, strict=True)])) > 50
    )


def both(case: Case, path: Path, pictures: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return what the file and PyTorch give for pictures fed one after the other."""
    file = open_candidate(
        read_artifact(path), case.reference.inputs, case.reference.outputs
    ).candidate
    runner: Runner = file.wide() if file.wide else file.runner  # as ONNX Runtime runs it on a CPU
    blend = (0.0,) * len(pictures)
    probe = Probe(label="", size=TRACED_AT, frames=tuple(pictures), blend=blend)
    runners = (runner, case.reference.runner("float32"))
    found, truth = (play(r, probe, case.reference.inputs)["output"] for r in runners)
    return found, truth


if __name__ == "__main__":
    main()
