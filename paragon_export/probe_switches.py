"""Probe: which values of the switches that weights cannot tell fit a bare checkpoint best.

A shipped photograph is made smaller by the network's scale and upscaled again with each value;
the value a network was trained with gives the best picture, if the network was trained for
fidelity. A hint for the owner of the checkpoint, not a proof.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from paragon_export.assets import photograph
from paragon_export.errors import PlanError
from paragon_export.metrics import luma
from paragon_export.plan import Switches
from paragon_export.reference import build_reference, describe

ALPHAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)

WINDOWS = (8, 16)

EXTENT_PX = 192
"""Side of the piece of the photograph that is compared."""


@dataclass(frozen=True)
class Fit:
    """How well one set of values reproduces the photograph."""

    switches: dict[str, Any]
    psnr_y_db: float
    """On luma, 8-bit rounding, a border of ``scale`` pixels left out as papers do."""


def probe_switches(path: Path, switches: Switches) -> list[Fit]:
    """Return every combination of values tried, best first. Switches given as flags are kept.

    Raises:
        ParagonExportError: If the checkpoint cannot be read or a switch is impossible.
    """
    checkpoint, variant = describe(path, switches)
    if not variant.is_picture:
        raise PlanError(f"--probe compares pictures, and a {variant.family} network makes none")
    if variant.in_channels != 3:
        raise PlanError(
            f"--probe compares pictures in RGB, and {path} takes {variant.in_channels} channels"
        )
    values: dict[str, tuple[float, ...]] = {"upsampler_alpha": ALPHAS}
    if variant.window > 1:
        values["window_size"] = WINDOWS
    settings = variant.switches
    open_switches = {
        name: sorted({*tried, settings[name].value})
        for name, tried in values.items()
        if settings[name].source != "flag"
    }
    truth, small = _pair(variant.scale)
    fits = []
    for combination in itertools.product(*open_switches.values()):
        tried = dict(zip(open_switches, combination, strict=True))
        flags = {**switches.flags, **tried}
        _, candidate = describe(path, replace(switches, flags=flags))
        runner = build_reference(checkpoint, candidate).runner("float32")
        output = runner.infer({"input": small})["output"]
        fits.append(Fit(tried, _psnr_y_db(output, truth, variant.scale)))
    return sorted(fits, key=lambda fit: -fit.psnr_y_db)


def _pair(scale: int) -> tuple[np.ndarray, np.ndarray]:
    """The photograph at its own size (H, W, 3), and made smaller as (1, 3, h, w)."""
    from PIL import Image

    side = EXTENT_PX - EXTENT_PX % scale
    whole = photograph()
    top, left = (whole.shape[0] - side) // 2, (whole.shape[1] - side) // 2
    truth = whole[top : top + side, left : left + side]
    picture = Image.fromarray((truth * 255).round().astype(np.uint8))
    small = picture.resize((side // scale, side // scale), Image.Resampling.BICUBIC)
    pixels = np.asarray(small, np.float32).transpose(2, 0, 1)[None] / 255
    return truth, pixels


def _psnr_y_db(output: np.ndarray, truth: np.ndarray, border: int) -> float:
    rounded = (output[0].transpose(1, 2, 0).clip(0, 1) * 255).round() / 255
    gap = (luma(rounded) - luma(truth.astype(np.float64)))[border:-border, border:-border]
    return float(10 * np.log10(255**2 / np.mean(gap**2)))
