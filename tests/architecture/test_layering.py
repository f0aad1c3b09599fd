"""Layering: a package imports only from packages above it in the list, and no imports are circular."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import paragon_export

ROOT = Path(paragon_export.__file__).parent

PACKAGES = (
    "assets", "errors", "system", "specs", "media", "checkpoints", "networks", "rewrite", "graph",
    "runtimes", "inputs", "tiling", "engines", "precision", "parity", "bench", "pipeline", "upscaling",
    "reports", "serving", "ncnn", "players", "pruning", "cli", "__main__",
    "testing",
)  # fmt: skip
"""Lowest first. A package may import itself and those before it."""

MAX_MODULES = 12
"""Of one folder, ``__init__.py`` not counted."""

MAX_LINES = 350
"""Of one module."""

MAX_FUNCTION_LINES = 40
"""Of one function, its signature and docstring included."""


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports_of(path: Path, modules: Mapping[str, Path] = MODULES) -> Iterator[tuple[str, int]]:
    """Yield every module of the package that a file imports anywhere, and the line.

    Imports in functions and those for type checkers count as well.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            full = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: relative import"
            full = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in full:
            head, _, rest = name.partition(".")
            if head == "paragon_export":
                # ``from package import thing``: a module if there is one, else what holds it.
                yield (rest if rest in modules else rest.rpartition(".")[0]), node.lineno


def package_of(module: str) -> str:
    return module.partition(".")[0]


def cycles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the import cycles that a walk over all modules finds."""
    found: list[list[str]] = []
    done: set[str] = set()

    def walk(module: str, trail: list[str]) -> None:
        if module in trail:
            found.append([*trail[trail.index(module) :], module])
        elif module not in done:
            for imported in sorted(edges.get(module, ())):
                walk(imported, [*trail, module])
            done.add(module)

    for module in edges:
        walk(module, [])
    return found


def test_every_package_is_in_the_list() -> None:
    """The list names every package once, and none that is gone."""
    assert {package_of(module) for module in MODULES if module} == set(PACKAGES)


@pytest.mark.parametrize("module", [module for module in MODULES if module])
def test_packages_import_those_before_them(module: str) -> None:
    """What a module imports, also inside a function, is in its own package or in one before it."""
    own = PACKAGES.index(package_of(module))
    upward = [
        f"line {line}: {imported}"
        for imported, line in imports_of(MODULES[module])
        if imported and PACKAGES.index(package_of(imported)) > own
    ]
    assert not upward, f"{module} imports {upward}"


def test_no_import_cycle() -> None:
    """No module imports itself over others, even only for type checkers."""
    edges = {m: {i for i, _ in imports_of(path) if i} for m, path in MODULES.items() if m}

    assert cycles(edges) == []


def test_a_cycle_would_be_found() -> None:
    """The walk names the modules of a cycle in order."""
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c", "b"]]


def test_folders_and_modules_stay_small() -> None:
    """A reader finds the module in a short list and its end within a few screens."""
    folders = [path for path in (ROOT, *ROOT.rglob("*")) if path.is_dir()]
    crowded = [
        folder.name
        for folder in folders
        if sum(path.name != "__init__.py" for path in folder.glob("*.py")) > MAX_MODULES
    ]
    long = [
        module
        for module, path in MODULES.items()
        if len(path.read_text(encoding="utf-8").splitlines()) > MAX_LINES
    ]

    assert crowded == []
    assert long == []


def test_functions_stay_small() -> None:
    """A function fits on a screen. Tables and generators of test data do not count."""
    long = [
        f"{module}.{node.name}"
        for module, path in MODULES.items()
        if package_of(module) != "testing"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None
        if node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]

    assert long == []


@pytest.mark.parametrize("package", [p for p in PACKAGES if (ROOT / p).is_dir()])
def test_each_package_says_what_it_may_import(package: str) -> None:
    """The docstring of a package says in a paragraph what lives there and what it may import."""
    text = ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text("utf-8"))) or ""

    assert "import" in text
    assert len(text.split()) >= 12


def test_the_walk_sees_hidden_imports(tmp_path: Path) -> None:
    """Imports in functions, in branches and for type checkers count."""
    path = tmp_path / "m.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from paragon_export.cli.app import app\n"
        "def f():\n    from paragon_export.specs import plans\n"
        "    if f:\n        import paragon_export.errors\n"
        "import paragon_export\n"
    )

    assert sorted(name for name, _ in imports_of(path)) == ["", "cli.app", "errors", "specs.plans"]
