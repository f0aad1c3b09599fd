"""The result file of ``false_alarms.py --random``: counts by family, added up over several machines.

Random networks are judged in the order of their numbers. Those that were judged in one environment
(commit, machine and versions) are a part: the numbers ``from`` and ``to``, both included, the
``seconds`` of processor time and the ``environment``. The rows are totals over all parts.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paragon_export.specs.types import Precision
from paragon_export.system.environment import environment

ROOT = Path(__file__).parent.parent

CODE = ("paragon_export", "benchmarks/*.py", "pyproject.toml")
"""What a verdict depends on; result files do not belong to it."""


def surroundings() -> dict[str, Any]:
    """Return the environment and the commit of the code, marked if the code was changed since."""
    commit = _git("rev-parse", "--short=9", "HEAD").stdout.strip()
    changed = _git("diff", "--quiet", "HEAD", "--", *CODE).returncode
    return {"commit": f"{commit} and changes" if changed else commit, **environment()}


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def read_record(file: Path) -> dict[str, Any]:
    """Return ``rows``, ``alarms`` and ``parts``; empty ones if there is no file."""
    if file.exists():
        document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return document
    return {"rows": [], "alarms": [], "parts": []}


def next_number(record: Mapping[str, Any]) -> int:
    """Return the least number that is not judged yet."""
    return record["parts"][-1]["to"] + 1 if record["parts"] else 0


def add(record: dict[str, Any], found: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Add the next random network, judged in the environment ``here``, to a record.

    Args:
        record: Of ``read_record``; changed.
        found: ``number``, ``family``, ``precision``, ``verdict``, ``nearest``, ``detail`` and
            ``seconds``.
        here: Of ``surroundings``. Anything but another time begins a new part.

    Raises:
        ValueError: If the network is not the next one.
    """
    if found["number"] != next_number(record):
        raise ValueError(f"network {found['number']} is not the next: {next_number(record)}")
    parts = record["parts"]
    if not parts or {**parts[-1]["environment"], "time": here["time"]} != here:
        parts.append({"from": found["number"], "to": None, "seconds": 0.0, "environment": here})
    parts[-1]["to"] = found["number"]
    parts[-1]["seconds"] += found["seconds"]
    rows = {row["networks of"]: row for row in record["rows"]}
    _count(rows.setdefault(found["family"], _new_row(found["family"])), found)
    record["rows"] = [rows[name] for name in sorted(rows)]
    if found["detail"]:
        record["alarms"].append(
            {name: found[name] for name in ("number", "family", "precision", "detail")}
        )


def _new_row(family: str) -> dict[str, Any]:
    counts = ("judged", *(precision.name for precision in Precision), "false alarms")
    nearest = {f"nearest {precision.name}": 0.0 for precision in Precision}
    row = {"networks of": family, **dict.fromkeys(counts, 0), **nearest}
    return {**row, "no picture": 0, "refused": 0}


def _count(row: dict[str, Any], found: Mapping[str, Any]) -> None:
    if found["verdict"] in ("no picture", "refused"):
        row[found["verdict"]] += 1
        return
    nearest = f"nearest {found['precision']}"
    row["judged"] += 1
    row[found["precision"]] += 1
    row[nearest] = max(row[nearest], found["nearest"])
    row["false alarms"] += found["verdict"] == "alarm"
