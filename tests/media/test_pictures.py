"""Picture files: what is read is what was written, at its depth and with what is beside the pixels."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

from paragon_export.errors import PlanError
from paragon_export.media.pictures import Picture, _any_size, read_picture
from paragon_export.media.png import PngWriter
from paragon_export.media.saving import Layout, fitted, saving
from paragon_export.media.transparency import filled

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

RNG = np.random.default_rng(0)


def noise(channels: int, dtype: type, height: int = 13, width: int = 21) -> np.ndarray:
    """Return (H, W, channels), smooth in parts so that every filter of PNG is chosen."""
    pixels = RNG.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype, endpoint=True)
    pixels[2:6] = pixels[2]
    pixels[6:9, 3:] = pixels[6:9, 3:4]
    return pixels


def save(path: Path, pixels: np.ndarray, **beside: object) -> None:
    layout = Layout(
        height=len(pixels), width=pixels.shape[1], channels=pixels.shape[2], dtype=pixels.dtype, **beside
    )  # fmt: skip
    with saving(path, layout) as rows:
        for row in np.array_split(pixels, 3):
            rows.write(row)


def planes(picture: Picture) -> np.ndarray:
    """Return (H, W, channels)."""
    parts = [picture.color] if picture.alpha is None else [picture.color, picture.alpha]
    return np.moveaxis(np.concatenate(parts), 0, -1)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pixels_are_exact(channels: int, dtype: type, suffix: str, tmp_path: Path) -> None:
    pixels = noise(channels, dtype)
    save(tmp_path / f"a{suffix}", pixels, icc=ICC, dpi=(300.0, 150.0))

    found = read_picture(tmp_path / f"a{suffix}")

    assert np.array_equal(planes(found), pixels)
    assert found.color.dtype == dtype
    assert found.icc == ICC
    assert found.dpi == pytest.approx((300, 150), rel=1e-3)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_other_programs_read_our_png(channels: int) -> None:
    """Pillow's decoder checks what ours writes; the parts of a row do not matter."""
    pixels, file = noise(channels, np.uint8), io.BytesIO()
    with PngWriter(file, 13, 21, channels, pixels.dtype) as writer:
        for row in pixels:
            writer.write(row[None])
    assert np.array_equal(np.asarray(Image.open(file)).reshape(pixels.shape), pixels)


@pytest.mark.parametrize(("suffix", "bound"), [(".jpg", 3), (".webp", 5), (".avif", 6)])
def test_flat_colors_of_formats_with_losses(suffix: str, bound: int, tmp_path: Path) -> None:
    pixels = np.full((32, 32, 3), (200, 90, 30), np.uint8)
    save(tmp_path / f"a{suffix}", pixels, icc=ICC, quality=95)
    found = read_picture(tmp_path / f"a{suffix}")
    assert np.abs(planes(found).astype(int) - pixels).max() <= bound
    assert found.icc == ICC


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int, tmp_path: Path) -> None:
    """16 bits are turned as Pillow turns 8."""
    from PIL import ImageOps

    exif = Image.Exif()
    exif[274] = orientation
    image = Image.fromarray(noise(3, np.uint8))
    image.save(tmp_path / "a.tiff", exif=exif)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.tiff")))
    assert np.array_equal(planes(read_picture(tmp_path / "a.tiff")), wanted)

    from paragon_export.media.pictures import _turned

    assert np.array_equal(_turned(np.asarray(image).astype(np.uint16), orientation), wanted)


@pytest.mark.parametrize(
    ("mode", "channels", "said"),
    [
        ("1", 1, "1 bit to 8"), ("P", 3, "palette to RGB"), ("CMYK", 3, "CMYK to RGB"),
        ("L", 1, ""), ("LA", 1, ""), ("RGB", 3, ""),
    ],
)  # fmt: skip
def test_modes(mode: str, channels: int, said: str, tmp_path: Path) -> None:
    image = Image.fromarray(noise(3, np.uint8)).convert(mode)
    image.save(tmp_path / "a.tiff")
    found = read_picture(tmp_path / "a.tiff")
    assert len(found.color) == channels
    assert found.converted == ((said,) if said else ())
    wanted = np.asarray(image.convert("RGB" if channels == 3 else "L"))
    assert np.array_equal(planes(found).squeeze(), wanted)


