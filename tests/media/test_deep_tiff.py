"""TIFF files of 16 bits: samples become the colors and the alpha that the tags say, or are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from paragon_export.errors import PlanError
from paragon_export.media.deep_tiff import EXTRA_NOTE
from paragon_export.media.pictures import Picture, read_picture

WHITE = 65535

RNG = np.random.default_rng(0)

COLOR = RNG.integers(0, WHITE, (18, 34, 3), np.uint16, endpoint=True)
ALPHA = RNG.integers(1, WHITE, (18, 34, 1), np.uint16, endpoint=True)
OTHER = RNG.integers(0, WHITE, (18, 34, 1), np.uint16, endpoint=True)


def stored(path: Path, *parts: np.ndarray, extra: tuple[str, ...] = (), **how: Any) -> Picture:
    """Write channels as a TIFF file, and read it."""
    pixels = np.concatenate(parts, axis=-1)
    squeezed = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    how.setdefault("photometric", "rgb" if pixels.shape[-1] - len(extra) == 3 else "minisblack")
    tifffile.imwrite(path, squeezed, extrasamples=extra or None, **how)
    return read_picture(path)


def color_of(picture: Picture) -> np.ndarray:
    return np.moveaxis(picture.color, 0, -1)


def alpha_of(picture: Picture) -> np.ndarray:
    assert picture.alpha is not None
    return np.moveaxis(picture.alpha, 0, -1)


@pytest.mark.parametrize(
    "how",
    [
        {"compression": "lzw", "predictor": True, "tile": (16, 16)},
        {"bigtiff": True}, {"bigtiff": True, "byteorder": ">"}, {"byteorder": ">", "rowsperstrip": 5},
    ],
)  # fmt: skip
def test_layouts_of_files(how: dict[str, Any], tmp_path: Path) -> None:
    assert np.array_equal(color_of(stored(tmp_path / "a.tiff", COLOR, **how)), COLOR)
    gray = stored(tmp_path / "b.tiff", COLOR[..., :1], ALPHA, extra=("unassalpha",), **how)
    assert np.array_equal(color_of(gray), COLOR[..., :1])
    assert np.array_equal(alpha_of(gray), ALPHA)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_planes_one_after_the_other(compression: str | None, tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tiff", np.moveaxis(COLOR, -1, 0), photometric="rgb", planarconfig="separate",
        compression=compression,
    )  # fmt: skip
    assert np.array_equal(color_of(read_picture(tmp_path / "a.tiff")), COLOR)


def test_premultiplied_color_is_divided(tmp_path: Path) -> None:
    share = ALPHA.astype(np.float64) / WHITE
    multiplied = np.rint(COLOR * share).astype(np.uint16)
    found = stored(tmp_path / "a.tiff", multiplied, ALPHA, extra=("assocalpha",))
    assert np.array_equal(alpha_of(found), ALPHA)
    error = np.abs(color_of(found).astype(float) - COLOR) * share
    assert error.max() <= 1  # as far as the file holds them


def test_premultiplied_color_without_alpha_is_black(tmp_path: Path) -> None:
    clear = np.zeros_like(ALPHA)
    found = stored(tmp_path / "a.tiff", COLOR, clear, extra=("assocalpha",))
    assert not color_of(found).any()


@pytest.mark.parametrize(
    ("extra", "alpha"),
    [
        (("unspecified",), None), (("unspecified", "unassalpha"), 1), (("unassalpha", "unspecified"), 0),
    ],
)  # fmt: skip
def test_extra_channels_are_alpha_only_where_the_file_says_so(
    extra: tuple[str, ...], alpha: int | None, tmp_path: Path
) -> None:
    channels = [OTHER, OTHER][: len(extra)]
    if alpha is not None:
        channels[alpha] = ALPHA
    found = stored(tmp_path / "a.tiff", COLOR, *channels, extra=extra)
    assert np.array_equal(color_of(found), COLOR)
    assert found.converted == EXTRA_NOTE
    assert (found.alpha is None) == (alpha is None)
    if alpha is not None:
        assert np.array_equal(alpha_of(found), ALPHA)


def test_extra_channels_of_eight_bits_are_named_too(tmp_path: Path) -> None:
    eight = [(part >> 8).astype(np.uint8) for part in (COLOR, OTHER)]
    found = stored(tmp_path / "a.tiff", *eight, extra=("unspecified",))
    assert np.array_equal(color_of(found), eight[0])
    assert found.converted == EXTRA_NOTE


@pytest.mark.parametrize(
    ("pixels", "how", "words"),
    [
        (COLOR, {"photometric": "cielab"}, "its colors are CIELAB"),
        (COLOR[..., :1] >> 8, {"photometric": "palette", "colormap": np.zeros((3, 65536), np.uint16)},
         "its colors are PALETTE"),
        (COLOR[..., :1], {"photometric": "miniswhite"}, "white as 0"),
        (COLOR.astype(np.float16), {}, "its values are float16"),
        (COLOR.view(np.int16), {}, "its values are int16"),
    ],
)  # fmt: skip
def test_what_does_not_say_its_colors_is_refused(
    pixels: np.ndarray, how: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(PlanError, match=words):
        stored(tmp_path / "a.tiff", pixels, **how)


def test_cmyk_becomes_rgb_of_eight_bits(tmp_path: Path) -> None:
    """Ink without black: the complement of RGB."""
    ink = np.concatenate([WHITE - COLOR, np.zeros_like(ALPHA)], axis=-1)
    found = stored(tmp_path / "a.tiff", ink, photometric="separated")
    assert np.abs(color_of(found).astype(int) - COLOR / 257).max() <= 1
    assert found.converted == ("CMYK to RGB", "16 bits to 8, as CMYK is read with 8")


def test_several_pictures_are_refused(tmp_path: Path) -> None:
    """Also those that Pillow does not open, as gray with alpha."""
    with tifffile.TiffWriter(tmp_path / "a.tiff") as file:
        for _ in range(2):
            file.write(
                np.concatenate([COLOR[..., :1], ALPHA], axis=-1), photometric="minisblack",
                extrasamples=["unassalpha"],
            )  # fmt: skip
    with pytest.raises(PlanError, match="several pictures"):
        read_picture(tmp_path / "a.tiff")


@pytest.mark.parametrize("compression", ["zlib", "lzw"])
def test_damaged_files_are_one_line(compression: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    tifffile.imwrite(path, COLOR, photometric="rgb", compression=compression)
    with tifffile.TiffFile(path) as file:
        start = file.pages[0].dataoffsets[0]
    data = bytearray(path.read_bytes())
    data[start + 20 : start + 400] = b"\xff" * 380
    path.write_bytes(data)
    with pytest.raises(PlanError, match="cannot read"):
        read_picture(path)


@pytest.mark.parametrize(
    ("unit", "dpi"), [("INCH", (50, 75)), ("CENTIMETER", (127, 190.5)), ("NONE", None)]
)
def test_resolution_needs_a_unit(
    unit: str, dpi: tuple[float, float] | None, tmp_path: Path
) -> None:
    found = stored(tmp_path / "a.tiff", COLOR, resolution=(50, 75), resolutionunit=unit)
    assert found.dpi == (pytest.approx(dpi, rel=1e-5) if dpi else None)
