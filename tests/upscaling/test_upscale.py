"""``upscale``: folders and pictures in, pictures of the network out."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from weakref import ref

import numpy as np
import onnx_ir as ir
import pytest
import torch

from paragon_export.assets import CHECKPOINT, PHOTOGRAPH, photograph
from paragon_export.errors import InexactTilesError, MissingDependencyError, PlanError, RunError
from paragon_export.graph.trace import trace
from paragon_export.media.pictures import Picture, read_picture
from paragon_export.media.saving import Layout, saving
from paragon_export.networks.describe import load_network
from paragon_export.networks.spandrel.library import library
from paragon_export.parity.reference import build_reference
from paragon_export.pipeline.export import export_onnx
from paragon_export.specs.network import Port
from paragon_export.specs.plans import NetworkOptions
from paragon_export.specs.types import OnnxBackend, Size
from paragon_export.testing.glyph import small_checkpoint
from paragon_export.testing.tiny import tiny_checkpoint
from paragon_export.tiling.blend import BlendedRunner
from paragon_export.tiling.field import Field
from paragon_export.tiling.run import Strip, TiledRunner
from paragon_export.upscaling.flow import upscale
from paragon_export.upscaling.model import open_model
from paragon_export.upscaling.tiles import Tiling
from tests.conftest import RunHere

SMALL = photograph()[:20, :30]


def write(path: Path, pixels: np.ndarray, dtype: type = np.uint8) -> Path:
    """Write (H, W, channels) in [0, 1]."""
    values = np.rint(pixels * np.iinfo(dtype).max).astype(dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    layout = Layout(
        height=len(values), width=values.shape[1], channels=values.shape[2], dtype=values.dtype,
        icc=b"profile", dpi=(100.0, 100.0),
    )  # fmt: skip
    with saving(path, layout) as rows:
        rows.write(values)
    return path


def shown(path: Path) -> np.ndarray:
    """Return (H, W, channels) in [0, 1]."""
    picture = read_picture(path)
    parts = [picture.color] if picture.alpha is None else [picture.color, picture.alpha]
    return np.moveaxis(np.concatenate(parts), 0, -1) / picture.largest


def expected(checkpoint: Path, pixels: np.ndarray, *, gray: bool = False) -> np.ndarray:
    """Return what PyTorch makes of (H, W, 3) in float64, clipped; its mean over the channels if ``gray``."""
    runner = build_reference(load_network(checkpoint)).runner("float64")
    output = runner.infer({"input": np.moveaxis(pixels, -1, 0)[None]})["output"][0]
    channels = output.mean(0, keepdims=True) if gray else output
    return np.clip(np.moveaxis(channels, 0, -1), 0, 1)


@pytest.mark.parametrize(("dtype", "step"), [(np.uint8, 255), (np.uint16, 65535)])
@pytest.mark.parametrize("kind", ["checkpoint", "onnx"])
def test_the_picture_is_that_of_the_network(
    kind: str, dtype: type, step: int, tiny_realtime: Path, tmp_path: Path
) -> None:
    """To the last bit of its depth, with profile and scaled resolution."""
    source, model = write(tmp_path / "a.png", SMALL, dtype), tiny_realtime
    if kind == "onnx":
        model = tmp_path / "o.onnx"
        export_onnx(tiny_realtime, model)

    result = upscale(model, source, tmp_path / "b.png")

    assert result.passed
    wanted = expected(tiny_realtime, shown(source))
    assert np.abs(shown(tmp_path / "b.png") - wanted).max() <= 0.5 / step + 1e-6
    picture = read_picture(tmp_path / "b.png")
    assert (picture.icc, picture.largest) == (b"profile", step)
    assert picture.dpi == pytest.approx((200, 200), rel=1e-3)


def test_tiles_give_the_same_file(tiny_stream: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "a.png", photograph()[:150, :170])
    whole = upscale(tiny_stream, source, tmp_path / "whole.png", tile="none").done[0]
    tiled = upscale(tiny_stream, source, tmp_path / "tiled.png", tile="64x80").done[0]
    assert (whole.tile, tiled.tile) == (None, Size(64, 80))
    assert np.abs(shown(whole.output) - shown(tiled.output)).max() <= 1 / 255 + 1e-6


def test_alpha_is_upscaled_and_hidden_colors_stay_hidden(
    tiny_realtime: Path, tmp_path: Path
) -> None:
    alpha = np.zeros((20, 30, 1), np.float32)
    alpha[:, :15] = 1
    hidden = [np.where(alpha > 0, SMALL, color) for color in (0.0, 1.0)]
    for index, color in enumerate(hidden):
        write(tmp_path / f"in/{index}.png", np.concatenate([color, alpha], -1))

    upscale(tiny_realtime, tmp_path / "in", tmp_path / "out")

    first, second = (shown(tmp_path / f"out/{index}.png") for index in (0, 1))
    assert first.shape == (40, 60, 4)
    assert np.array_equal(first[:, :34], second[:, :34])
    wanted = expected(tiny_realtime, alpha.repeat(3, -1), gray=True)
    assert np.abs(first[..., 3:] - wanted).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("tile", ["auto", "none", "64x64"])
def test_several_pictures_at_a_time_are_those_of_one(
    tile: str, tiny_realtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an ONNX file, which several threads run, each with one thread; and of one picture's tiles."""
    monkeypatch.setattr("paragon_export.upscaling.model.cores", lambda: 3)
    export_onnx(tiny_realtime, tmp_path / "o.onnx")
    for index in range(6):
        write(tmp_path / f"in/{index}.png", np.roll(photograph()[:90, :110], 9 * index, axis=1))
    result = upscale(tmp_path / "o.onnx", tmp_path / "in", tmp_path / "out", tile=tile)
    assert [one.source.stem for one in result.done] == [str(index) for index in range(6)]
    for index in (0, 4):
        alone = upscale(
            tiny_realtime, tmp_path / f"in/{index}.png", tmp_path / "b.png", tile="none"
        )
        assert (
            np.abs(shown(tmp_path / f"out/{index}.png") - shown(alone.done[0].output)).max() < 0.005
        )
        alone = upscale(
            tmp_path / "o.onnx", tmp_path / f"in/{index}.png", tmp_path / "c.png", tile=tile
        )
        assert np.array_equal(shown(tmp_path / "c.png"), shown(tmp_path / f"out/{index}.png"))


