"""ONNX files of other tools: other port and axis names, fixed extents, and ports that do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from paragon_export.bench import measure
from paragon_export.bench.measure import benchmark
from paragon_export.errors import PlanError
from paragon_export.graph.onnx_io import read_onnx_file
from paragon_export.inputs import probes
from paragon_export.inputs.fit import fitted
from paragon_export.inputs.probes import Probe
from paragon_export.parity.check import check_parity, judge_conversion
from paragon_export.pipeline.audit_ranges import audit_ranges
from paragon_export.pipeline.export import export
from paragon_export.precision import attribution
from paragon_export.precision.half import to_precision
from paragon_export.runtimes.open import open_runner
from paragon_export.specs.plans import EnginePlan, ExportPlan, NetworkOptions
from paragon_export.specs.ports import FixedExtents, PortNames
from paragon_export.specs.profiles import Profile
from paragon_export.specs.types import Precision, Size
from tests.conftest import RunHere

pytestmark = pytest.mark.usefixtures("foreign_files_here", "same_engines_once")

OPTIONS = NetworkOptions(flags={"upsampler_alpha": 0.0})

Axes = Sequence[int | str]


@pytest.fixture(scope="module")
def good(tiny_realtime: Path, tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    """Return an export without its metadata."""
    path = tmp_path_factory.mktemp("good") / "good.onnx"
    assert export(ExportPlan(checkpoint=tiny_realtime, output=path, options=OPTIONS)).passed
    model = onnx.load(path)
    del model.metadata_props[:]
    return model


def renamed(model: onnx.ModelProto, names: dict[str, str]) -> None:
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for port in (*model.graph.input, *model.graph.output):
        port.name = names.get(port.name, port.name)


def with_axes(port: onnx.ValueInfoProto, axes: Axes) -> None:
    kind = port.type.tensor_type.elem_type
    port.CopyFrom(helper.make_tensor_value_info(port.name, kind, axes))


def weights_as_inputs(model: onnx.ModelProto) -> None:
    """List the weights among the inputs, as files before 2019 do."""
    for weight in model.graph.initializer:
        port = helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
        model.graph.input.append(port)


def wrong_names_inside(model: onnx.ModelProto) -> None:
    """Give the results of layers, the enlarged picture included, the axes of the input.

    Rows and columns at the edges keep theirs: ONNX Runtime itself fails on files that give them these.
    """
    for value in onnx.shape_inference.infer_shapes(model).graph.value_info:
        kind = value.type.tensor_type
        dims = kind.shape.dim
        if kind.elem_type == TensorProto.FLOAT and len(dims) == 4 and dims[1].dim_value:
            axes = ["batch", dims[1].dim_value, "height", "width"]
            model.graph.value_info.append(helper.make_tensor_value_info(value.name, 1, axes))


def foreign(
    good: onnx.ModelProto,
    path: Path,
    names: dict[str, str] | None = None,
    image: Axes = ("batch", 3, "height", "width"),
    result: Axes = ("batch", 3, "height", "width"),
    change: Callable[[onnx.ModelProto], None] | None = None,
) -> Path:
    """Write a copy with other names; the output's axes are named as the input's by default."""
    model = onnx.ModelProto()
    model.CopyFrom(good)
    with_axes(model.graph.input[0], image)
    with_axes(model.graph.output[0], result)
    if names:
        renamed(model, names)
    if change:
        change(model)
    onnx.save(model, path)
    return path


SERVED: dict[str, tuple[dict[str, str], Axes, Axes]] = {
    "axes of the output named as the input's": (
        {"input": "input.1", "output": "1234"}, ["b", 3, "h", "w"], ["b", 3, "h", "w"],
    ),
    "height and width swapped": (
        {"input": "x", "output": "y"}, ["b", 3, "w", "h"], ["b", 3, "w2", "h2"],
    ),
    "one name for all axes": ({}, ["d", 3, "d", "d"], ["d", 3, "d", "d"]),
    "ports swapped": ({"input": "output", "output": "input"}, ["b", 3, "h", "w"], ["b", 3, "", ""]),
}  # fmt: skip


@pytest.mark.parametrize(("names", "image", "result"), SERVED.values(), ids=SERVED.keys())
def test_names_do_not_matter(
    names: dict[str, str],
    image: Axes,
    result: Axes,
    good: onnx.ModelProto,
    tiny_realtime: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One picture in and one out are judged, audited, timed and run under any names."""
    path = foreign(good, tmp_path / "net.onnx", names, image, result)
    assert check_parity(tiny_realtime, [path], sizes=["9x12"], options=OPTIONS).passed
    monkeypatch.setattr(probes, "STRESS", {"noise": probes.STRESS["noise"]})
    monkeypatch.setattr(attribution, "MAX_RUNS", 4)
    ranges = audit_ranges(path)
    assert ranges.passed
    assert names.get("output", "output") in {row.name for row in ranges.tensors}
    cpu = benchmark([path], sizes=["8x8"]).rows[0]
    assert cpu.samples_ms, cpu.reason
    picture = np.zeros((1, 3, 5, 6), np.float32)
    assert open_runner(path).infer({"input": picture})["output"].shape == (1, 3, 10, 12)


