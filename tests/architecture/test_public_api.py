"""The public API: complete, lazy, documented, and its examples run."""

from __future__ import annotations

import doctest
import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import paragon_export

EXAMPLES = (
    "paragon_export",
    "paragon_export.networks.describe",
    "paragon_export.runtimes.open",
)
"""Modules whose docstrings hold examples."""

MAX_IMPORT_S = 0.1

HEAVY = ("torch", "numpy", "onnx", "onnxruntime", "PIL", "rich", "typer", "yaml")


@pytest.mark.parametrize("name", paragon_export.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    """Each name can be imported, and has a docstring of its own."""
    value = getattr(paragon_export, name)

    assert name in dir(paragon_export)
    if name != "__version__":
        assert inspect.getdoc(value)


@pytest.mark.parametrize(
    "name", [n for n in paragon_export.__all__ if inspect.isfunction(getattr(paragon_export, n))]
)
def test_functions_are_documented_whole(name: str) -> None:
    """Arguments, result and errors are described, and every parameter is typed."""
    function = getattr(paragon_export, name)
    text = inspect.getdoc(function) or ""

    assert {"Args:", "Returns:", "Raises:"} <= {line.strip() for line in text.splitlines()}
    for parameter in inspect.signature(function).parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter
        assert f"{parameter.name}:" in text, parameter


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'absent'"):
        _ = paragon_export.absent  # type: ignore[attr-defined]


def test_the_import_is_lazy_and_changes_nothing(tmp_path: Path) -> None:
    """``import paragon_export`` loads no heavy library and leaves the process as it was."""
    code = (
        "import os, sys, logging, tempfile\n"
        "before = (dict(os.environ), tempfile.tempdir, logging.root.handlers[:])\n"
        "import paragon_export\n"
        "assert before == (dict(os.environ), tempfile.tempdir, logging.root.handlers[:])\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    own = ("ORT_DISABLE_TELEMETRY", "OMP_WAIT_POLICY", "THP_MEM_ALLOC_ENABLE")
    clean = {name: value for name, value in os.environ.items() if name not in own}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, env=clean, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_the_import_is_quick(tmp_path: Path) -> None:
    """The least of several imports counts: a busy machine is no fault of the package."""
    code = "import time; t = time.process_time(); import paragon_export; print(time.process_time() - t)"
    took = [
        float(subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True,
                             text=True, check=True).stdout)
        for _ in range(3)
    ]  # fmt: skip
    assert min(took) < MAX_IMPORT_S


@pytest.mark.parametrize("module", EXAMPLES)
def test_examples_run(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples in docstrings give what they say."""
    monkeypatch.chdir(tmp_path)
    outcome = doctest.testmod(importlib.import_module(module))

    assert outcome.attempted > 0
    assert outcome.failed == 0


def test_the_package_is_typed() -> None:
    assert (Path(paragon_export.__file__).parent / "py.typed").is_file()
