"""Pictures: every kind is read as the colours it holds, or refused in one line."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paragon_export.assets import CHECKPOINT
from paragon_export.errors import PlanError
from paragon_export.inputs import play as playing
from paragon_export.media.images import pictures_in, read_picture
from paragon_export.pipeline.glyph_chain import RASTER, read_raster
from paragon_export.pipeline.quantize import Calibration, read_grids
from paragon_export.specs.network import Port
from tests.conftest import RunHere

RGB = np.array([[[255, 0, 0], [0, 128, 255]], [[10, 20, 30], [255, 255, 255]]], np.uint8)

GREY = np.array([[0, 1], [128, 255]], np.uint8)

WIDE = np.array([[0, 257], [32896, 65535]], np.uint16)
"""16 bits of grey."""


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png(samples: np.ndarray, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of samples (H, W, C) of 8 or 16 bits, of a colour type of the standard."""
    bits = 8 * samples.dtype.itemsize
    height, width = samples.shape[:2]
    rows = samples.astype(samples.dtype.newbyteorder(">"))
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)),
        *chunks,
        (b"IDAT", zlib.compress(data)),
        (b"IEND", b""),
    ]
    padded = (
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(padded)


def tiff(
    samples: np.ndarray, bits: int, *, signed_or_float: int = 1, photometric: int = 1,
    order: str = "<", width: int = 2, height: int = 2, channels: int = 1,
) -> bytes:  # fmt: skip
    """Return a TIFF of one strip, as written by programs that know more kinds than Pillow."""
    data = samples.tobytes()
    entries = {
        256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 0, 277: channels,
        278: height, 279: len(data), 339: signed_or_float,
    }  # fmt: skip
    depths = struct.pack(f"{order}{channels}H", *[bits] * channels) if channels > 2 else b""
    start = 8 + 2 + 12 * len(entries) + 4
    ifd = struct.pack(order + "H", len(entries))
    for tag, value in entries.items():
        if tag == 258 and depths:
            ifd += struct.pack(order + "HHII", tag, 3, channels, start)
        else:
            value = start + len(depths) if tag == 273 else value
            ifd += struct.pack(order + "HHII" if tag in (273, 279) else order + "HHIHH",
                               *((tag, 4, 1, value) if tag in (273, 279) else (tag, 3, 1, value, 0)))  # fmt: skip
    head = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8)
    return head + ifd + bytes(4) + depths + data


def with_alpha(alpha: int) -> np.ndarray:
    return np.concatenate([RGB, np.full((2, 2, 1), alpha, np.uint8)], axis=2)


def palette_picture() -> Image.Image:
    picture = Image.new("P", (2, 2))
    picture.putpalette(RGB.reshape(-1).tolist())
    picture.putdata([0, 1, 2, 3])
    return picture


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(values, np.float32)[..., None], 3, axis=2)


FLOATS = np.array([[0.0, 0.25], [0.7, 1.0]], np.float32)

COLOURS = RGB.astype(np.float32) / 255
GREYS = grey(GREY.astype(np.float32) / 255)
WIDES = grey(WIDE.astype(np.float32) / 65535)