def unused_imports(model: onnx.ModelProto) -> None:
    """Import operator sets of which no operator is used, as files that ONNX Runtime saved do."""
    (standard,) = (each for each in model.opset_import if not each.domain)
    model.opset_import.add(domain="ai.onnx", version=standard.version)  # as onnx.compose does
    for domain in ("ai.onnx.ml", "com.microsoft.nchwc", "pkg.onnxscript.torch_lib"):
        model.opset_import.add(domain=domain, version=1)


@pytest.mark.parametrize("change", [weights_as_inputs, wrong_names_inside, unused_imports])
def test_what_old_files_declare_does_not_matter(
    change: Callable[[onnx.ModelProto], None],
    good: onnx.ModelProto,
    tiny_realtime: Path,
    tmp_path: Path,
) -> None:
    path = foreign(good, tmp_path / "net.onnx", change=change)
    assert check_parity(tiny_realtime, [path], sizes=["9x12"], options=OPTIONS).passed
    assert audit_ranges(path).passed


def test_a_wrong_file_with_other_names_fails(
    good: onnx.ModelProto, tiny_realtime: Path, tmp_path: Path
) -> None:
    """The verdict looks at the pictures behind the names."""

    def weaker(model: onnx.ModelProto) -> None:
        last = model.graph.node[-1]
        last.output[0] = "sharp"
        model.graph.node.append(helper.make_node("Mul", ["sharp", "gain"], ["y"]))
        model.graph.initializer.append(helper.make_tensor("gain", 1, [], [0.999]))

    names = {"input": "x", "output": "y"}
    path = foreign(good, tmp_path / "net.onnx", names, change=weaker)
    report = check_parity(tiny_realtime, [path], sizes=["9x12"], options=OPTIONS)
    assert not report.passed
    assert all(not row.fault for row in report.rows)


# --- fixed extents -------------------------------------------------------------------------

FEW_SIZES = [(Size(1, 1), 1), (Size(17, 33), 1), (Size(11, 9), 2)]

FIXED: dict[str, tuple[Axes, str]] = {
    "batch 1": ([1, 3, "h", "w"], "batch 1"),
    "batch 3": ([3, 3, "h", "w"], "batch 3"),
    "height": (["b", 3, 24, "w"], "height 24"),
    "width and batch": ([2, 3, "h", 20], "batch 2, width 20"),
    "all": ([4, 3, 9, 12], "batch 4, height 9, width 12"),
}


