"""Probe: which values of the switches that weights cannot tell fit a bare checkpoint best.

A shipped photograph is made smaller by the network's scale and upscaled again with each value;
the value a network was trained with gives the best picture, if the network was trained for
fidelity. A hint for the owner of the checkpoint, not a proof.
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
from paragon_export.specs.network import Task
from paragon_export.system.progress import counted

ALPHAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)

WINDOWS = (8, 16)

SCALES = (2, 3, 4, 8)
"""Tried where no tensor tells it."""

EXTENT_PX = 192
"""Side of the piece of the photograph that is compared."""


@dataclass(frozen=True)
class Fit:
    """How well one set of values reproduces the photograph."""

    options: dict[str, Any]
    psnr_y_db: float
    """On luma, 8-bit rounding, a border of ``scale`` pixels left out as papers do."""
    over_bicubic_db: float
    """More than bicubic upscaling by the same factor: comparable from scale to scale."""


def fit_options(network: LoadedNetwork) -> list[Fit]:
    """Return every combination of values tried, best first. Options given as flags are kept.

    Raises:
        ParagonExportError: If the checkpoint cannot be read or a switch is impossible.
    """
    spec, options = network.spec, network.options
    if spec.task is Task.MAP:
        raise PlanError(f"--probe compares pictures, and a {spec.architecture} network makes none")
    if spec.in_channels != 3:
        raise PlanError(
            f"--probe compares pictures in RGB, and {network.checkpoint.path} takes {spec.in_channels} channels"
        )
    settings = spec.options
    values = {"upsampler_alpha": ALPHAS, "window_size": WINDOWS}
    open_switches: dict[str, list[float]] = {
        name: sorted({*tried, settings[name].value})
        for name, tried in values.items()
        if name in settings and settings[name].source not in ("flag", "tensors")
    }
    if not spec.scale:
        open_switches["scale"] = list(SCALES)
    fits = []
    combinations = list(itertools.product(*open_switches.values()))
    for combination in counted("trying combination", combinations):
        tried = dict(zip(open_switches, combination, strict=True))
        flags = {**options.flags, **tried}
        candidate = network.with_options(replace(options, flags=flags))
        scale = candidate.spec.scale
        truth, small, bicubic = _pictures(scale)
        runner = build_reference(candidate).runner("float32")
        output = runner.infer({"input": small})["output"]
        found = _psnr_y_db(output, truth, scale)
        fits.append(Fit(tried, found, found - _psnr_y_db(bicubic, truth, scale)))
    return sorted(fits, key=lambda fit: -fit.over_bicubic_db)


@cache
def _pictures(scale: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The photograph (H, W, 3), made smaller as (1, 3, h, w), and that upscaled, (1, 3, H, W)."""
    from PIL import Image

    side = EXTENT_PX - EXTENT_PX % scale
    whole = photograph()
    top, left = (whole.shape[0] - side) // 2, (whole.shape[1] - side) // 2
    truth = whole[top : top + side, left : left + side]
    picture = Image.fromarray((truth * 255).round().astype(np.uint8))
    small = picture.resize((side // scale, side // scale), Image.Resampling.BICUBIC)
    again = small.resize((side, side), Image.Resampling.BICUBIC)
    pixels, upscaled = (
        np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 255 for image in (small, again)
    )
    return truth, pixels, upscaled


def _psnr_y_db(output: np.ndarray, truth: np.ndarray, border: int) -> float:
    rounded = (output[0].transpose(1, 2, 0).clip(0, 1) * 255).round() / 255
    gap = (luma(rounded) - luma(truth.astype(np.float64)))[border:-border, border:-border]
    return float(10 * np.log10(255**2 / np.mean(gap**2)))
