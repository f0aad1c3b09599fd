"""Markdown as GitHub shows it, for pull requests: the verdict, the worst rows and what they look like.

Names and messages stand in code spans: there GitHub makes no links, mentions and references of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from paragon_export.reports.document import Code, Document, Table, Text
from paragon_export.system.text import one_line

MAX_CODE = 300
"""Letters of a name or message. The rest is cut off."""

SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~&@])")
"""Characters that may be markup."""

MARKS = {True: "✅", False: "❌", None: "ℹ️"}  # noqa: RUF001 - the sign of information


def to_markdown(document: Document) -> str:
    """Return a short report in GitHub flavored Markdown."""
    return "\n".join(_lines(document)).rstrip() + "\n"


def _lines(document: Document) -> Iterator[str]:
    yield f"### {MARKS[document.passed]} paragon-export {document.command}: {document.word}"
    yield ""
    yield marked(document.verdict)
    yield ""
    for finding in document.findings:
        yield f"- {marked(finding)}"
    for note in document.notes:
        yield f"- note: {marked((Code(note),))}"
    for table in document.tables:
        yield ""
        yield from _table(table)
    yield ""
    yield "<details><summary>Made of and with</summary>"
    yield ""
    for name, text in document.provenance:
        yield f"- {marked((Code(name),))}: {marked(text)}"
    yield ""
    yield "</details>"


def _table(table: Table) -> Iterator[str]:
    yield f"**{_escaped(table.caption)}**"
    yield ""
    yield _row(table.heads)
    aligned = ("---:" if n in table.figures else "---" for n in range(len(table.heads)))
    yield "| " + " | ".join(aligned) + " |"
    for cells in table.rows[: table.short]:
        yield _row(cells)
    left = len(table.rows) - table.short
    if left > 0:
        yield ""
        yield f"and {left} more"


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(marked((cell,)) for cell in cells) + " |"


def marked(text: Text) -> str:
    """Return text as Markdown that stays in one cell of a table."""
    return "".join(_code(part) if isinstance(part, Code) else _escaped(part) for part in text)


def _escaped(text: str) -> str:
    return SPECIAL.sub(r"\\\1", text)


def _code(text: str) -> str:
    """Return a code span. It holds no bar, which would end the cell even there."""
    line = one_line(text).replace("|", "¦")
    line = line if len(line) <= MAX_CODE else line[: MAX_CODE - 1] + "…"
    longest = max(map(len, re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if not line or "`" in (line[0], line[-1]) else ""
    return f"{fence}{pad}{line}{pad}{fence}"
