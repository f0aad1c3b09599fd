"""Half types on a CPU: float32 inside an operator, one rounding of its result. Float64 in less time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.networks.describe import load_network
from paragon_export.parity.reference import build_reference
from paragon_export.runtimes import torch_arithmetic
from paragon_export.runtimes.torch_arithmetic import (
    DoubleArithmetic,
    HalfArithmetic,
    rounded_weights,
)

HALVES = [torch.float16, torch.bfloat16]


def network(x: Tensor) -> Tensor:
    """A convolution, a norm, an attention and a residual, all in the dtype of ``x``."""
    generator = torch.Generator().manual_seed(1)
    kernel = torch.randn(8, 8, 3, 3, generator=generator).mul(0.1).to(x.dtype)
    y = F.gelu(F.conv2d(x, kernel, padding=1))
    y = y / (y.pow(2).mean(1, keepdim=True) + 1e-3).sqrt()
    tokens = y.flatten(2).transpose(1, 2)
    scores = (tokens @ tokens.transpose(1, 2)).softmax(-1)
    return x + (scores @ tokens).transpose(1, 2).reshape(x.shape)


def image(dtype: torch.dtype) -> Tensor:
    return torch.rand(2, 8, 12, 12, generator=torch.Generator().manual_seed(0)).to(dtype)


def error(result: Tensor, truth: Tensor) -> float:
    return float((result.double() - truth).square().mean().sqrt())


@pytest.mark.parametrize("dtype", HALVES)
def test_it_errs_as_pytorchs_half_kernels_do(dtype: torch.dtype) -> None:
    """The errors have the same size; which values are rounded up may differ."""
    truth = network(image(torch.float64))
    plain = network(image(dtype))
    with torch.inference_mode(), HalfArithmetic(dtype):
        found = network(image(dtype))
    assert found.dtype == dtype
    assert error(found, truth) == pytest.approx(error(plain, truth), rel=0.1)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_nudge_is_another_rounding_of_the_same_size(dtype: torch.dtype) -> None:
    """Seeds differ from each other and errors do not grow; the same seed gives the same values."""
    truth = network(image(torch.float64))
    results = {}
    for nudge in (0, 1, 2):
        with torch.inference_mode(), HalfArithmetic(dtype, nudge):
            results[nudge] = network(image(dtype))
        with torch.inference_mode(), HalfArithmetic(dtype, nudge):
            assert torch.equal(network(image(dtype)), results[nudge])
    size = error(results[0], truth)
    for nudge in (1, 2):
        assert error(results[nudge], truth) == pytest.approx(size, rel=0.15)
        assert error(results[nudge], results[0].double()) > 0.3 * size


@pytest.mark.parametrize("nudge", [0, 3])
@pytest.mark.parametrize("dtype", HALVES)
def test_a_value_that_needs_no_rounding_stays(dtype: torch.dtype, nudge: int) -> None:
    """Powers of two, the largest number, the least, zeros and infinities among them."""
    limits = torch.finfo(dtype)
    special = [0.0, 1.0, -2.0, 0.5, limits.max, limits.tiny, limits.smallest_normal / 2, torch.inf]
    values = torch.cat([torch.tensor(special), torch.randn(999)]).to(dtype)
    with torch.inference_mode(), HalfArithmetic(dtype, nudge):
        kept = values + torch.zeros((), dtype=dtype)
    assert torch.equal(kept, values)


@pytest.mark.parametrize("dtype", HALVES)
def test_types_are_those_of_pytorch(dtype: torch.dtype) -> None:
    """Float32 operands widen, islands stay wide, and work in place is rounded in place."""
    half, single = torch.full((3,), 1 / 3).to(dtype), torch.full((3,), 1 / 3)
    with torch.inference_mode(), HalfArithmetic(dtype):
        assert (half * single).dtype == torch.float32
        assert (half * 3.0).dtype == dtype
        assert (single * single).dtype == torch.float32
        assert half.float().dtype == torch.float32
        assert half.sum(dtype=torch.float32).dtype == torch.float32
        assert (half > 0).dtype == torch.bool
        moved = half.clone()
        moved += half
        moved.clamp_(max=0.5)
    assert moved.dtype == dtype
    assert torch.equal(moved, torch.full((3,), 0.5, dtype=dtype))


def test_what_is_too_large_for_float16_is_infinite() -> None:
    with torch.inference_mode(), HalfArithmetic(torch.float16, nudge=1):
        assert (torch.full((2,), 60000.0).half() + 60000.0).isinf().all()
        assert nn.Conv2d(1, 1, 1).half()(torch.zeros(1, 1, 2, 2).half()).isfinite().all()


# --- weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", HALVES)
def test_rounded_weights_err_as_the_nearest_half_values_do(dtype: torch.dtype) -> None:
    """Their errors have the same size, and say nothing of those, nor of another draw's."""
    layer = nn.Linear(300, 300)
    before = layer.weight.detach().clone()
    nearest = before.to(dtype).float() - before
    first, second = (rounded_weights(layer, dtype, n).weight.detach() - before for n in (1, 2))
    assert torch.equal(layer.weight, before)
    assert torch.equal(rounded_weights(layer, dtype, 1).weight - before, first)
    sizes = [float(each.square().mean().sqrt()) for each in (first, nearest)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.03)
    for one, other in ((first, nearest), (first, second)):
        assert abs(torch.corrcoef(torch.stack([one.ravel(), other.ravel()]))[0, 1]) < 0.02


