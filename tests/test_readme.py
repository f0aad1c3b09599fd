"""The README holds the figures that were measured, and only commands that exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from paragon_export.cli.app import app

ROOT = Path(__file__).parent.parent

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_tables_are_those_of_the_result_files() -> None:
    """Every table of figures is what benchmarks/readme_tables.py makes of the JSON files."""
    spec = importlib.util.spec_from_file_location(
        "readme_tables", ROOT / "benchmarks" / "readme_tables.py"
    )
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    assert len(tables.BLOCK.findall(README)) >= 3
    assert tables.render(README) == README
    security = tables.SECURITY.read_text(encoding="utf-8")
    assert len(tables.BLOCK.findall(security)) == 2
    assert tables.render(security) == security
    spoiled = README.replace("33.67", "33.76")
    assert tables.render(spoiled) != spoiled


def test_commands_exist() -> None:
    """Every paragon-export command that the README shows is one of the command line's."""
    commands = {
        info.name or info.callback.__name__ for info in app.registered_commands if info.callback
    }
    shown = set(re.findall(r"^paragon-export (\w+)", README, re.MULTILINE))
    assert shown
    assert shown <= commands


def test_make_targets_exist() -> None:
    """The commands for a fresh machine are targets of the Makefile, and CI calls the tests."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test"):
        assert f"\nmake {target} " in README
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
