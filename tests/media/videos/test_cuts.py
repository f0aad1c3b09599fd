"""Cuts: which frames begin a scene."""

from __future__ import annotations

import numpy as np
import pytest

from paragon_export.media.videos.cuts import CutFinder

SIZE = (90, 160)


def scene(seed: int) -> np.ndarray:
    """Return a smooth picture, (90, 160), uint8."""
    blocks = np.random.default_rng(seed).integers(16, 236, (9, 16))
    return np.kron(blocks, np.ones((10, 10))).astype(np.uint8)


def found(frames: list[np.ndarray], bits: int = 8) -> list[int]:
    """Return the numbers of frames that begin a scene."""
    cuts = CutFinder()
    return [number for number, frame in enumerate(frames) if cuts.begins(frame, bits)]


@pytest.mark.parametrize("bits", [8, 10])
def test_each_scene_begins_once(bits: int) -> None:
    frames = [scene(number // 5).astype(np.uint16) << (bits - 8) for number in range(15)]
    assert found(frames, bits) == [0, 5, 10]


def test_motion_begins_none() -> None:
    assert found([np.roll(scene(1), 2 * step, axis=1) for step in range(20)]) == [0]


def test_fades_begin_none() -> None:
    fade = [(scene(1) * (1 - t) + scene(2) * t).astype(np.uint8) for t in np.linspace(0, 1, 20)]
    assert found(fade) == [0]


def test_noise_begins_none() -> None:
    rng = np.random.default_rng(1)
    noisy = [np.clip(scene(1) + rng.normal(0, 10, SIZE), 0, 255).astype(np.uint8) for _ in range(9)]
    assert found(noisy) == [0]


def test_tiny_frames_are_compared() -> None:
    assert found([np.full((1, 1), value, np.uint8) for value in (0, 0, 255, 255)]) == [0, 2]


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize(("jump", "cuts"), [(0.06, [0]), (0.1, [0, 1])])
def test_jumps_count_from_a_share_of_full_range_on(bits: int, jump: float, cuts: list[int]) -> None:
    values = [round(share * (2**bits - 1)) for share in (0.5, 0.5 + jump)]
    assert found([np.full(SIZE, value, np.uint16) for value in values], bits) == cuts


def test_fast_motion_begins_one_scene_at_most() -> None:
    frames = [np.roll(scene(1), 30 * step, axis=1) for step in range(9)]
    assert found(frames) == [0, 1]
