"""Layering: a module imports only from layers below its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import paragon_export

PACKAGE = Path(paragon_export.__file__).parent

LAYERS: tuple[tuple[str, ...], ...] = (
    # Words and numbers that stand on nothing.
    ("", "errors", "metrics", "variant", "islands", "primitives", "assets", "symptoms",
     "families.paragonsr2.generations",
     "families.munet.versions", "fourier", "signals", "foreign", "limits", "pickles"),
    ("reading", "streams", "supervised"),
    ("pictures",),
    ("plan", "checkpoint", "deps", "artifact", "environment", "layers", "windows", "extents",
     "families.munet.layout", "feeds", "families.glyph.layout"),
    ("ranges", "onnx_guard"),
    # Stages that know neither families nor each other.
    ("switches", "probes", "report", "operators", "simplify", "quantise", "precision",
     "polygraphy_bridge", "rewrite.graph", "rewrite.normalize", "families.munet.network",
     "families.glyph.config", "families.glyph.network",
     "families.paragonsr2.layout", "families.paragonsr2.blocks",
     "families.paragonsr2.context.attention"),
    ("metadata",),
    ("onnx_file",),
    ("runners", "console", "trace", "volumes", "rewrite.attention", "rewrite.upsampling", "families.munet",
     "families.glyph", "glyph_probes",
     "families.paragonsr2.describing", "families.paragonsr2.release.layout",
     "families.paragonsr2.preview.layout", "families.paragonsr2.context.layout"),
    ("families.paragonsr2.release.network", "families.paragonsr2.preview.network",
     "families.paragonsr2.context.network", "rewrite.linear", "rewrite.layout"),
    ("families.paragonsr2.release", "families.paragonsr2.preview",
     "families.paragonsr2.context", "rewrite"),
    ("families.paragonsr2",),
    ("families",),
    ("isolated",),
    ("isolated_worker",),
    # From a checkpoint to the network every verdict stands on.
    ("reference",),
    ("verify", "probe_switches", "manifest", "glyphs", "alternatives"),
    ("outcome",),
    ("engine", "int8_pictures", "diagnose", "gauges", "shares"),
    # Files that claim to be the network, judged and timed.
    ("candidates", "audit"),
    ("judge", "bench", "int8"),
    ("gpu",),
    # The flow, and what the user touches.
    ("pipeline",),
    ("demo",),
    ("cli",),
    ("__main__",),
)  # fmt: skip
"""Lowest first. A new module gets a place here before it gets an import."""

LAYER_OF = {module: index for index, layer in enumerate(LAYERS) for module in layer}


def _name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Walk all code, inside functions too, but not what only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for alternative in child.orelse:
                yield alternative
                yield from _statements(alternative)
            continue
        yield child
        yield from _statements(child)


def imports_of(path: Path) -> Iterator[tuple[str, int]]:
    """Yield every module of the package that a file imports, and the line."""
    for node in _statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            full = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: relative import"
            module = node.module or ""
            full = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in full:
            head, _, rest = name.partition(".")
            if head == "paragon_export":
                # ``from package import thing``: a module if there is one, else what holds it.
                yield (rest if rest in MODULES else rest.rpartition(".")[0]), node.lineno


def test_every_module_has_a_layer() -> None:
    """The table names every module once, and none that is gone."""
    named = [module for layer in LAYERS for module in layer]
    assert sorted(named) == sorted(set(named))
    assert set(MODULES) == set(named)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    """What a module imports, also inside a function, lies in a strictly lower layer."""
    upward = [
        f"line {line}: {imported}"
        for imported, line in imports_of(MODULES[module])
        if LAYER_OF.get(imported, len(LAYERS)) >= LAYER_OF.get(module, -1)
    ]
    assert not upward, f"{module} (layer {LAYER_OF.get(module)}) imports {upward}"


def test_the_walk_sees_hidden_imports(tmp_path: Path) -> None:
    """Imports in functions and branches count, those for type checkers do not."""
    path = tmp_path / "m.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from paragon_export.cli import app\n"
        "def f():\n    from paragon_export import plan\n"
        "    if f:\n        import paragon_export.errors\n"
        "import paragon_export\n"
    )

    assert sorted(name for name, _ in imports_of(path)) == ["", "errors", "plan"]
