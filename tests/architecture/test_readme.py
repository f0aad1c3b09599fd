"""The README is short, holds the figures that were measured, and names make targets that exist."""

from __future__ import annotations

import re

import paragon_export
from tests.architecture.documents import ROOT, tables

README = (ROOT / "README.md").read_text(encoding="utf-8")

MAX_LINES = 150

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def test_readme_is_short() -> None:
    """A person reads it in two minutes."""
    assert len(README.splitlines()) <= MAX_LINES


def test_readme_holds_what_a_newcomer_looks_for() -> None:
    """One image, the verdict's output, the install line and the exit codes."""
    assert len(re.findall(r"!\[[^\]]+\]\(", README)) == 1
    assert "PASSED: every pixel counts" in README
    assert "pip install '." in README
    for code in range(4):
        assert f"\n| {code} | " in README


def test_figures_are_those_of_the_result_files() -> None:
    """No figure is typed by hand, and a wrong one is noticed."""
    assert len(tables.BLOCK.findall(README)) == 1
    assert tables.render(README) == README
    wrong = README.replace("46 of 46", "45 of 46")
    assert tables.render(wrong) == README


def test_make_targets_exist() -> None:
    """The commands for a fresh machine are targets of the Makefile, and CI calls them."""
    for target in ("demo", "test"):
        assert f"\nmake {target} " in README
    for target in ("demo", "test", "docs"):
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "make test" in ci
    assert "make docs" in ci


def test_package_is_the_one_that_is_documented() -> None:
    """The tests read the documents of the tree whose package they import."""
    assert str(ROOT) in str(paragon_export.__file__)
