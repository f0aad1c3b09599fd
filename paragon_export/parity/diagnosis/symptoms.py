"""Name what a wrong output looks like.

Each hypothesis predicts an output: the reference shifted by a pixel, or with swapped channels. The
hypothesis that leaves the least of the error names the symptom. Some predictions are computed
from the reference's output alone, others (``Scene.suspects``) by running the network again.
If no hypothesis explains the error, its location names the symptom.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from paragon_export.parity.report import Finding

MAX_RESIDUAL = 0.5
"""Root mean square that a hypothesis may leave, as a share of the error's own."""

MAX_RESIDUAL_TO_STOP = 0.005
"""If a prediction leaves at most this share, the network is not run again."""

MAX_RESIDUAL_RATIO = 0.8
"""A later hypothesis replaces the best one only if it leaves less than this share of what the best
one leaves. Simpler hypotheses come first."""

MIN_SHIFT_RANGE_PX = 4
"""Shifts are tried up to this, or up to the scale if larger; in pixels of the output."""

MAX_SPOT_SHARE = 0.01
"""Largest share of wrong pixels that counts as isolated spots."""

MAX_BLOCK_MEAN_RATIO = 0.4
"""Errors cancel within blocks if the mean of a block holds less than this share of what it would
hold of independent errors."""

MIN_VISIBLE_ERROR = 1 / 255
"""One step of an 8-bit image; smaller errors are called faint."""

MAX_CHANNELS_TO_PERMUTE = 4

MAX_BYTE_RANGE_DEVIATION = 0.2
"""Relative distance of a slope from 255 or 1/255 up to which the value range is suspected."""

Suspect = tuple[Finding, Callable[[], np.ndarray]]
"""A hypothesis, and a function that computes the output that it predicts."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One wrong output and what is needed to name its error."""

    found: np.ndarray
    """Output of the candidate, (N, C, H, W) or (N, classes)."""
    truth: np.ndarray
    """Output of the reference, of the same shape, float64."""
    limit: float
    """Pixels with a larger error are wrong; in units of the output."""
    rounding: float = math.inf
    """Root mean square up to which the error of the other pixels is rounding."""
    scale: int = 1
    """Upscaling factor."""
    border: int = 0
    """Width of the border band at all four sides, in pixels of the output."""
    tile: int = 1
    """Side of the attention windows in pixels of the output; 1 without windows."""
    suspects: Iterable[Suspect] = ()
    """Hypotheses that run the network; tried in this order, if no simpler one is exact."""

    @property
    def error(self) -> np.ndarray:
        return self.found.astype(np.float64) - self.truth

    @property
    def is_map(self) -> bool:
        return self.truth.ndim == 4


def symptom_of(scene: Scene) -> Finding:
    """Return the finding for a finite output of the right shape."""
    if constant := _constant(scene):
        return constant
    error = _rms(scene.error)
    best, residual = _best(scene, _predictions(scene), None, MAX_RESIDUAL)
    if residual > MAX_RESIDUAL_TO_STOP:
        best, residual = _best(scene, _suspected(scene), best, residual)
    if best:
        return best
    if located := _location(scene):
        return located
    if scene.is_map and scene.scale > 1 and _cancels_in_blocks(scene):
        return Finding("pixel order", "errors cancel within each small pixel")
    faint = "faint, " if np.abs(scene.error).max() < MIN_VISIBLE_ERROR else ""
    detail = f"{faint}root mean square {error:.2g}: weights, an option or the arithmetic"
    return Finding("error everywhere", detail)


def _best(
    scene: Scene,
    predictions: Iterable[tuple[Finding, np.ndarray]],
    best: Finding | None,
    residual: float,
) -> tuple[Finding | None, float]:
    """Return the hypothesis that leaves the least of the error, and the share that it leaves.

    ``best`` and ``residual`` are those found so far; None and the largest share allowed at first.
    """
    for finding, predicted in predictions:
        share = _residual(scene, predicted)
        if share < (MAX_RESIDUAL_RATIO * residual if best else residual):
            best, residual = finding, share
    return best, residual


def _rms(error: np.ndarray) -> float:
    return math.sqrt(float(np.mean(np.square(error, dtype=np.float64)))) if error.size else 0.0


def _residual(scene: Scene, predicted: np.ndarray) -> float:
    """Return the share of the error that a prediction leaves: 0 none, 1 all of it.

    Only pixels count that the hypothesis predicts, those that are not NaN.
    """
    valid = np.isfinite(predicted)
    error = _rms(scene.error[valid])
    return _rms((scene.found - predicted)[valid]) / error if error else math.inf