@pytest.mark.parametrize(("image", "words"), FIXED.values(), ids=FIXED.keys())
def test_a_file_is_judged_at_its_fixed_extents(
    image: Axes,
    words: str,
    good: onnx.ModelProto,
    tiny_realtime: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every row is at the extents that the file accepts, and a note says so."""
    path = foreign(good, tmp_path / "net.onnx", {"input": "x"}, image)
    monkeypatch.setattr(probes, "default_sizes", lambda window, smallest=1: FEW_SIZES)
    report = check_parity(tiny_realtime, [path], options=OPTIONS)
    assert report.passed
    assert f"net.onnx is fixed to {words}; it is judged there only" in report.notes
    extents = zip(("batch", "height", "width"), (image[0], *image[2:]), strict=True)
    fixed = FixedExtents(**{name: extent for name, extent in extents if isinstance(extent, int)})
    assert {row.size for row in report.rows} == {fixed.at(row.size) for row in report.rows}
    assert {row.batch for row in report.rows} == {fixed.batch} or fixed.batch is None
    monkeypatch.setattr(measure, "DEFAULT_SIZES", (Size(27, 48),))
    row = benchmark([path]).rows[0]
    assert row.samples_ms, row.reason
    assert row.size == fixed.at(Size(27, 48))
    assert row.batch == (fixed.batch if fixed.batch != 1 else None)


def test_half_precision_is_judged_there_too(good: onnx.ModelProto, tmp_path: Path) -> None:
    """The audit and the conversion feed batches that the file accepts."""
    assert audit_ranges(foreign(good, tmp_path / "two.onnx", image=[2, 3, "h", 20])).passed
    file = read_onnx_file(foreign(good, tmp_path / "net.onnx", image=[1, 3, "h", "w"]))
    half = to_precision(file.model, Precision.FP16, Precision.FP32)
    onnx.save(onnx.load_model_from_string(_bytes(half)), tmp_path / "half.onnx")
    report = judge_conversion(file, read_onnx_file(tmp_path / "half.onnx"))
    assert report.passed
    assert "half.onnx is fixed to batch 1; it is judged there only" in report.notes


def _bytes(model: object) -> bytes:
    import onnx_ir as ir

    assert isinstance(model, ir.Model)
    return ir.to_proto(model).SerializeToString()


def test_images_are_cropped_or_mirrored_and_fed_in_groups() -> None:
    frames = tuple(np.arange(3 * 4.0).reshape(3, 1, 2, 2) + 100 * k for k in range(2))
    clip = Probe(label="clip", size=Size(2, 2), frames=frames, blend=(0.0, 0.2))
    (fit,) = fitted([clip], FixedExtents(batch=2, width=3))
    assert fit.size == Size(2, 3)
    assert fit.blend == (0.0, 0.2, 0.0, 0.2)
    np.testing.assert_array_equal(fit.frames[0][:, 0, 0], [[0, 1, 1], [4, 5, 5]])
    np.testing.assert_array_equal(fit.frames[3][:, 0, 0], [[108, 109, 109], [100, 101, 101]])
    (cut,) = fitted([clip, clip], FixedExtents(height=1))
    assert cut.frames[1].shape == (3, 1, 1, 2)
    assert fitted([clip, clip], FixedExtents(batch=3)) == [clip, clip]


def test_other_sizes_are_refused(
    good: onnx.ModelProto, tiny_realtime: Path, tmp_path: Path, run_here: RunHere
) -> None:
    path = foreign(good, tmp_path / "net.onnx", image=["b", 3, 24, "w"])
    with pytest.raises(PlanError, match="fixed to height 24; it does not accept 9x12"):
        check_parity(tiny_realtime, [path], sizes=["9x12"], options=OPTIONS)
    with pytest.raises(PlanError, match="--images is for models of any size"):
        check_parity(tiny_realtime, [path], images=tmp_path, options=OPTIONS)
    done = run_here("bench", path, "--size", "9x12", "--json")
    assert done.code == 1
    assert "fixed to height 24" in json.loads(done.stdout)["rows"][0]["reason"]


def test_profiles_have_the_fixed_extents() -> None:
    """The default profile takes them; another profile is refused."""
    plan = EnginePlan(source=Path("n.onnx"), output=Path("n.engine"))
    profile = plan.profile_for(FixedExtents(batch=4, width=20))
    assert profile == Profile(
        smallest=Size(1, 20), optimal=Size(720, 20), largest=Size(1080, 20), batch=4
    )
    sizes = {"smallest": Size(1, 20), "optimal": Size(2, 20), "largest": Size(3, 20)}
    asked = EnginePlan(source=plan.source, output=plan.output, profile=Profile(**sizes))
    assert asked.profile_for(FixedExtents(batch=4, width=20)) == Profile(**sizes, batch=4)
    with pytest.raises(PlanError, match="fixed to width 21"):
        asked.profile_for(FixedExtents(width=21))
    batched = EnginePlan(source=plan.source, output=plan.output, profile=Profile(**sizes, batch=2))
    with pytest.raises(PlanError, match="fixed to batch 1; give"):
        batched.profile_for(FixedExtents(batch=1))


# --- engines -------------------------------------------------------------------------------


def test_an_engine_is_built_of_a_foreign_file(
    good: onnx.ModelProto, tiny_realtime: Path, tmp_path: Path, run_here: RunHere
) -> None:
    """TensorRT takes axes of one name as equal; names of ports are kept, the batch is the file's."""
    names = {"input": "lr", "output": "sr"}
    foreign(good, tmp_path / "net.onnx", names, [1, 3, "s", "s"], [1, 3, "s", "s"])
    profile = ("--min", "8x8", "--opt", "16x24", "--max", "24x32", "--target", "sm86")
    done = run_here("trt", "net.onnx", "--fp16", "-o", "net.engine", *profile)
    assert done.code == 0, done.stderr
    half = onnx.load(tmp_path / "net.engine.onnx")
    assert [port.name for port in (*half.graph.input, *half.graph.output)] == ["lr", "sr"]
    assert "net.engine.onnx is fixed to batch 1" in done.stderr + done.stdout
    manifest = json.loads((tmp_path / "net.engine.json").read_text())
    assert manifest["parity"]["passed"]
    assert manifest["profile"]["opt"] == "16x24"


# --- what is refused -----------------------------------------------------------------------


def second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("strength", TensorProto.FLOAT, [1]))