def test_a_palette_with_a_transparent_color(tmp_path: Path) -> None:
    image = Image.fromarray(noise(3, np.uint8)).convert("P")
    clear = int(np.asarray(image)[5, 5])
    image.save(tmp_path / "a.png", transparency=clear)
    found = read_picture(tmp_path / "a.png")
    assert found.alpha is not None
    assert np.array_equal(found.alpha[0] == 0, np.asarray(image) == clear)


def test_what_is_no_picture_is_one_line(tmp_path: Path) -> None:
    for name, data in {
        "a.png": b"",
        "b.png": b"\x89PNG\r\n\x1a\nxx",
        "c.jpg": b"\xff\xd8\xff",
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(PlanError, match="cannot read"):
            read_picture(tmp_path / name)
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "d.tiff")
    with pytest.raises(PlanError, match="its mode is F"):
        read_picture(tmp_path / "d.tiff")


def test_a_failed_picture_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save(path, noise(3, np.uint8))
    before = path.read_bytes()
    layout = Layout(height=9, width=9, channels=3, dtype=np.dtype(np.uint8))

    def fail() -> None:
        with saving(path, layout) as rows:
            rows.write(np.zeros((3, 9, 3), np.uint8))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_what_a_format_lacks_is_said() -> None:
    deep = Layout(height=1, width=1, channels=4, dtype=np.dtype(np.uint16))
    layout, lost = fitted(deep, "jpg")
    assert (layout.channels, layout.dtype, len(lost)) == (3, np.uint8, 2)
    assert fitted(deep, "png") == (deep, ())


