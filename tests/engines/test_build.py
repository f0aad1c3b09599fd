"""Engines: TensorRT-RTX builds what we export, ahead of time, without a warning."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

import paragon_export.engines.build as engine_module
from paragon_export.engines.build import BuiltEngine, compile_engine
from paragon_export.engines.planned_memory import largest_bytes
from paragon_export.errors import EngineBuildError, PlanError, RunError
from paragon_export.graph.onnx_io import read_onnx, read_onnx_file, write_onnx
from paragon_export.graph.simplify import simplify
from paragon_export.graph.trace import trace
from paragon_export.networks.describe import LoadedNetwork, read_network
from paragon_export.networks.paragonsr2.v9_v11.network import ParagonSR2
from paragon_export.parity.reference import build_reference
from paragon_export.precision.half import to_precision
from paragon_export.rewrite.rules import rewrite
from paragon_export.specs.network import Port
from paragon_export.specs.plans import EnginePlan, NetworkOptions
from paragon_export.specs.ports import FixedExtents
from paragon_export.specs.profiles import DEFAULT_PROFILE, Profile, read_recipe
from paragon_export.specs.profiles import RECIPES as SHIPPED
from paragon_export.specs.types import TARGETS, Backend, Precision, Runtime, Size
from paragon_export.testing.tiny import tiny_hyperparameters
from tests.conftest import RunHere

RECIPES = sorted(SHIPPED.glob("*.toml"))

FULL_HD = Profile(smallest=Size(1, 1), optimal=Size(720, 1280), largest=Size(1080, 1920))


@dataclass(frozen=True)
class Models:
    """Exported tiny networks, made once for each variant and precision."""

    folder: Path
    checkpoints: dict[str, Path]

    def file(
        self,
        variant: str,
        precision: Precision = Precision.FP32,
        *,
        static: Size | None = None,
        video: bool = False,
    ) -> Path:
        path = self.folder / f"{variant}_{precision.value}_{static}_{video}.onnx"
        if not path.exists():
            network = read_network(self.checkpoints[variant], NetworkOptions())
            checkpoint, described = network.checkpoint, network.spec
            reference = build_reference(
                LoadedNetwork(checkpoint=checkpoint, spec=described), video=video
            )
            ports = reference.fixed(static) if static else None
            inputs, outputs = ports or (reference.inputs, reference.outputs)
            opset = 22 if precision is Precision.BF16 else 20
            model = simplify(trace(reference.module, inputs, outputs, opset))
            write_onnx(to_precision(model, precision, Precision.FP32), path)
        return path


@pytest.fixture(scope="module")
def models(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoints: dict[str, Path]
) -> Iterator[Models]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Models(tmp_path_factory.mktemp("models"), tiny_checkpoints)
    torch.set_num_threads(threads)


def compiled(
    file: Path, *targets: str, profile: Profile = FULL_HD, backend: Backend = Backend.RTX
) -> BuiltEngine:
    return compile_engine(read_onnx_file(file), backend, targets, profile)


def assert_whole(engine: BuiltEngine) -> None:
    """Check what every engine of ours promises."""
    assert engine.warnings == ()
    assert engine.memory_doubt == ""
    assert len(engine.data) > 1000
    assert engine.activation_bytes is not None
    assert engine.weights_bytes is not None
    assert engine.activation_bytes > 0
    assert engine.weights_bytes > 0
    assert engine.planned_bytes == engine.activation_bytes + engine.weights_bytes


# --- what builds ---------------------------------------------------------------------------


def test_realtime_in_half_precision(models: Models) -> None:
    """A float16 Realtime builds for one target and plans about half the memory of float32."""
    half = compiled(models.file("realtime", Precision.FP16), "sm86")
    wide = compiled(models.file("realtime", Precision.FP32), "sm86")
    assert_whole(half)
    assert_whole(wide)
    assert 0.3 < half.planned_bytes / wide.planned_bytes < 0.7


@pytest.mark.parametrize(
    ("variant", "precision"),
    [
        ("realtime", Precision.BF16),
        ("stream", Precision.FP16),
        ("photo", Precision.FP16),
        ("pro", Precision.FP16),
        # Realtime is built in bfloat16, and Photo in float16:
        pytest.param("photo", Precision.BF16, marks=pytest.mark.slow),
    ],
)
def test_every_variant_builds(models: Models, variant: str, precision: Precision) -> None:
    """Every variant builds from 1x1 to 1080x1920 without a warning, in every precision."""
    assert_whole(compiled(models.file(variant, precision), "sm86"))


@pytest.mark.parametrize(
    ("smallest", "optimal", "largest"),
    [
        (Size(7, 5), Size(15, 17), Size(33, 47)),
        (Size(1, 1), Size(1001, 563), Size(1919, 1081)),
        # One size, and multiples of the window: easier than the odd ones above.
        pytest.param(Size(1, 1), Size(1, 1), Size(1, 1), marks=pytest.mark.slow),
        pytest.param(Size(16, 16), Size(720, 1280), Size(1088, 1920), marks=pytest.mark.slow),
    ],
)
def test_attention_at_any_size(
    models: Models, smallest: Size, optimal: Size, largest: Size
) -> None:
    """No profile is inconsistent for window attention, multiple of the window or not."""
    profile = Profile(smallest=smallest, optimal=optimal, largest=largest)
    assert_whole(compiled(models.file("photo", Precision.FP16), "sm86", profile=profile))


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem[0] == "p" else [])
        for path in RECIPES
    ],
)
def test_shipped_recipes_build(models: Models, recipe: Path) -> None:
    """Every shipped recipe builds for the variant in its name without a warning."""
    variant = recipe.stem.split("-")[0]
    file = models.file(variant, Precision.FP16)
    assert_whole(compiled(file, "sm86", profile=read_recipe(recipe)))


def test_recipes_are_there() -> None:
    """Recipes ship for the four variants at 720p and 1080p."""
    variants = ("realtime", "stream", "photo", "pro")
    wanted = {f"{variant}-{size}" for variant in variants for size in ("720p", "1080p")}
    assert wanted <= {path.stem for path in RECIPES}
    for path in RECIPES:
        frame = Size(720, 1280) if path.stem.endswith("720p") else Size(1080, 1920)
        profile = read_recipe(path)
        assert profile.optimal == frame
        assert profile.smallest == Size(1, 1)


@pytest.mark.parametrize("target", TARGETS)
def test_each_target(models: Models, target: str) -> None:
    """Each GPU generation that is offered can be built for."""
    assert_whole(compiled(models.file("realtime", Precision.FP16), target))


def test_several_targets_in_one_engine(models: Models) -> None:
    """One engine holds several targets and plans for the one that needs most memory."""
    file = models.file("realtime", Precision.FP16)
    turing, ada = compiled(file, "sm75"), compiled(file, "sm89")
    both = compiled(file, "sm75", "sm89")
    assert_whole(both)
    assert both.data not in (turing.data, ada.data)
    assert len(both.data) > max(len(turing.data), len(ada.data))
    assert both.planned_bytes == max(turing.planned_bytes, ada.planned_bytes)


def test_without_a_target(models: Models) -> None:
    """Without a target one engine for Ampere and later is built."""
    assert_whole(compiled(models.file("realtime", Precision.FP16)))


def test_memory_grows_with_the_profile(models: Models) -> None:
    """The planned memory is that of the largest size and batch."""
    file = models.file("realtime", Precision.FP16)
    small = Profile(smallest=Size(1, 1), optimal=Size(64, 64), largest=Size(128, 128))
    batched = Profile(smallest=Size(1, 1), optimal=Size(64, 64), largest=Size(128, 128), batch=4)
    one, four = (compiled(file, "sm86", profile=profile) for profile in (small, batched))
    assert_whole(four)
    assert one.planned_bytes < four.planned_bytes < compiled(file, "sm86").planned_bytes


@pytest.mark.parametrize(
    ("variant", "precision", "counted", "left_out"),
    [
        ("realtime", Precision.FP32, Size(7999, 8192), Size(8000, 8192)),
        ("realtime", Precision.FP16, Size(15999, 8192), Size(16000, 8192)),
        # The same rule on another network:
        pytest.param(
            "photo", Precision.FP32, Size(1056, 1920), Size(1080, 1920), marks=pytest.mark.slow
        ),
    ],
)
def test_a_figure_that_leaves_tensors_out_is_not_given(
    models: Models,
    variant: str,
    precision: Precision,
    counted: Size,
    left_out: Size,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From 8000 MiB on TensorRT does not count a tensor: its figure falls, and is not believed.

    Where the last line fails TensorRT counts all of them, and the bound can be lifted.
    """
    file = models.file(variant, precision)

    def built(largest: Size) -> BuiltEngine:
        profile = Profile(smallest=Size(1, 1), optimal=Size(16, 16), largest=largest)
        return compiled(file, "sm86", profile=profile)

    right, engine = built(counted), built(left_out)
    assert_whole(right)
    assert (engine.activation_bytes, engine.planned_bytes) == (None, None)
    assert engine.data
    assert engine.weights_bytes == right.weights_bytes
    assert "planned memory is not known" in engine.memory_doubt
    assert "lower --max" in engine.memory_doubt
    monkeypatch.setattr(engine_module, "MIN_UNPLANNED_BYTES", 2**60)
    assert built(left_out).activation_bytes < right.activation_bytes / 2


