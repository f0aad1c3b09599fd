"""Reports: strict JSON, JUnit that tools can read, and the worst row found."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from paragon_export.bench.report import BenchReport, BenchRow, percentile
from paragon_export.cli.show.audit import audit_table, audited
from paragon_export.cli.show.console import show_error
from paragon_export.cli.show.parity import parity_table
from paragon_export.parity.acceptance import default_criteria
from paragon_export.parity.metrics import Difference
from paragon_export.parity.report import ParityReport, ParityRow
from paragon_export.precision.range_report import RangeAudit, TensorRange
from paragon_export.reports.junit import junit
from paragon_export.specs.types import Precision, Size
from paragon_export.system.atomic_write import to_json
from paragon_export.system.text import finite

KEYS = {"candidate", "size", "batch", "max_abs", "psnr_db", "border_max_abs", "reference_max_abs"}

BROKEN = Difference(math.inf, -math.inf, math.inf, math.inf, False, False)


def row(max_abs: float = 1e-7, **changes: object) -> ParityRow:
    """Return a float32 row that passes up to 1e-6."""
    good = ParityRow(
        candidate="model.onnx",
        precision=Precision.FP32,
        output="output",
        picture="photograph",
        size=Size(17, 33),
        batch=2,
        found=Difference(max_abs, 120.0, max_abs / 2, max_abs, True, False),
        reference_max_abs=2e-7,
        criteria=default_criteria(Precision.FP32),
    )
    return replace(good, **changes)  # type: ignore[arg-type]


def report(*rows: ParityRow) -> ParityReport:
    return ParityReport(rows=rows)


def strict(text: str) -> object:
    """Parse JSON as the standard has it: no NaN, no Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


# --- verdicts ------------------------------------------------------------------------------


def test_the_bar_grows_with_the_peak_and_pytorchs_error_still_bounds() -> None:
    """An output that reaches four times full range may err 4e-5, if PyTorch errs near as much."""
    assert row(2.8e-5, reference_max_abs=9e-6).failure == "error"
    assert row(2e-5, reference_max_abs=9e-6, reference_peak=4.0).failure == ""
    assert row(6.1e-5, reference_max_abs=2e-5, reference_peak=4.0).failure == "error"
    assert row(2e-5, reference_max_abs=4e-6, reference_peak=4.0).failure == "error"
    logits = {"reference_max_abs": 9e-6, "reference_peak": 4.0, "wrong_top1": 0}
    assert row(2.8e-5, **logits).failure == "error"


def test_failures_by_name() -> None:
    """A row that fails says in a word or two what is wrong."""
    assert row().failure == ""
    assert row(2e-6).failure == "error"
    assert (
        row(found=Difference(2e-6, 99.0, 2e-6, 1e-7, True, False)).failure == "error at the border"
    )
    assert row(found=BROKEN).failure == "non-finite"
    assert row(found=replace(row().found, max_abs=1e-4, is_constant=True)).failure == "constant"
    assert row(found=BROKEN, fault="output missing").failure == "output missing"
    half = default_criteria(Precision.FP16)
    assert row(1e-7, criteria=half, found=replace(row().found, psnr_db=49.9)).failure == "PSNR"


def test_one_failure_fails_the_report() -> None:
    """A report passes only if every row does, and never if it has none."""
    assert report(row(), row()).passed
    assert not report(row(), row(2e-6), row()).passed
    assert not report().passed


def test_worst_row() -> None:
    """The worst row is the one that fails, or that comes closest to its own limit."""
    assert report().worst is None
    close = row(9e-7)
    assert report(row(1e-7), close, row(5e-7)).worst is close
    larger_but_further = row(2e-6, reference_max_abs=2e-6)
    assert report(larger_but_further, close).worst is close
    failing = row(fault="cannot run: no")
    assert report(close, failing, row(9.9e-7)).worst is failing
    broken = row(found=BROKEN)
    assert report(row(2e-6), broken).worst is broken


# --- JSON ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows",
    [
        (),
        (row(),),
        (row(), row(found=BROKEN), row(fault="output missing", found=BROKEN)),
        (row(reference_max_abs=math.inf), row(found=Difference(0, math.inf, 0, 0, True, False))),
        (row(is_stress=True, reference_peak=math.inf),),
    ],
)
def test_json_is_strict(rows: tuple[ParityRow, ...]) -> None:
    """Whatever happened, the report is JSON without NaN or infinity, and has the promised keys."""
    document = report(*rows).to_json()
    parsed = strict(json.dumps(document, allow_nan=False))
    assert parsed == document
    assert set(document) >= {"passed", "rows", "worst"}
    for entry in document["rows"]:
        assert set(entry) >= KEYS


