"""Estimate option values that the tensors of a checkpoint do not determine.

A shipped photograph is downscaled by the network's scale and upscaled again with each value. A
network that was trained for fidelity has the highest PSNR with the value that it was trained with.
The result is an estimate, not a proof.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from paragon_export.assets import photograph
from paragon_export.errors import PlanError
from paragon_export.networks.describe import LoadedNetwork
from paragon_export.parity.metrics import luma
from paragon_export.parity.reference import build_reference
from paragon_export.specs.network import NetworkSpec, Task
from paragon_export.system.progress import counted

ALPHAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
"""Values tried for ``upsampler_alpha``."""

WINDOW_SIZES_PX = (8, 16)

SCALES = (2, 3, 4, 8)
"""Tried if the tensors do not determine the scale."""

MAX_CROP_PX = 192
"""Side of the crop of the photograph; a multiple of the scale is taken."""


@dataclass(frozen=True)
class Fit:
    """How well the network reproduces the photograph with one set of option values."""

    options: dict[str, Any]
    """The values that were tried."""
    psnr_y_db: float
    """PSNR in dB on the luma of 8-bit images, without a border of ``scale`` pixels."""
    over_bicubic_db: float
    """``psnr_y_db`` minus that of bicubic upscaling: comparable between scales."""


def fit_options(network: LoadedNetwork) -> list[Fit]:
    """Try every combination of values and return all of them, best first.

    Options that a flag sets or that the tensors determine keep their values.

    Raises:
        PlanError: If the network does not take and return RGB images.
        ParagonExportError: If the network does not support a value.
    """
    spec, options = network.spec, network.options
    if spec.task is Task.MAP:
        raise PlanError(
            f"--probe compares images, and a {spec.architecture} network returns none; leave it out"
        )
    if spec.in_channels != 3:
        raise PlanError(
            f"--probe compares RGB images, and {network.checkpoint.path} takes "
            f"{spec.in_channels} channels; leave it out"
        )
    tried_values = _values_to_try(spec)
    fits = []
    combinations = list(itertools.product(*tried_values.values()))
    for combination in counted("trying combination", combinations):
        tried = dict(zip(tried_values, combination, strict=True))
        flags = {**options.flags, **tried}
        candidate = network.with_options(replace(options, flags=flags))
        scale = candidate.spec.scale
        truth, small, bicubic = _photograph_pair(scale)
        runner = build_reference(candidate).runner("float32")
        output = runner.infer({"input": small})["output"]
        found = _psnr_y_db(output, truth, scale)
        fits.append(Fit(tried, found, found - _psnr_y_db(bicubic, truth, scale)))
    return sorted(fits, key=lambda fit: -fit.over_bicubic_db)


def _values_to_try(spec: NetworkSpec) -> dict[str, list[float]]:
    """Return the values of each option that neither a flag nor the tensors determine."""
    values = {"upsampler_alpha": ALPHAS, "window_size": WINDOW_SIZES_PX}
    tried: dict[str, list[float]] = {
        name: sorted({*usual, spec.options[name].value})
        for name, usual in values.items()
        if name in spec.options and spec.options[name].source not in ("flag", "tensors")
    }
    if not spec.scale:
        tried["scale"] = list(SCALES)
    return tried


@cache
def _photograph_pair(scale: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the photograph (H, W, 3), downscaled (1, 3, h, w) and upscaled again (1, 3, H, W).

    All are float32 in [0, 1].
    """
    from PIL import Image

    side = MAX_CROP_PX - MAX_CROP_PX % scale
    whole = photograph()
    top, left = (whole.shape[0] - side) // 2, (whole.shape[1] - side) // 2
    truth = whole[top : top + side, left : left + side]
    image = Image.fromarray((truth * 255).round().astype(np.uint8))
    small = image.resize((side // scale, side // scale), Image.Resampling.BICUBIC)
    again = small.resize((side, side), Image.Resampling.BICUBIC)
    pixels, upscaled = (
        np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 255 for image in (small, again)
    )
    return truth, pixels, upscaled


def _psnr_y_db(output: np.ndarray, truth: np.ndarray, border: int) -> float:
    """Return the PSNR in dB on luma, peak 255, of an output (1, 3, H, W) rounded to 8 bits."""
    rounded = (output[0].transpose(1, 2, 0).clip(0, 1) * 255).round() / 255
    gap = (luma(rounded) - luma(truth.astype(np.float64)))[border:-border, border:-border]
    return float(10 * np.log10(255**2 / np.mean(gap**2)))
