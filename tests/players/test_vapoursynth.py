"""Scripts for VapourSynth: what they say of a model, what is refused, and where tiles lie."""

from __future__ import annotations

import ast
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from paragon_export import Profile
from paragon_export.errors import PlanError
from paragon_export.graph.onnx_io import read_onnx_file
from paragon_export.networks.describe import load_network
from paragon_export.pipeline.float32_graph import finish, float32_graph
from paragon_export.players.overlap import overlap_of
from paragon_export.players.vapoursynth import BODY, vapoursynth_script
from paragon_export.runtimes.open import open_runner
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.types import OnnxBackend, Size
from paragon_export.testing.tiny import tiny_checkpoint
from tests.conftest import RunHere
from tests.written_engine import write_engine

pytestmark = pytest.mark.usefixtures("foreign_files_here")


def write(checkpoint: Path, path: Path, **options: Any) -> Path:
    """Write an export without its verdict, which other tests are about."""
    plan = ExportPlan(checkpoint=checkpoint, output=path, **options)
    graph = float32_graph(load_network(checkpoint), plan)
    path.write_bytes(finish(graph, graph.model, plan).data)
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_realtime: Path) -> dict[str, Path]:
    """Return small networks: Realtime of any size, of one size, on video, x3; and Photo."""
    folder = tmp_path_factory.mktemp("models")
    triple = tiny_checkpoint(folder / "x3.safetensors", scale=3)
    photo = tiny_checkpoint(folder / "photo.safetensors", "photo")
    return {
        "any": write(tiny_realtime, folder / "any.onnx"),
        "static": write(tiny_realtime, folder / "static.onnx", static=Size(48, 64)),
        "video": write(tiny_realtime, folder / "video.onnx", video=True),
        "x3": write(triple, folder / "x3.onnx"),
        "photo": write(photo, folder / "photo.onnx"),
    }


def constants(script: str) -> dict[str, Any]:
    """Return the constants at the top of a script that are literals."""
    found = {}
    for node in ast.parse(script).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return found


def function(name: str) -> Callable[..., Any]:
    """Return a function of the scripts that needs no VapourSynth."""
    tree = ast.parse(BODY.read_text("utf-8"))
    (node,) = (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)
    names: dict[str, Any] = {}
    exec(compile(ast.Module([node], []), str(BODY), "exec"), names)
    return names[name]


def test_a_script_says_what_its_model_takes(models: dict[str, Path]) -> None:
    """Names, types and sizes; the overlap is in pixels of the output."""
    path = models["x3"]
    said = constants(vapoursynth_script(path, path.with_suffix(".vpy")))

    assert said["PLUGIN"] == "ort"
    assert (said["CHANNELS"], said["IS_HALF"], said["STREAMS"]) == (3, False, 1)
    assert said["SIZES"] == ()
    assert said["OVERLAP"] == 3 * (overlap_of(read_onnx_file(path)).pixels or 0) > 0


@pytest.mark.parametrize(
    ("backend", "plugin", "streams"),
    [(OnnxBackend.CUDA, "ort", 2), (OnnxBackend.OPENVINO, "ov", 1)],
)
def test_a_backend_chooses_the_plugin(
    backend: OnnxBackend, plugin: str, streams: int, models: dict[str, Path]
) -> None:
    script = vapoursynth_script(models["any"], Path("s.vpy"), backend=backend)
    said = constants(script)

    assert (said["PLUGIN"], said["STREAMS"]) == (plugin, streams)


def test_sizes_are_those_of_the_model_or_of_tiles(models: dict[str, Path]) -> None:
    """A model of one size takes that alone; ``tile`` bounds one of any size."""
    static = constants(vapoursynth_script(models["static"], Path("s.vpy")))
    tiled = constants(vapoursynth_script(models["any"], Path("s.vpy"), tile=Size(30, 40)))

    assert static["SIZES"] == (((48, 64), (48, 64)),)
    assert tiled["SIZES"] == (((1, 1), (30, 40)),)


def test_an_engine_says_its_plugin_and_its_sizes(models: dict[str, Path], tmp_path: Path) -> None:
    """From its manifest; the overlap from the ONNX file beside it, and none without that file."""
    profile = Profile(smallest=Size(8, 8), optimal=Size(16, 24), largest=Size(48, 64))
    engine = write_engine(models["any"], tmp_path / "e.engine", profile)

    said = constants(vapoursynth_script(engine, tmp_path / "s.vpy"))
    assert (said["PLUGIN"], said["OPTIONS"], said["STREAMS"]) == ("trt_rtx", {}, 2)
    assert (said["SIZES"], said["IS_HALF"]) == ((((8, 8), (48, 64)),), False)
    assert said["OVERLAP"] > 0

    tiled = constants(vapoursynth_script(engine, tmp_path / "s.vpy", tile=Size(32, 640)))
    assert tiled["SIZES"] == (((8, 8), (32, 64)),)

    (tmp_path / "e.engine.onnx").unlink()
    assert constants(vapoursynth_script(engine, tmp_path / "s.vpy"))["OVERLAP"] is None
    (tmp_path / "e.engine.json").unlink()
    with pytest.raises(PlanError, match="no manifest"):
        vapoursynth_script(engine, tmp_path / "s.vpy")


