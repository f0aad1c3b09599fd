"""Probes: the same pictures on every machine, at every size that a trace might get wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paragon_export.errors import PlanError
from paragon_export.inputs.large import middle_sizes
from paragon_export.inputs.plain import OVERSHOOT
from paragon_export.inputs.probes import (
    MIN_PROBE_PIXELS,
    Probe,
    audit_probes,
    choose_probes,
    folder_probes,
    photograph_crop,
    still_probes,
    video_probe,
    video_probes,
)
from paragon_export.inputs.sizes import LINE_PX, MODULUS, default_sizes, drawn_size
from paragon_export.inputs.stress import STRESS
from paragon_export.specs.network import InputSpec
from paragon_export.specs.types import Size

WINDOWS = (1, 8, 16, 32)

pytestmark = pytest.mark.all_sizes


def assert_pictures(probe: Probe, channels: int) -> None:
    """Check what every probe promises of its frames."""
    for frame in probe.frames:
        assert frame.dtype == np.float32
        assert frame.shape[1:] == (channels, probe.size.height, probe.size.width)
        assert frame.shape[0] == probe.batch >= 1
        assert np.isfinite(frame).all()
        margin = OVERSHOOT if probe.label == "plain pictures" else 0.0
        assert frame.min() >= np.float32(-margin)
        assert frame.max() <= np.float32(1 + margin)


# --- stills --------------------------------------------------------------------------------


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_default_probes(channels: int, window: int) -> None:
    """Every default probe holds float32 pictures in [0, 1] of its size."""
    probes = choose_probes(InputSpec(channels=channels, window=window))
    assert {probe.size for probe in probes} == {size for size, _ in default_sizes(window)}
    for probe in probes:
        assert_pictures(probe, channels)


@pytest.mark.parametrize("window", WINDOWS)
def test_probes_are_deterministic(window: int) -> None:
    """Two calls give equal pictures, whatever the random state."""
    first = choose_probes(InputSpec(channels=3, window=window))
    np.random.seed(99)  # noqa: NPY002 - the state that must not matter
    second = choose_probes(InputSpec(channels=3, window=window))
    assert [p.label for p in first] == [p.label for p in second]
    for before, after in zip(first, second, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(before.frames, after.frames, strict=True))


@pytest.mark.parametrize("window", [8, 16, 32])
def test_default_sizes_surround_the_window(window: int) -> None:
    """Default sizes: one pixel, below, at and above the window, odd, portrait, a batch of two."""
    sizes = [size for size, _ in default_sizes(window)]
    extents = [extent for size in sizes for extent in (size.height, size.width)]
    assert Size(1, 1) in sizes
    assert any(1 < s.height < window - 1 and 1 < s.width < window for s in sizes)
    assert any(extent % window == window - 1 for extent in extents)
    assert any(s.height % window == 0 and s.width % window == 0 for s in sizes)
    assert any(extent > window and extent % window == 1 for extent in extents)
    assert any(s.height % 2 and s.width % 2 and min(s.height, s.width) > window for s in sizes)
    assert any(s.height > s.width for s in sizes)
    assert any(s.height > window and s.width > window for s in sizes)
    assert 2 in [batch for _, batch in default_sizes(window)]


@pytest.mark.parametrize("window", WINDOWS)
def test_stress_that_comes_again_is_small(window: int) -> None:
    probes = choose_probes(InputSpec(channels=3, window=window))
    stress = [probe for probe in probes if probe.label in STRESS]
    assert len({probe.label for probe in stress}) == (1 if window == 8 else len(STRESS))
    again = [probe for index, probe in enumerate(stress) if index >= len(STRESS)]
    assert all(probe.size.height * probe.size.width <= 4096 for probe in again)


@pytest.mark.parametrize("window", WINDOWS)
def test_wanted_batch_is_fed(window: int) -> None:
    """A size that is to be judged in a batch of two is fed one."""
    wanted = {size: batch for size, batch in default_sizes(window) if batch > 1}
    fed = {
        probe.size: probe.batch
        for probe in choose_probes(InputSpec(channels=3, window=window))
        if probe.batch > 1
    }
    assert all(fed[size] >= batch for size, batch in wanted.items())


@pytest.mark.parametrize("smallest", [1, 8])
@pytest.mark.parametrize("window", WINDOWS)
def test_default_sizes_hold_every_residue(window: int, smallest: int) -> None:
    """Every residue of both axes, all four parities, and narrow pictures either way."""
    sizes = [size for size, _ in default_sizes(window, smallest)]
    assert {size.height % MODULUS for size in sizes} == set(range(MODULUS))
    assert {size.width % MODULUS for size in sizes} == set(range(MODULUS))
    parities = {(size.height % 2, size.width % 2) for size in sizes}
    assert parities == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert min(min(size.height, size.width) for size in sizes) >= smallest
    assert Size(smallest, smallest + LINE_PX) in sizes
    assert Size(smallest + LINE_PX, smallest) in sizes
    if smallest == 1:
        assert any(size.width >= 8 * size.height for size in sizes)
        assert any(size.height >= 8 * size.width for size in sizes)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("video", [False, True])
def test_batches(window: int, video: bool) -> None:
    """Batches of 1, 2, 3, 4, 8 and 17 are fed."""
    probes = choose_probes(InputSpec(channels=3, window=window), video=video)
    assert {probe.batch for probe in probes} >= {1, 2, 3, 4, 8, 17}


def test_the_file_draws_a_size() -> None:
    """Another file is judged at another size; the same file always at the same one."""
    spec = InputSpec(channels=3, window=16, smallest=8)
    sizes = {drawn_size(bytes([index]), 8) for index in range(20)}
    assert len(sizes) > 15
    assert min(min(size.height, size.width) for size in sizes) >= 8
    drawn = drawn_size(b"file", 8)
    assert drawn in {probe.size for probe in choose_probes(spec, data=b"file")}
    requested = choose_probes(spec, data=b"file", sizes=[Size(9, 9)])
    assert {probe.size for probe in requested} == {Size(9, 9)}


@pytest.mark.parametrize("static", [None, Size(20, 30), Size(100, 90)])
def test_plain_pictures(static: Size | None) -> None:
    """Black, white and values beyond the range are fed at every size, the others at small ones."""
    probes = choose_probes(InputSpec(channels=3, window=16), static=static)
    (plain,) = [probe for probe in probes if probe.label == "plain pictures"]
    pictures = [picture for frame in plain.frames for picture in frame]
    flat = {tuple(p[:, 0, 0].tolist()) for p in pictures if np.ptp(p, axis=(1, 2)).max() == 0}
    assert {(0.0,) * 3, (1.0,) * 3} <= flat
    assert min(p.min() for p in pictures) == np.float32(-OVERSHOOT)
    assert max(p.max() for p in pictures) == np.float32(1 + OVERSHOOT)
    if static != Size(100, 90):
        assert {(0.5,) * 3, (1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0)} <= flat
        assert any((p[0] == 1).all(axis=1).sum() == 1 for p in pictures)


def test_plain_pictures_keep_what_they_are_named_after() -> None:
    """At the default size: bars, ramps in four directions, colors, and faint pictures."""
    (plain,) = [
        probe
        for probe in choose_probes(InputSpec(channels=3, window=16))
        if probe.label == "plain pictures"
    ]
    pictures = list(plain.frames[0])
    assert any(not p[:, 0].any() and not p[:, -1].any() and p[:, 4].all() for p in pictures)
    assert any(not p[..., 0].any() and not p[..., -1].any() and p[..., 4].all() for p in pictures)
    for axis in (1, 2):
        assert any((np.diff(p, axis=axis) > 0).all() for p in pictures)
        assert any((np.diff(p, axis=axis) < 0).all() for p in pictures)
    flat = {tuple(p[:, 0, 0].tolist()) for p in pictures if np.ptp(p, axis=(1, 2)).max() == 0}
    assert {(1.0, 1.0, 0.0), (1.0, 0.0, 1.0), (0.0, 1.0, 1.0)} <= flat
    for channel in range(3):
        others = [c for c in range(3) if c != channel]
        assert any(np.ptp(p[channel]) and not p[others].any() for p in pictures)
    assert any(0.9 < p.min() < p.max() < 1 for p in pictures)
    assert any(0 < np.ptp(p) < 0.1 and 0.4 < p.mean() < 0.6 for p in pictures)
    assert any((p > 0).all(axis=0).sum() == 1 for p in pictures)


@pytest.mark.parametrize(
    ("pixels", "longest", "batch"),
    [(259_200, 4096, 2), (15_048, 896, 2), (4_761, 256, 1), (96, 0, 0)],
)
def test_middle_sizes_fit_a_number_of_pixels(pixels: int, longest: int, batch: int) -> None:
    """Squares in a batch and strips both ways, as far as the pixels allow them."""
    found = middle_sizes(pixels)
    assert max((max(size.height, size.width) for size, _ in found), default=0) == longest
    assert max((images for size, images in found if size.height == size.width), default=0) == batch
    for size, images in found:
        assert images * size.height * size.width <= pixels
        assert size.height % 16 == size.width % 16 == 0
    assert all(min(s.height, s.width) >= 48 for s, _ in middle_sizes(pixels, 48))


def test_networks_without_window_are_judged_around_sixteen() -> None:
    """Without attention the sizes are those of the usual window."""
    assert default_sizes(1) == default_sizes(16)


def test_requested_sizes() -> None:
    """Sizes that are asked for replace the default ones, in their order."""
    sizes = [Size(3, 5), Size(20, 40)]
    probes = choose_probes(InputSpec(channels=3, window=16), sizes=sizes)
    assert list(dict.fromkeys(probe.size for probe in probes)) == sizes
    for probe in probes:
        assert_pictures(probe, 3)


def test_small_sizes_hold_several_pictures() -> None:
    """A probe of few pixels is fed several different pictures."""
    (probe, *_) = choose_probes(InputSpec(channels=3, window=16), sizes=[Size(4, 4)])
    assert probe.batch * 16 >= MIN_PROBE_PIXELS
    pictures = probe.frames[0].reshape(probe.batch, -1)
    assert len(np.unique(pictures, axis=0)) > 1


def test_batch_items_differ() -> None:
    """The pictures of a batch are different, or a swap would go unseen."""
    for probe in still_probes(3, [(Size(21, 37), 2)]):
        frame = probe.frames[0]
        if len(frame) == 2:
            assert not np.array_equal(frame[0], frame[1])
            return
    pytest.fail("no probe has a batch of two")


def test_pictures_have_content() -> None:
    """Pictures are not flat, their channels differ and they use most of the range."""
    probes = still_probes(
        3, [(Size(64, 64), 1), (Size(48, 64), 1), (Size(40, 40), 1), (Size(9, 30), 1)]
    )
    assert any(np.ptp(probe.frames[0]) > 0.9 for probe in probes)
    photographs = [probe for probe in probes if not probe.is_stress]
    assert len(photographs) == 4
    for probe in photographs:
        frame = probe.frames[0]
        assert np.ptp(frame) > 0.05
        assert not np.array_equal(frame[:, 0], frame[:, 1])


def test_static_models_are_fed_one_picture_at_a_time() -> None:
    """A model of batch 1 at one size is judged at that size, in batches of 1."""
    for size in (Size(2, 3), Size(24, 31)):
        probes = choose_probes(InputSpec(channels=3, window=16), static=size)
        assert {probe.size for probe in probes} == {size}
        assert {probe.batch for probe in probes} == {1}
        for probe in probes:
            assert_pictures(probe, 3)


def test_static_model_at_another_size_is_refused() -> None:
    """A model fixed to one size cannot be judged at another."""
    with pytest.raises(PlanError, match="fixed to 24x31"):
        choose_probes(
            InputSpec(channels=3, window=16),
            static=Size(24, 31),
            sizes=[Size(24, 31), Size(31, 24)],
        )


def test_crops_are_larger_than_the_photograph() -> None:
    """A crop larger than the shipped photograph is filled by mirroring it."""
    crop = photograph_crop(3, Size(3, 5000))
    assert crop.shape == (3, 3, 5000)
    assert np.ptp(crop[:, :, -500:]) > 0


# --- video ---------------------------------------------------------------------------------


def test_video_has_a_cut() -> None:
    """A clip of eight frames blends all but its first frame and the one after the cut."""
    probe = video_probe(3, Size(9, 14))
    assert_pictures(probe, 3)
    assert len(probe.frames) == len(probe.blend) == 8
    assert [index for index, blend in enumerate(probe.blend) if blend == 0] == [0, 4]
    assert all(0 <= blend < 1 for blend in probe.blend)
    steps = [np.abs(b - a).mean() for a, b in zip(probe.frames, probe.frames[1:], strict=False)]
    assert min(steps) > 0
    assert int(np.argmax(steps)) == 3


def test_video_probes_cover_the_sizes() -> None:
    """A video model is judged at every size, with the long clip at an odd one."""
    sizes = default_sizes(16)
    probes = video_probes(3, sizes)
    assert {probe.size for probe in probes} == {size for size, _ in sizes}
    (longest,) = [probe for probe in probes if len(probe.frames) > 4]
    assert len(longest.frames) == 20
    assert longest.size.height % 2 == 1
    assert [index for index, blend in enumerate(longest.blend) if blend == 0] == [0, 2, 18]
    assert longest.frames[17].max() == 0 < longest.frames[18].max()
    (broken,) = [probe for probe in probes if probe.state_is_broken]
    assert [index for index, blend in enumerate(broken.blend) if blend == 0] == [0, 2]
    for probe in probes:
        assert len(probe.blend) == len(probe.frames)
        assert_pictures(probe, 3)
    assert not any(
        probe.state_is_broken
        for probe in audit_probes(InputSpec(channels=3, window=16), video=True)
    )
    assert [p.label for p in choose_probes(InputSpec(channels=3, window=16), video=True)] == [
        p.label for p in probes
    ]


# --- folders -------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a colour and a grey picture, and files that are none."""
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 256, (12, 20, 3), np.uint8)).save(tmp_path / "b.png")
    Image.fromarray(rng.integers(0, 256, (7, 5), np.uint8)).save(tmp_path / "a.PNG")
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / "inner").mkdir()
    return tmp_path


