"""Plain pictures: those that video holds and photographs do not, as a black frame."""

from __future__ import annotations

import numpy as np

from paragon_export.specs.types import Size

OVERSHOOT = 0.1
"""How far the values of limited-range video go below 0 and above 1."""


def plain_pictures(photograph: np.ndarray) -> dict[str, np.ndarray]:
    """Return pictures of the shape of a photograph (C, H, W), float32, each under its name.

    They are flat ones (black, white, greys, a color, each channel at 1 or 0 alone), steps of exact
    0 and 1, ramps, and photographs with bars or a black frame, in one channel alone, nearly black,
    nearly white or nearly grey, and with values in [-0.1, 1.1].
    """
    black, white = np.zeros_like(photograph), np.ones_like(photograph)
    pictures = {"black": black, "white": white, "grey": np.full_like(photograph, 0.5)}
    pictures |= _colors(photograph) | _lines(black, white) | _ramps(black) | _barred(photograph)
    overshoot = photograph * (1 + 2 * OVERSHOOT) - OVERSHOOT
    overshoot[:, 0, 0], overshoot[:, -1, -1] = -OVERSHOOT, 1 + OVERSHOOT
    varied = {
        "fade": photograph / FAINT,
        "bright": 1 - photograph / FAINT,
        "faint": 0.5 + (photograph - 0.5) / FAINT,
        "overshoot": overshoot,
    }
    return pictures | {name: picture.astype(np.float32) for name, picture in varied.items()}


def _colors(photograph: np.ndarray) -> dict[str, np.ndarray]:
    """Return flat pictures of other levels, and flat ones and photographs of some channels alone."""
    channels = len(photograph)
    levels = np.linspace(0.2, 0.8, channels, dtype=np.float32).reshape(-1, 1, 1)
    found = {
        "video black": np.full_like(photograph, 16 / 255),
        "color": np.broadcast_to(levels, photograph.shape).copy(),
    }
    for channel in range(channels if channels > 1 else 0):
        one = (np.arange(channels) == channel).astype(np.float32).reshape(-1, 1, 1)
        found[f"channel {channel}"] = np.broadcast_to(one, photograph.shape).copy()
        found[f"all but channel {channel}"] = np.broadcast_to(1 - one, photograph.shape).copy()
        found[f"photograph in channel {channel}"] = photograph * one
    return found


def _lines(black: np.ndarray, white: np.ndarray) -> dict[str, np.ndarray]:
    """Return a line and a dot of one pixel, the line's negative, and steps of exact 0 and 1."""
    _, height, width = black.shape
    line, dot, steps = black.copy(), black.copy(), black.copy()
    line[:, height // 2] = 1
    dot[:, height // 2, width // 2] = 1
    steps[..., width // 2 :] = 1
    return {"line": line, "dark line": white - line, "dot": dot, "steps": steps}


def _ramps(black: np.ndarray) -> dict[str, np.ndarray]:
    """Return ramps between 0 and 1 in all four directions."""
    _, height, width = black.shape
    right = np.zeros_like(black) + np.linspace(0, 1, width, dtype=np.float32)
    down = np.zeros_like(black) + np.linspace(0, 1, height, dtype=np.float32)[:, None]
    return {"to the right": right, "to the left": 1 - right, "down": down, "up": 1 - down}


def _barred(photograph: np.ndarray) -> dict[str, np.ndarray]:
    """Return a photograph with black bars above and below, at both sides, and all around."""
    _, height, width = photograph.shape
    rows, columns = -(-height // 4), -(-width // 4)
    letterbox, pillarbox, frame = photograph.copy(), photograph.copy(), photograph.copy()
    letterbox[:, :rows] = letterbox[:, height - rows :] = 0
    pillarbox[..., :columns] = pillarbox[..., width - columns :] = 0
    frame[:, [0, -1]] = frame[..., [0, -1]] = 0
    return {"letterbox": letterbox, "pillarbox": pillarbox, "frame": frame}


def fade(frames: np.ndarray) -> np.ndarray:
    """Return frames (T, ..., H, W) that fade to black; the last one is exactly 0."""
    weights = np.linspace(1, 0, len(frames), dtype=np.float32)
    return frames * weights.reshape(-1, *[1] * (frames.ndim - 1))


def is_small(size: Size) -> bool:
    """Return whether pictures of a size are cheap enough to feed every plain one."""
    return size.height * size.width <= SMALL_PX


FAINT = 16
"""The contrast of a faint picture is one over this."""

SMALL_PX = 64 * 64
"""Pixels up to which every plain picture is fed."""

FEWEST = ("black", "white", "overshoot")
"""Plain pictures that are fed at larger sizes."""