def test_the_manifest_and_the_table_say_why_there_is_no_figure(
    tiny_realtime: Path, tmp_path: Path, run_here: RunHere
) -> None:
    """Null in JSON with the reason beside it and on stderr; also where the engine is reused."""
    args = (
        "trt", tiny_realtime, "-o", tmp_path / "e.engine", "--min", "1x1", "--opt", "16x16",
        "--max", "11585x11585",
    )  # fmt: skip
    first, again = run_here(*args, "--json"), run_here(*args, "--json")
    assert first.code == again.code == 0
    manifest = json.loads((tmp_path / "e.engine.json").read_text())
    for document in (json.loads(first.stdout), json.loads(again.stdout), manifest):
        assert document["planned_device_memory_bytes"] is None
        assert "planned memory is not known" in document["planned_memory_doubt"]
    assert manifest["planned_activation_bytes"] is None
    assert first.stderr.count("note: planned memory is not known") == 1
    shown = run_here(*args).stdout
    assert "planned memory" in shown
    assert "unknown" in shown


# --- sizes of tensors ----------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["realtime", "stream", "photo", "pro"])
def test_sizes_of_tensors_are_those_of_a_run(models: Models, variant: str) -> None:
    """What is worked out from shapes is what ONNX Runtime makes at that size."""
    file = models.file(variant)
    model = read_onnx(file)
    proto = ir.to_proto(model)
    del proto.graph.output[:]
    names = [name for node in proto.graph.node for name in node.output]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options)
    picture = np.zeros((2, 3, 37, 53), np.float32)
    made = session.run(None, {"input": picture})
    assert largest_bytes(model, {"input": picture.shape}) == max(array.nbytes for array in made)


