"""Tiles compute what the whole picture computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from weakref import ref

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from paragon_export.errors import InexactTilesError, PlanError, RunError
from paragon_export.graph.onnx_io import read_onnx_file
from paragon_export.networks.describe import load_network
from paragon_export.parity.reference import TorchReference, build_reference
from paragon_export.pipeline.export import export_onnx
from paragon_export.runtimes.base import Arrays
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.runtimes.torch_runner import TorchRunner
from paragon_export.specs.network import InputSpec, Port
from paragon_export.specs.types import Size
from paragon_export.testing.foreign import foreign_checkpoint
from paragon_export.tiling.field import STEPS, Field, measure_field
from paragon_export.tiling.open import (
    field_of_file,
    field_of_network,
    shift_difference,
    tile_difference,
)
from paragon_export.tiling.plan import least_tile, split
from paragon_export.tiling.run import TiledRunner

PICTURE = (Port("input", ("batch", 3, "height", "width")),)

SPEC = InputSpec(channels=3)


def network(path: Path, *, video: bool = False) -> tuple[TorchReference, Field]:
    reference = build_reference(load_network(path), video=video)
    runner, spec = reference.runner("float32"), reference.input_spec
    return reference, field_of_network(runner, reference.inputs, spec)


def runner_of(module: nn.Module, dtype: str = "float64") -> TorchRunner:
    return TorchRunner(module.eval(), ["input"], ["output"], dtype)


# --- the field ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "margin"),
    [
        ([nn.Conv2d(3, 3, 1)], 0),
        ([nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 5, padding=2)], 3),
        ([nn.Conv2d(3, 3, 3, padding=4, dilation=4), nn.Hardtanh()], 4),
        ([nn.Conv2d(3, 3, (1, 9), padding=(0, 4))], 4),
        ([nn.MaxPool2d(3, 1, 1), nn.PixelShuffle(1)], 1),
        ([nn.ZeroPad2d((0, 0, 2, 0)), nn.Conv2d(3, 3, (3, 1))], 2),
        ([nn.ZeroPad2d((0, 0, 0, 2)), nn.Conv2d(3, 3, (3, 1))], 2),
        ([nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2)], 1),
    ],
)
def test_the_field_is_that_of_the_kernels(layers: list[nn.Module], margin: int) -> None:
    """Also where all weights are zero: they are read."""
    module = nn.Sequential(*layers)
    for parameter in module.parameters():
        parameter.data.zero_()
    assert measure_field(runner_of(module, "float32"), PICTURE) == Field(margin=margin)


def test_means_over_the_picture_in_files_are_refused(tiny_pro: Path, tmp_path: Path) -> None:
    export_onnx(tiny_pro, tmp_path / "o.onnx")
    with pytest.raises(InexactTilesError, match="mean over the whole picture"):
        field_of_file(read_onnx_file(tmp_path / "o.onnx"))


def test_an_operator_that_hides_nan_is_refused() -> None:
    class Hiding(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nan_to_num(x)

    with pytest.raises(PlanError, match="hides NaN"):
        measure_field(runner_of(Hiding(), "float32"), PICTURE)


@pytest.mark.parametrize("name", ["realtime", "stream", "photo"])
def test_a_file_has_the_field_of_its_network(
    name: str, tiny_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    _, field = network(tiny_checkpoints[name])
    export_onnx(tiny_checkpoints[name], tmp_path / "o.onnx")
    assert field_of_file(read_onnx_file(tmp_path / "o.onnx")) == field


def test_files_that_do_not_tell_of_windows(tiny_photo: Path, tmp_path: Path) -> None:
    """Tiles that do not give the whole picture are noticed, and another step is taken."""
    export_onnx(tiny_photo, tmp_path / "o.onnx")
    model = onnx.load(tmp_path / "o.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "o.onnx")
    assert field_of_file(read_onnx_file(tmp_path / "o.onnx")).step == STEPS[0]


@pytest.mark.parametrize(
    "name", ["realtime", "stream", pytest.param("photo", marks=pytest.mark.slow)]
)
def test_a_file_of_one_size(name: str, tiny_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Its field is that of the network, and its tiles give the whole picture."""
    reference, field = network(tiny_checkpoints[name])
    side = -(-least_tile(field) // field.step) * field.step
    path = tmp_path / "o.onnx"
    export_onnx(tiny_checkpoints[name], path, static=Size(side, side + field.step))
    file = read_onnx_file(path)
    found = field_of_file(file)
    assert found == field

    feeds = {
        "input": np.random.default_rng(0).random(
            (1, 3, side + 4 * field.step, 2 * side), np.float32
        )
    }
    tiled = TiledRunner(OnnxRunner(path), found, file.static, fixed=True).infer(feeds)["output"]
    whole = reference.runner("float64").infer(feeds)["output"]
    assert np.abs(tiled - whole).max() < 1e-5


def test_a_file_of_one_small_size_is_refused(tiny_stream: Path, tmp_path: Path) -> None:
    _, field = network(tiny_stream)
    least = least_tile(field)
    for side, reason in (
        (2 * field.margin, "as far away as the edges"),
        (least - 1, f"need {least}x{least}"),
    ):
        export_onnx(tiny_stream, tmp_path / "o.onnx", static=Size(side, side))
        with pytest.raises(PlanError, match=reason):
            field_of_file(read_onnx_file(tmp_path / "o.onnx"))


@pytest.mark.parametrize("axis", [2, 3])
def test_tiles_that_depend_on_their_place_are_noticed(axis: int) -> None:
    """A network that adds its rows' or columns' number does not give the whole picture in tiles."""

    class Numbered(nn.Module):
        def __init__(self, period: int) -> None:
            super().__init__()
            self.period = period

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            number = torch.arange(x.shape[axis]) % self.period
            return x + (number[:, None] if axis == 2 else number)

    size, field = Size(48, 64), Field(margin=0, step=4)
    periodic, numbered = (runner_of(Numbered(period), "float32") for period in (4, 1000))
    assert shift_difference(periodic, PICTURE, field, size) < 1e-6
    assert shift_difference(numbered, PICTURE, field, size) > 0.01


def test_an_operator_that_hides_nan_in_a_file(tmp_path: Path) -> None:
    node = onnx.helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[5, 5], pads=[2, 2, 2, 2])
    ports = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3, "h", "w"])
        for name in ("x", "y")
    ]
    graph = onnx.helper.make_graph([node], "g", ports[:1], ports[1:])
    imports = [onnx.helper.make_opsetid("", 20)]
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=imports, ir_version=9), tmp_path / "o.onnx"
    )
    assert field_of_file(read_onnx_file(tmp_path / "o.onnx")) == Field(margin=2)


