"""Stress pictures: synthetic contents on which networks overshoot. Each is (C, H, W), float32."""

from __future__ import annotations

import zlib

import numpy as np

from paragon_export.specs.types import Size


def seeded(kind: str, size: Size, index: int = 0) -> np.random.Generator:
    """Return a generator that only the kind of picture, its size and its index determine."""
    return np.random.default_rng(zlib.crc32(f"{kind} {size} {index}".encode()))


def _noise(channels: int, size: Size) -> np.ndarray:
    values = seeded("noise", size).random((channels, size.height, size.width))
    return values.astype(np.float32)


def _checkerboard(channels: int, size: Size) -> np.ndarray:
    rows, columns = np.indices((size.height, size.width))
    board = ((rows + columns) % 2).astype(np.float32)
    return np.broadcast_to(board, (channels, *board.shape)).copy()


def _gradient(channels: int, size: Size) -> np.ndarray:
    rows = np.linspace(0, 1, size.height)[:, None]
    columns = np.linspace(0, 1, size.width)[None, :]
    ramps = [rows + 0 * columns, 0 * rows + columns, (rows + columns) / 2]
    return np.stack([ramps[c % 3] for c in range(channels)]).astype(np.float32)


def _saturated(channels: int, size: Size) -> np.ndarray:
    blocks = seeded("saturated", size).integers(
        0, 2, (channels, -(-size.height // 4), -(-size.width // 4))
    )
    image = blocks.repeat(4, axis=1).repeat(4, axis=2)[:, : size.height, : size.width]
    return image.astype(np.float32)


def flat(channels: int, size: Size) -> np.ndarray:
    """Return a white picture (C, H, W)."""
    return np.ones((channels, size.height, size.width), np.float32)


STRESS = {
    "saturated": _saturated,
    "noise": _noise,
    "checkerboard": _checkerboard,
    "gradient": _gradient,
}
"""Contents on which networks overshoot, which stresses half precision; used in turn."""
