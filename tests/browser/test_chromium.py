"""Pages in a real browser: no error, nothing fetched, readable on a screen, a phone and paper."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paragon_export.reports.page import report_page
from tests.reports.results import HOSTILE, audited, benchmarked, planned, verdict

pytestmark = pytest.mark.clients

ENVIRONMENT = Path(os.environ.get("BROWSER_VENV", Path(sys.prefix, "browser")))
"""Virtual environment of the browser's driver, made by ``make test-clients``."""

LOOK = Path(__file__).with_name("look.py")

PAGES: dict[str, Callable[..., Any]] = {
    "parity": verdict, "bench": benchmarked, "plan": planned, "audit": audited,
}  # fmt: skip

SABOTAGE = {
    "loud": ("</main>", "</main><img src='x.png' alt='none' onerror='alert(2)'>"),
    "pale": ("--ink: #1b1f24", "--ink: #d0d0d0"),
    "mute": ('alt="reference"', ""),
    "wide": ("</main>", "</main><pre>" + "x" * 400 + "</pre>"),
    "stuck": (".live figure + figure img { clip-path: inset(0 0 0 var(--part)); }", ""),
}
"""What is replaced in a page to break it, by the name of the broken page."""

POLICY = re.compile("<meta http-equiv[^>]*>")
"""What keeps a browser from obeying a page whose style or script was changed."""


def chromium() -> str:
    found = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    assert found, "Chromium is missing; on Debian: apt-get install chromium"
    return found


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return what is seen of every page in every look, by the names of both."""
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path_factory.mktemp("pages")))
    made = {name: report_page(make(hostile=True), Path(HOSTILE)) for name, make in PAGES.items()}
    good = report_page(verdict(), Path("model.onnx"))
    for name, (old, new) in SABOTAGE.items():
        assert old in good
        made[name] = (good if name == "loud" else POLICY.sub("", good)).replace(old, new)
    for name, page in made.items():
        folder.joinpath(f"{name}.html").write_text(page, encoding="utf-8")
    python = ENVIRONMENT / "bin" / "python"
    assert python.exists(), f"{python} is missing: run make test-clients"
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
    }
    pages = [folder / f"{name}.html" for name in made]
    done = subprocess.run(
        [python, LOOK, chromium(), folder, *pages], capture_output=True, encoding="utf-8",
        timeout=300, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {name.removesuffix(".html"): looks for name, looks in json.loads(done.stdout).items()}


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_whole_and_readable(
    page: str, look: str, seen: dict[str, dict[str, Any]]
) -> None:
    """No message, dialog or request; images load; axe-core finds nothing; nothing is cut off."""
    found = seen[page][look]
    assert found["said"] == []
    assert found["asked"] == []
    assert found["axe"] == []
    assert found["images"] == [True] * (4 if page == "parity" else 0)
    assert found["overflow"] <= 0


def test_the_slider_uncovers_the_candidate(seen: dict[str, dict[str, Any]]) -> None:
    whole, none = seen["parity"]["light"]["slider"]
    assert whole != none
    assert "100%" in none


def test_paper_shows_both_pictures_and_no_slider(seen: dict[str, dict[str, Any]]) -> None:
    *images, slider = seen["parity"]["light"]["printed"]
    reference, candidate = images
    assert slider["width"] == 0
    assert reference["width"] == candidate["width"] > 0
    assert reference["right"] <= candidate["left"]
    assert reference["top"] == candidate["top"]


def test_broken_pages_are_noticed(seen: dict[str, dict[str, Any]]) -> None:
    """What the tests above look for is seen where it is wrong."""
    loud = seen["loud"]["light"]
    assert any("Content Security Policy" in text for text in loud["said"])
    assert False in loud["images"]
    assert loud["asked"]
    assert any(text.startswith("color-contrast") for text in seen["pale"]["light"]["axe"])
    assert any(text.startswith("image-alt") for text in seen["mute"]["light"]["axe"])
    assert seen["wide"]["phone"]["overflow"] > 0
    assert len(set(seen["stuck"]["light"]["slider"])) == 1