class Blocks(nn.Module):
    """Means of blocks of 4x4, at the size of the picture."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = nn.functional.avg_pool2d(x, 4, ceil_mode=True)
        return nn.functional.interpolate(means, scale_factor=4)[..., : x.shape[2], : x.shape[3]]


def test_the_smaller_step_is_taken_if_it_is_right() -> None:
    local = nn.Conv2d(3, 3, 3, padding=1)
    spec = InputSpec(channels=3, window=1, excerpt_step=4)
    assert field_of_network(runner_of(local, "float32"), PICTURE, spec) == Field(margin=1, step=1)
    assert field_of_network(runner_of(Blocks(), "float32"), PICTURE, spec) == Field(0, step=4)


def test_what_is_known_to_see_all_is_not_run() -> None:
    with pytest.raises(PlanError, match="depends on the whole picture"):
        field_of_network(None, PICTURE, InputSpec(excerpt_step=0))  # type: ignore[arg-type]


# --- the plan -------------------------------------------------------------------------------


@given(
    extent=st.integers(1, 900), margin=st.integers(0, 30), step=st.sampled_from([1, 2, 8, 16]),
    more=st.integers(0, 100),
)  # fmt: skip
def test_cores_cover_an_axis_far_from_every_cut(
    extent: int, margin: int, step: int, more: int
) -> None:
    """Each row is computed once, at its phase, and a margin away from where parts were joined."""
    field = Field(margin=margin, step=step)
    tile = least_tile(field) + more
    parts = split(extent, field, tile)
    computed = []
    for part in parts:
        assert part.length <= tile
        read = np.concatenate([np.arange(*span) for span in part.spans])
        for core in part.cores:
            inside = np.arange(core.inside, core.inside + core.length)
            assert (read[inside] - inside == core.at - core.inside).all()
            assert (core.at - core.inside) % step == 0
            low, high = core.at - margin, core.at + core.length + margin
            assert set(range(max(low, 0), min(high, extent))) <= set(read.tolist())
            computed += list(range(core.at, core.at + core.length))
            cuts = np.flatnonzero(np.diff(read) != 1) + 1
            edges = [
                *cuts,
                *([0] if read[0] else []),
                *([len(read)] if read[-1] < extent - 1 else []),
            ]
            assert all(
                edge <= core.inside - margin or edge >= core.inside + core.length + margin
                for edge in edges
            )
    assert sorted(computed) == list(range(extent))
    assert (extent - parts[0].length) % step == 0
    assert len({part.length for part in parts[1:]}) <= 1


def test_small_tiles_are_refused() -> None:
    with pytest.raises(PlanError, match="use at least 26"):
        split(100, Field(margin=6), 25)


@pytest.mark.parametrize(("extent", "fits"), [(64, True), (80, True), (300, False), (63, False)])
def test_a_fixed_size_is_kept_or_refused(extent: int, fits: bool) -> None:
    field = Field(margin=5, step=8)
    if fits:
        assert {part.length for part in split(extent, field, 64, fixed=True)} == {64}
    else:
        with pytest.raises(PlanError, match="takes 64 pixels alone"):
            split(extent, field, 64, fixed=True)


# --- what is computed -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size"),
    [("realtime", Size(77, 59)), ("stream", Size(113, 51)), ("photo", Size(197, 19)), ("photo", Size(17, 183))],
)  # fmt: skip
def test_tiles_give_the_whole_picture(
    name: str, size: Size, tiny_checkpoints: dict[str, Path]
) -> None:
    """In float64; with a margin that is one step less they do not."""
    reference, field = network(tiny_checkpoints[name])
    runner, tile = reference.runner("float64"), least_tile(field) + field.step
    feeds = {"input": np.random.default_rng(0).random((1, 3, size.height, size.width))}
    whole = runner.infer(feeds)["output"]

    tiled, less = (
        TiledRunner(runner, f, Size(tile, tile)).infer(feeds)["output"]
        for f in (field, replace(field, margin=field.margin - field.step))
    )

    assert np.abs(tiled - whole).max() < 1e-12
    assert np.abs(less - whole).max() > 1e-4


def test_another_grid_is_wrong(tiny_photo: Path) -> None:
    """Tiles are compared with the whole; for a file of one size, with each other."""
    reference, field = network(tiny_photo)
    runner, inputs = reference.runner("float32"), reference.inputs
    wrong, size = Field(margin=48, step=12), Size(144, 144)
    assert tile_difference(runner, inputs, field, SPEC) < 1e-5
    assert tile_difference(runner, inputs, wrong, SPEC) > 1e-3
    assert shift_difference(runner, inputs, field, size) < 1e-5
    assert shift_difference(runner, inputs, wrong, size) > 1e-3


@pytest.mark.parametrize("name", ["Compact", "SwinIR"])
def test_networks_of_others(name: str, tmp_path: Path) -> None:
    reference, field = network(foreign_checkpoint(tmp_path / "f.pth", name))
    runner, inputs = reference.runner("float32"), reference.inputs
    assert tile_difference(runner, inputs, field, reference.input_spec) < 1e-5


def test_features_of_a_video_are_tiled_too(tiny_realtime: Path) -> None:
    reference, field = network(tiny_realtime, video=True)
    runner = reference.runner("float64")
    rng = np.random.default_rng(0)
    feeds = {
        port.name: rng.random((1, int(port.dims[1]), 61, 47))
        if len(port.dims) == 4
        else np.array(0.5)
        for port in reference.inputs
    }
    whole, tiled = (r.infer(feeds) for r in (runner, TiledRunner(runner, field, Size(32, 32))))
    assert set(whole) == set(tiled)
    assert all(np.abs(whole[name] - tiled[name]).max() < 1e-12 for name in whole)


def test_strips_come_from_top_to_bottom(tiny_realtime: Path) -> None:
    """And tiles are told of as they are done."""
    reference, field = network(tiny_realtime)
    shares: list[float] = []
    runner = TiledRunner(reference.runner("float32"), field, Size(40, 40), done=shares.append)
    strips = list(runner.strips({"input": np.zeros((1, 3, 100, 90), np.float32)}))
    assert [s.top for s in strips] == [0, *np.cumsum([s.rows.shape[2] for s in strips])[:-1]]
    assert strips[-1].top + strips[-1].rows.shape[2] == 200
    assert sum(shares) == pytest.approx(1)


def test_no_strip_is_kept_once_the_next_is_computed(tiny_realtime: Path) -> None:
    """Those of a picture that is 16384 pixels wide take 400 MiB each."""
    reference, field = network(tiny_realtime)
    runner, taken = reference.runner("float32"), []

    class Watched:
        name = "watched"

        def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
            assert all(strip() is None for strip in taken)
            return runner.infer(feeds)

    feeds = {"input": np.zeros((1, 3, 150, 40), np.float32)}
    for strip in TiledRunner(Watched(), field, Size(48, 48)).strips(feeds):
        if strip.top:  # the first part of the rows also holds the last ones
            taken.append(ref(strip.rows))
        del strip
    assert len(taken) > 3


def test_outputs_that_are_no_maps_are_refused() -> None:
    class Mean(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

    tiles = TiledRunner(runner_of(Mean()), Field(margin=1), Size(8, 8))
    with pytest.raises(RunError, match="cannot be computed in tiles"):
        tiles.infer({"input": np.zeros((1, 3, 20, 20))})
