"""Write the pages that are generated when the site is built: references, security, changelog.

The stub of each page in ``docs/`` says what the site shows instead. The command line is read from the
Typer application and the Python API from ``paragon_export.__all__``, so both follow the code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from enum import EnumType
from pathlib import Path
from typing import Any, get_args, get_origin

import typer

import paragon_export
from paragon_export.cli.app import app

ROOT = Path(__file__).parent.parent

PROGRAM = "paragon-export"


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Return the text of a page; MkDocs calls this for every page."""
    make = GENERATED.get(page.file.src_uri)
    return make() if make else markdown


def command_line() -> str:
    """Return the reference of the command line as Markdown."""
    group = typer.main.get_command(app)
    lines = [
        "# Command line",
        "",
        "Sizes are HEIGHTxWIDTH in pixels of the network's input. Exit codes and the JSON output are in "
        "[Exit codes and JSON output](output.md).",
        "",
        "## All commands",
        "",
        "These options stand before the command.",
        "",
        *_options(group.params),
        "",
        "| command | what it does |",
        "| --- | --- |",
    ]
    shown = {n: c for n, c in commands(group).items() if not c.hidden}
    lines += [f"| [`{n}`](#{n}) | {_first_sentence(c.help)} |" for n, c in shown.items()]
    for name, command in shown.items():
        lines += ["", *_command(name, command)]
    return "\n".join(lines) + "\n"


def commands(group: Any) -> Mapping[str, Any]:
    """Return the commands of the program by name, hidden ones included."""
    return dict(group.commands)


def _command(name: str, command: Any) -> list[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name != "argument"]
    usage = " ".join([PROGRAM, name, *(["[OPTIONS]"] if options else []), *map(_usage, arguments)])
    lines = [f"## {name}", "", _text(command.help), "", "```text", usage, "```", ""]
    if arguments:
        lines += ["| argument | |", "| --- | --- |"]
        lines += [f"| `{_usage(a)}` | {_cell(a.help)} |" for a in arguments]
        lines.append("")
    return [*lines, *_options(options)]


def _usage(argument: Any) -> str:
    name = str(argument.metavar or argument.name).upper()
    name = name if argument.nargs == 1 else f"{name}..."
    return name if argument.required else f"[{name}]"


def _options(options: Iterable[Any]) -> list[str]:
    """Return a table of options; those that are hidden are left out."""
    lines = ["| option | |", "| --- | --- |"]
    for option in options:
        if getattr(option, "hidden", False):
            continue
        names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
        first = f"{names} {_value(option)}".rstrip()
        lines.append(f"| {first} | {_cell(option.help)}{_default(option)} |")
    return lines


def _value(option: Any) -> str:
    """Return what follows the name of an option: its choices, or what kind of value it takes."""
    if getattr(option, "is_flag", False):
        return ""
    # Typer keeps the annotation since it no longer builds on Click; before, Click's own type.
    kind = getattr(getattr(option, "type_descriptor", None), "annotation", None)
    kind = get_args(kind)[0] if get_origin(kind) is list else kind
    choices = kind if isinstance(kind, EnumType) else getattr(_click_type(option), "choices", ())
    if choices:
        return " or ".join(f"`{getattr(c, 'value', c)}`" for c in choices)
    name = getattr(kind, "__name__", None) or getattr(_click_type(option), "name", "value")
    return f"`{option.metavar or KINDS.get(name.lower(), name.upper())}`"


def _click_type(option: Any) -> Any:
    return getattr(option, "type", None)


KINDS = {"int": "INTEGER", "float": "NUMBER", "str": "TEXT", "path": "FILE"}
"""Types to what the reference calls them."""


def _default(option: Any) -> str:
    value = option.default
    if callable(value) or value is None or isinstance(value, bool | tuple | list):
        return ""
    text = str(getattr(value, "value", value))
    return "" if text.startswith(("Sentinel", "<")) else f" Default: `{text}`."


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def _text(text: str | None) -> str:
    return re.sub(r"[ \t]+\n", "\n", text or "")


def _first_sentence(text: str | None) -> str:
    return re.split(r"(?<=[.?!])\s", _cell(text))[0]


def python_api() -> str:
    """Return the reference of the Python API as directives of mkdocstrings."""
    names = [n for n in getattr(paragon_export, "__all__", ()) if not n.startswith("_")]
    errors = [n for n in names if n.endswith("Error")]
    functions = sorted((n for n in names if n.islower()), key=_place)
    types = [n for n in names if n not in (*errors, *functions)]
    lines = [
        "# Python API",
        "",
        "```python",
        "import paragon_export as pe",
        "```",
        "",
        "Importing the package loads neither PyTorch nor ONNX Runtime: a name is imported when it is first "
        'used. Sizes are strings `"HEIGHTxWIDTH"`, files are paths or strings. Every function raises a '
        "subclass of `ParagonExportError`; a failed verdict is no error, but `passed` of the result.",
    ]
    sections = {"Functions": functions, "Results and types": types, "Errors": errors}
    for title, members in sections.items():
        if members:
            lines += ["", f"## {title}"]
            lines += [part for n in members for part in ("", f"::: paragon_export.{n}")]
    if not errors:
        lines += ["", "## Errors", "", "::: paragon_export.errors"]
    return "\n".join(lines) + "\n"


def _place(function: str) -> int:
    return FUNCTIONS.index(function) if function in FUNCTIONS else len(FUNCTIONS)


FUNCTIONS = (
    "load_network", "export_onnx", "check_parity", "build_engine", "audit_ranges", "quantize",
    "benchmark", "open_runner",
)  # fmt: skip
"""In the order in which they are used; others follow."""


def _from_root(name: str) -> Callable[[], str]:
    """Return what reads a document of the root, with links as they are within ``docs/``."""

    def make() -> str:
        text = (ROOT / name).read_text(encoding="utf-8")
        text = text.replace("](docs/", "](").replace("](CHANGELOG.md", "](changelog.md")
        return text.replace("](SECURITY.md", "](security.md").replace(
            "](CONTRIBUTING.md", "](contributing.md"
        )

    return make


GENERATED: Mapping[str, Callable[[], str]] = {
    "reference/cli.md": command_line,
    "reference/api.md": python_api,
    "security.md": _from_root("SECURITY.md"),
    "changelog.md": _from_root("CHANGELOG.md"),
}
"""Path of a page within ``docs/`` to what writes it."""
