"""Symptoms: what a wrong output looks like, in a word or two.

A symptom is a change that explains the error: where the reference, moved by a pixel, is the
candidate, the candidate is shifted. Changes are tried on the reference's output and, by asking the
network again, on its input. What no change explains is told by where the error lies. The verdict
never depends on any of this.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

EXPLAINED = 0.5
"""What a change may leave of the error's root mean square if it is to explain the error."""

SURELY = 0.005
"""A change that leaves no more needs no other to be tried."""

CLEARLY = 0.8
"""A later change, which is less simple, must leave less than this part of what the best leaves."""

MAX_SHIFT_PX = 4
"""Pixels of the output; a network that upscales more is tried up to its scale."""

SPOTS = 0.01
"""Share of the values up to which errors are spots."""

CANCELLED = 0.4
"""Errors cancel within the block of a small pixel if its mean holds less than this part of what
it would hold of independent errors."""

VISIBLE = 1 / 255
"""An error below this is no step of an 8-bit picture."""


@dataclass(frozen=True)
class Symptom:
    """A name, the same for the same mistake, and what was seen."""

    name: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.detail})" if self.detail else self.name


Suspect = tuple[Symptom, Callable[[], np.ndarray]]
"""A mistake, and the output of the network in which it was made."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One output that came out wrong, and what is known about it."""

    found: np.ndarray
    """(N, C, H, W), or (N, classes)."""
    truth: np.ndarray
    """Of the same shape, float64."""
    limit: float
    """The largest error allowed, in units of the output."""
    scale: int = 1
    """Large pixels per small one."""
    border: int = 0
    """Width in pixels of the band at all four sides that counts as border."""
    tile: int = 1
    """Side of the attention windows in pixels of the output; 1 where there are none."""
    suspects: Iterable[Suspect] = ()
    """Mistakes whose output has to be computed; tried in this order, and only if need be."""

    @property
    def error(self) -> np.ndarray:
        return self.found.astype(np.float64) - self.truth

    @property
    def is_map(self) -> bool:
        return self.truth.ndim == 4


def symptom_of(scene: Scene) -> Symptom:
    """Name what a finite output of the right shape looks like."""
    if constant := _constant(scene):
        return constant
    error = _rms(scene.error)
    best, left = _best(scene, _changes(scene), None, EXPLAINED)
    if left > SURELY:
        best, left = _best(scene, _suspected(scene), best, left)
    if best:
        return best
    if located := _location(scene):
        return located
    if scene.is_map and scene.scale > 1 and _cancels_in_blocks(scene):
        return Symptom("pixel order", "errors cancel within each small pixel")
    faint = "faint, " if np.abs(scene.error).max() < VISIBLE else ""
    told = f"{faint}root mean square {error:.2g}: weights, a switch or the arithmetic"
    return Symptom("error everywhere", told)


def _best(
    scene: Scene,
    changes: Iterable[tuple[Symptom, np.ndarray]],
    best: Symptom | None,
    left: float,
) -> tuple[Symptom | None, float]:
    """Return the change that leaves least of the error, and what it leaves; begin with ``best``."""
    for symptom, picture in changes:
        residual = _left(scene, picture)
        if residual < (CLEARLY * left if best else left):
            best, left = symptom, residual
    return best, left


def _rms(error: np.ndarray) -> float:
    return math.sqrt(float(np.mean(np.square(error, dtype=np.float64)))) if error.size else 0.0


def _left(scene: Scene, picture: np.ndarray) -> float:
    """Return what a change leaves of the error, where the change says anything: 1 is all of it."""
    known = np.isfinite(picture)
    error = _rms(scene.error[known])
    return _rms((scene.found - picture)[known]) / error if error else math.inf


def _constant(scene: Scene) -> Symptom | None:
    for index, (found, truth) in enumerate(zip(scene.found, scene.truth, strict=True)):
        if np.ptp(found) == 0 and np.ptp(truth) > 0:
            value = float(found.flat[0])
            told = f"item {index} of {len(scene.found)}"
            return Symptom("constant", f"{value:g}, {told}") if value else Symptom("all zero", told)
    return None


