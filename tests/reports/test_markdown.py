"""Markdown: a short table, worst first, in which names are names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paragon_export.parity.report import ParityReport
from paragon_export.reports.document import Code
from paragon_export.reports.judged import of_parity
from paragon_export.reports.markdown import marked, to_markdown
from paragon_export.reports.page import document_of
from tests.reports.results import HOSTILE, audited, benchmarked, planned, row, verdict

SPAN = re.compile(r"(?<![`\\])(`+)(?!`)(.*?)(?<!`)\1(?!`)")
"""A code span of CommonMark, in one line."""


def outside(line: str) -> str:
    """Return what of a line is not in code spans and not escaped."""
    return re.sub(r"\\.", "", SPAN.sub("", line))


@given(st.one_of(st.text(max_size=40), st.text(alphabet="`|\\<>@#*[]\n ab", max_size=40)))
def test_a_name_is_one_code_span(name: str) -> None:
    """Whatever it holds, nothing of it is markup, and it ends no cell and no line."""
    text = marked((Code(name),))

    assert SPAN.fullmatch(text)
    assert not set("|\n\r") & set(text)


@given(st.text(alphabet="`|\\<>@#*[]_~& ab", max_size=40))
def test_other_text_is_escaped(text: str) -> None:
    assert not set("`|<>@#*[]_~&") & set(outside(marked((text,))))


@pytest.mark.parametrize("make", [verdict, benchmarked, planned, audited])
def test_hostile_names_stay_in_their_cells(make: object) -> None:
    """The lines are those of a report of plain names, as long as headings, lists and tables go."""

    def shape(*, hostile: bool) -> list[tuple[str, int]]:
        name = HOSTILE if hostile else "m.onnx"
        lines = to_markdown(document_of(make(hostile=hostile), [Path(name)])).splitlines()  # type: ignore[operator]
        kinds = ("" if line.startswith("`") else line[:2] for line in lines)
        return [(kind, outside(line).count("|")) for kind, line in zip(kinds, lines, strict=True)]

    assert shape(hostile=True) == shape(hostile=False)
    text = to_markdown(document_of(make(hostile=True), [Path(HOSTILE)]))  # type: ignore[operator]
    for line in text.splitlines():
        assert "<script>" not in outside(line)
        assert "@" not in outside(line)


def table(text: str) -> list[str]:
    """Return the rows of the first table, without its head."""
    return [line for line in text.splitlines() if line.startswith("|")][2:]


def test_the_worst_is_first_and_the_rest_is_counted() -> None:
    rows = [row(number * 1e-8, picture=f"p{number}") for number in range(1, 30)]
    text = to_markdown(of_parity(ParityReport(rows=(*rows, row(2e-6, picture="bad")))))
    lines = table(text)

    assert [line.split("`")[1].split()[0] for line in lines] == [
        "bad",
        *(f"p{n}" for n in range(29, 20, -1)),
    ]
    assert lines[0].endswith("| `error` |")
    assert "\nand 20 more\n" in text
    assert text.startswith("### ❌ paragon-export parity: failed\n\n`model.onnx` failed: `error`, ")


def test_all_failures_up_to_twenty_are_shown() -> None:
    rows = [row(2e-6, picture=f"p{number}") for number in range(40)]
    assert len(table(to_markdown(of_parity(ParityReport(rows=tuple(rows[:15])))))) == 15
    assert len(table(to_markdown(of_parity(ParityReport(rows=tuple(rows)))))) == 20


def test_a_good_verdict_is_one_sentence() -> None:
    text = to_markdown(of_parity(ParityReport(rows=(row(1e-7), row(3e-7, picture="noise")))))
    assert text.startswith("### ✅ paragon-export parity: passed\n")
    assert (
        "`model.onnx` passed on 2 inputs: the worst error is 3.0e-07 of full range, 0.3 times what is "
        "allowed, on `noise` 17x33.\n" in text
    )


def test_errors_of_logits_have_their_own_unit() -> None:
    text = to_markdown(of_parity(ParityReport(rows=(row(3e-7, wrong_top1=0),))))
    assert "3.0e-07 of the largest logit" in text


def test_several_files_have_a_column() -> None:
    rows = row(picture="a"), row(2e-6, candidate="other.onnx", picture="a")
    text = to_markdown(of_parity(ParityReport(rows=rows)))
    assert "| file | input |" in text
    assert table(text)[0].startswith("| `other.onnx (fp32)` | `a 17x33` | 2.0e-06 |")
    assert "`other.onnx` failed" in text
