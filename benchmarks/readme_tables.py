"""Write the tables of README and SECURITY from the result files: no figure is typed by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

README, SECURITY = HERE.parent / "README.md", HERE.parent / "SECURITY.md"

BLOCK = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def render(text: str) -> str:
    """Return a document with every block between its markers made anew."""
    return BLOCK.sub(lambda found: f"{found[1]}{table(found[2])}{found[3]}", text)


def table(name: str) -> str:
    """Return the rows of a result file as a Markdown table, with where they were measured."""
    document = json.loads((HERE / "results" / f"{name}.json").read_text(encoding="utf-8"))
    headings = list(document["rows"][0])
    lines = ["", "| " + " | ".join(headings) + " |", "|" + " --- |" * len(headings)]
    lines += ["| " + " | ".join(cell(row[h]) for h in headings) + " |" for row in document["rows"]]
    facts = document["environment"]
    lines += [
        "",
        f"Measured {facts['time'][:10]} on {facts['processor']}, {facts['cores']} cores, "
        f"PyTorch {facts['versions']['torch']}, ONNX Runtime {facts['versions']['onnxruntime']}.",
        "",
    ]
    return "\n".join(lines) + "\n"


def cell(value: Any) -> str:
    """Return a figure with four digits, anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    for document in (README, SECURITY):
        document.write_text(render(document.read_text(encoding="utf-8")), encoding="utf-8")