def test_weights_that_are_half_values_are_not_rounded() -> None:
    """Others are off by half a step at most; integers are no weights."""
    layer, exact = nn.BatchNorm1d(8), [0.0, 1.0, -0.625, 65504.0, 2.0**-24]
    layer.weight.data = torch.tensor([*exact, 1.0001, 2.1e-8, -1025.6])
    copy = rounded_weights(layer, torch.float16, 1)
    assert torch.equal(copy.weight[:5], layer.weight[:5])
    error = (copy.weight - layer.weight)[5:].abs()
    assert (error > 0).all()
    assert (error <= torch.tensor([2.0**-11, 2.0**-25, 0.5])).all()
    assert copy.num_batches_tracked.dtype == torch.int64


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        ((3, 3), {"padding": 1}),
        ((1, 7), {"padding": (0, 3)}),
        ((5, 2), {}),
        ((3, 3), {"padding": (2, 1), "dilation": (2, 1)}),
        ((3, 3), {"padding": "same"}),
        ((3, 3), {"padding": 1, "stride": 2}),
    ],
)
def test_depthwise_convolutions_in_float64_are_pytorchs(
    kernel: tuple[int, int], options: dict[str, Any], bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_arithmetic, "BLOCK_VALUES", 2000)  # several blocks of channels
    x, weight = torch.randn(2, 12, 9, 14).double(), torch.randn(12, 1, *kernel).double()
    offset = torch.randn(12).double() if bias else None
    expected = F.conv2d(x, weight, offset, groups=12, **options)
    with torch.inference_mode(), DoubleArithmetic():
        found = F.conv2d(x, weight, offset, groups=12, **options)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-13


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_convolutions_are_left_to_pytorch(dtype: torch.dtype) -> None:
    x = torch.randn(1, 4, 6, 6).to(dtype)
    for groups in (1, 2, 4) if dtype == torch.float32 else (1, 2):
        weight = torch.randn(4, 4 // groups, 3, 3).to(dtype)
        expected = F.conv2d(x, weight, groups=groups)
        with torch.inference_mode(), DoubleArithmetic():
            assert torch.equal(F.conv2d(x, weight, groups=groups), expected)


def test_a_reference_in_float64_computes_so(tiny_photo: Path) -> None:
    reference = build_reference(load_network(tiny_photo))
    feeds = {"input": np.random.default_rng(0).random((1, 3, 11, 13), np.float32)}
    expected = reference.module.double()(torch.from_numpy(feeds["input"]).double())
    reference.module.float()
    runner = reference.runner("float64")
    assert isinstance(runner._arithmetic(), DoubleArithmetic)
    assert abs(runner.infer(feeds)["output"] - expected.detach().numpy()).max() <= 1e-13