def test_a_shape_that_follows_from_values_is_not_known() -> None:
    """Where a tensor's extent depends on what is in the picture, nothing is promised."""
    node = onnx.helper.make_node("NonZero", ["input"], ["output"])
    ports = [
        onnx.helper.make_tensor_value_info(name, kind, None)
        for name, kind in (("input", onnx.TensorProto.FLOAT), ("output", onnx.TensorProto.INT64))
    ]
    graph = onnx.helper.make_graph([node], "values", ports[:1], ports[1:])
    model = ir.from_proto(onnx.helper.make_model(graph, ir_version=10))
    assert largest_bytes(model, {"input": (1, 3, 4, 5)}) is None


# --- more that builds ----------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["realtime", "photo"])
def test_video(models: Models, variant: str) -> None:
    """A video model builds; its feature maps follow the profile of its picture."""
    assert_whole(compiled(models.file(variant, Precision.FP16, video=True), "sm86"))


@pytest.mark.parametrize(
    ("variant", "profile"),
    [
        ("realtime", Profile(smallest=Size(1, 1), optimal=Size(1, 1), largest=Size(1, 1))),
        ("stream", Profile(smallest=Size(1, 1), optimal=Size(1, 40), largest=Size(1, 64))),
        (
            "realtime",
            Profile(smallest=Size(1, 1), optimal=Size(40, 1), largest=Size(64, 1), batch=2),
        ),
    ],
    ids=["one pixel", "one row", "one column"],
)
def test_network_for_tensorrt_builds_for_one_row_or_column(
    variant: str, profile: Profile, tmp_path: Path
) -> None:
    """TensorRT-RTX compiles no scatter with more indices along an axis than the axis has places."""
    module = ParagonSR2(tiny_hyperparameters(variant, blocks=1)).requires_grad_(False).eval()
    equal = rewrite(module, Runtime.TENSORRT, half=True)
    assert {"merge_depthwise", "fuse_tail"} <= equal.fired.keys()
    ports = [(Port(name, ("batch", 3, f"{name} h", f"{name} w")),) for name in ("input", "output")]
    model = simplify(trace(equal.module, *ports, 20))
    write_onnx(to_precision(model, Precision.FP16, Precision.FP32), tmp_path / "model.onnx")
    assert_whole(compiled(tmp_path / "model.onnx", "sm86", profile=profile))