# --- changes that may explain the error ------------------------------------------------------


def _changes(scene: Scene) -> Iterator[tuple[Symptom, np.ndarray]]:
    """Yield each mistake with the output that it would give; NaN where it says nothing."""
    yield from _levels(scene)
    yield from _items(scene)
    if scene.is_map:
        yield from _colours(scene)
        yield from _turns(scene)
        yield from _shifts(scene)
        yield from _smoothed(scene)


def _suspected(scene: Scene) -> Iterator[tuple[Symptom, np.ndarray]]:
    for symptom, compute in scene.suspects:
        picture = compute()
        if picture.shape == scene.truth.shape:
            yield symptom, picture


def _levels(scene: Scene) -> Iterator[tuple[Symptom, np.ndarray]]:
    low, high = float(scene.found.min()), float(scene.found.max())
    if scene.truth.min() < low or scene.truth.max() > high:
        yield Symptom("clamped", f"to {low:.3g} and {high:.3g}"), np.clip(scene.truth, low, high)
    axes = (0, 2, 3) if scene.is_map else (0, 1)
    mean = scene.truth.mean(axis=axes, keepdims=True)
    offset = scene.error.mean(axis=axes, keepdims=True)
    told = ", ".join(f"{value:+.3g}" for value in offset.flat[:4])
    yield Symptom("colour shift" if scene.is_map else "offset", told), scene.truth + offset
    spread = scene.truth - mean
    energy = np.square(spread).sum(axis=axes, keepdims=True)
    slope = (spread * scene.found).sum(axis=axes, keepdims=True) / np.maximum(energy, 1e-30)
    told = "times " + ", ".join(f"{value:.4g}" for value in slope.flat[:4])
    name = "contrast" if scene.is_map else "scaled"
    if any(np.allclose(slope, wrong, rtol=0.2) for wrong in (1 / 255, 255)):
        name = "value range"
    yield Symptom(name, told), scene.truth + offset + (slope - 1) * spread


def _items(scene: Scene) -> Iterator[tuple[Symptom, np.ndarray]]:
    """Each item of the batch (of a clip: each frame) is taken for the one that it is closest to."""
    if len(scene.truth) < 2:
        return
    closest = [
        int(np.argmin([_rms(found - truth) for truth in scene.truth])) for found in scene.found
    ]
    if closest != list(range(len(closest))):
        yield Symptom("batch mixed up", f"items are {closest}"), scene.truth[closest]


def _colours(scene: Scene) -> Iterator[tuple[Symptom, np.ndarray]]:
    channels = scene.truth.shape[1]
    if channels > 4:
        return
    for order in itertools.permutations(range(channels)):
        if order != tuple(range(channels)):
            yield Symptom("colours swapped", f"channels are {list(order)}"), scene.truth[:, order]


def _turns(scene: Scene) -> Iterator[tuple[Symptom, np.ndarray]]:
    t = scene.truth
    yield Symptom("turned", "upside down"), t[:, :, ::-1]
    yield Symptom("turned", "left is right"), t[..., ::-1]
    yield Symptom("turned", "by half"), t[:, :, ::-1, ::-1]
    if t.shape[2] == t.shape[3]:
        yield Symptom("turned", "rows are columns"), t.transpose(0, 1, 3, 2)


def _shifts(scene: Scene) -> Iterator[tuple[Symptom, np.ndarray]]:
    reach = range(-max(MAX_SHIFT_PX, scene.scale), max(MAX_SHIFT_PX, scene.scale) + 1)
    height, width = scene.truth.shape[2:]
    for down, right in itertools.product(reach, reach):
        if (down or right) and 2 * abs(down) < height and 2 * abs(right) < width:
            moved = np.full_like(scene.truth, np.nan)
            moved[:, :, *_spans(down, right, height, width)] = scene.truth[
                :, :, *_spans(-down, -right, height, width)
            ]
            yield Symptom("shift", f"{down} down, {right} to the right"), moved


