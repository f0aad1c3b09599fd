"""Plain pictures: those that video holds and photographs do not, as a black frame."""

from __future__ import annotations

import numpy as np

from paragon_export.specs.types import Size

OVERSHOOT = 0.1
"""How far the values of limited-range video go below 0 and above 1."""


def plain_pictures(photograph: np.ndarray) -> dict[str, np.ndarray]:
    """Return pictures of the shape of a photograph (C, H, W), float32, each under its name.

    They are black, white and grey, each channel alone at 1, bars above and below and at both
    sides, a line of one pixel, steps of exact 0 and 1, a fade to black, and values in [-0.1, 1.1].
    """
    channels, height, width = photograph.shape
    black = np.zeros_like(photograph)
    white = np.ones_like(photograph)
    pictures = {"black": black, "white": white, "grey": np.full_like(photograph, 0.5)}
    for channel in range(channels if channels > 1 else 0):
        pictures[f"channel {channel}"] = black.copy()
        pictures[f"channel {channel}"][channel] = 1
    letterbox, pillarbox, line, steps = photograph.copy(), photograph.copy(), black.copy(), black.copy()  # fmt: skip
    letterbox[:, : height // 4] = letterbox[:, height - height // 4 :] = 0
    pillarbox[..., : width // 4] = pillarbox[..., width - width // 4 :] = 0
    line[:, height // 2] = 1
    steps[..., width // 2 :] = 1
    overshoot = photograph * (1 + 2 * OVERSHOOT) - OVERSHOOT
    overshoot[:, 0, 0], overshoot[:, -1, -1] = -OVERSHOOT, 1 + OVERSHOOT
    return pictures | {
        "letterbox": letterbox,
        "pillarbox": pillarbox,
        "line": line,
        "steps": steps,
        "fade": photograph / 16,
        "overshoot": overshoot.astype(np.float32),
    }


def fade(frames: np.ndarray) -> np.ndarray:
    """Return frames (T, ..., H, W) that fade to black; the last one is exactly 0."""
    weights = np.linspace(1, 0, len(frames), dtype=np.float32)
    return frames * weights.reshape(-1, *[1] * (frames.ndim - 1))


def is_small(size: Size) -> bool:
    """Return whether pictures of a size are cheap enough to feed every plain one."""
    return size.height * size.width <= SMALL_PX


SMALL_PX = 64 * 64
"""Pixels up to which every plain picture is fed."""

FEWEST = ("black", "white", "overshoot")
"""Plain pictures that are fed at larger sizes."""
