"""The record of random networks: it adds up over several machines and commits."""

from __future__ import annotations

from typing import Any

import pytest

from tests.architecture.documents import ROOT, module_at, tables

record_of = module_at(ROOT / "benchmarks" / "random_record.py")

HERE = {"time": "2026-01-01T00", "commit": "aaa", "processor": "P", "versions": {"torch": "1"}}


def found(number: int, verdict: str = "passed", nearest: float = 0.5) -> dict[str, Any]:
    detail = "" if verdict in ("passed", "no picture") else "why"
    return {
        "number": number, "family": f"family {number % 2}", "precision": "FP16",
        "verdict": verdict, "nearest": nearest, "detail": detail, "seconds": 2.0,
    }  # fmt: skip


def judged(*environments: dict[str, Any]) -> dict[str, Any]:
    """Return a record of one network in each environment."""
    record: dict[str, Any] = {"rows": [], "alarms": [], "parts": []}
    for number, here in enumerate(environments):
        record_of.add(record, found(number), here)
    return record


def test_the_same_environment_at_another_time_goes_on_with_a_part() -> None:
    record = judged(HERE, HERE, {**HERE, "time": "2026-01-02T00"})

    (part,) = record["parts"]
    assert (part["from"], part["to"], part["seconds"]) == (0, 2, 6.0)
    assert part["environment"] == HERE


@pytest.mark.parametrize(
    "changed", [{"commit": "bbb"}, {"processor": "Q"}, {"versions": {"torch": "2"}}]
)
def test_another_environment_begins_a_part(changed: dict[str, Any]) -> None:
    record = judged(HERE, HERE, {**HERE, **changed}, {**HERE, **changed})

    assert [(part["from"], part["to"]) for part in record["parts"]] == [(0, 1), (2, 3)]
    assert record_of.next_number(record) == 4


def test_rows_are_totals_over_all_parts() -> None:
    record = judged(HERE, HERE, {**HERE, "commit": "bbb"})
    record_of.add(record, found(3, "alarm", 1.5), HERE)
    record_of.add(record, found(4, "no picture", 9.0), HERE)
    record_of.add(record, found(5, "refused", 9.0), HERE)

    even, odd = record["rows"]
    assert (even["judged"], even["FP16"], even["FP32"]) == (2, 2, 0)
    assert (even["no picture"], even["nearest FP16"]) == (1, 0.5)
    assert (odd["judged"], odd["false alarms"], odd["refused"]) == (2, 1, 1)
    assert odd["nearest FP16"] == 1.5
    assert [alarm["number"] for alarm in record["alarms"]] == [3, 5]


@pytest.mark.parametrize("number", [0, 1, 3])
def test_no_number_is_counted_twice_or_left_out(number: int) -> None:
    record = judged(HERE, HERE)

    with pytest.raises(ValueError, match="not the next"):
        record_of.add(record, found(number), HERE)


def test_the_record_that_is_kept_has_no_gap() -> None:
    record = record_of.read_record(tables.RESULTS / "random_networks.json")

    ends = [-1, *(part["to"] for part in record["parts"])]
    assert [part["from"] for part in record["parts"]] == [end + 1 for end in ends[:-1]]
    assert record_of.read_record(ROOT / "none.json")["parts"] == []


def test_the_table_says_how_many_parts_commits_and_processors() -> None:
    parts = [HERE, {**HERE, "commit": "bbb"}, {**HERE, "time": "2026-02-01T00"}]

    assert tables.conditions_of_parts(parts) == (
        "Measured 2026-01-01 to 2026-02-01 in parts: 3; commits: 2 (aaa, bbb); processors: 1 (P)."
    )
