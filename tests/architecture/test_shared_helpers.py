"""Shared helpers: ``tests/`` and ``benchmarks/`` meet in ``paragon_export.testing`` alone."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.test_layering import MODULES, imports_of, package_of

ROOT = Path(__file__).parents[2]

BENCHMARKS = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} | {"benchmarks"}
"""What an import of a benchmark may begin with: the scripts lie on their own path."""


def imported_by(path: Path) -> Iterator[str]:
    """Yield the first part of every module that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize(
    ("folder", "others"), [("tests", BENCHMARKS), ("benchmarks", {"tests", "conftest"})]
)
def test_tests_and_benchmarks_do_not_import_each_other(folder: str, others: set[str]) -> None:
    """Neither breaks when the other is moved; what both need is in ``paragon_export.testing``."""
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    found = [f"{path}: {name}" for path in files for name in imported_by(path) if name in others]
    assert found == []


def test_the_walk_sees_imports_in_functions(tmp_path: Path) -> None:
    """Both forms of an import count, wherever they stand."""
    path = tmp_path / "m.py"
    path.write_text("def f():\n    from tests.cli import test_errors\n    import benchmarks.fuzz\n")

    assert sorted(imported_by(path)) == ["benchmarks", "tests"]


def test_no_other_package_imports_the_helpers() -> None:
    """The tool works where the helpers are not installed."""
    found = [
        module
        for module, path in MODULES.items()
        if package_of(module) != "testing"
        and any(package_of(name) == "testing" for name, _ in imports_of(path))
    ]
    assert found == []


def test_wheels_do_not_contain_the_helpers() -> None:
    """Hostile files and recorded outputs are of no use to who installs the tool."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]

    assert "paragon_export/testing" in wheel["exclude"]
    assert (ROOT / "paragon_export" / "testing" / "__init__.py").is_file()
