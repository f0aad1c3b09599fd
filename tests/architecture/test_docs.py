"""The documentation shows figures that were measured, links that resolve and code that runs."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import paragon_export
from paragon_export.assets import CHECKPOINT
from paragon_export.cli.app import app
from tests.architecture.documents import (
    CODE,
    DOCS,
    LINK,
    ROOT,
    Page,
    anchors,
    documents,
    module_at,
    name_of,
    pages_that_run,
    prose,
    shown_commands,
    shown_options,
    tables,
    text_of,
)

PROGRAM: Any = typer.main.get_command(app)

DOCUMENTS = documents()

hooks = module_at(DOCS / "hooks.py")


def names_of(params: Iterable[Any]) -> set[str]:
    """Return every spelling of options."""
    return {name for p in params for name in (*p.opts, *p.secondary_opts) if name.startswith("-")}


GLOBAL = names_of(PROGRAM.params) | {"--help"}

OF_COMMAND = {name: names_of(c.params) | GLOBAL for name, c in PROGRAM.commands.items()}


def options_in(words: Iterable[str]) -> set[str]:
    """Return the options among the words of a command line, without their values."""
    return {word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)}


# --- figures ---------------------------------------------------------------------------------


def test_tables_are_those_of_the_result_files() -> None:
    """Every table is what benchmarks/docs_tables.py makes of the result files, and stands once."""
    shown = [name for d in DOCUMENTS for _, name, _ in tables.BLOCK.findall(text_of(d))]

    whole = Counter(name for name in shown if not name.startswith(tables.CONCLUSION))
    assert whole == {**dict.fromkeys(tables.TABLES, 1), "headline": 1}
    for document in DOCUMENTS:
        assert tables.render(text_of(document)) == text_of(document), name_of(document)


def test_a_wrong_figure_is_noticed() -> None:
    document = DOCS / "benchmarks" / "accuracy.md"
    wrong = text_of(document).replace("| 33.7 |", "| 33.8 |")

    assert wrong != text_of(document)
    assert tables.render(wrong) == text_of(document)


@pytest.mark.parametrize("name", tables.TABLES)
def test_tables_show_every_column(name: str) -> None:
    """A column of a result file is not lost, and has a head."""
    assert list(tables.TABLES[name].heads) == list(tables.read(name)["rows"][0])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1036.5, "1040"), (33.674, "33.7"), (38.02, "38.0"), (0.2302, "0.230"), (17740.0, "17700"),
        (0.000154, "1.54e-4"), ("4.2e-07", "4.2e-7"), ("1.9e+00", "1.9"), ("inf", "infinite"),
        (46, "46"), (10000, "10000"), (True, "yes"), (None, "-"), ("-", "-"), ("realtime", "realtime"),
    ],
)  # fmt: skip
def test_measurements_have_three_digits(value: Any, shown: str) -> None:
    """Counts are exact."""
    assert tables.cell(value) == shown


# --- links and names -------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_resolve(document: Path) -> None:
    """Every relative link leads to a file, and its anchor to a heading of that file."""
    broken = []
    for link in LINK.findall(text_of(document)):
        if re.match(r"\w+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (document.parent / target).resolve() if target else document
        if not file.exists() or (anchor and anchor not in anchors(_whole(file))):
            broken.append(link)
    assert not broken


def _whole(file: Path) -> str:
    """Return the text of a document; of a page that is generated, what the site shows."""
    page = str(file.relative_to(DOCS)) if file.is_relative_to(DOCS) else ""
    make = hooks.GENERATED.get(page)
    return make() if make else text_of(file)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_commands_and_options_exist(document: Path) -> None:
    """Every command line that is shown is one of the program's, with options that it has."""
    unknown = []
    for _, command, *words in shown_commands(text_of(document)):
        known = GLOBAL if command.startswith("-") else OF_COMMAND.get(command)
        if known is None or options_in([command, *words]) - known:
            unknown.append(" ".join([command, *words]))
    everywhere = set().union(GLOBAL, *OF_COMMAND.values())
    for first, *words in shown_options(text_of(document)):
        known = everywhere if first.startswith("-") else OF_COMMAND.get(first)
        if known is not None and options_in([first, *words]) - known:
            unknown.append(" ".join([first, *words]))
    assert not unknown


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_files_that_are_named_exist(document: Path) -> None:
    """Paths of the package and of scripts, and the names of tests, are those of files."""
    package = Path(paragon_export.__file__).parent
    tests = {path.name for folder in (ROOT / "tests", package) for path in folder.rglob("*.py")}
    missing = []
    for span in CODE.findall(prose(text_of(document))):
        for word in span.split():
            if word.startswith("paragon_export/"):
                exists = (package.parent / word).exists()
            elif word.startswith(("benchmarks/", "docs/", "engines/", ".ci/")):
                exists = (ROOT / word).exists()
            elif re.fullmatch(r"\w+\.py", word):
                exists = word in tests
            else:
                continue
            missing += [] if exists else [word]
    assert not missing