def _constant(scene: Scene) -> Finding | None:
    """Name an item without any variation, where the truth varies by more than errors may."""
    for index, (found, truth) in enumerate(zip(scene.found, scene.truth, strict=True)):
        if np.ptp(found) == 0 and np.ptp(truth) > scene.limit:
            value = float(found.flat[0])
            item = f"item {index} of {len(scene.found)}"
            return Finding("constant", f"{value:g}, {item}") if value else Finding("all zero", item)
    return None


# --- hypotheses on the output alone ----------------------------------------------------------


def _predictions(scene: Scene) -> Iterator[tuple[Finding, np.ndarray]]:
    """Yield each hypothesis with the output that it predicts; NaN where it predicts nothing."""
    yield from _levels(scene)
    yield from _mixed_items(scene)
    if scene.is_map:
        yield from _channel_orders(scene)
        yield from _flips(scene)
        yield from _shifts(scene)
        yield from _smoothed(scene)


def _suspected(scene: Scene) -> Iterator[tuple[Finding, np.ndarray]]:
    for finding, compute in scene.suspects:
        predicted = compute()
        if predicted.shape == scene.truth.shape:
            yield finding, predicted


def _levels(scene: Scene) -> Iterator[tuple[Finding, np.ndarray]]:
    """Yield clamping, an offset, and an offset with a slope fitted by least squares."""
    low, high = float(scene.found.min()), float(scene.found.max())
    if scene.truth.min() < low or scene.truth.max() > high:
        yield Finding("clamped", f"to {low:.3g} and {high:.3g}"), np.clip(scene.truth, low, high)
    axes = (0, 2, 3) if scene.is_map else (0, 1)
    mean = scene.truth.mean(axis=axes, keepdims=True)
    offset = scene.error.mean(axis=axes, keepdims=True)
    detail = ", ".join(f"{value:+.3g}" for value in offset.flat[:4])
    yield Finding("colour shift" if scene.is_map else "offset", detail), scene.truth + offset
    spread = scene.truth - mean
    energy = np.square(spread).sum(axis=axes, keepdims=True)
    slope = (spread * scene.found).sum(axis=axes, keepdims=True) / np.maximum(energy, 1e-30)
    detail = "times " + ", ".join(f"{value:.4g}" for value in slope.flat[:4])
    name = "contrast" if scene.is_map else "scaled"
    if any(np.allclose(slope, wrong, rtol=MAX_BYTE_RANGE_DEVIATION) for wrong in (1 / 255, 255)):
        name = "value range"
    yield Finding(name, detail), scene.truth + offset + (slope - 1) * spread


def _mixed_items(scene: Scene) -> Iterator[tuple[Finding, np.ndarray]]:
    """Yield the batch in another order: each item is replaced by the closest one of the truth."""
    if len(scene.truth) < 2:
        return
    closest = [
        int(np.argmin([_rms(found - truth) for truth in scene.truth])) for found in scene.found
    ]
    if closest != list(range(len(closest))):
        yield Finding("batch mixed up", f"items are {closest}"), scene.truth[closest]


def _channel_orders(scene: Scene) -> Iterator[tuple[Finding, np.ndarray]]:
    channels = scene.truth.shape[1]
    if channels > MAX_CHANNELS_TO_PERMUTE:
        return
    for order in itertools.permutations(range(channels)):
        if order != tuple(range(channels)):
            yield Finding("colours swapped", f"channels are {list(order)}"), scene.truth[:, order]


def _flips(scene: Scene) -> Iterator[tuple[Finding, np.ndarray]]:
    t = scene.truth
    yield Finding("turned", "upside down"), t[:, :, ::-1]
    yield Finding("turned", "left is right"), t[..., ::-1]
    yield Finding("turned", "by half"), t[:, :, ::-1, ::-1]
    if t.shape[2] == t.shape[3]:
        yield Finding("turned", "rows are columns"), t.transpose(0, 1, 3, 2)


def _shifts(scene: Scene) -> Iterator[tuple[Finding, np.ndarray]]:
    furthest = max(MIN_SHIFT_RANGE_PX, scene.scale)
    reach = range(-furthest, furthest + 1)
    height, width = scene.truth.shape[2:]
    for down, right in itertools.product(reach, reach):
        if (down or right) and 2 * abs(down) < height and 2 * abs(right) < width:
            moved = np.full_like(scene.truth, np.nan)
            moved[:, :, *_spans(down, right, height, width)] = scene.truth[
                :, :, *_spans(-down, -right, height, width)
            ]
            yield Finding("shift", f"{down} down, {right} to the right"), moved