def test_runs_at_a_time_are_limited(
    tiny_realtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_onnx(tiny_realtime, tmp_path / "o.onnx")
    model = open_model(tmp_path / "o.onnx", OnnxBackend.ONNXRUNTIME, NetworkOptions())
    running, most, black = [], [], np.zeros((3, 8, 8), np.uint8)

    class Slow:
        name = "slow"

        def infer(self, feeds: object) -> dict[str, np.ndarray]:
            running.append(1)
            most.append(len(running))
            time.sleep(0.01)
            running.pop()
            return {"output": np.zeros((1, 3, 16, 16), np.float32)}

    monkeypatch.setattr("paragon_export.upscaling.model.cores", lambda: 2)
    assert replace(model, threads=1).callers == 1
    slow = replace(model, runner=Slow(), open_again=lambda threads: Slow())
    for asked, count in (("auto", 2), ("none", 1)):
        strips = partial(Tiling(slow, asked, several=True).strips, black)
        most.clear()
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda largest, strips=strips: list(strips(largest)), [255] * 6))
        assert max(most) == count


def test_pictures_in_work_stop_where_a_run_ends_early(
    tiny_realtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when it is interrupted: they are not finished, and nothing of them is left."""
    for index in range(3):
        write(tmp_path / f"in/{index}.png", SMALL)
    begun = []

    def read(path: Path) -> Picture:
        while path.stem == "0":
            time.sleep(0.01)
            if begun:
                raise KeyboardInterrupt
        return read_picture(path)

    def rows(*_: object) -> Iterator[np.ndarray]:
        for number in range(2 * len(SMALL)):
            begun.append(number)
            time.sleep(0.05)
            yield np.zeros((1, 2 * SMALL.shape[1], 3), np.uint8)

    monkeypatch.setattr("paragon_export.upscaling.run.read_picture", read)
    monkeypatch.setattr("paragon_export.upscaling.run.rows_of", rows)
    with pytest.raises(KeyboardInterrupt):
        upscale(tiny_realtime, tmp_path / "in", tmp_path / "out")
    assert len(begun) < 2 * len(SMALL)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_library_stops_all(
    tiny_realtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(3):
        write(tmp_path / f"in/{index}.png", SMALL, np.uint16)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(MissingDependencyError, match="imagecodecs"):
        upscale(tiny_realtime, tmp_path / "in", tmp_path / "out")


def test_gray_stays_gray(tiny_realtime: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "a.png", SMALL[..., :1])
    upscale(tiny_realtime, source, tmp_path / "b.png")
    wanted = expected(tiny_realtime, shown(source).repeat(3, -1), gray=True)
    assert np.abs(shown(tmp_path / "b.png") - wanted).max() <= 0.5 / 255 + 1e-6


def test_a_gray_network_takes_luma_and_says_so(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "gray.safetensors", in_channels=1)
    source = write(tmp_path / "a.png", SMALL)
    result = upscale(checkpoint, source, tmp_path / "b.png")
    luma = (shown(source) @ [0.299, 0.587, 0.114])[..., None]
    wanted = expected(checkpoint, luma)
    assert wanted.shape == (40, 60, 1)
    assert np.abs(shown(tmp_path / "b.png") - wanted).max() <= 0.5 / 255 + 1e-6
    assert any("luma" in text for text in result.notes)


@pytest.mark.parametrize(("channels", "made"), [(3, 1), (1, 3), (4, 4)])
def test_networks_of_other_channels_are_refused(channels: int, made: int, tmp_path: Path) -> None:
    """A checkpoint as well as a file of others. The pictures of both have to be gray or RGB."""
    source, conv = write(tmp_path / "a.png", SMALL), torch.nn.Conv2d(channels, made, 1)
    torch.save(esrgan(channels, made).state_dict(), tmp_path / "net.pth")
    ports = [
        [Port(n, ("batch", c, "height", "width"))]
        for n, c in (("input", channels), ("output", made))
    ]
    model = trace(conv.eval(), *ports, 20)
    (tmp_path / "net.onnx").write_bytes(ir.to_proto(model).SerializeToString())
    for name in ("net.pth", "net.onnx"):
        with pytest.raises(PlanError, match=f"{name} maps {channels} channels to {made}; upscale"):
            upscale(tmp_path / name, source, tmp_path / "b.png")


def esrgan(channels: int, made: int) -> torch.nn.Module:
    """Return a network whose output may have other channels than its input."""
    library()
    from spandrel.architectures.ESRGAN import ESRGAN

    return ESRGAN(in_nc=channels, out_nc=made, num_filters=8, num_blocks=1)


def test_folders_are_mirrored_and_broken_files_do_not_stop_others(
    tiny_realtime: Path, tmp_path: Path, run_here: RunHere
) -> None:
    for name in ("a.png", "sub/b.png", "sub/.hidden.png"):
        write(tmp_path / "in" / name, SMALL)
    (tmp_path / "in/broken.png").write_bytes(b"no picture")
    (tmp_path / "in/readme.txt").write_text("text")

    done = run_here("upscale", tiny_realtime, "in", "-o", "out", "--format", "webp", "--json")

    assert done.code == 1
    document = json.loads(done.stdout)
    assert {Path(one["output"]).as_posix() for one in document["done"]} == {
        "out/a.webp", "out/sub/b.webp",
    }  # fmt: skip
    assert [Path(one["source"]).name for one in document["failed"]] == ["broken.png"]
    assert done.stderr.count("failed: ") == 1
    assert {p.name for p in (tmp_path / "out").rglob("*.*")} == {"a.webp", "b.webp"}

    again = run_here("upscale", tiny_realtime, "in", "-o", "out", "--format", "webp",
                     "--skip-existing")  # fmt: skip
    assert "2 there already" in again.stdout


def test_a_picture_that_fails_midway_leaves_nothing(
    tiny_realtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strips(*_: object) -> Iterator[np.ndarray]:
        yield np.zeros((3, 8, 60), np.float32)
        raise RunError("the network fails")

    source = write(tmp_path / "in/a.png", SMALL)
    monkeypatch.setattr(Tiling, "strips", strips)
    result = upscale(tiny_realtime, source, tmp_path / "out")
    assert [one.reason for one in result.failed] == ["the network fails"]
    assert not list((tmp_path / "out").iterdir())


def test_outputs_are_no_inputs_of_the_next_run(tiny_realtime: Path, tmp_path: Path) -> None:
    write(tmp_path / "in/a.png", SMALL)
    for _ in range(2):
        result = upscale(tiny_realtime, tmp_path / "in", tmp_path / "in/out")
        assert [one.source.name for one in result.done] == ["a.png"]


def test_larger_results_are_reduced(tmp_path: Path) -> None:
    """Half of twice the size is the picture again, but for what the network changes."""
    source = write(tmp_path / "a.png", photograph()[:64, :96])
    result = upscale(CHECKPOINT, source, tmp_path / "b.png", fit="64x500")
    assert result.done[0].output_size == Size(64, 96)
    assert np.abs(shown(tmp_path / "b.png") - shown(source)).mean() < 0.02
    assert read_picture(tmp_path / "b.png").dpi == pytest.approx((100, 100), rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["in", "-o", "in"], "is also an input"),
        (["in", "x.jpg", "-o", "out"], "there is no x.jpg"),
        (["in", "in2", "-o", "out"], "would both become"),
        (["in", "-o", "one.png"], "give a folder for several inputs"),
        (["in/a.png", "-o", "b.gif.webp", "--format", "png"], "contradict"),
        (["in", "-o", "out", "--format", "gif"], "use one of png"),
        (["in", "-o", "out", "--tile", "20x20"], "--tile 20x20 is too small"),
        (["empty", "-o", "out"], "no picture"),
    ],
)
def test_refusals(
    arguments: list[str], words: str, tiny_realtime: Path, tmp_path: Path, run_here: RunHere
) -> None:
    write(tmp_path / "in/a.png", photograph()[:40, :40])
    write(tmp_path / "in2/a.png", SMALL)
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*.*"))
    done = run_here("upscale", tiny_realtime, *arguments)
    assert done.code == 3
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(tmp_path.rglob("*.*")) == before


def test_what_upscales_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="does not upscale pictures"):
        upscale(small_checkpoint(tmp_path / "g.safetensors"), PHOTOGRAPH, tmp_path / "o.png")


def test_a_strip_is_gone_before_the_next_is_asked_for(
    tiny_realtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strips(self: TiledRunner, feeds: object) -> Iterator[Strip]:
        for number in range(3):
            made = [Strip("output", number, np.ones((1, 3, 8, 8), np.float32))]
            rows = ref(made[0].rows)
            yield made.pop()
            assert rows() is None

    monkeypatch.setattr(TiledRunner, "strips", strips)
    model = open_model(tiny_realtime, OnnxBackend.ONNXRUNTIME, NetworkOptions())
    tiling = Tiling(model, Size(32, 32))
    assert len(list(tiling.strips(np.zeros((3, 64, 64), np.uint8), 255))) == 3


def test_pictures_at_a_time_share_the_memory(
    tiny_realtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paragon_export.upscaling.tiles.available_memory", lambda: 10**9)
    monkeypatch.setattr("paragon_export.upscaling.model.cores", lambda: 4)
    model = open_model(tiny_realtime, OnnxBackend.ONNXRUNTIME, NetworkOptions())
    model = replace(model, open_again=lambda threads: model.runner)
    alone = Tiling(model, "auto", bytes_per_pixel=1000)
    several = Tiling(model, "auto", bytes_per_pixel=1000, several=True)
    assert alone.tile_for(Size(600, 700)) is None
    assert several.tile_for(Size(350, 350)) is None
    for tile in (several.tile_for(Size(600, 700)), alone.tile_for(Size(900, 900))):
        assert tile is not None
        assert 4 * tile.height * tile.width * 1000 <= 10**9 / 2


def test_a_checkpoint_says_that_pytorch_runs_it(tiny_realtime: Path, tmp_path: Path) -> None:
    export_onnx(tiny_realtime, tmp_path / "o.onnx")
    for file, is_said in (
        (tiny_realtime, not torch.cuda.is_available()),
        (tmp_path / "o.onnx", False),
    ):
        model = open_model(file, OnnxBackend.ONNXRUNTIME, NetworkOptions())
        assert any("runs in PyTorch" in note for note in model.notes) == is_said


def test_tiles_are_chosen_where_memory_is_short(
    tiny_realtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_model(tiny_realtime, OnnxBackend.ONNXRUNTIME, NetworkOptions())
    monkeypatch.setattr("paragon_export.upscaling.tiles.available_memory", lambda: 10**9)
    assert Tiling(model, "auto", bytes_per_pixel=1000).tile_for(Size(600, 700)) is None
    assert Tiling(model, "auto", bytes_per_pixel=5000).tile_for(Size(600, 700)) == Size(316, 316)
    assert Tiling(model, "none", bytes_per_pixel=5000).tile_for(Size(600, 700)) is None
    with pytest.raises(PlanError, match="enough for 22x22"):
        Tiling(model, "auto", bytes_per_pixel=1e6).tile_for(Size(600, 700))


def test_means_of_tiles_are_those_of_the_picture(tiny_pro: Path, tmp_path: Path) -> None:
    """A checkpoint that sees the whole picture by means gives the same file in tiles, and says what it costs."""
    source = write(tmp_path / "a.png", photograph()[:45, :230])
    whole = upscale(tiny_pro, source, tmp_path / "whole.png", tile="none")
    tiled = upscale(tiny_pro, source, tmp_path / "tiled.png", tile="208x208")
    assert tiled.done[0].tile == Size(208, 208)
    assert (
        np.abs(shown(tmp_path / "whole.png") - shown(tmp_path / "tiled.png")).max()
        <= 1 / 255 + 1e-6
    )
    assert not any("means" in text for text in whole.notes)
    assert [text for text in tiled.notes if "2 passes" in text]
    assert tiled.blend is None


@pytest.mark.parametrize("kind", ["checkpoint", pytest.param("onnx", marks=pytest.mark.slow)])
def test_blended_tiles_are_asked_for_and_measured(
    kind: str, tiny_pro: Path, tmp_path: Path, run_here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file needs --blend; a checkpoint is blended with it, too."""
    monkeypatch.setattr("paragon_export.tiling.field.MAX_REACH_PX", 64)  # for speed
    pixels = photograph()[:70, :90].copy()
    pixels[:, :40] *= 0.3
    source, model = write(tmp_path / "a.png", pixels), tiny_pro
    arguments = [source, "-o", "b.png", "--tile", "32x48"]
    if kind == "onnx":
        model = tmp_path / "o.onnx"
        export_onnx(tiny_pro, model)
        refused = run_here("upscale", model, *arguments)
        assert (refused.code, "--blend" in refused.stderr) == (3, True)
        assert not (tmp_path / "b.png").exists()

    done = run_here("upscale", model, *arguments, "--blend", "--json")

    assert done.code == 0, done.stderr
    document = json.loads(done.stdout)
    found = document["blend"]
    assert (found["tile"], found["size"]) == ("32x48", "64x90")
    assert 0 < found["largest"] < 0.5
    psnr = f"{found['psnr_db']:.1f} dB"
    assert [text for text in document["notes"] if psnr in text]
    error = np.abs(shown(tmp_path / "b.png") - expected(tiny_pro, shown(source)))
    assert error.max() > 1 / 255
    middle = error[6:-6]  # what was compared; the tiles of the picture begin elsewhere
    assert middle.max() < 4 * found["largest"] + 1 / 255


def test_what_tiles_give_exactly_is_not_blended(tiny_realtime: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "a.png", photograph()[:90, :70])
    upscale(tiny_realtime, source, tmp_path / "whole.png", tile="none")
    result = upscale(tiny_realtime, source, tmp_path / "b.png", tile="48x48", blend=True)
    assert result.done[0].tile == Size(48, 48)
    assert (result.blend, result.to_json()["blend"]) == (None, None)
    assert np.abs(shown(tmp_path / "b.png") - shown(tmp_path / "whole.png")).max() <= 1 / 255 + 1e-6


def test_blended_tiles_are_chosen_with_room_for_what_they_are_compared_with(
    tiny_pro: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_model(tiny_pro, OnnxBackend.ONNXRUNTIME, NetworkOptions())
    monkeypatch.setattr("paragon_export.upscaling.tiles.available_memory", lambda: 10**9)
    auto = Tiling(model, "auto", bytes_per_pixel=5000, blend=True)
    assert auto.tile_for(Size(600, 700)) == Size(144, 144)
    large = Tiling(model, Size(400, 400), bytes_per_pixel=5000, blend=True)
    with pytest.raises(PlanError, match="compared with 600x700 pixels at once"):
        large.runner_for(np.zeros((3, 600, 700), np.uint8), 255)
    narrow = Tiling(replace(model, largest=Size(64, 64)), Size(64, 64), blend=True)
    with pytest.raises(PlanError, match="cannot be compared with the whole at 64x64"):
        narrow.runner_for(np.zeros((3, 100, 100), np.uint8), 255)


def test_what_is_blended(tiny_pro: Path) -> None:
    """Only if it is asked for; and no file of one size, which no whole picture can be compared with."""

    def find_field() -> Field:
        raise InexactTilesError("pixels depend on all others")

    model = open_model(tiny_pro, OnnxBackend.ONNXRUNTIME, NetworkOptions())
    black = np.zeros((3, 64, 64), np.uint8)
    unknown = replace(model, find_field=find_field)
    asked = Tiling(unknown, Size(32, 32), blend=True)
    assert isinstance(asked.runner_for(black, 255), BlendedRunner)
    fixed = Tiling(replace(unknown, fixed=Size(32, 32)), Size(32, 32), blend=True)
    with pytest.raises(InexactTilesError, match=r"depend on all others$"):
        fixed.runner_for(black, 255)
    with pytest.raises(InexactTilesError, match="depend on all others; --blend computes"):
        Tiling(unknown, Size(32, 32)).runner_for(black, 255)


def test_a_cluster_does_not_blend(tiny_pro: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "a.png", SMALL)
    with pytest.raises(PlanError, match="leave out --ray"):
        upscale(tiny_pro, source, tmp_path / "b.png", blend=True, ray="local")
