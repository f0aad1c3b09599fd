"""Scripts in VapourSynth itself with vs-mlrt: frames are those of this tool's own runner."""

from __future__ import annotations

import os
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paragon_export import export_onnx, open_runner
from paragon_export.assets import CHECKPOINT
from paragon_export.players.vapoursynth import vapoursynth_script
from paragon_export.specs.types import OnnxBackend, Size
from paragon_export.testing.tiny import tiny_checkpoint
from tests.clients.conftest import CLIENTS, Player

pytestmark = pytest.mark.clients

MATRICES = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}
"""Luma of red and of blue, by the value of ``_Matrix``: BT.709, BT.601, BT.2020."""

SIZE = Size(48, 64)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_realtime: Path) -> dict[str, Path]:
    """Return verified exports of small networks."""
    folder = tmp_path_factory.mktemp("models")
    triple = tiny_checkpoint(folder / "x3.safetensors", scale=3)
    gray = tiny_checkpoint(folder / "gray.safetensors", in_channels=1)
    options: dict[str, tuple[Path, dict[str, Any]]] = {
        "any": (tiny_realtime, {}),
        "half": (tiny_realtime, {"precision": "fp16", "io": "fp16"}),
        "static": (tiny_realtime, {"static": SIZE}),
        "x3": (triple, {}),
        "gray": (gray, {}),
        "trained": (CHECKPOINT, {}),
    }
    for name, (checkpoint, given) in options.items():
        assert export_onnx(checkpoint, folder / f"{name}.onnx", at=(), **given).passed
    return {name: folder / f"{name}.onnx" for name in options}


def script_of(model: Path, folder: Path, **options: Any) -> Path:
    path = folder / "script.vpy"
    path.write_text(vapoursynth_script(model, path, **options), encoding="utf-8")
    return path


def picture(channels: int = 3, size: Size = SIZE) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.random((channels, size.height, size.width), dtype=np.float32)


def upscaled(model: Path, image: np.ndarray) -> np.ndarray:
    """Return what the runner makes of a picture (C, H, W), clamped."""
    return open_runner(model).infer({"input": image[None]})["output"][0].clip(0, 1)


def test_floats_are_those_of_the_runner(
    models: dict[str, Path], player: Player, tmp_path: Path
) -> None:
    """The same ONNX Runtime computes both; colors and transfer are kept."""
    image = picture()
    found = player.play(script_of(models["any"], tmp_path), image, "RGBS", _Transfer=16)

    assert found.format == "RGBS"
    assert found.props["_Transfer"] == 16
    assert np.abs(np.stack(found.planes) - upscaled(models["any"], image)).max() <= 1e-6


def test_openvino_computes_in_float32(
    models: dict[str, Path], player: Player, tmp_path: Path
) -> None:
    image = picture()
    script = script_of(models["any"], tmp_path, backend=OnnxBackend.OPENVINO)

    found = np.stack(player.play(script, image, "RGBS").planes)
    assert np.abs(found - upscaled(models["any"], image)).max() <= 1e-5


def test_a_half_model_gets_half_frames(
    models: dict[str, Path], player: Player, tmp_path: Path
) -> None:
    """RGBH, as the runner that is fed the same halves; the rest is how the result is stored."""
    image = picture()
    found = player.play(script_of(models["half"], tmp_path), image, "RGBS")

    assert np.abs(np.stack(found.planes) - upscaled(models["half"], image)).max() <= 1e-3


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("is_full", [False, True])
def test_colors_follow_the_frame(
    matrix: int, is_full: bool, models: dict[str, Path], player: Player, tmp_path: Path
) -> None:
    """Within one level of 8 bits and the dither, of the conversion spelled out here."""
    image = np.round(np.clip(picture(), 0.2, 0.8) * 255).astype(np.uint8)
    image[:, :, 32:] = np.array([140, 90, 180])[:, None, None]
    given = levels(rgb_of(image, MATRICES[matrix], is_full), MATRICES[matrix], is_full)
    rgb = rgb_of(given, MATRICES[matrix], is_full)
    result = upscaled(models["any"], rgb.clip(0, 1).astype(np.float32))
    expected = levels(result, MATRICES[matrix], is_full)

    found = player.play(
        script_of(models["any"], tmp_path), given, "YUV444P8", _Matrix=matrix, _Range=int(is_full)
    )

    assert (found.props["_Matrix"], found.props["_Range"]) == (matrix, int(is_full))
    difference = np.stack(found.planes).astype(int) - expected
    assert np.abs(difference).max() <= 2
    assert abs(difference.mean()) < 0.2
    flat = np.abs(difference[..., 96:120])  # away from the noise
    assert flat.max() <= 1


