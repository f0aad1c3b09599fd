"""Colors: matrices, ranges, depths and the sampling of chroma."""

from __future__ import annotations

import itertools

import av
import numpy as np
import pytest

from paragon_export.media.videos import colors
from paragon_export.media.videos.colors import BT601, BT709, BT2020, RGB, Coding, planes_of, rgb_of
from paragon_export.media.videos.frames import coding_of, to_frame, to_rgb

WEIGHTS = {BT601: (0.299, 0.114), BT709: (0.2126, 0.0722), BT2020: (0.2627, 0.0593)}

KNOWN = {  # 8 bits, limited range
    BT601: {(1, 0, 0): (81, 90, 240), (0, 1, 0): (145, 54, 34), (0, 0, 1): (41, 240, 110)},
    BT709: {(1, 0, 0): (63, 102, 240), (0, 1, 0): (173, 42, 26), (0, 0, 1): (32, 240, 118)},
}
"""Luma and chroma of pure colors, as color bars have them."""


def patch(color: tuple[float, ...], size: tuple[int, int] = (4, 4)) -> np.ndarray:
    """Return a frame of one color."""
    return np.broadcast_to(np.float32(color)[None, :, None, None], (1, 3, *size))


@pytest.mark.parametrize("matrix", KNOWN)
def test_pure_colors_have_the_samples_of_color_bars(matrix: int) -> None:
    for color, samples in KNOWN[matrix].items():
        planes = planes_of(patch(color), Coding(matrix, False))
        assert tuple(int(plane[0, 0]) for plane in planes) == samples


@pytest.mark.parametrize("matrix", WEIGHTS)
@pytest.mark.parametrize("is_full", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12])
def test_rgb_is_that_of_the_equations(matrix: int, is_full: bool, bits: int) -> None:
    """ITU-R BT.601, 709 and 2020, written out in float64."""
    rng = np.random.default_rng(1)
    luma, blue, red = (rng.integers(0, 2**bits, (8, 8)).astype(np.uint16) for _ in range(3))
    coding = Coding(matrix, is_full, bits, across=1, down=1)
    unit = 2 ** (bits - 8)
    if is_full:
        y, b, r = (x / (2**bits - 1) for x in (luma, blue - 128.0 * unit, red - 128.0 * unit))
    else:
        y = (luma - 16.0 * unit) / (219 * unit)
        b, r = ((x - 128.0 * unit) / (224 * unit) for x in (blue, red))
    of_red, of_blue = WEIGHTS[matrix]
    expected_red, expected_blue = y + 2 * (1 - of_red) * r, y + 2 * (1 - of_blue) * b
    expected_green = (y - of_red * expected_red - of_blue * expected_blue) / (1 - of_red - of_blue)
    expected = np.clip(np.stack([expected_red, expected_green, expected_blue]), 0, 1)
    np.testing.assert_allclose(rgb_of([luma, blue, red], coding)[0], expected, atol=2e-6)


@pytest.mark.parametrize(
    ("matrix", "is_full", "bits", "sampling"),
    list(
        itertools.product(
            [BT601, BT709, BT2020, RGB], [False, True], [8, 10], [(1, 1), (2, 1), (2, 2)]
        )
    ),
)
def test_flat_colors_come_back_within_the_rounding(
    matrix: int, is_full: bool, bits: int, sampling: tuple[int, int]
) -> None:
    coding = Coding(matrix, is_full, bits, *sampling)
    if matrix == RGB and sampling != (1, 1):
        coding = Coding(matrix, is_full, bits, 1, 1)
    worst = 0.0
    for color in itertools.product((0.0, 0.3, 0.77, 1.0), repeat=3):
        back = rgb_of(planes_of(patch(color), coding), coding)
        worst = max(worst, float(np.abs(back - patch(color)).max()))
    steps = (
        0.51 if matrix == RGB else 1.5
    )  # half a step of luma, and half of chroma times up to 1.88
    assert worst * 219 * 2 ** (bits - 8) <= steps