# --- static models -------------------------------------------------------------------------


def test_static_model_needs_no_profile(models: Models) -> None:
    """A static model builds for its own size."""
    file = models.file("photo", Precision.FP16, static=Size(37, 53))
    plan = EnginePlan(source=file, output=file.with_suffix(".engine"))
    profile = plan.profile_for(read_onnx_file(file).fixed)
    assert profile.sizes == (Size(37, 53),) * 3
    assert_whole(compiled(file, "sm86", profile=profile))


def test_profile_that_a_static_model_cannot_have(models: Models) -> None:
    """A static model with another profile is refused in one line; with its own it is not."""
    file = models.file("photo", Precision.FP16, static=Size(37, 53))
    fixed = read_onnx_file(file).fixed
    output = file.with_suffix(".engine")
    for wrong in (
        FULL_HD,
        Profile(smallest=Size(37, 53), optimal=Size(37, 53), largest=Size(37, 54)),
    ):
        plan = EnginePlan(source=file, output=output, profile=wrong)
        with pytest.raises(PlanError, match="impossible profile: the model is fixed to 37x53"):
            plan.profile_for(fixed)
    own = Profile(smallest=Size(37, 53), optimal=Size(37, 53), largest=Size(37, 53))
    assert EnginePlan(source=file, output=output, profile=own).profile_for(fixed) == own


def test_dynamic_model_takes_the_profile(models: Models) -> None:
    """A dynamic model is built for the profile asked for, or for everything up to 1080p."""
    file = models.file("realtime")
    fixed, output = read_onnx_file(file).fixed, file.with_suffix(".engine")
    assert fixed == FixedExtents()
    asked = Profile(smallest=Size(2, 2), optimal=Size(8, 8), largest=Size(9, 9))
    assert EnginePlan(source=file, output=output, profile=asked).profile_for(fixed) == asked
    assert EnginePlan(source=file, output=output).profile_for(fixed) == DEFAULT_PROFILE


# --- what does not build -------------------------------------------------------------------


def mistyped(path: Path) -> Path:
    """Write a model that adds a half weight to a float32 picture."""
    shape = (1, 3, "height", "width")
    ports = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name in ("input", "output")
    ]
    half = onnx.helper.make_tensor("half", onnx.TensorProto.FLOAT16, (1,), [1.0])
    node = onnx.helper.make_node("Add", ["input", "half"], ["output"], name="mistyped")
    graph = onnx.helper.make_graph([node], "broken", ports[:1], ports[1:], [half])
    opsets = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def unknown_operator(path: Path) -> Path:
    """Write a model with an operator that nobody knows."""
    model = onnx.load(mistyped(path))
    model.graph.node[0].op_type = "Upscale"
    onnx.save(model, path)
    return path