def rgb_of(planes: np.ndarray, luma: tuple[float, float], is_full: bool) -> np.ndarray:
    """Return RGB in [0, 1] of Y, Cb and Cr in 8 bits."""
    red, blue = luma
    y, cb, cr = planes.astype(np.float64)
    y, span = (y / 255, 255) if is_full else ((y - 16) / 219, 224)
    cb, cr = (cb - 128) / span, (cr - 128) / span
    r, b = y + 2 * (1 - red) * cr, y + 2 * (1 - blue) * cb
    return np.stack([r, (y - red * r - blue * b) / (1 - red - blue), b])


def levels(rgb: np.ndarray, luma: tuple[float, float], is_full: bool) -> np.ndarray:
    """Return Y, Cb and Cr in 8 bits of RGB in [0, 1]."""
    red, blue = luma
    r, g, b = np.clip(rgb, 0, 1).astype(np.float64)
    y = red * r + (1 - red - blue) * g + blue * b
    cb, cr = (b - y) / 2 / (1 - blue), (r - y) / 2 / (1 - red)
    y, span = (255 * y, 255) if is_full else (16 + 219 * y, 224)
    return np.round(np.stack([y, 128 + span * cb, 128 + span * cr])).astype(np.uint8)


def test_unnamed_colors_are_those_of_the_height(
    models: dict[str, Path], player: Player, tmp_path: Path
) -> None:
    """A frame without properties is BT.601 and limited, as small videos are."""
    image = np.full((3, 16, 16), np.array([120, 90, 200])[:, None, None], np.uint8)
    found, named = (
        player.play(script_of(models["any"], tmp_path), image, "YUV444P8", **props)
        for props in ({}, {"_Matrix": 6, "_Range": 0})
    )
    assert found.props["_Matrix"] == 6
    assert np.array_equal(found.planes, named.planes)


def test_older_players_name_the_range_otherwise(
    models: dict[str, Path], player: Player, tmp_path: Path
) -> None:
    """``_ColorRange`` counts from full on, ``_Range`` from limited on."""
    image = np.full((3, 16, 16), np.array([120, 90, 200])[:, None, None], np.uint8)
    script = script_of(models["any"], tmp_path)
    old, new = (
        player.play(script, image, "YUV444P8", _Matrix=1, **props)
        for props in ({"_ColorRange": 0}, {"_Range": 1})
    )
    assert old.props["_Range"] == 1
    assert np.array_equal(old.planes, new.planes)


def test_a_matrix_that_cannot_be_is_an_error(
    models: dict[str, Path], player: Player, tmp_path: Path
) -> None:
    """A frame in YUV that says it is RGB is not guessed at; one that says "unknown" is."""
    image = np.full((3, 16, 16), 120, np.uint8)
    script = script_of(models["any"], tmp_path)
    with pytest.raises(RuntimeError, match="RGB matrix"):
        player.play(script, image, "YUV444P8", _Matrix=0)
    assert player.play(script, image, "YUV444P8", _Matrix=2).props["_Matrix"] == 6


