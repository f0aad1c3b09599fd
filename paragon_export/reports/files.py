"""The files of a report: a page, a Markdown table, or both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from paragon_export.errors import PlanError
from paragon_export.reports.document import Code, Document
from paragon_export.specs.types import check_suffix
from paragon_export.system.atomic_write import check_writable, write_text


@dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """Where a report is to be written. Nothing is written if both paths are None."""

    html: Path | None = None
    markdown: Path | None = None
    command: str = ""
    """The command line, for the report's provenance."""

    @property
    def paths(self) -> list[Path]:
        """The files that are to be written."""
        return [path for path in (self.html, self.markdown) if path is not None]

    @property
    def pictures(self) -> bool:
        """Whether pictures are shown."""
        return self.html is not None

    def check(self, *others: Path | None) -> None:
        """Check before any work that the files can be written.

        Args:
            others: Files that the command reads or writes.

        Raises:
            PlanError: If a file has another suffix, cannot be written, or is one of ``others``.
        """
        for path, suffixes in ((self.html, (".html", ".htm")), (self.markdown, (".md",))):
            if path is not None:
                check_suffix(path, suffixes)
                check_writable(path, *others)
                if path.resolve() in [other.resolve() for other in others if other]:
                    raise PlanError(f"{path} is to be written twice; choose another output")

    def write(self, make: Callable[[], Document]) -> None:
        """Write what was asked for of the document that ``make`` returns.

        Raises:
            PlanError: If a file cannot be written.
        """
        from paragon_export.reports.html import to_html
        from paragon_export.reports.markdown import to_markdown

        if not self.paths:
            return
        document = make()
        if self.command:
            entry = ("command", (Code(self.command),))
            document = replace(document, provenance=(entry, *document.provenance))
        for path, render in ((self.html, to_html), (self.markdown, to_markdown)):
            if path is not None:
                write_text(path, render(document))
