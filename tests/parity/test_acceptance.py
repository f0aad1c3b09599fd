"""Each criterion of the verdict passes what it is for and fails what it is against."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from paragon_export.parity.acceptance import (
    AcceptedLoss,
    Agreement,
    Criterion,
    Everywhere,
    Finite,
    MaxError,
    MinPsnr,
    NotConstant,
    SameTopClass,
    conversion_criteria,
    default_criteria,
    limit_of,
)
from paragon_export.parity.metrics import Around, Difference, Measured
from paragon_export.specs.tolerance import Tolerance
from paragon_export.specs.types import Precision

RIGHT = Difference(1e-7, 120.0, 1e-7, 1e-7, True, False)

SINGLE = Tolerance.for_precision(Precision.FP32)


def measured(**changes: Any) -> Measured:
    return replace(Measured(found=RIGHT, reference_max_abs=1e-7), **changes)


CASES: tuple[tuple[Criterion, Measured, str], ...] = (
    (Finite(), measured(found=replace(RIGHT, is_finite=False)), "non-finite"),
    (NotConstant(), measured(found=replace(RIGHT, max_abs=1e-4, is_constant=True)), "constant"),
    (NotConstant(), measured(found=replace(RIGHT, max_abs=1e-4, is_constant=True),
                             reference_max_abs=math.inf), "constant"),
    (MaxError(SINGLE), measured(found=replace(RIGHT, max_abs=1e-3, interior_max_abs=1e-3)), "error"),
    (MaxError(SINGLE), measured(found=replace(RIGHT, max_abs=1e-3)), "error at the border"),
    (MaxError(SINGLE), measured(found=replace(RIGHT, max_abs=math.nan,
                                              interior_max_abs=math.nan)), "error"),
    (MinPsnr(50), measured(found=replace(RIGHT, psnr_db=49.9)), "PSNR"),
    (MinPsnr(50), measured(found=replace(RIGHT, psnr_db=math.nan)), "PSNR"),
    (SameTopClass(), measured(wrong_top1=1), "top-1"),
    (Agreement(2), measured(wrong_top1=3), "top-1"),
    (AcceptedLoss(accepted=False), measured(), "loss not accepted"),
)  # fmt: skip


@pytest.mark.parametrize(("criterion", "wrong", "reason"), CASES)
def test_a_criterion_can_fail(criterion: Criterion, wrong: Measured, reason: str) -> None:
    """What it is against is named."""
    assert criterion.check(wrong) == reason


@pytest.mark.parametrize(
    "criterion",
    [Finite(), NotConstant(), MaxError(SINGLE), MinPsnr(50), SameTopClass(), Agreement(2),
     AcceptedLoss(accepted=True)],
)  # fmt: skip
def test_a_criterion_passes_what_is_right(criterion: Criterion) -> None:
    assert criterion.check(measured(wrong_top1=0)) == ""


@pytest.mark.parametrize(("error", "own"), [(1e-8, 0.0), (1e-6, 1e-7), (1e-3, 1e-3)])
def test_a_constant_as_near_as_pytorch_is_right(error: float, own: float) -> None:
    """On a black image the reference varies by less than rounding, and a candidate may not."""
    flat = replace(RIGHT, max_abs=error, is_constant=True)
    assert NotConstant().check(measured(found=flat, reference_max_abs=own)) == ""
    wrong = replace(flat, max_abs=1.01 * max(error, 1e-6))
    assert NotConstant().check(measured(found=wrong, reference_max_abs=own)) == "constant"


def test_an_agreement_is_a_number_of_items() -> None:
    assert Agreement(2).check(measured(wrong_top1=2)) == ""


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("logits", [True, False])
def test_every_default_rule_sees_every_kind_of_fault(precision: Precision, logits: bool) -> None:
    """No precision leaves out a criterion."""
    rule = default_criteria(precision, logits=logits)
    worst = replace(RIGHT, max_abs=0.9, interior_max_abs=0.9, psnr_db=1.0)
    counted = 1 if logits else None
    for changes in ({"is_finite": False}, {"is_constant": True, "max_abs": 1e-4}):
        assert any(c.check(measured(found=replace(RIGHT, **changes))) for c in rule)
    assert any(c.check(measured(found=worst, wrong_top1=counted)) for c in rule)
    if logits:
        assert any(c.check(measured(wrong_top1=1)) == "top-1" for c in rule)


def test_without_an_error_criterion_no_error_is_too_large() -> None:
    """Of a conversion without a checkpoint PSNR decides: PyTorch's own error is unknown."""
    rule = conversion_criteria(Precision.FP16)
    assert limit_of(rule, measured()) == math.inf
    assert [c.check(measured(found=replace(RIGHT, psnr_db=49.0))) for c in rule][-1] == "PSNR"


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({}, 2 * 4 * 1e-3),
        ({"around_gap": Around(5e-4, 1.0)}, 2 * 4 * 1e-3),
        ({"around_gap": Around(5e-3, 1.0)}, 2 * 4 * 5e-3),
        ({"around_gap": Around(5e-3, 1.0), "images": 99, "largest_own": 2e-3}, 2 * 2 * 5e-3),
        ({"around_gap": Around(5e-3, 1.0), "images": 99, "largest_own": 7e-3}, 2 * 2 * 7e-3),
        ({"around_gap": Around(math.inf, 1.0)}, 2 * 0.05),
        ({"around_gap": Around(math.inf, 30.0)}, 2 * 0.05 * 30),
    ],
)
def test_outside_of_an_excerpt_pytorchs_error_around_the_gap_counts_too(
    changes: dict[str, Any], limit: float
) -> None:
    rule = Everywhere(MaxError(Tolerance.for_precision(Precision.FP16)))
    row = measured(reference_max_abs=1e-3, **changes)
    assert rule.limit(row) == pytest.approx(limit)
    assert not rule.check(replace(row, float32_gap=0.99 * limit))
    assert rule.check(replace(row, float32_gap=1.01 * limit)) == "error outside the excerpt"
    assert not rule.check(row)  # all of the image is compared with float64