def test_broken_model_brings_tensorrts_words(tmp_path: Path) -> None:
    """A model that TensorRT refuses ends in one line with TensorRT's own reason."""
    file = mistyped(tmp_path / "broken.onnx")
    with pytest.raises(EngineBuildError) as caught:
        compiled(file, "sm86")
    message = str(caught.value)
    assert message.startswith(f"TensorRT cannot build {file}: ")
    assert "types" in message
    assert "\n" not in message


def test_an_unknown_operator_is_refused_before_tensorrt_sees_it(tmp_path: Path) -> None:
    """An operator that ONNX does not know is named."""
    with pytest.raises(RunError, match="unknown operator 'Upscale'"):
        compiled(unknown_operator(tmp_path / "broken.onnx"), "sm86")


def test_bfloat16_on_turing_brings_tensorrts_words(models: Models) -> None:
    """Turing has no bfloat16, and TensorRT says so."""
    with pytest.raises(EngineBuildError, match="sm75"):
        compiled(models.file("realtime", Precision.BF16), "sm75")


def test_failure_leaves_nothing_behind(models: Models, tmp_path: Path) -> None:
    """After a failed build the next one is clean: no old errors, warnings or memory."""
    with pytest.raises(EngineBuildError):
        compiled(mistyped(tmp_path / "broken.onnx"), "sm86")
    assert_whole(compiled(models.file("realtime", Precision.FP16), "sm86"))


def test_impossible_profile_is_refused_before_building() -> None:
    """A profile whose extents do not rise is refused by name."""
    with pytest.raises(PlanError, match="impossible profile: width must rise"):
        Profile(smallest=Size(1, 1), optimal=Size(8, 9), largest=Size(8, 8))
    with pytest.raises(PlanError, match="batch 0"):
        Profile(smallest=Size(1, 1), optimal=Size(8, 8), largest=Size(8, 8), batch=0)


def test_unknown_target_is_refused() -> None:
    """A target that TensorRT-RTX does not know is refused with those that it knows."""
    with pytest.raises(PlanError, match="unknown target 'sm90'; choose from sm75"):
        EnginePlan(source=Path("a.onnx"), output=Path("a.engine"), targets=("sm86", "sm90"))
    with pytest.raises(PlanError, match="--target is for --backend rtx"):
        EnginePlan(
            source=Path("a.onnx"),
            output=Path("a.engine"),
            targets=("sm86",),
            backend=Backend.TENSORRT,
        )


WITHOUT_GPU = """
import sys
from pathlib import Path
from paragon_export.engines.build import compile_engine
from paragon_export.errors import PlanError
from paragon_export.graph.onnx_io import read_onnx_file
from paragon_export.specs.profiles import DEFAULT_PROFILE
from paragon_export.specs.types import Backend
file = Path(sys.argv[1])
try:
    compile_engine(read_onnx_file(file), Backend.TENSORRT, (), DEFAULT_PROFILE)
except PlanError as error:
    print(error)
"""


def test_full_tensorrt_wants_a_gpu(models: Models) -> None:
    """Full TensorRT without a visible GPU is refused in one line that names the other way."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_GPU, str(models.file("realtime"))],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("--backend tensorrt times kernels on a GPU and found none")
    assert "--backend rtx" in done.stdout
    assert done.stdout.count("\n") == 1


def test_model_is_read_as_it_was(models: Models) -> None:
    """Building does not change the file that is compiled."""
    file = models.file("realtime", Precision.FP16)
    before = file.read_bytes()
    compiled(file, "sm86")
    assert file.read_bytes() == before
    assert isinstance(read_onnx(file), ir.Model)