def test_transparent_pixels_take_the_color_around() -> None:
    color = np.zeros((3, 40, 50), np.float32)
    color[0, :, :25], color[1, :, 25:] = 1, 1
    alpha = np.zeros((1, 40, 50), np.float32)
    alpha[:, 3:6, 3:6], alpha[:, 3:6, 44:47] = 1, 0.5
    hidden = np.where(alpha > 0, color, 0.5)

    found = filled(hidden, alpha)

    assert np.array_equal(np.where(alpha > 0, found, 0), np.where(alpha > 0, color, 0))
    assert np.allclose(found[:, 8, 4], (1, 0, 0))
    assert np.allclose(found[:, 8, 45], (0, 1, 0))
    assert not filled(hidden, np.zeros_like(alpha)).any()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_is_read_alike_without_imagecodecs(
    channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "a.png", noise(channels, np.uint8))
    usual = planes(read_picture(tmp_path / "a.png"))
    monkeypatch.setattr("paragon_export.media.pictures.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    assert np.array_equal(planes(read_picture(tmp_path / "a.png")), usual)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_damaged_png_is_refused(dtype: type, tmp_path: Path) -> None:
    save(tmp_path / "a.png", noise(3, dtype))
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(PlanError, match="cannot read"):
        read_picture(tmp_path / "a.png")


def test_a_profile_of_cmyk_is_not_kept(tmp_path: Path) -> None:
    """Also where it is for other colors, so that it cannot be used."""
    image = Image.fromarray(noise(3, np.uint8)).convert("CMYK")
    image.save(tmp_path / "a.tiff", icc_profile=ICC)
    assert read_picture(tmp_path / "a.tiff").icc is None


def test_jpeg_keeps_fine_colors(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, ::2, 0] = pixels[:, 1::2, 2] = 200
    save(tmp_path / "a.jpg", pixels)
    assert np.abs(planes(read_picture(tmp_path / "a.jpg")).astype(int) - pixels).max() < 40


@pytest.mark.parametrize("kind", ["png", "jpg", "tiff", "deep.tiff"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_resolution_is_turned_with_the_picture(kind: str, orientation: int, tmp_path: Path) -> None:
    path, pixels = tmp_path / f"a.{kind}", noise(3, np.uint8)
    exif = Image.Exif()
    exif[274] = orientation
    if kind == "deep.tiff":
        tags = [(274, "H", 1, orientation, True)]
        tifffile.imwrite(
            path, pixels.astype(np.uint16), photometric="rgb", resolution=(100, 200), resolutionunit="INCH",
            extratags=tags,
        )  # fmt: skip
    else:
        Image.fromarray(pixels).save(path, exif=exif, dpi=(100, 200))
    found = read_picture(path)
    is_sideways = orientation in (6, 8)
    assert found.color.shape[1:] == ((21, 13) if is_sideways else (13, 21))
    assert found.dpi == pytest.approx((200, 100) if is_sideways else (100, 200), rel=1e-3)


def png_of_gray(values: np.ndarray, depth: int, clear: int) -> bytes:
    """Return a PNG file of gray with 1, 2 or 4 bits, in which one value is transparent."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    bits = np.unpackbits(values.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :]
    rows = np.packbits(bits.reshape(len(values), -1), axis=1)
    header = struct.pack(">IIBBBBB", values.shape[1], len(values), depth, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"tRNS", struct.pack(">H", clear)),
              (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))), (b"IEND", b"")]  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_transparent_value_of_few_bits(depth: int, tmp_path: Path) -> None:
    values = RNG.integers(0, 2**depth, (9, 11))
    (tmp_path / "a.png").write_bytes(png_of_gray(values, depth, clear=1))
    found = read_picture(tmp_path / "a.png")
    assert np.array_equal(found.color[0], values * (255 // (2**depth - 1)))
    assert found.alpha is not None
    assert np.array_equal(found.alpha[0], np.where(values == 1, 0, 255))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_value_of_16_bits_is_named(channels: int, tmp_path: Path) -> None:
    pixels = noise(channels, np.uint16)
    opaque = imagecodecs.png_encode(pixels.squeeze())
    start = opaque.index(b"IDAT") - 4
    value = pixels[5, 5].astype(">u2").tobytes()
    chunk = struct.pack(">I", len(value)) + b"tRNS" + value
    chunk += struct.pack(">I", zlib.crc32(b"tRNS" + value))
    (tmp_path / "a.png").write_bytes(opaque[:start] + chunk + opaque[start:])
    found = read_picture(tmp_path / "a.png")
    assert found.alpha is not None
    assert found.alpha[0, 5, 5] == 0
    assert found.converted == ("transparent color to alpha",)


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_bits_of_avif_are_told(bits: int, tmp_path: Path) -> None:
    pixels = noise(3, np.uint8).astype(np.uint16) << (bits - 8)
    encoded = imagecodecs.avif_encode(
        pixels.astype(np.uint8 if bits == 8 else np.uint16), level=100, bitspersample=bits
    )
    (tmp_path / "a.avif").write_bytes(encoded)
    said = () if bits == 8 else (f"{bits} bits to 8",)
    assert read_picture(tmp_path / "a.avif").converted == said


def test_an_empty_file_is_named_so(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(PlanError, match="it is empty"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["tiff", "jpg", "webp", "avif"])
def test_a_full_disk_is_named(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's encoders name no reason if they write to the file themselves."""

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(PlanError, match="No space left"):
        save(tmp_path / f"a.{kind}", noise(3, np.uint8))


@pytest.mark.parametrize(("kind", "most"), [("jpg", 65500), ("webp", 16383), ("avif", 65536)])
def test_sizes_that_a_format_does_not_hold_are_refused_first(
    kind: str, most: int, tmp_path: Path
) -> None:
    layout = Layout(height=1, width=most, channels=1, dtype=np.dtype(np.uint8))
    with saving(tmp_path / f"a.{kind}", layout) as rows:
        rows.write(np.zeros((1, most, 1), np.uint8))
    with (
        pytest.raises(PlanError, match="choose another format"),
        saving(tmp_path / f"b.{kind}", replace(layout, width=most + 1)),
    ):
        pytest.fail("it is refused before rows are computed")


def test_profiles_of_gray_are_kept_where_gray_is() -> None:
    profile = bytes(16) + b"GRAY" + bytes(108)
    gray = Layout(height=1, width=1, channels=1, dtype=np.dtype(np.uint8), icc=profile)
    for kind in ("png", "tiff", "jpg"):
        assert fitted(gray, kind) == (gray, ())
    for kind in ("webp", "avif"):
        layout, lost = fitted(gray, kind)
        assert (layout.icc, len(lost)) == (None, 1)


def test_the_limit_of_pillow_is_back_when_the_last_has_read() -> None:
    before = Image.MAX_IMAGE_PIXELS
    with _any_size:
        with _any_size:
            assert Image.MAX_IMAGE_PIXELS is None
        assert Image.MAX_IMAGE_PIXELS is None
    assert before == Image.MAX_IMAGE_PIXELS
    assert before is not None


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (b"gAMA", struct.pack(">I", 100000), ("a gamma of 1 to none",)),
        (b"gAMA", struct.pack(">I", 45455), ()),
        (b"cICP", bytes([1, 13, 0, 1]), ()),
        (b"cICP", bytes([9, 16, 0, 1]), ("a color space (cICP) to none",)),
    ],
)  # fmt: skip
def test_colors_that_the_output_does_not_state_are_named(
    name: bytes, value: bytes, said: tuple[str, ...], dtype: type, tmp_path: Path
) -> None:
    encoded = imagecodecs.png_encode(noise(3, dtype))
    start = encoded.index(b"IDAT") - 4
    chunk = (
        struct.pack(">I", len(value)) + name + value + struct.pack(">I", zlib.crc32(name + value))
    )
    (tmp_path / "a.png").write_bytes(encoded[:start] + chunk + encoded[start:])
    assert read_picture(tmp_path / "a.png").converted == said


def chunks_of(png: bytes) -> list[bytes]:
    """Return the signature of a PNG file and its chunks."""
    parts, at = [png[:8]], 8
    while at < len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4])
        parts.append(png[at:end])
        at = end
    return parts


