"""``plan``: kernels are counted and estimated, and nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paragon_export.assets import CHECKPOINT
from tests.conftest import RunHere


def test_a_checkpoint_is_planned(run_here: RunHere, tmp_path: Path) -> None:
    """A faster card is estimated faster, and a size with more pixels moves more bytes."""
    sizes = ("--size", "64x96", "--size", "128x96")
    done = run_here(
        "plan", CHECKPOINT, "--fp16", *sizes, "--card", "3060", "--card", "3090", "--json",
    )  # fmt: skip
    document = json.loads(done.stdout)
    plans = document["plans"]

    assert document["basis"] == "estimated from the compiled kernels, not run"
    assert [(one["size"], one["card"]) for one in plans] == [
        ("64x96", "RTX 3060"), ("64x96", "RTX 3090"),
        ("128x96", "RTX 3060"), ("128x96", "RTX 3090"),
    ]  # fmt: skip
    assert plans[1]["estimated_ms"] < plans[0]["estimated_ms"]
    assert plans[2]["bytes_written"] > 1.5 * plans[0]["bytes_written"]
    assert sum(plans[0]["estimated_ms_by_group"].values()) == pytest.approx(
        plans[0]["estimated_ms"]
    )
    assert plans[0]["kernels_of_unknown_flops"] == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((CHECKPOINT, "--card", "1080"), "use one of RTX 2060"),
        (("some.engine",), "give its ONNX file"),
        ((CHECKPOINT, "--size", "big"), "HEIGHTxWIDTH"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    run_here: RunHere, arguments: tuple[str, ...], said: str
) -> None:
    done = run_here("plan", *arguments)

    assert (done.code, done.stdout) == (3, "")
    assert said in done.stderr
