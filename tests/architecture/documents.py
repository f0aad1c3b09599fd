"""The documents of the repository, as the tests of README and documentation read them."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent.parent

DOCS = ROOT / "docs"

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

RUNNABLE = re.compile(r"^<!-- runnable -->\n```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)

LINK = re.compile(r"(?<!\\)\[[^\]]*\]\(([^)\s]+)\)")

CODE = re.compile(r"`([^`\n]+)`")


def documents() -> list[Path]:
    """Return every document that people read."""
    names = ("README.md", "SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md")
    others = [ROOT / name for name in names]
    folders = [ROOT / "engines" / "README.md", ROOT / "benchmarks" / "README.md"]
    return [*others, *(f for f in folders if f.exists()), *sorted(DOCS.rglob("*.md"))]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def prose(text: str) -> str:
    """Return a document without its code blocks."""
    return FENCE.sub("", text)


def anchors(text: str) -> set[str]:
    """Return the anchors of a document's headings, as code hosts and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.replace("`", "").lower()).replace(" ", "-") for h in headings}


def shown_commands(text: str) -> Iterator[list[str]]:
    """Yield the words of every ``paragon-export`` command line of a document."""
    for _, block in FENCE.findall(text):
        for line in block.splitlines():
            if line.removeprefix("$ ").startswith("paragon-export "):
                yield shlex.split(line.removeprefix("$ "), comments=True)
    for span in CODE.findall(prose(text)):
        if span.startswith("paragon-export "):
            yield shlex.split(span)


def shown_options(text: str) -> Iterator[list[str]]:
    """Yield inline code that shows options: ``--fp16``, or ``onnx --fp16``; as its words."""
    for span in CODE.findall(prose(text)):
        words = span.split()
        if words[0].startswith("--") or (len(words) > 1 and words[1].startswith("--")):
            yield words


@dataclass(frozen=True)
class Page:
    """A page with Python code that is run."""

    path: Path

    @property
    def blocks(self) -> list[str]:
        """The code blocks after ``<!-- runnable -->``, in order."""
        return RUNNABLE.findall(text_of(self.path))


def pages_that_run() -> list[Page]:
    """Return the pages that hold runnable code."""
    return [page for page in map(Page, documents()) if page.blocks]


def module_at(path: Path) -> ModuleType:
    """Import a script by its path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


tables = module_at(ROOT / "benchmarks" / "docs_tables.py")
"""The generator of the tables."""