@pytest.mark.parametrize("kind", ["EXIF", "XMP"])
@pytest.mark.parametrize("is_behind", [False, True])
def test_png_files_are_turned_wherever_they_say_so(
    kind: str, is_behind: bool, tmp_path: Path
) -> None:
    """Before the pixels or behind them, as EXIF or XMP."""
    pixels = np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 3)
    exif, texts = Image.Exif(), PngImagePlugin.PngInfo()
    exif[274] = 6
    texts.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    options: dict[str, Any] = {"exif": exif} if kind == "EXIF" else {"pnginfo": texts}
    Image.fromarray(pixels).save(tmp_path / "a.png", **options)
    chunks = chunks_of((tmp_path / "a.png").read_bytes())
    moved = [c for c in chunks if c[4:8] in (b"eXIf", b"iTXt")]
    assert len(moved) == 1
    if is_behind:
        chunks.remove(moved[0])
        chunks.insert(-1, moved[0])
    (tmp_path / "a.png").write_bytes(b"".join(chunks))
    found = np.moveaxis(read_picture(tmp_path / "a.png").color, 0, -1)
    assert np.array_equal(found, np.rot90(pixels, -1))


def test_a_plain_png_file_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by Pillow: it would decode the pixels to look for an orientation behind them."""
    pixels = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")

    def decoded(image: Image.Image) -> None:
        raise AssertionError("Pillow decodes the file")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", decoded)
    found = np.moveaxis(read_picture(tmp_path / "a.png").color, 0, -1)
    assert np.array_equal(found, pixels)