@pytest.mark.parametrize("channels", [1, 3])
def test_folder_probes(folder: Path, channels: int) -> None:
    """Each picture of a folder is one probe, whole, at its own size, named after its file."""
    probes = folder_probes(channels, folder)
    assert [(probe.label, probe.size) for probe in probes] == [
        ("a.PNG", Size(7, 5)),
        ("b.png", Size(12, 20)),
    ]
    for probe in probes:
        assert_pictures(probe, channels)
        assert probe.batch == 1
        assert not probe.is_stress


def test_folder_pictures_keep_their_pixels(folder: Path) -> None:
    """A picture's channels are RGB, divided by 255."""
    (_, probe) = folder_probes(3, folder)
    pixels = np.asarray(Image.open(folder / "b.png"), np.float32) / 255
    assert np.array_equal(probe.frames[0][0].transpose(1, 2, 0), pixels)


def test_a_gray_network_is_fed_the_luma_of_pictures(folder: Path) -> None:
    """A picture without red is not black to it; gray keeps its values."""
    gray, color = folder_probes(1, folder)
    pixels = np.asarray(Image.open(folder / "b.png"), np.float64) / 255
    wanted = pixels @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(color.frames[0][0, 0], wanted, atol=1e-6)
    unchanged = np.asarray(Image.open(folder / "a.PNG"), np.float64) / 255
    np.testing.assert_allclose(gray.frames[0][0, 0], unchanged, atol=1e-6)


