"""Packages: the audit in CI can fail, and no extra breaks another package."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]

SCRIPT, PYPROJECT = ROOT / ".ci" / "audit.py", ROOT / "pyproject.toml"


@pytest.fixture
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_vulnerable_package_fails(audit: ModuleType) -> None:
    vulnerable = {"id": "PYSEC-1", "fix_versions": ["2.0"]}
    packages = [
        {"name": "good", "version": "1.0", "vulns": []},
        {"name": "bad", "version": "1.0", "vulns": [vulnerable]},
    ]
    lines, safe = audit.advisories({"dependencies": packages})
    assert not safe
    assert lines[-1] == "bad 1.0: PYSEC-1, fixed in 2.0"


def test_what_is_not_known_is_said(audit: ModuleType) -> None:
    packages = [{"name": "odd", "skip_reason": "not on PyPI"}, {"name": "good", "vulns": []}]
    lines, safe = audit.advisories({"dependencies": packages})
    assert safe
    assert lines[0] == "1 of 2 packages were audited"
    assert "odd" in lines[1]


def test_only_a_missing_network_is_no_failure(audit: ModuleType) -> None:
    assert audit.is_unreachable(
        "Traceback ...\nrequests.exceptions.ProxyError: Max retries exceeded"
    )
    assert not audit.is_unreachable("Traceback ...\nTypeError: no such thing")
    assert not audit.is_unreachable("")


def test_no_extra_overwrites_another_package() -> None:
    """Distributions that own one import package overwrite each other when installed."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {re.split(r"[^\w.-]", wanted)[0].lower() for listed in lists for wanted in listed}
    assert {name for name in names if name.startswith("onnxruntime")} == {"onnxruntime"}
    for package, owners in importlib.metadata.packages_distributions().items():
        ours = {owner.lower() for owner in owners} & names
        assert len(ours) <= 1, f"{package} is owned by {ours}"
