"""Pages: nothing in them is loaded or run but their own, names are text, and pictures are right."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from paragon_export.errors import PlanError
from paragon_export.parity.report import ParityReport
from paragon_export.reports.document import Code
from paragon_export.reports.html import marked
from paragon_export.reports.page import report_page
from paragon_export.reports.pictures import NOT_FINITE, colored, comparison
from paragon_export.system.text import printable
from tests.reports.results import (
    HOSTILE,
    audited,
    benchmarked,
    picture,
    planned,
    ramp,
    row,
    verdict,
)

MAKERS: dict[str, Callable[..., Any]] = {
    "parity": verdict, "bench": benchmarked, "plan": planned, "audit": audited,
}  # fmt: skip

RUNS = re.compile(r"on\w+$")
"""Names of attributes that are scripts."""


class Parts(HTMLParser):
    """The elements and texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.inside: dict[str, str] = {}
        self._last = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._last = tag

    def handle_endtag(self, tag: str) -> None:
        self._last = ""

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        self.inside[self._last] = self.inside.get(self._last, "") + data

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def png(address: str | None) -> np.ndarray:
    """Return the pixels of a picture of a page."""
    assert address is not None
    kind, _, data = address.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


@pytest.mark.parametrize("kind", MAKERS)
def test_hostile_names_are_text(kind: str) -> None:
    """A page of hostile names has the elements of a page of plain ones, and shows the names."""
    plain, hostile = (
        Parts(report_page(MAKERS[kind](hostile=is_hostile), Path(name)))
        for is_hostile, name in ((False, "model.onnx"), (True, HOSTILE))
    )

    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert len(hostile.attributes("script")) == 1
    assert not [n for _, attributes in hostile.tags for n in attributes if RUNS.match(n)]
    assert any(printable(HOSTILE) in text for text in hostile.texts)
    assert not any("\x1b" in text for text in hostile.texts)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_page_needs_no_network(kind: str) -> None:
    """No attribute and no style names an address, except those of pictures, which hold them."""
    page = report_page(MAKERS[kind]())
    found = Parts(page)
    addresses = [
        value
        for _, attributes in found.tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "data", "action") and value is not None
    ]

    assert all(address.startswith("data:image/png;base64,") for address in addresses)
    assert "url(" not in found.inside["style"]
    assert "@import" not in found.inside["style"]
    assert set(re.findall(r"https?://[^\s\"<]+", page)) <= {"http://www.w3.org/2000/svg"}


def test_the_policy_allows_the_page_alone() -> None:
    """Style and script are allowed by their digests; nothing else is."""
    found = Parts(report_page(verdict()))
    policies = [a["content"] for a in found.attributes("meta") if "http-equiv" in a]
    assert len(policies) == 1
    policy = dict(part.split(" ", 1) for part in str(policies[0]).split("; "))

    assert policy["default-src"] == "'none'"
    for tag in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(found.inside[tag].encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert not [a for _, a in found.tags if "style" in a], "the policy forbids style attributes"


def test_pictures_show_the_values() -> None:
    """Reference and candidate keep their values; the difference is amplified around gray."""
    images = {a["alt"]: png(a["src"]) for a in Parts(report_page(verdict())).attributes("img")}
    reference, candidate, difference, error_map = images.values()
    expected = np.moveaxis(np.rint(ramp() * 255).astype(np.uint8), 0, -1)

    assert list(images) == [
        "reference", "candidate", "difference; gray is none", "error map of the whole output"
    ]  # fmt: skip
    assert np.array_equal(reference, expected)
    changed = (candidate != expected).any(axis=-1)
    assert list(zip(*np.nonzero(changed), strict=True)) == [(2, 3)]
    assert difference[2, 3].tolist() == [128, 255, 128]
    assert (difference[~changed] == 128).all()
    assert error_map[2, 3].tolist() == [252, 244, 190]
    assert (error_map[~changed] == error_map[0, 0]).all()


def test_small_errors_are_amplified() -> None:
    reference = ramp().astype(np.float64)
    found = reference.copy()
    found[0, 0, 0] -= 2e-6
    shown = comparison(picture(row(2e-6), found, reference))

    assert shown.difference.caption == "difference, amplified 250,000 times; gray is none"
    assert png(shown.difference.address)[0, 0].tolist() == [0, 128, 128]
    assert "2.00e-06 of full range" in shown.scale


def test_values_that_are_not_finite_have_a_color_of_their_own() -> None:
    found = ramp()
    found[0, 1, 1], found[2, 4, 4] = np.nan, np.inf
    shown = comparison(picture(row(np.inf), found, ramp()))

    for image in (shown.candidate, shown.difference, shown.error_map):
        pixels = png(image.address)
        marked_ = (pixels == NOT_FINITE).all(axis=-1)
        assert sorted(zip(*np.nonzero(marked_), strict=True)) == [(1, 1), (4, 4)]
    assert "not finite" in shown.scale
    assert "not finite" not in comparison(picture(row(), ramp(), ramp())).scale


def test_features_are_shown_by_their_worst_channel() -> None:
    """From the smallest to the largest value of the reference in that channel."""
    reference = np.zeros((5, 4, 4), np.float32)
    reference[3] = np.linspace(-7, 9, 16).reshape(4, 4)
    found = reference.copy()
    found[3, 0, 1] += 1
    found[4, 0, 0] += 0.5
    shown = comparison(picture(row(output="feature_map"), found, reference))
    pixels = png(shown.reference.address)

    assert (pixels[0, 0].tolist(), pixels[-1, -1].tolist()) == ([0] * 3, [255] * 3)


def test_brighter_is_larger() -> None:
    """The colors of errors grow brighter all the way, also in gray on paper."""
    levels = colored(np.linspace(0, 2e-6, 200)[None], 2e-6)[0].astype(float)
    light = levels @ [0.2126, 0.7152, 0.0722]

    assert (np.diff(light) >= -1).all()
    assert light[-1] - light[0] > 200


def test_an_empty_verdict_is_a_page() -> None:
    found = Parts(report_page(ParityReport(rows=())))
    assert any("nothing was judged" in text for text in found.texts)
    assert not found.attributes("img")


@pytest.mark.parametrize("kind", MAKERS)
def test_every_plot_has_a_name(kind: str) -> None:
    """What cannot be seen can be heard: plots and the boxes that scroll have labels."""
    found = Parts(report_page(MAKERS[kind]()))

    assert found.attributes("svg")
    for attributes in [*found.attributes("svg"), *found.attributes("input")]:
        assert attributes.get("aria-label")
    assert all(a.get("alt") for a in found.attributes("img"))


def test_no_plan_is_no_page() -> None:
    with pytest.raises(PlanError, match="no plan"):
        report_page([])


def test_text_is_escaped_in_code_and_out_of_it() -> None:
    assert marked(("<a>", Code("<b>\x07"))) == "&lt;a&gt;<code>&lt;b&gt;\\x07</code>"