def test_recipes_that_are_shown_exist() -> None:
    """Every ``--recipe NAME`` is a recipe of the repository."""
    folders = (ROOT / "engines", Path(paragon_export.__file__).parent)
    recipes = {path.stem for folder in folders for path in folder.rglob("*.toml")}
    shown = {
        words[words.index("--recipe") + 1]
        for document in DOCUMENTS
        for words in shown_commands(text_of(document))
        if "--recipe" in words
    }
    assert shown
    assert shown <= recipes


def test_packages_are_documented() -> None:
    """The tree of the architecture page names every package."""
    package = Path(paragon_export.__file__).parent
    page = text_of(DOCS / "architecture.md")

    for folder in package.iterdir():
        if (folder / "__init__.py").exists():
            assert f"\n  {folder.name}/ " in page


def test_rules_of_rewriting_are_documented() -> None:
    from paragon_export.rewrite.rules import RULES

    page = text_of(DOCS / "concepts" / "rewrites.md")

    assert {rule.name for rule in RULES} <= set(CODE.findall(page))


# --- the site --------------------------------------------------------------------------------


def test_navigation_lists_every_page() -> None:
    """A page that nobody can reach is not documentation."""

    def pages(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        values = entry.values() if isinstance(entry, dict) else entry
        return [page for value in values for page in pages(value)]

    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

    listed = pages(config["nav"])
    assert sorted(listed) == sorted(str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md"))


def test_command_reference_follows_the_program() -> None:
    """Every command has a section with all of its options; hidden ones have none."""
    reference = hooks.command_line()

    for name, command in PROGRAM.commands.items():
        assert (f"\n## {name}\n" in reference) is not command.hidden
        for param in command.params:
            if param.param_type_name != "argument" and not (param.hidden or command.hidden):
                assert f"`{param.opts[0]}`" in reference


def test_api_reference_lists_every_public_name() -> None:
    reference = hooks.python_api()

    for name in getattr(paragon_export, "__all__", ()):
        assert name.startswith("_") or f"::: paragon_export.{name}\n" in reference


# --- code ------------------------------------------------------------------------------------


def test_api_is_shown_in_code_that_runs() -> None:
    """Every public function is called in some runnable block."""
    code = "\n".join(block for page in pages_that_run() for block in page.blocks)

    for name in hooks.FUNCTIONS:
        assert f"pe.{name}(" in code


@pytest.mark.usefixtures("foreign_files_here", "same_engines_once")
@pytest.mark.parametrize("page", pages_that_run(), ids=lambda page: name_of(page.path))
def test_code_runs(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runnable blocks of a page run in order, in a folder with the shipped checkpoint."""
    if "build_engine" in "".join(page.blocks) and not importlib.util.find_spec("tensorrt_rtx"):
        pytest.skip("TensorRT-RTX is not installed")
    shutil.copy(CHECKPOINT, tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path)

    names: dict[str, Any] = {}
    for number, block in enumerate(page.blocks):
        exec(compile(block, f"{name_of(page.path)}, block {number + 1}", "exec"), names)
