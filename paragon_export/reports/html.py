"""A page: one HTML file that needs no network. Style, script and pictures are in it.

Every text is escaped by the template, and the page forbids itself to load anything and to run any
other script (Content Security Policy).
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paragon_export.reports.document import Code, Document, Text
from paragon_export.system.text import printable

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

FOLDER = Path(__file__).parent

TEMPLATE, STYLE, SCRIPT = "page.html.jinja", "page.css", "page.js"
"""Files of this package that a page is made of."""


def to_html(document: Document) -> str:
    """Return a page."""
    style, script = (FOLDER.joinpath(name).read_text("utf-8") for name in (STYLE, SCRIPT))
    policy = (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; "
        f"script-src {_digest(script)}; base-uri 'none'; form-action 'none'"
    )
    return _template().render(document=document, style=style, script=script, policy=policy)


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    made = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=_shown,
    )  # fmt: skip
    made.filters["marked"] = marked
    return made.from_string(FOLDER.joinpath(TEMPLATE).read_text("utf-8"))


def _shown(value: Any) -> Any:
    """Return what the template shows of a value: text without control characters."""
    from markupsafe import Markup

    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def marked(text: Text) -> Markup:
    """Return text as HTML: all of it escaped, names in ``code`` elements."""
    from markupsafe import Markup, escape

    code = Markup("<code>{}</code>")
    parts = (
        code.format(printable(part)) if isinstance(part, Code) else escape(printable(part))
        for part in text
    )
    return Markup("").join(parts)


def _digest(text: str) -> str:
    """Return the source that allows exactly this text between two tags."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