def second_output(model: onnx.ModelProto) -> None:
    name = model.graph.node[0].output[0]
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))


def whole_numbers(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8


def without_a_shape(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


def any_channels(model: onnx.ModelProto) -> None:
    with_axes(model.graph.input[0], ["b", "c", "h", "w"])


def channels_last(model: onnx.ModelProto) -> None:
    with_axes(model.graph.input[0], ["b", "h", "w", 3])


def without_a_batch(model: onnx.ModelProto) -> None:
    with_axes(model.graph.input[0], [3, "h", "w"])


REFUSED = {
    second_input: "inputs are ['x', 'strength'] and outputs ['y']",
    second_output: "inputs are ['x'] and outputs ['y', ",
    whole_numbers: "input 'x' has shape (batch, 3, height, width) and type uint8",
    without_a_shape: "input 'x' has no shape",
    any_channels: "input 'x' has shape (b, c, h, w) and type float; expected pictures",
    channels_last: "input 'x' has shape (b, h, w, 3)",
    without_a_batch: "input 'x' has shape (3, h, w)",
}


@pytest.mark.parametrize(
    ("change", "words"), REFUSED.items(), ids=[change.__name__ for change in REFUSED]
)
def test_other_ports_are_refused_by_every_command(
    change: Callable[[onnx.ModelProto], None],
    words: str,
    good: onnx.ModelProto,
    tiny_realtime: Path,
    tmp_path: Path,
    run_here: RunHere,
) -> None:
    """One line, exit code 3, nothing written."""
    foreign(good, tmp_path / "net.onnx", {"input": "x", "output": "y"}, change=change)
    for command in (
        ("parity", tiny_realtime, "net.onnx"),
        ("audit", "net.onnx"),
        ("bench", "net.onnx"),
        ("trt", "net.onnx"),
        ("trt", "net.onnx", "--fp16"),
    ):
        done = run_here(*command)
        assert done.code == 3, (command, done)
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("paragon-export:")]
        assert words in line
        assert done.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_names_of_a_file_are_known(good: onnx.ModelProto, tmp_path: Path) -> None:
    file = read_onnx_file(foreign(good, tmp_path / "net.onnx", {"input": "a", "output": "b"}))
    assert file.names == PortNames(image="a", result="b")
    assert [[port.name for port in ports] for ports in file.ports] == [["input"], ["output"]]