@pytest.mark.parametrize("is_centered", [False, True])
@pytest.mark.parametrize(("across", "down"), list(itertools.product([1, 2], [1, 2])))
def test_chroma_is_the_weighted_mean_of_its_pixels(
    across: int, down: int, is_centered: bool
) -> None:
    """Against planes of 12 bits that share no samples; the first column stands for the one before it."""
    rgb = np.random.default_rng(0).random((1, 3, 6, 10), np.float32)
    whole = planes_of(rgb, Coding(BT709, False, 12, 1, 1))
    planes = planes_of(rgb, Coding(BT709, False, 12, across, down, is_centered))
    assert np.array_equal(planes[0], whole[0])
    for plane, all_of in zip(planes[1:], whole[1:], strict=True):
        rows = all_of.reshape(6 // down, down, 10).mean(axis=1)
        left = np.concatenate([rows[:, :1], rows[:, :-1]], axis=1)
        means = (left + 2 * rows)[:, ::2] / 4 + rows[:, 1::2] / 4
        if is_centered:
            means = (rows[:, ::2] + rows[:, 1::2]) / 2
        assert np.abs(plane - (rows if across == 1 else means)).max() <= 1  # both are rounded


def test_gray_has_equal_channels() -> None:
    gray = rgb_of([np.arange(16, dtype=np.uint8).reshape(4, 4) * 8], Coding(BT709, True, 8, 1, 1))
    np.testing.assert_allclose(gray[0, 0], gray[0, 1], atol=1e-6)
    np.testing.assert_allclose(gray[0, 0] * 255, np.arange(16).reshape(4, 4) * 8, atol=1e-4)


@pytest.mark.parametrize("is_centered", [False, True])
@pytest.mark.parametrize("down", [1, 2])
def test_chroma_lies_where_the_standard_says(is_centered: bool, down: int) -> None:
    """A ramp of chroma is the same ramp at the places of luma, but at its ends."""
    coding = Coding(BT709, True, 8, 2, down, is_centered)
    across = np.arange(8) * 2 + (0.5 if is_centered else 0)
    rows = np.arange(4) * 2 + 0.5 if down == 2 else np.arange(8)
    chroma = (64 + 4 * across[None] + 2 * rows[:, None]).astype(np.float32)
    flat = np.full((8, 16), 128, np.uint8)
    found = colors._enlarged(chroma, coding, *flat.shape)
    expected = 64 + 4 * np.arange(16)[None] + 2 * np.arange(8)[:, None]
    np.testing.assert_allclose(found[1:-1, 1:-1], expected[1:-1, 1:-1], atol=1e-4)
    again = colors._shrunk(np.asarray(expected, np.float32), coding)
    np.testing.assert_allclose(again[:, 1:-1], chroma[:, 1:-1], atol=1e-4)


def test_four_columns_share_a_sample() -> None:
    """4:1:1, as on DV tapes."""
    coding = Coding(BT601, False, 8, 4, 1)
    found = colors._enlarged(np.array([[0, 8, 16]], np.uint8), coding, 1, 12)
    assert found[0].tolist() == [0, 2, 4, 6, 8, 10, 12, 14, 16, 16, 16, 16]


@pytest.mark.parametrize("extent", [(5, 7), (1, 1), (2, 3)])
def test_odd_sizes_are_read(extent: tuple[int, int]) -> None:
    half = tuple(-(-length // 2) for length in extent)
    planes = [np.full(extent, 100, np.uint8), *[np.full(half, 128, np.uint8)] * 2]
    found = rgb_of(planes, Coding(BT709, False))
    assert found.shape == (1, 3, *extent)
    np.testing.assert_allclose(found, (100 - 16) / 219, atol=1e-6)


@pytest.mark.parametrize("matrix", [1, 5, 9])
@pytest.mark.parametrize("name", ["yuv420p", "yuv422p10le", "yuv444p"])
def test_ffmpeg_reads_the_same_colors(matrix: int, name: str) -> None:
    """FFmpeg's own conversion to 8 bits is an independent one; it is off by up to two levels."""
    bits, sampling = (10 if "10" in name else 8), {"0": (2, 2), "2": (2, 1), "4": (1, 1)}[name[5]]
    coding = Coding(matrix, False, bits, *sampling)
    for color in ((0.8, 0.1, 0.3), (0.2, 0.6, 0.9), (1, 1, 1), (0, 0, 0)):
        frame = to_frame(patch(color, (16, 16)), coding, name)
        theirs = frame.reformat(
            format="rgb24", src_colorspace=matrix, src_color_range=1, threads=1
        ).to_ndarray()
        ours = to_rgb(frame, coding)[0].transpose(1, 2, 0) * 255
        assert np.abs(ours - theirs).max() <= 3


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nv12", (2, 2, 8)),
        ("p010le", (2, 2, 10)),
        ("yuyv422", (2, 1, 8)),
        ("yuv420p16be", (2, 2, 16)),
    ],
)
def test_other_layouts_are_read_as_planes(name: str, expected: tuple[int, int, int]) -> None:
    across, down, bits = expected
    plain = f"yuv42{2 if down == 1 else 0}p{'' if bits == 8 else f'{bits}le'}"
    wanted = Coding(BT709, False, bits, across, down)
    frame = to_frame(patch((0.2, 0.5, 0.7), (8, 8)), wanted, plain)
    frame.colorspace = 1
    other = frame.reformat(format=name, threads=1)
    other.colorspace, other.color_range = 1, 1
    coding, _ = coding_of(other, "rawvideo")
    assert coding == wanted
    assert np.array_equal(to_rgb(other, coding), to_rgb(frame, wanted))


@pytest.mark.parametrize("name", ["rgb24", "bgra", "gbrp", "gbrp10le"])
def test_rgb_is_read_as_it_is(name: str) -> None:
    color = (200 / 255, 40 / 255, 0.0)
    if name == "gbrp10le":
        frame = to_frame(patch(color), Coding(RGB, True, 10, 1, 1), name)
    else:
        pixels = np.rint(patch(color)[0].transpose(1, 2, 0) * 255).astype(np.uint8)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24").reformat(
            format=name, threads=1
        )
    coding, notes = coding_of(frame, "rawvideo")
    atol = 0.5 / 1023 if name == "gbrp10le" else 1e-6
    np.testing.assert_allclose(to_rgb(frame, coding), patch(color), atol=atol)
    assert notes == (["transparency is left out"] if name == "bgra" else [])