def test_the_model_is_named_relative_to_its_script(tmp_path: Path, models: dict[str, Path]) -> None:
    """Both can be moved together. Quotes, backslashes and bytes in names do no harm."""
    model = tmp_path / "a\"b\\c'{d}\udcff.onnx"
    model.write_bytes(models["any"].read_bytes())
    for script in (tmp_path / "s.vpy", tmp_path / "below" / "s.vpy"):
        first = ast.parse(vapoursynth_script(model, script)).body[1]
        assert isinstance(first, ast.Assign)
        place = eval(ast.unparse(first.value), {"Path": Path, "__file__": str(script)})
        assert place == model
    assert "__file__" in vapoursynth_script(model, tmp_path / "s.vpy").split("PLUGIN")[0]


def test_what_no_player_runs_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    """In one line that says what to do."""
    with pytest.raises(PlanError, match="without --video"):
        vapoursynth_script(models["video"], Path("s.vpy"))
    with pytest.raises(PlanError, match="attention windows"):
        vapoursynth_script(models["photo"], Path("s.vpy"), tile=Size(30, 40))
    with pytest.raises(PlanError, match="does not take 30x40"):
        vapoursynth_script(narrow(tmp_path), Path("s.vpy"), tile=Size(30, 40))
    with pytest.raises(PlanError, match="3 channels to 2"):
        vapoursynth_script(narrow(tmp_path, channels=2), Path("s.vpy"))
    double = saved(
        tmp_path / "double.onnx", (1, 2, 8, 8),
        [onnx.helper.make_node("Relu", ["input"], ["output"])], channels=2,
    )  # fmt: skip
    with pytest.raises(PlanError, match="2 channels to 2"):
        vapoursynth_script(double, Path("s.vpy"))
    no_picture = onnx.load(models["static"])
    next(p for p in no_picture.metadata_props if p.key == "is_picture").value = "false"
    (tmp_path / "map.onnx").write_bytes(no_picture.SerializeToString())
    with pytest.raises(PlanError, match="gives no picture"):
        vapoursynth_script(tmp_path / "map.onnx", Path("s.vpy"))
    half = onnx.load(models["any"])
    half.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.BFLOAT16
    (tmp_path / "half.onnx").write_bytes(half.SerializeToString())
    with pytest.raises(PlanError, match="--io fp32"):
        vapoursynth_script(tmp_path / "half.onnx", Path("s.vpy"))