@pytest.mark.parametrize(("form", "place"), [("YUV420P8", 2), ("YUV422P10", 0), ("GRAY16", 0)])
def test_formats_are_kept(
    form: str, place: int, models: dict[str, Path], player: Player, tmp_path: Path
) -> None:
    """Bits, subsampling and the place of chroma are those of the video.

    The trained network keeps flat colors, within one level of 8 bits.
    """
    bits = int(form.split("P")[-1]) if "P" in form else 16
    dtype = np.uint8 if bits == 8 else np.uint16
    halved = {"YUV420P8": (2, 2), "YUV422P10": (1, 2)}.get(form)
    value = [110 << bits - 8, 120 << bits - 8, 140 << bits - 8]
    planes = [np.full((32, 32), value[0], dtype)]
    if halved:
        planes += [np.full((32 // halved[0], 32 // halved[1]), v, dtype) for v in value[1:]]

    found = player.play(
        script_of(models["trained"], tmp_path),
        planes,
        form,
        _Matrix=1,
        _Range=0,
        _ChromaLocation=place,
    )

    assert found.format.lower() == form.lower()
    assert [p.shape for p in found.planes] == [(2 * p.shape[0], 2 * p.shape[1]) for p in planes]
    if halved:
        assert found.props["_ChromaLocation"] == place
    for plane, level in zip(found.planes, value, strict=False):
        assert np.abs(plane[8:-8, 8:-8].astype(int) - level).max() <= 1 << bits - 8


def test_a_network_of_one_channel_takes_luma(
    models: dict[str, Path], player: Player, tmp_path: Path
) -> None:
    """Full range luma goes through the network; chroma is resized."""
    image = np.round(picture(1, Size(32, 32)) * 255).astype(np.uint8)
    chroma = np.full((16, 16), 90, np.uint8)
    script = script_of(models["gray"], tmp_path)

    found = player.play(script, [image[0], chroma, chroma], "YUV420P8", _Matrix=1, _Range=1)

    expected = np.round(255 * upscaled(models["gray"], image.astype(np.float32) / 255))[0]
    assert np.abs(found.planes[0].astype(int) - expected).max() <= 1
    assert (found.planes[1] == 90).all()
    with pytest.raises(RuntimeError, match="takes luma"):
        player.play(script, [image[0]] * 3, "RGB24")


@pytest.mark.parametrize("name", ["any", "x3"])
def test_tiles_show_no_seam(
    name: str, models: dict[str, Path], player: Player, tmp_path: Path
) -> None:
    """Bit for bit the whole frame; with less overlap vs-mlrt shows seams."""
    image = picture(size=Size(100, 150))
    script = script_of(models[name], tmp_path, tile=Size(60, 64))
    text = script.read_text()
    whole = upscaled(models[name], image)

    assert np.abs(np.stack(player.play(script, image, "RGBS").planes) - whole).max() <= 1e-6

    overlap = next(line for line in text.splitlines() if line.startswith("OVERLAP"))
    script.write_text(text.replace(overlap, "OVERLAP = 4"))
    assert np.abs(np.stack(player.play(script, image, "RGBS").planes) - whole).max() > 1e-3


def test_a_model_of_one_size_runs_in_tiles_or_says_why_not(
    models: dict[str, Path], player: Player, tmp_path: Path
) -> None:
    script = script_of(models["static"], tmp_path)
    image = picture(size=Size(100, 150))

    found = np.stack(player.play(script, image, "RGBS").planes)
    assert np.abs(found - upscaled(models["any"], image)).max() <= 1e-6

    with pytest.raises(RuntimeError, match="takes 48x64 to 48x64"):
        player.play(script, picture(size=Size(40, 64)), "RGBS")
    text = script.read_text()
    overlap = next(line for line in text.splitlines() if line.startswith("OVERLAP"))
    script.write_text(text.replace(overlap, "OVERLAP = None"))
    with pytest.raises(RuntimeError, match="tiles would change the picture"):
        player.play(script, image, "RGBS")


def test_vspipe_runs_the_script_on_a_file(
    models: dict[str, Path], player: Player, tmp_path: Path
) -> None:
    """As the first lines of the script say, on a file that BestSource opens."""
    source, shape = tmp_path / "film.y4m", (32, 48)
    rng = np.random.default_rng(0)
    with source.open("wb") as file:
        file.write(b"YUV4MPEG2 W48 H32 F25:1 Ip A1:1 C420jpeg\n")
        for _ in range(3):
            file.write(
                b"FRAME\n" + rng.integers(60, 190, shape[0] * shape[1] * 3 // 2, np.uint8).tobytes()
            )
    script = script_of(models["any"], tmp_path)
    target = tmp_path / "out.y4m"
    # VapourSynth notes there where its Python is, by a program that it looks for on the path.
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}
    environment["PATH"] = f"{CLIENTS / 'bin'}{os.pathsep}{environment['PATH']}"
    environment.pop("PYTHONPATH", None)
    run = partial(
        subprocess.run,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )

    pipe = [CLIENTS / "bin" / "vspipe", "-c", "y4m", "-a", f"source={source}", script, target]
    done = run(pipe)

    assert done.returncode == 0, done.stderr
    written = target.read_bytes()
    assert b"W96 H64 F25:1" in written.split(b"\n")[0]
    assert written.count(b"FRAME") == 3
    without = run([*pipe[:3], script, target])
    assert without.returncode != 0
    assert "vspipe -a source=FILE" in without.stderr