def _smoothed(scene: Scene) -> Iterator[tuple[Symptom, np.ndarray]]:
    n, channels, height, width = scene.truth.shape
    for name, taps in BLURS.items():
        if min(height, width) >= len(taps):
            smoothed = np.full_like(scene.truth, np.nan)
            smoothed[:, :, 1:-1, 1:-1] = _filtered(_filtered(scene.truth, taps, 2), taps, 3)
            yield Symptom("blur", name), smoothed
    s = scene.scale
    blocks = scene.found.reshape(n, channels, height // s, s, width // s, s)
    if s > 1 and np.ptp(blocks, axis=(3, 5)).max() <= scene.limit:
        yield Symptom("nearest", f"blocks of {s}x{s} pixels are one colour"), scene.found
    if channels > 1 and np.ptp(scene.found, axis=1).max() <= scene.limit:
        yield Symptom("grey", "all channels are equal"), scene.found


def _filtered(maps: np.ndarray, taps: tuple[float, float, float], axis: int) -> np.ndarray:
    extent = maps.shape[axis]
    places = (np.arange(i, extent - 2 + i) for i in range(3))
    parts = [t * maps.take(place, axis) for t, place in zip(taps, places, strict=True)]
    return parts[0] + parts[1] + parts[2]


BLURS = {"of 3x3 pixels": (1 / 3, 1 / 3, 1 / 3), "of 1 2 1": (0.25, 0.5, 0.25)}


def _spans(down: int, right: int, height: int, width: int) -> tuple[slice, slice]:
    return (
        slice(max(down, 0), height + min(down, 0)),
        slice(max(right, 0), width + min(right, 0)),
    )


# --- where the error lies --------------------------------------------------------------------


def _location(scene: Scene) -> Symptom | None:
    """Name an error by its place; None where it is everywhere."""
    if not scene.is_map:
        return None
    wrong = (np.abs(scene.error) > scene.limit).any(axis=(0, 1))
    height, width = wrong.shape
    b = scene.border
    if b and min(height, width) > 2 * b and not wrong[b:-b, b:-b].any():
        return Symptom("border", _sides(wrong, b))
    if wrong.mean() <= SPOTS and wrong.sum() <= max(4, min(height, width) // 2):
        row, column = np.argwhere(wrong)[0] if wrong.any() else (0, 0)
        return Symptom(
            "spots", f"{int(wrong.sum())} pixels, the first at row {row}, column {column}"
        )
    return _tiles(scene, wrong)


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


def _tiles(scene: Scene, wrong: np.ndarray) -> Symptom | None:
    """Tell errors in the last, partial window, and errors along one line across the picture."""
    height, width = wrong.shape
    if scene.tile > 1:
        whole = wrong[: height // scene.tile * scene.tile, : width // scene.tile * scene.tile]
        if whole.size and not whole.any():
            return Symptom("partial window", f"beyond the last whole window of {scene.tile} pixels")
    for name, share in (("row", wrong.mean(axis=1)), ("column", wrong.mean(axis=0))):
        lines = np.flatnonzero(share > 0)
        if lines.size and np.ptp(lines) < len(share) // 2:
            return Symptom("seam", f"{name}s {lines[0]} to {lines[-1]}")
    return None


def _cancels_in_blocks(scene: Scene) -> bool:
    """Tell whether errors cancel within the pixels that one small pixel became.

    Independent errors leave one part in ``scale`` in the mean of a block; an order that mixes
    channels too cancels over all of them.
    """
    error, s = scene.error, scene.scale
    n, channels, height, width = error.shape
    blocks = error.reshape(n, channels, height // s, s, width // s, s).mean(axis=(3, 5))
    independent = _rms(error) / s
    apart, together = _rms(blocks), _rms(blocks.mean(axis=1)) * math.sqrt(channels)
    return min(apart, together) < CANCELLED * independent