NOT_COMPARED = ("max_abs", "psnr_db", "border_max_abs", "interior_max_abs")


def test_json_has_null_where_there_is_no_number() -> None:
    """Infinities are null, never text; the row says elsewhere why."""
    broken = row(found=BROKEN).to_json()
    assert [broken[name] for name in NOT_COMPARED] == [None] * 4
    assert broken["failure"] == "non-finite"
    missing = row(found=BROKEN, fault="output missing").to_json()
    assert (missing["max_abs"], missing["failure"]) == (None, "output missing")
    equal = row(found=Difference(0.0, math.inf, 0.0, 0.0, True, False)).to_json()
    assert (equal["psnr_db"], equal["max_abs"], equal["passed"]) == (None, 0.0, True)
    overflowed = row(reference_max_abs=math.inf, criteria=default_criteria(Precision.FP16))
    assert [overflowed.to_json()[name] for name in ("reference_max_abs", "limit")] == [None, 0.05]
    diverged = row(is_stress=True, reference_peak=math.inf).to_json()
    assert (diverged["reference_peak"], diverged["judged"]) == (None, False)


def test_finite_reaches_every_depth() -> None:
    document = {"a": [1.0, math.inf, {"b": (math.nan, -math.inf, "inf", 3, True)}], "c": None}
    assert finite(document) == {"a": [1.0, None, {"b": [None, None, "inf", 3, True]}], "c": None}
    assert json.loads(to_json({"a": math.nan})) == {"a": None}


def shown(result: Any, table: Callable[..., None]) -> str:
    """Return what a terminal of 200 columns shows."""
    text = io.StringIO()
    table(Console(file=text, width=200, highlight=False), result)
    return text.getvalue()


def test_tables_show_what_is_null() -> None:
    """What could not be compared has no figures; equal outputs have an infinite PSNR."""
    equal = row(found=Difference(0.0, math.inf, 0.0, 0.0, True, False), picture="equal")
    verdict = report(equal, row(found=BROKEN, picture="broken"))
    lines = shown(verdict, parity_table).splitlines()
    (first,) = [line.split() for line in lines if "equal" in line]
    assert first[3:] == ["0.0e+00", "0.0e+00", "2.0e-07", "1.0e-06", "inf", "passed"]
    (second,) = [line.split() for line in lines if "broken" in line]
    assert second[3:] == ["-", "-", "2.0e-07", "1.0e-06", "-", "non-finite"]


def test_the_table_of_an_audit_shows_masks_and_zeros() -> None:
    def tensor(name: str, peak: float, headroom: float) -> TensorRange:
        return TensorRange(
            name=name, op_type="Log", peak=peak, picture="noise 3x5", underflow=0.0, is_half=True,
            headroom=headroom,
        )  # fmt: skip

    tensors = tensor("mask", math.inf, 0.0), tensor("zero", 0.0, math.inf)
    ranges = RangeAudit(precision=Precision.FP16, tensors=tensors, pictures=("noise 3x5",))
    document = json.loads(json.dumps(audited(ranges), allow_nan=False))
    assert [row["peak"] for row in document["rows"]] == [0.0, None]
    text = shown(ranges, audit_table)
    assert [line.split()[:3] for line in text.splitlines() if "noise" in line][:2] == [
        ["zero", "0", "infx"],
        ["mask", "inf", "mask"],
    ]


def test_an_error_is_a_document_too(capsys: pytest.CaptureFixture[str]) -> None:
    """One object with the one line that stderr has."""
    show_error("no\nfile \x1b[31mred")
    printed = capsys.readouterr()
    assert strict(printed.out) == {"error": "no file \\x1b[31mred"}
    assert printed.err == ""


