"""PSNR and SSIM on luma, as benchmarks of super-resolution measure them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from paragon_export.pruning.pictures import Pair, batch
from paragon_export.system.progress import counted

LUMA = np.array([65.481, 128.553, 24.966]) / 255
"""Weights of R, G and B of 8 bits in BT.601 luma, which is 16 to 235."""

TAPS, SIGMA = 11, 1.5
"""Of the Gaussian window of SSIM."""


@dataclass(frozen=True)
class Quality:
    """How close a network's outputs are to photographs: means over them."""

    psnr_y_db: float
    ssim_y: float


def quality(module: nn.Module, pairs: Sequence[Pair], scale: int, name: str) -> Quality:
    """Upscale downscaled photographs and compare with the originals.

    Outputs are clamped and rounded to 8 bits, ``scale`` pixels at each side are left out.

    Args:
        module: Maps (N, 3, H, W) in [0, 1] to ``scale`` times the size.
        pairs: The photographs.
        scale: Factor of the network.
        name: Of the step that is shown.
    """
    psnrs, ssims = [], []
    for pair in counted(name, pairs):
        with torch.no_grad():
            output = module(torch.from_numpy(batch([pair.small])))[0].numpy()
        eight = np.rint(output.clip(0, 1) * 255).transpose(1, 2, 0)
        a, b = (
            (image.astype(np.float64) @ LUMA + 16)[scale:-scale, scale:-scale]
            for image in (eight, pair.large)
        )
        psnrs.append(psnr(a, b))
        ssims.append(ssim(a, b))
    return Quality(float(np.mean(psnrs)), float(np.mean(ssims)))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Return the PSNR in dB of two images with values up to 255: at most 100, NaN if a value is NaN."""
    error = float(np.square(a - b).mean())
    if math.isnan(error):
        return math.nan  # min and max drop NaN or not, by the order of their arguments
    return min(100.0, 10 * math.log10(255**2 / max(error, 1e-12)))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean structural similarity of two images (H, W) with values up to 255.

    The windows are Gaussian and lie inside the image.
    """
    line = torch.exp(-((torch.arange(TAPS).double() - TAPS // 2) ** 2) / (2 * SIGMA**2))
    window = torch.outer(line, line)[None, None] / line.sum() ** 2
    maps = torch.from_numpy(np.stack([a, b, a * a, b * b, a * b]))[:, None]
    mean_a, mean_b, aa, bb, ab = F.conv2d(maps, window)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    products, squares = mean_a * mean_b, mean_a**2 + mean_b**2
    similar = (2 * products + c1) * (2 * (ab - products) + c2)
    return float((similar / ((squares + c1) * (aa + bb - squares + c2))).mean())