def _smoothed(scene: Scene) -> Iterator[tuple[Finding, np.ndarray]]:
    n, channels, height, width = scene.truth.shape
    for name, taps in BLURS.items():
        if min(height, width) >= len(taps):
            smoothed = np.full_like(scene.truth, np.nan)
            smoothed[:, :, 1:-1, 1:-1] = _filtered(_filtered(scene.truth, taps, 2), taps, 3)
            yield Finding("blur", name), smoothed
    s = scene.scale
    blocks = scene.found.reshape(n, channels, height // s, s, width // s, s)
    if s > 1 and np.ptp(blocks, axis=(3, 5)).max() <= scene.limit:
        yield Finding("nearest", f"blocks of {s}x{s} pixels are constant"), scene.found
    if channels > 1 and np.ptp(scene.found, axis=1).max() <= scene.limit:
        yield Finding("grey", "all channels are equal"), scene.found


def _filtered(maps: np.ndarray, taps: tuple[float, float, float], axis: int) -> np.ndarray:
    """Convolve along one axis with three taps, without padding: two pixels fewer."""
    extent = maps.shape[axis]
    places = (np.arange(i, extent - 2 + i) for i in range(3))
    parts = [tap * maps.take(place, axis) for tap, place in zip(taps, places, strict=True)]
    return parts[0] + parts[1] + parts[2]


BLURS = {"of 3x3 pixels": (1 / 3, 1 / 3, 1 / 3), "of 1 2 1": (0.25, 0.5, 0.25)}


def _spans(down: int, right: int, height: int, width: int) -> tuple[slice, slice]:
    """Return the rows and columns that a shifted image covers of its frame."""
    return (
        slice(max(down, 0), height + min(down, 0)),
        slice(max(right, 0), width + min(right, 0)),
    )


# --- where the error lies --------------------------------------------------------------------


def _location(scene: Scene) -> Finding | None:
    """Name an error by its location; None if it is everywhere: also among the other pixels."""
    if not scene.is_map:
        return None
    wrong = (np.abs(scene.error) > scene.limit).any(axis=(0, 1))
    if not wrong.any() or _rms(scene.error[..., ~wrong]) > scene.rounding:
        return None
    height, width = wrong.shape
    border = scene.border
    has_interior = border and min(height, width) > 2 * border
    if has_interior and not wrong[border:-border, border:-border].any():
        return Finding("border", _sides(wrong, border))
    if wrong.mean() <= MAX_SPOT_SHARE and wrong.sum() <= max(4, min(height, width) // 2):
        row, column = np.argwhere(wrong)[0]
        return Finding(
            "spots", f"{int(wrong.sum())} pixels, the first at row {row}, column {column}"
        )
    return _window_or_seam(scene, wrong)


def _sides(wrong: np.ndarray, border: int) -> str:
    sides = {
        "top": wrong[:border],
        "bottom": wrong[-border:],
        "left": wrong[border:-border, :border],
        "right": wrong[border:-border, -border:],
    }
    ring = wrong.copy()
    ring[1:-1, 1:-1] = False
    width = "the outermost ring" if ring.sum() == wrong.sum() else f"{border} pixels wide at most"
    return f"{', '.join(name for name, side in sides.items() if side.any())}; {width}"


def _window_or_seam(scene: Scene, wrong: np.ndarray) -> Finding | None:
    """Recognize errors in the last, partial window, and errors along a line across the image."""
    height, width = wrong.shape
    if scene.tile > 1:
        whole = wrong[: height // scene.tile * scene.tile, : width // scene.tile * scene.tile]
        if whole.size and not whole.any():
            return Finding("partial window", f"beyond the last whole window of {scene.tile} pixels")
    for name, share in (("row", wrong.mean(axis=1)), ("column", wrong.mean(axis=0))):
        lines = np.flatnonzero(share > 0)
        if lines.size and np.ptp(lines) < len(share) // 2:
            return Finding("seam", f"{name}s {lines[0]} to {lines[-1]}")
    return None


def _cancels_in_blocks(scene: Scene) -> bool:
    """Return whether errors cancel within the block of output pixels of one input pixel.

    The mean of a block of ``scale`` x ``scale`` independent errors is ``scale`` times smaller than
    they are. A pixel order that also mixes channels cancels in the mean over channels.
    """
    error, s = scene.error, scene.scale
    n, channels, height, width = error.shape
    blocks = error.reshape(n, channels, height // s, s, width // s, s).mean(axis=(3, 5))
    independent = _rms(error) / s
    per_channel = _rms(blocks)
    over_channels = _rms(blocks.mean(axis=1)) * math.sqrt(channels)
    return min(per_channel, over_channels) < MAX_BLOCK_MEAN_RATIO * independent