def test_folder_adds_to_the_sizes(folder: Path) -> None:
    """A folder's pictures come on top of the other probes."""
    without = choose_probes(InputSpec(channels=3, window=16))
    both = choose_probes(InputSpec(channels=3, window=16), images=folder)
    assert [p.label for p in both] == [*(p.label for p in without), "a.PNG", "b.png"]


def test_folder_errors(folder: Path, tmp_path: Path) -> None:
    """No folder, an empty one, a broken picture or a model of another kind are refused."""
    with pytest.raises(PlanError, match="is not a folder"):
        folder_probes(3, folder / "b.png")
    with pytest.raises(PlanError, match="is not a folder"):
        folder_probes(3, folder / "missing")
    with pytest.raises(PlanError, match="holds no picture"):
        folder_probes(3, folder / "inner")
    with pytest.raises(PlanError, match="--images"):
        choose_probes(InputSpec(channels=3, window=16), static=Size(8, 8), images=folder)
    with pytest.raises(PlanError, match="--images"):
        choose_probes(InputSpec(channels=3, window=16), video=True, images=folder)
    (folder / "c.png").write_bytes((folder / "b.png").read_bytes()[:60])
    with pytest.raises(PlanError, match=r"cannot read picture .*c\.png"):
        folder_probes(3, folder)