def test_json_tells_the_figures() -> None:
    """A row's JSON holds its figures as numbers, its size as HxW, and its verdict."""
    entry = row(3e-7).to_json()
    assert entry["candidate"] == "model.onnx"
    assert entry["size"] == "17x33"
    assert entry["batch"] == 2
    assert entry["max_abs"] == 3e-7
    assert entry["border_max_abs"] == 1.5e-7
    assert entry["psnr_db"] == 120.0
    assert entry["reference_max_abs"] == 2e-7
    assert entry["limit"] == pytest.approx(1e-6)
    assert (entry["passed"], entry["failure"]) == (True, "")
    failed = row(2e-6).to_json()
    assert (failed["passed"], failed["failure"]) == (False, "error")


def test_json_of_worst_is_a_row() -> None:
    """The worst row of the document is one of its rows."""
    document = report(row(1e-7), row(2e-6)).to_json()
    assert document["worst"] == document["rows"][1]
    assert document["passed"] is False
    assert report().to_json()["worst"] is None


# --- JUnit ---------------------------------------------------------------------------------


def test_junit_counts_failures() -> None:
    """JUnit XML holds one case for each row and counts those that fail."""
    rows = (row(), row(2e-6), row(found=BROKEN), row(fault='cannot run: <x> & "y"'))
    root = ElementTree.fromstring(junit(report(*rows)))
    suite = root.find("testsuite")
    assert root.tag == "testsuites"
    assert suite is not None
    for element in (root, suite):
        assert (element.get("tests"), element.get("failures")) == ("4", "3")
    cases = suite.findall("testcase")
    assert len(cases) == 4
    messages = [failure.get("message", "") for case in cases for failure in case.findall("failure")]
    assert [message.split(":")[0] for message in messages] == ["error", "non-finite", "cannot run"]
    assert '<x> & "y"' in messages[2]
    assert {case.get("classname") for case in cases} == {"model.onnx"}
    assert all("17x33" in case.get("name", "") for case in cases)


def test_junit_of_nothing() -> None:
    """A report without rows is JUnit XML too."""
    root = ElementTree.fromstring(junit(report()))
    assert root.get("tests") == "0"


def test_junit_survives_control_characters() -> None:
    """Words of a library with a control character in them do not make the XML unreadable."""
    root = ElementTree.fromstring(junit(report(row(fault="cannot run: \x1b[31mred\x00"))))
    assert root.get("failures") == "1"


# --- percentiles ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "percent", "expected"),
    [
        ([5.0], 95, 5.0),
        ([1.0, 3.0], 50, 2.0),
        ([3.0, 1.0, 2.0], 50, 2.0),
        ([3.0, 1.0, 2.0], 0, 1.0),
        ([3.0, 1.0, 2.0], 100, 3.0),
        ([float(n) for n in range(101)], 95, 95.0),
        ([10.0, 20.0, 30.0, 40.0, 50.0], 95, 48.0),
    ],
)
def test_percentile_known_answers(samples: list[float], percent: float, expected: float) -> None:
    """Percentiles interpolate between the closest samples, whatever their order."""
    assert percentile(samples, percent) == pytest.approx(expected)


@given(st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=60), st.floats(0, 100, width=32))
def test_percentile_equals_numpy(samples: list[float], percent: float) -> None:
    """Percentiles are those of NumPy's default method."""
    assert percentile(samples, percent) == pytest.approx(
        float(np.percentile(samples, percent)), rel=1e-9, abs=1e-9
    )


def test_percentile_of_nothing() -> None:
    """Without samples there is no percentile."""
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 50)


# --- bench ---------------------------------------------------------------------------------


def test_bench_rows() -> None:
    """A backend that ran has figures, one that did not has its reason and no figures."""
    ran = BenchRow(
        artifact="a.onnx", backend="CPU", size=Size(4, 6), samples_ms=(10.0, 20.0, 30.0),
        peak_memory_mib=1.5,
    )  # fmt: skip
    absent = BenchRow(artifact="a.onnx", backend="CUDA", size=Size(4, 6), reason="no GPU")
    document = BenchReport(rows=(ran, absent), environment={"gpu": None}).to_json()
    assert strict(json.dumps(document, allow_nan=False)) == document
    first, second = document["rows"]
    assert first == {
        "artifact": "a.onnx", "backend": "CPU", "size": "4x6", "fps": 50.0, "median_ms": 20.0,
        "p95_ms": pytest.approx(29.0), "samples": 3, "peak_memory_mib": 1.5,
    }  # fmt: skip
    assert second == {"artifact": "a.onnx", "backend": "CUDA", "size": "4x6", "reason": "no GPU"}