@pytest.mark.parametrize("name", ["gray", "gray10le", "gray16be"])
@pytest.mark.parametrize(("color_range", "is_full"), [(0, True), (1, False), (2, True)])
def test_gray_is_full_range_unless_it_says_otherwise(
    name: str, color_range: int, is_full: bool
) -> None:
    """FFmpeg writes gray so: formats without chroma rarely state a range."""
    bits = {"gray": 8, "gray10le": 10, "gray16be": 16}[name]
    frame = av.VideoFrame(8, 8, name)
    value = 3 << (bits - 3)
    samples = np.frombuffer(memoryview(frame.planes[0]), np.uint8)
    samples[:] = value if bits == 8 else np.resize(
        np.array([value], ">u2" if name.endswith("be") else "<u2").view(np.uint8), samples.shape
    )  # fmt: skip
    frame.color_range = color_range
    coding, notes = coding_of(frame, "ffv1")
    assert coding.is_full == is_full
    assert len(notes) == (color_range == 0)
    step = 2 ** (bits - 8)
    wanted = value / (2**bits - 1) if is_full else (value - 16 * step) / (219 * step)
    np.testing.assert_allclose(to_rgb(frame, coding), wanted, atol=1e-6)


@pytest.mark.parametrize(("name", "white"), [("ya8", 255), ("ya16be", 65535), ("monob", 255)])
def test_gray_that_is_packed_is_read_as_gray(name: str, white: int) -> None:
    """Gray with alpha, and one bit, are unpacked and not converted to another range."""
    wanted = np.float32([[0, 1] * 4] * 8)
    gray = av.VideoFrame.from_ndarray((wanted * 255).astype(np.uint8), "gray")
    frame = gray.reformat(format=name, threads=1)
    coding, _ = coding_of(frame, "png")
    assert coding.bits == (16 if white > 255 else 8)
    np.testing.assert_allclose(
        to_rgb(frame, coding), np.broadcast_to(wanted, (1, 3, 8, 8)), atol=0.004
    )