READ: dict[str, tuple[bytes, np.ndarray]] = {
    "RGB PNG": (saved(Image.fromarray(RGB), "PNG"), COLOURS),
    "RGB BMP": (saved(Image.fromarray(RGB), "BMP"), COLOURS),
    "RGB TIFF": (saved(Image.fromarray(RGB), "TIFF"), COLOURS),
    "RGB WebP": (saved(Image.fromarray(RGB), "WEBP", lossless=True), COLOURS),
    "RGB TIFF, deflated": (saved(Image.fromarray(RGB), "TIFF", compression="tiff_deflate"), COLOURS),
    "grey PNG": (saved(Image.fromarray(GREY), "PNG"), GREYS),
    "grey TIFF": (saved(Image.fromarray(GREY), "TIFF"), GREYS),
    "grey TIFF, white is 0": (tiff(255 - GREY, 8, photometric=0), GREYS),
    "grey JPEG": (saved(Image.new("L", (8, 8), 77), "JPEG"), np.full((8, 8, 3), 77 / 255, np.float32)),
    "YCbCr JPEG": (saved(Image.new("RGB", (8, 8), (77, 77, 77)), "JPEG"), np.full((8, 8, 3), 77 / 255, np.float32)),
    "YCbCr TIFF": (saved(Image.new("YCbCr", (2, 2), (77, 128, 128)), "TIFF"), np.full((2, 2, 3), 77 / 255, np.float32)),
    "CMYK TIFF": (saved(Image.new("CMYK", (2, 2), (0, 255, 0, 0)), "TIFF"), np.tile(np.array([1, 0, 1], np.float32), (2, 2, 1))),
    "CMYK JPEG": (saved(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG"), np.ones((8, 8, 3), np.float32)),
    "1 bit": (saved(Image.fromarray(GREY > 64), "PNG"), grey(GREY > 64)),
    "palette": (saved(palette_picture(), "PNG"), COLOURS),
    "palette, all opaque": (saved(palette_picture(), "PNG", transparency=bytes([255] * 4)), COLOURS),
    "palette, transparent entry unused": (saved(palette_picture(), "PNG", transparency=9), COLOURS),
    "RGBA, opaque": (saved(Image.fromarray(with_alpha(255)), "PNG"), COLOURS),
    "RGBA WebP, opaque": (saved(Image.fromarray(with_alpha(255)), "WEBP", lossless=True), COLOURS),
    "LA, opaque": (saved(Image.fromarray(GREY).convert("LA"), "PNG"), GREYS),
    "grey 16 PNG": (saved(Image.fromarray(WIDE), "PNG"), WIDES),
    "grey 16 TIFF": (saved(Image.fromarray(WIDE), "TIFF"), WIDES),
    "grey 16 TIFF, big endian": (tiff(WIDE.astype(">u2"), 16, order=">"), WIDES),
    "grey 12 TIFF": (tiff(np.array([0, 0x1F, 0xFF], np.uint8), 12, height=1), grey(np.array([[1 / 4095, 1]]))),
    "grey 16 in 32 bits": (saved(Image.fromarray(WIDE.astype(np.int32)), "TIFF"), WIDES),
    "grey 16 in unsigned 32 bits": (tiff(WIDE.astype(np.uint32), 32), WIDES),
    "float TIFF": (saved(Image.fromarray(FLOATS), "TIFF"), grey(FLOATS)),
    "float TIFF, deflated": (saved(Image.fromarray(FLOATS), "TIFF", compression="tiff_deflate"), grey(FLOATS)),
    "RGB 16 PNG": (png(RGB.astype(np.uint16) * 257, 2), COLOURS),
    "RGB 16 PNG, low bytes": (png(RGB.astype(np.uint16) * 256 + 200, 2), COLOURS),
    "RGB 16 TIFF": (tiff(RGB.astype(np.uint16) * 257, 16, photometric=2, channels=3), COLOURS),
    "LA 16 PNG, opaque": (png(np.stack([GREY, np.full_like(GREY, 255)], 2).astype(np.uint16) * 257, 4), GREYS),
}  # fmt: skip
"""Each kind, and the pixels that it holds."""


@pytest.mark.parametrize("kind", READ)
def test_every_kind_is_read_exactly(kind: str, tmp_path: Path) -> None:
    data, expected = READ[kind]
    path = tmp_path / "a.png"
    path.write_bytes(data)
    found = read_picture(path)
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert np.array_equal(found, expected.astype(np.float32))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_picture_stands_upright(kind: str, tmp_path: Path) -> None:
    """The orientation of EXIF is applied: a camera held upright stores the picture lying."""
    wide = Image.new("RGB", (32, 16), (0, 0, 0))
    wide.paste((255, 255, 255), (0, 0, 16, 16))
    exif = Image.Exif()
    exif[274] = 6  # the first row is at the right side
    options = {"lossless": True} if kind == "WEBP" else {}
    (tmp_path / "a.png").write_bytes(saved(wide, kind, exif=exif, **options))
    found = read_picture(tmp_path / "a.png")
    assert found.shape == (32, 16, 3)
    assert found[:12].min() > 0.9
    assert found[20:].max() < 0.1


def test_a_jpeg_with_previews_is_its_first_picture(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (16, 16), (255, 255, 255)), Image.new("RGB", (16, 16))
    (tmp_path / "a.jpg").write_bytes(saved(first, "MPO", save_all=True, append_images=[second]))
    assert read_picture(tmp_path / "a.jpg").min() > 0.99


def frames(kind: str) -> bytes:
    first, second = Image.new("RGB", (4, 4), (255, 0, 0)), Image.new("RGB", (4, 4), (0, 255, 0))
    return saved(first, kind, save_all=True, append_images=[second])


TRANSPARENT = "transparent in places"

REFUSED: dict[str, tuple[bytes, str]] = {
    "float below 0": (saved(Image.fromarray(FLOATS - 0.01), "TIFF"), "floats reach from -0.01 to 0.99; expected 0 to 1"),
    "float of 255": (saved(Image.fromarray(FLOATS * 255), "TIFF"), "floats reach from 0 to 255"),
    "float NaN": (saved(Image.fromarray(np.where(FLOATS > 0.9, np.nan, FLOATS)), "TIFF"), "expected 0 to 1"),
    "float infinite": (saved(Image.fromarray(np.where(FLOATS > 0.9, np.inf, FLOATS)), "TIFF"), "expected 0 to 1"),
    "float, white is 0": (tiff(FLOATS, 32, signed_or_float=3, photometric=0), "white as 0"),
    "32 bits": (saved(Image.fromarray(WIDE.astype(np.int32) * 2), "TIFF"), "integers reach from 0 to 131070"),
    "32 bits, negative": (saved(Image.fromarray(WIDE.astype(np.int32) - 1), "TIFF"), "integers reach from -1"),
    "8 bits in 32": (saved(Image.fromarray(GREY.astype(np.int32)), "TIFF"), "integers reach from 0 to 255"),
    "unsigned 32 bits": (tiff(np.array([[0, 2**32 - 1]] * 2, np.uint32), 32), "32-bit integers"),
    "signed 16 bits": (tiff(WIDE.astype(np.int16), 16, signed_or_float=2), "signed 16-bit"),
    "signed 8 bits": (tiff(GREY.astype(np.int8), 8, signed_or_float=2), "signed 8-bit"),
    "16 bits, white is 0": (tiff(WIDE, 16, photometric=0), "white as 0"),
    "LAB": (saved(Image.new("LAB", (2, 2)), "TIFF"), "mode is LAB"),
    "RGBA, transparent": (saved(Image.fromarray(with_alpha(254)), "PNG"), TRANSPARENT),
    "RGBA WebP": (saved(Image.fromarray(with_alpha(100)), "WEBP", lossless=True), TRANSPARENT),
    "RGBA TIFF": (saved(Image.fromarray(with_alpha(0)), "TIFF"), TRANSPARENT),
    "LA": (saved(Image.merge("LA", (Image.fromarray(GREY),) * 2), "PNG"), TRANSPARENT),
    "LA 16": (png(np.stack([GREY, GREY], 2).astype(np.uint16) * 257, 4), TRANSPARENT),
    "palette entry": (saved(palette_picture(), "PNG", transparency=2), TRANSPARENT),
    "palette entries": (saved(palette_picture(), "PNG", transparency=bytes([255, 100])), TRANSPARENT),
    "colour key": (saved(Image.fromarray(RGB), "PNG", transparency=(10, 20, 30)), TRANSPARENT),
    "grey key": (saved(Image.fromarray(GREY), "PNG", transparency=128), TRANSPARENT),
    "grey 16 key": (png(WIDE[..., None], 0, (b"tRNS", struct.pack(">H", 257))), TRANSPARENT),
    "animated PNG": (frames("PNG"), "several pictures"),
    "animated WebP": (frames("WEBP"), "several pictures"),
    "pages": (frames("TIFF"), "several pictures"),
    "64-bit floats": (tiff(FLOATS.astype(np.float64), 64, signed_or_float=3), "does not support"),
    "float RGB": (tiff(np.zeros((2, 2, 3), np.float32), 32, signed_or_float=3, photometric=2, channels=3), "does not support"),
}  # fmt: skip
"""Each kind whose colours the file does not tell, and what is said of it."""


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.filterwarnings("error")
def test_what_is_not_known_is_refused(kind: str, tmp_path: Path) -> None:
    data, reason = REFUSED[kind]
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(PlanError) as caught:
        read_picture(path)
    message = str(caught.value)
    assert reason in message
    assert str(path) in message
    assert "\n" not in message
    assert "0x7" not in message  # an address in memory tells nobody anything


def test_rasters_are_not_pictures_of_several_either(tmp_path: Path) -> None:
    """A raster keeps its own rule and shares the opening."""
    page = Image.new("L", (RASTER, RASTER))
    path = tmp_path / "r.tif"
    path.write_bytes(saved(page, "TIFF", save_all=True, append_images=[page]))
    with pytest.raises(PlanError, match="several pictures"):
        read_raster(path)


# --- folders -------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return what a Mac leaves on a stick: two pictures, companions, and folders."""
    folder = tmp_path / "stick"
    folder.mkdir()
    for name in ("b.PNG", "a.jpg"):
        (folder / name).write_bytes(saved(Image.new("RGB", (20, 24), (9, 99, 200)), "PNG"))
        (folder / f"._{name}").write_bytes(b"\0\5\26\7Mac OS X")
    (folder / ".hidden.png").write_bytes(b"none")
    (folder / "x.png").mkdir()
    (folder / "notes.txt").write_text("none")
    return folder


def test_hidden_files_and_folders_are_no_pictures(folder: Path) -> None:
    assert [path.name for path in pictures_in(folder, "--images")] == ["a.jpg", "b.PNG"]


def test_a_folder_without_pictures_is_refused(folder: Path) -> None:
    for name in ("a.jpg", "b.PNG"):
        (folder / name).unlink()
    with pytest.raises(PlanError, match=r"--x .*stick holds no picture .*; \._a\.jpg is hidden"):
        pictures_in(folder, "--x")


def test_pictures_in_subfolders_are_not_searched(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"none")
    with pytest.raises(PlanError, match=r"holds no picture .*; its subfolders are not searched"):
        pictures_in(tmp_path, "--x")


def test_a_link_to_nothing_is_refused(folder: Path) -> None:
    """It was meant to be a picture: the verdict would not stand on what was asked for."""
    (folder / "c.png").symlink_to(folder / "gone.png")
    with pytest.raises(PlanError, match=r"cannot read picture .*c\.png"):
        [read_picture(path) for path in pictures_in(folder, "--images")]


def _never(*_: object, **__: object) -> None:
    raise AssertionError("a network was run before all pictures were read")


COMMANDS: dict[str, Callable[[Path, Path], tuple[str | Path, ...]]] = {
    "parity": lambda model, folder: ("parity", CHECKPOINT, model, "--images", folder),
    "audit": lambda model, folder: ("audit", CHECKPOINT, "--images", folder),
    "audit of a file": lambda model, folder: ("audit", model, "--images", folder),
    "int8": lambda model, folder: (
        "onnx",
        CHECKPOINT,
        "--int8",
        "--calibrate",
        folder,
        "-o",
        folder.with_name("i.onnx"),
    ),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from paragon_export.pipeline.export import export
    from paragon_export.specs.plans import ExportPlan

    path = tmp_path_factory.mktemp("model") / "m.onnx"
    assert export(ExportPlan(checkpoint=CHECKPOINT, output=path)).passed
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_pictures_are_read_before_a_network_is_run(
    command: str, model: Path, folder: Path, run_here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of the pictures is refused before the first is upscaled."""
    from paragon_export.pipeline import quantize_images as int8_pictures
    from paragon_export.precision import instrument as gauges

    (folder / "z.tif").write_bytes(REFUSED["float of 255"][0])
    monkeypatch.setattr(playing, "play", _never)
    monkeypatch.setattr(gauges, "play", _never)
    monkeypatch.setattr(int8_pictures, "quantize_model", _never)
    done = run_here(*COMMANDS[command](model, folder))
    assert done.code == 3
    assert f"{folder / 'z.tif'} is not read: its floats reach from 0 to 255" in done.stderr


@pytest.mark.parametrize("command", ["parity", "audit of a file"])
def test_a_stick_of_a_mac_is_no_error(
    command: str, model: Path, folder: Path, run_here: RunHere
) -> None:
    done = run_here(*COMMANDS[command](model, folder), "--json")
    assert done.code == 0, done.stderr
    assert '"a.jpg' in done.stdout


def test_calibration_passes_over_them_too(folder: Path, run_here: RunHere) -> None:
    """Of pictures, and of rasters of glyphs."""
    done = run_here(*COMMANDS["int8"](folder, folder))
    assert "holds 0 images of 192x192 pixels" in done.stderr
    with pytest.raises(PlanError, match="holds 2 grids"):
        read_grids(Calibration(path=folder, phase_1=folder), Port("input", ("batch", 16, 16)))
