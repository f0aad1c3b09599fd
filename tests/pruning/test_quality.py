"""PSNR and SSIM on luma: known values, and the border is left out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paragon_export.pruning.pictures import Pair
from paragon_export.pruning.quality import psnr, quality, ssim


def test_psnr_of_a_known_error() -> None:
    a = np.full((20, 20), 100.0)
    assert psnr(a, a + 5) == pytest.approx(20 * math.log10(255 / 5))
    assert psnr(a, a) == 100


def test_psnr_of_what_is_no_number_is_none() -> None:
    """Python's min and max may drop NaN: a network that computes NaN must not seem perfect."""
    image = np.full((4, 4), 9.0)
    spoiled = image.copy()
    spoiled[1, 2] = np.nan
    assert math.isnan(psnr(spoiled, image))
    assert math.isnan(psnr(image, spoiled))


def test_ssim_of_flat_images_is_that_of_their_means() -> None:
    a, b, c = np.full((20, 20), 10.0), np.full((20, 20), 14.0), (0.01 * 255) ** 2
    assert ssim(a, b) == pytest.approx((2 * 140 + c) / (100 + 196 + c))
    assert ssim(a, a) == pytest.approx(1)


def test_ssim_of_opposite_contrast_is_negative() -> None:
    a = np.random.default_rng(0).normal(128, 40, (32, 32))
    assert ssim(a, 256 - a) < -0.8


class _Repeated(nn.Module):
    """Repeats each pixel, and is wrong at the outermost pixels of the result."""

    def __init__(self, wrong: int) -> None:
        super().__init__()
        self.wrong = wrong

    def forward(self, x: Tensor) -> Tensor:
        y = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        inside = torch.zeros_like(y)
        w = self.wrong
        inside[:, :, w : y.shape[2] - w, w : y.shape[3] - w] = 1
        return y * inside


@pytest.mark.parametrize(("wrong", "is_seen"), [(2, False), (3, True)])
def test_a_border_of_the_scale_is_left_out(wrong: int, is_seen: bool) -> None:
    small = np.random.default_rng(1).integers(60, 200, (16, 18, 3)).astype(np.uint8)
    pair = Pair(small.repeat(2, 0).repeat(2, 1), small)
    found = quality(_Repeated(wrong), [pair], 2, "judging")
    assert (found.psnr_y_db < 100) == is_seen