def saved(
    path: Path, shape: tuple[Any, ...], nodes: list[onnx.NodeProto], *, channels: int = 3,
    **weights: np.ndarray,
) -> Path:  # fmt: skip
    """Write a graph from ``input`` to ``output``, which has ``channels``."""
    given, made = (
        onnx.helper.make_tensor_value_info(name, 1, dims)
        for name, dims in (("input", shape), ("output", (shape[0], channels, *shape[2:])))
    )
    values = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = onnx.helper.make_graph(nodes, "g", [given], [made], values)
    opsets = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def narrow(folder: Path, kernel: tuple[int, int] = (3, 3), *, channels: int = 3) -> Path:
    """Return a model of one size whose overlap is known: one convolution."""
    weight = np.ones((channels, 3, *kernel), np.float32)
    down, right = (extent // 2 for extent in kernel)
    node = onnx.helper.make_node(
        "Conv", ["input", "w"], ["output"], pads=[down, right, down, right]
    )
    return saved(folder / "narrow.onnx", (1, 3, 48, 64), [node], channels=channels, w=weight)


def test_the_overlap_of_a_model_of_one_size(models: dict[str, Path], tmp_path: Path) -> None:
    """That of a convolution is one pixel; that of a network is as of the file of any size."""
    found = overlap_of(read_onnx_file(narrow(tmp_path)))
    assert (found.pixels, found.scale) == (1, 1)
    static, dynamic = (overlap_of(read_onnx_file(models[name])) for name in ("static", "any"))
    assert static == dynamic
    tall = overlap_of(read_onnx_file(narrow(tmp_path, (7, 1))))
    assert tall.pixels == 3


def test_a_network_that_sees_the_whole_picture_has_no_tiles(
    models: dict[str, Path], tmp_path: Path
) -> None:
    """Of any size by ``tiling``; of one size because the middle is seen at the ends."""
    for path in (narrow(tmp_path, (95, 1)), mean(tmp_path, 48), mean(tmp_path, "h")):
        found = overlap_of(read_onnx_file(path))
        assert (found.pixels, bool(found.obstacle)) == (None, True)


@pytest.mark.slow  # 1.8 s: two steps are tried
def test_windows_that_a_file_does_not_name_are_found(
    models: dict[str, Path], tmp_path: Path
) -> None:
    """By the steps at which tiles give the whole picture: vs-mlrt keeps none of them."""
    model = onnx.load(models["photo"])
    del model.metadata_props[:]
    (tmp_path / "photo.onnx").write_bytes(model.SerializeToString())
    found = overlap_of(read_onnx_file(tmp_path / "photo.onnx"))
    assert (found.pixels, "blocks of" in found.obstacle) == (None, True)


def mean(folder: Path, height: int | str) -> Path:
    """Return a model that adds the mean over the picture to it."""
    shape = (1, 3, height, 64 if isinstance(height, int) else "w")
    nodes = [
        onnx.helper.make_node("GlobalAveragePool", ["input"], ["m"]),
        onnx.helper.make_node("Add", ["input", "m"], ["output"]),
    ]
    return saved(folder / "mean.onnx", shape, nodes)


def test_the_measured_overlap_is_the_least_that_shows_no_seam(models: dict[str, Path]) -> None:
    """Left part of a picture: right up to the overlap from its cut, wrong one pixel farther."""
    pixels = overlap_of(read_onnx_file(models["any"])).pixels
    assert pixels is not None
    runner = open_runner(models["any"])
    image = np.random.default_rng(1).random((1, 3, 40, 80), dtype=np.float32)
    whole, part = (runner.infer({"input": i})["output"] for i in (image, image[..., :60]))

    right = 2 * (60 - pixels)
    assert np.array_equal(whole[..., :right], part[..., :right])
    assert not np.array_equal(whole[..., : right + 2], part[..., : right + 2])


def covered(extent: int, tile: int, overlap: int, scale: int) -> list[tuple[int, int]]:
    """Return from and to where each tile of vs-mlrt is kept, in pixels of the output."""
    places = [*range(0, extent - tile, tile - 2 * overlap), extent - tile]
    return [
        (
            scale * place + (overlap if place else 0),
            scale * (place + tile) - (overlap if place + tile < extent else 0),
        )
        for place in dict.fromkeys(places)
    ]


@pytest.mark.parametrize("extent", [65, 97, 104, 320])
def test_tiles_cover_the_axis(extent: int) -> None:
    """Whatever is kept of a tile is at least the overlap away from its cut sides."""
    tile, overlap = function("tile_and_overlap")(extent, 1, 64, 12)
    kept = covered(extent, tile, overlap, 2)
    assert (tile, overlap) == (64, 12)
    assert kept[0][0] == 0
    assert kept[-1][1] == 2 * extent
    assert all(before[1] >= after[0] for before, after in itertools.pairwise(kept))


def test_tiles_that_cannot_be_are_none() -> None:
    """A picture below the least size, and tiles no larger than their overlap."""
    fitted = function("tile_and_overlap")
    assert fitted(64, 1, 64, 12) == (64, 0)
    assert fitted(10, 16, 64, 4) is None
    assert fitted(100, 1, 20, 10) is None
    assert fitted(100, 1, 21, 10) == (21, 10)


def test_the_command_writes_a_script_that_compiles(
    models: dict[str, Path], run_here: RunHere, tmp_path: Path
) -> None:
    """By default next to nothing: in the folder where the command runs."""
    done = run_here("script", models["any"], "--for", "vapoursynth", "--json")
    assert done.code == 0, done.stderr
    assert json.loads(done.stdout)["written"] == "any.vpy"
    compile((tmp_path / "any.vpy").read_text(), "any.vpy", "exec")
    again = run_here("script", models["any"], "--streams", "3")
    assert (again.code, "replaced any.vpy" in again.stderr) == (0, True)
    assert constants((tmp_path / "any.vpy").read_text())["STREAMS"] == 3


def test_the_command_keeps_scripts_of_others(
    models: dict[str, Path], run_here: RunHere, tmp_path: Path
) -> None:
    """And refuses a checkpoint and names that no player knows, in one line."""
    (tmp_path / "any.vpy").write_text("mine")
    assert run_here("script", models["any"]).code == 3
    assert (tmp_path / "any.vpy").read_text() == "mine"
    for wrong in (("-o", "a.py"), ("--tile", "0x3"), ("-o", models["any"])):
        done = run_here("script", models["any"], *wrong)
        assert (done.code, len(done.stderr.splitlines())) == (3, 1)
