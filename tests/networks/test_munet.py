"""MUNet: every version computes what the original computed, is told apart, and can be judged."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.checkpoints.load import load_checkpoint
from paragon_export.engines.build import compile_engine
from paragon_export.errors import CheckpointError, PlanError
from paragon_export.graph.onnx_io import read_onnx_file, write_onnx
from paragon_export.graph.simplify import simplify
from paragon_export.graph.trace import trace
from paragon_export.inputs.sizes import default_sizes
from paragon_export.networks.describe import LoadedNetwork
from paragon_export.networks.munet.layout import NORM
from paragon_export.networks.munet.network import Luma, MUNet
from paragon_export.networks.munet.versions import VERSIONS
from paragon_export.networks.ops import spectrum
from paragon_export.networks.registry import architecture_of
from paragon_export.networks.windowed_attention import OverlappingWindows
from paragon_export.parity.acceptance import MinPsnr, default_criteria
from paragon_export.parity.candidates import read_artifact
from paragon_export.parity.check import judge, judge_conversion
from paragon_export.parity.metrics import Difference
from paragon_export.parity.reference import TorchReference, build_reference
from paragon_export.parity.report import ParityRow
from paragon_export.pipeline.export import export
from paragon_export.precision.half import to_precision
from paragon_export.precision.rounding import rounding_model
from paragon_export.rewrite.fx_network import Network
from paragon_export.rewrite.rules import RULES, rewrite
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.specs.network import NetworkSpec, Port, Task
from paragon_export.specs.plans import ExportPlan, NetworkOptions
from paragon_export.specs.profiles import Profile
from paragon_export.specs.types import Backend, Precision, Runtime, Size
from paragon_export.testing.golden.make_weights import make_input
from paragon_export.testing.recorded import GOLDEN, recorded_weights
from paragon_export.testing.recorded import MUNET as CASES
from paragon_export.testing.recorded import MUNET_SMALL as SMALL
from paragon_export.testing.recorded import MUNET_WIDE as WIDE
from paragon_export.testing.tiny import Tensors, save
from tests.conftest import RunHere
from tests.networks.test_windowed_attention import one_by_one

pytestmark = pytest.mark.usefixtures("foreign_files_here")

NETWORKS: dict[str, list[str]] = {}
"""The cases of each version and set of weights."""
for _name, _case in CASES.items():
    NETWORKS.setdefault(f"{_case['version']}-{_case['weights']['crc32']}", []).append(_name)

ALIKE = ("munet3", "munet4", "munet5")


def weights_of(name: str) -> Tensors:
    return recorded_weights(CASES[name])


@pytest.fixture
def reference_of(tmp_path: Path) -> Callable[..., tuple[TorchReference, NetworkSpec]]:
    """Return a function that takes weights the way a user's file goes."""

    def make(
        name: str, weights: Tensors | None = None, version: str = ""
    ) -> tuple[TorchReference, NetworkSpec]:
        path = save(weights or weights_of(name), tmp_path / "golden.safetensors")
        checkpoint = load_checkpoint(path)
        flags = {"generation": version or CASES[name]["version"]}
        variant = architecture_of(checkpoint).describe(checkpoint, NetworkOptions(flags=flags))
        return build_reference(LoadedNetwork(checkpoint=checkpoint, spec=variant)), variant

    return make


ReferenceOf = Callable[..., tuple[TorchReference, NetworkSpec]]


def excess(name: str, found: np.ndarray) -> float:
    """Return how far beyond the case's tolerance the worst value is; conforming is <= 0."""
    with np.load(GOLDEN / "munet.npz") as recorded:
        truth = recorded[name].astype(np.float64)
    tolerance = CASES[name]["tolerance"]
    assert found.shape == truth.shape
    return float(
        (np.abs(found - truth) - tolerance["atol"] - tolerance["rtol"] * np.abs(truth)).max()
    )


def picture_of(name: str) -> np.ndarray:
    return make_input(name, CASES[name]["input"])


def output_of(reference: TorchReference, name: str) -> np.ndarray:
    return reference.runner("float32").infer({"input": picture_of(name)})["output"]


def exported(reference: TorchReference, module: nn.Module | None = None) -> OnnxRunner:
    model = trace(module or reference.module, reference.inputs, reference.outputs, 20)
    return OnnxRunner(ir.to_proto(simplify(model)).SerializeToString())


# --- conformance --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(names, marks=[pytest.mark.slow] if CASES[names[0]]["heavy"] else [])
        for names in NETWORKS.values()
    ],
    ids="+".join,
)
def test_network_and_graph_compute_what_the_original_computed(
    names: list[str], reference_of: ReferenceOf
) -> None:
    """Every recorded case is reproduced by PyTorch and, as exported, by ONNX Runtime."""
    reference, variant = reference_of(names[0])
    graph = exported(reference, rewrite(reference.module).module)

    assert variant.parameters == CASES[names[0]]["params"]
    for name in names:
        assert excess(name, output_of(reference, name)) <= 0
        assert excess(name, graph.infer({"input": picture_of(name)})["output"]) <= 0


def wrong_window(network: MUNet) -> None:
    assert network.self_attn is not None
    network.self_attn.attend = OverlappingWindows(window=24, overlap=6)


def luma_by_the_book(network: MUNet) -> None:
    network.freq_luma = Luma()


def true_taps(network: MUNet) -> None:
    line = torch.tensor([1.0, 4, 6, 4, 1]) / 16
    for block in network.up_blocks:
        blur = block.magic_upsample["resample_conv"]
        for conv in (blur.h, blur.v):
            conv.weight.copy_(line.reshape(1, 1, *conv.kernel_size).expand_as(conv.weight))


def other_end(network: MUNet) -> None:
    network.gradient = {"zero": "repeat", "repeat": "zero"}[network.gradient]


def not_centred(network: MUNet) -> None:
    network.centered = False


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (WIDE.format(5), wrong_window),
        ("munet2_class_37x53_odd", luma_by_the_book),
        (WIDE.format(3), luma_by_the_book),
        ("munet1_class_37x53_odd", true_taps),
        (WIDE.format(6), true_taps),
        (WIDE.format(4), other_end),
        (WIDE.format(6), other_end),
        (WIDE.format(6), not_centred),
    ],
)
def test_a_damaged_network_does_not_conform(
    name: str, damage: Callable[[MUNet], None], reference_of: ReferenceOf
) -> None:
    """Each trait of a version is seen by the recorded cases."""
    reference, _ = reference_of(name)
    with torch.no_grad():
        damage(reference.module)  # type: ignore[arg-type]

    assert excess(name, output_of(reference, name)) > 0


class OneByOne(nn.Module):
    """Window after window, as the trained network did it."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return one_by_one(q, k, v)


@pytest.mark.parametrize("overlap", [8, 4])
def test_a_wrong_overlap_is_seen(overlap: int, reference_of: ReferenceOf) -> None:
    """At 41x5 pixels of bottleneck; the recorded case has one window and a tail in none."""
    reference, _ = reference_of(WIDE.format(5))
    network: Any = reference.runner("float64").module
    x = torch.rand(1, 3, 328, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    network.self_attn.attend = OneByOne()
    expected = network(x)
    network.self_attn.attend = OverlappingWindows(overlap=overlap)

    difference = (network(x) - expected).abs().max().item()

    assert difference < 1e-9 if overlap == 8 else difference > 1e-3


@pytest.mark.parametrize("version", VERSIONS)
def test_a_renormalised_u_does_not_conform(version: str, reference_of: ReferenceOf) -> None:
    """The stored u counts as it is, also where it is no unit vector."""
    name = SMALL[version]
    weights = weights_of(name)
    key = f"mid_conv.0{NORM}0._u"
    weights[key] = weights[key] / np.linalg.norm(weights[key])
    reference, _ = reference_of(name, weights)

    assert excess(name, output_of(reference, name)) > 0


@pytest.mark.parametrize("told", ALIKE)
@pytest.mark.parametrize("version", ALIKE)
def test_only_the_right_generation_conforms(
    version: str, told: str, reference_of: ReferenceOf
) -> None:
    """Three functions share names and shapes; beyond one window each is its own."""
    name = SMALL[version]
    reference, _ = reference_of(name, version=told)

    assert (excess(name, output_of(reference, name)) <= 0) == (told == version)


# --- sizes --------------------------------------------------------------------------------

SIZES = [(8, 8), (9, 15), (23, 16), (16, 265), (328, 40)]
"""From the smallest on. At the bottleneck the last is cut into windows, and the one before is
beyond a window in one direction and too short for any in the other."""


@pytest.mark.parametrize("version", VERSIONS)
def test_one_graph_serves_every_size_and_batch(version: str, reference_of: ReferenceOf) -> None:
    """The dynamic graph equals the network where nothing was traced; noise keeps it honest."""
    reference, variant = reference_of(SMALL[version])
    graph, truth = exported(reference), reference.runner("float64")
    rng = np.random.default_rng(0)
    for height, width in SIZES:
        size = max(height, variant.smallest), max(width, variant.smallest)
        for batch in (1, 3) if height < 20 else (1,):
            feeds = {"input": rng.random((batch, 3, *size), dtype=np.float32)}
            expected = truth.infer(feeds)["output"]
            found = graph.infer(feeds)["output"]
            assert found.shape == expected.shape == (batch, 1, *size)
            assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize("version", VERSIONS)
def test_rewriting_changes_nothing(version: str, reference_of: ReferenceOf) -> None:
    """The rules that fire leave an equal network, in float64 before weights are rounded."""
    reference, variant = reference_of(SMALL[version])
    network = Network(reference.module)
    fired = {rule.name: rule.apply(network) for rule in RULES if Runtime.ANY in rule.runtimes}
    network.module.recompile()
    rewritten = network.module
    assert any(fired.values())
    untouched = reference.runner("float64").module
    generator = torch.Generator().manual_seed(1)
    least = variant.smallest
    for size in ((least, least), (37, 53)):
        x = torch.rand(2, 3, *size, generator=generator, dtype=torch.float64)
        assert (rewritten(x) - untouched(x)).abs().max() < 1e-12


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_munet6_shifts_the_batch_too(batch: int, reference_of: ReferenceOf) -> None:
    """The frequency features of a sample go to the one half a batch further on."""
    reference, _ = reference_of(WIDE.format(6))
    network: Any = reference.runner("float64").module
    x = torch.rand(batch, 3, 9, 12, dtype=torch.float64)
    luma = 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]
    shifted = torch.fft.fftshift(torch.fft.fft2(luma, norm="ortho"))

    expected = network.freq_proc(torch.log(shifted.abs() + 1e-8))

    assert torch.equal(network.frequency(x), expected)


class Magnitude(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return spectrum(x)


@pytest.mark.parametrize("opset", [18, 20])
def test_spectrum_in_onnx(opset: int) -> None:
    """The products with cosines and sines are the magnitude that an FFT gives, at any size."""
    dims = ("batch", 1, "height", "width")
    model = trace(Magnitude(), (Port("x", dims),), (Port("y", dims),), opset)
    runner = OnnxRunner(ir.to_proto(simplify(model)).SerializeToString())
    rng = np.random.default_rng(0)
    for size in ((1, 1), (1, 2), (2, 3), (16, 16), (37, 53), (96, 101)):
        x = rng.standard_normal((2, 1, *size)).astype(np.float32)
        expected = np.abs(np.fft.fft2(x.astype(np.float64), norm="ortho"))
        assert np.abs(runner.infer({"x": x})["y"] - expected).max() < 5e-6


class ToSizeOf(nn.Module):
    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, size=(like.shape[2], like.shape[3]), mode="nearest")


@pytest.mark.parametrize("precision", list(Precision))
def test_nearest_resizing_rounds_as_pytorch_does(precision: Precision) -> None:
    """Also where float32 puts a quotient just below a whole number: 2 to 82, 2 to 94, 3 to 123."""
    ports = tuple(Port(n, ("batch", 1, f"{n}_height", f"{n}_width")) for n in ("x", "like"))
    model = trace(ToSizeOf(), ports, (Port("y", ("batch", 1, "h", "w")),), 22)
    half = rounding_model(to_precision(simplify(model), precision, Precision.FP32))
    runner = OnnxRunner(ir.to_proto(half).SerializeToString())
    for small, large in (
        ((2, 3), (82, 123)),
        ((2, 8), (94, 282)),
        ((4, 5), (9, 10)),
        ((3, 3), (3, 7)),
    ):
        x = np.arange(math.prod(small), dtype=np.float32).reshape(1, 1, *small)
        like = np.zeros((1, 1, *large), np.float32)
        expected = ToSizeOf()(torch.from_numpy(x), torch.from_numpy(like)).numpy()
        assert np.array_equal(runner.infer({"x": x, "like": like})["y"], expected)


# --- description --------------------------------------------------------------------------


def described(path: Path, **flags: Any) -> NetworkSpec:
    checkpoint = load_checkpoint(path)
    return architecture_of(checkpoint).describe(checkpoint, NetworkOptions(flags=flags))


@pytest.mark.parametrize("version", VERSIONS)
def test_tensors_tell_the_version_where_they_can(version: str, tmp_path: Path) -> None:
    """Three versions share their layout: which it is, is asked for and never guessed."""
    path = save(weights_of(SMALL[version]), tmp_path / "c.safetensors")

    variant = described(path)

    features = CASES[SMALL[version]]["kwargs"]["num_feat"]
    hyperparameters = variant.structure["hyperparameters"]
    assert (variant.architecture, variant.scale, variant.out_channels) == ("MUNet", 1, 1)
    assert (hyperparameters.features, variant.in_channels) == (features, 3)
    assert variant.task is Task.MAP
    if version in ALIKE:
        assert variant.generation == "munet3, munet4 or munet5"
        assert variant.needs == ("generation (--set generation=munet3, munet4 or munet5)",)
        told = described(path, generation=version)
        assert (told.generation, told.needs) == (version, ())
        assert told.options["generation"].source == "flag"
    else:
        assert (variant.generation, variant.needs) == (version, ())
        assert variant.options["generation"].source == "tensors"


@pytest.mark.parametrize(
    ("name", "widths"),
    [("munet1_class_37x53_odd", (16, 32, 64, 128)), (WIDE.format(3), (8, 16, 16))],
)
def test_channels_of_each_level_come_from_the_tensors(
    name: str, widths: tuple[int, ...], tmp_path: Path
) -> None:
    """ch_mult is read off, and with it the smallest size: one pixel at the bottleneck."""
    variant = described(save(weights_of(name), tmp_path / "c.safetensors"))

    assert variant.structure["hyperparameters"].widths == widths
    assert variant.smallest == 2 ** len(widths)


@pytest.mark.parametrize("table", ["network_d", "network_g"])
def test_an_option_file_may_tell_the_generation(table: str, tmp_path: Path) -> None:
    """A discriminator stands under network_d; beside a generator that is the table that counts."""
    path = save(weights_of(SMALL["munet5"]), tmp_path / "c.safetensors")
    config = tmp_path / "train.yml"
    other = "network_g: {type: paragonsr2_photo}\n" if table == "network_d" else ""
    config.write_text(f"{other}{table}: {{type: MUNet, generation: munet4}}\n")
    checkpoint = load_checkpoint(path)

    variant = architecture_of(checkpoint).describe(checkpoint, NetworkOptions(config=config))

    assert variant.generation == "munet4"
    assert variant.options["generation"].source == "config"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("{type: unet}", "for 'unet'"),
        ("{type: munet, slope: 0.1}", "slope = 0.1 in the option file is not supported"),
        ("{generation: munet2}", "the tensors are those of munet3, munet4 or munet5"),
        ("{generation: 5}", "must be one of munet1"),
    ],
)
def test_an_option_file_for_another_network_is_refused(
    table: str, words: str, tmp_path: Path
) -> None:
    """What the option file says has to fit the tensors and what is served."""
    path = save(weights_of(SMALL["munet3"]), tmp_path / "c.safetensors")
    config = tmp_path / "train.yml"
    config.write_text(f"network_d: {table}\n")
    checkpoint = load_checkpoint(path)

    with pytest.raises(PlanError, match=words):
        architecture_of(checkpoint).describe(checkpoint, NetworkOptions(config=config))


@pytest.mark.parametrize(
    ("version", "told"),
    [("munet1", "munet2"), ("munet6", "munet3"), ("munet4", "munet6"), ("munet2", "munet0")],
)
def test_a_generation_that_contradicts_the_tensors_is_refused(
    version: str, told: str, tmp_path: Path
) -> None:
    """In one line that names what the tensors are."""
    path = save(weights_of(SMALL[version]), tmp_path / "c.safetensors")

    with pytest.raises(PlanError, match=f"generation = '{told}' \\(from the flag\\)"):
        described(path, generation=told)


def test_switches_of_other_networks_have_no_effect(tmp_path: Path) -> None:
    """They are named, and a scale of 1 is simply true."""
    path = save(weights_of(SMALL["munet1"]), tmp_path / "c.safetensors")

    told = {"attention_mode": "none", "scale": 2, "generation": "munet1"}
    notes = described(path, **told).notes

    assert [note.split()[0] for note in notes] == ["attention_mode", "scale"]
    assert described(path, scale=1).notes == ()


def lose(weights: Tensors) -> None:
    del weights[f"down_blocks.0.0{NORM}0._u"]


def add(weights: Tensors) -> None:
    weights["up_blocks.9.extra"] = np.zeros(3, np.float32)


def misshape(weights: Tensors) -> None:
    weights[f"self_attn.key{NORM}0._v"] = np.zeros(3, np.float32)


def skip_a_level(weights: Tensors) -> None:
    weights["down_blocks.7.0.weight"] = np.zeros((1, 1, 4, 4), np.float32)


def other_channels(weights: Tensors) -> None:
    weights[f"in_conv{NORM}original"] = np.zeros((8, 1, 3, 3), np.float32)


def uneven(weights: Tensors) -> None:
    weights[f"down_blocks.1.0{NORM}original"] = np.zeros((9, 8, 4, 4), np.float32)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lose, "1 missing: down_blocks.0.0.parametrizations.weight.0._u"),
        (add, "1 unexpected: up_blocks.9.extra"),
        (misshape, r"self_attn.key.parametrizations.weight.0._v is \[3\], expected \[16\]"),
        (skip_a_level, "down_blocks.3.0.parametrizations.weight.original is missing"),
        (other_channels, "takes 1 channels; munet3 needs 3, which are RGB"),
        (uneven, "expected multiples of the 8 features"),
    ],
)
def test_a_damaged_checkpoint_is_refused(
    damage: Callable[[Tensors], None], words: str, tmp_path: Path
) -> None:
    """Every tensor's name and shape is checked against the network that would be built."""
    weights = weights_of(SMALL["munet3"])
    damage(weights)

    with pytest.raises(CheckpointError, match=words):
        described(save(weights, tmp_path / "c.safetensors"))


def test_a_spectral_norm_of_zero_is_refused(reference_of: ReferenceOf) -> None:
    """A division by it would fill the network with infinities."""
    weights = weights_of(SMALL["munet1"])
    key = f"mid_conv.2{NORM}0._u"
    weights[key] = 0 * weights[key]

    with pytest.raises(CheckpointError, match=r"spectral norm of mid_conv\.2 is 0"):
        reference_of(SMALL["munet1"], weights)


# --- verdict ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "precision"),
    [
        ("munet1", Precision.FP32),
        ("munet2", Precision.FP16),
        ("munet5", Precision.FP32),
    ],
)
def test_exports_pass_their_verdict(version: str, precision: Precision, tmp_path: Path) -> None:
    """At the default sizes, all of which the network is defined at."""
    path = save(weights_of(SMALL[version]), tmp_path / "c.safetensors")
    switches = NetworkOptions(flags={"generation": version})

    result = export(
        ExportPlan(
            checkpoint=path, output=tmp_path / "o.onnx", options=switches, precision=precision
        )
    )

    assert result.parity.passed
    least = result.spec.smallest
    assert all(min(r.size.height, r.size.width) >= least for r in result.parity.rows)
    assert all(0 < r.moved_rms <= r.reference_moved for r in result.parity.rows)
    assert all(0 < r.moved_high <= r.reference_moved for r in result.parity.rows)
    photographs = [r for r in result.parity.rows if r.picture == "photograph"]
    assert photographs
    assert all(row.is_judged for row in photographs)


def test_a_slightly_wrong_graph_fails_its_verdict(
    tmp_path: Path, reference_of: ReferenceOf
) -> None:
    """One tensor of a deep block scaled by 1.001 is seen."""
    reference, _ = reference_of(SMALL["munet3"])
    model = simplify(trace(reference.module, reference.inputs, reference.outputs, 20))
    write_onnx(model, tmp_path / "good.onnx")
    weight = model.graph.initializers["up_blocks.0.fusion_conv.0.weight"]
    assert weight.const_value is not None
    weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(1.001))
    write_onnx(model, tmp_path / "bad.onnx")

    assert judge(reference, [read_artifact(tmp_path / "good.onnx")]).passed
    assert not judge(reference, [read_artifact(tmp_path / "bad.onnx")]).passed


def test_another_generation_fails_the_default_verdict(
    tmp_path: Path, reference_of: ReferenceOf
) -> None:
    """munet4 and munet5 are equal below one window, so one probe of both is larger."""
    reference, _ = reference_of(WIDE.format(5), version="munet5")
    model = simplify(trace(reference.module, reference.inputs, reference.outputs, 20))
    write_onnx(model, tmp_path / "o.onnx")
    other, _ = reference_of(WIDE.format(5), version="munet4")

    report = judge(other, [read_artifact(tmp_path / "o.onnx")])

    assert {str(row.size) for row in report.rows if row.failure} == {"328x40"}


def test_a_converted_graph_is_judged_without_its_checkpoint(tmp_path: Path) -> None:
    """The file itself tells where it is defined and that its output is no picture."""
    path = save(weights_of(SMALL["munet6"]), tmp_path / "c.safetensors")
    assert export(ExportPlan(checkpoint=path, output=tmp_path / "wide.onnx")).parity.passed
    wide = read_onnx_file(tmp_path / "wide.onnx")
    half = to_precision(wide.model, Precision.FP16, Precision.FP32)
    half.metadata_props["precision"] = "fp16"
    write_onnx(half, tmp_path / "half.onnx")

    report = judge_conversion(wide, read_onnx_file(tmp_path / "half.onnx"))

    assert report.passed
    assert any(row.full_range > 1 for row in report.rows)


def row(**fields: Any) -> ParityRow:
    gap = Difference(fields.pop("error"), fields.pop("psnr_db", 100.0), 0, 0, True, False)
    return ParityRow(
        candidate="c",
        precision=Precision.FP32,
        output="output",
        picture="p",
        size=Size(8, 8),
        batch=1,
        found=gap,
        criteria=fields.pop("criteria", default_criteria(Precision.FP32)),
        **fields,
    )


def test_errors_are_relative_to_the_size_of_the_output() -> None:
    """An output that reaches 8 may err 8 times as much, and not more."""
    wide = {"reference_max_abs": 2.5e-5, "reference_peak": 8.0, "full_range": 8.0}
    assert not row(error=7.9e-5, **wide).failure
    assert row(error=8.1e-5, **wide).failure == "error at the border"
    bar = (MinPsnr(50),)
    assert not row(error=0, psnr_db=32.0, criteria=bar, **wide).failure
    assert row(error=0, psnr_db=31.8, criteria=bar, **wide).failure == "PSNR"


def test_what_one_rounding_of_the_input_does_is_no_error() -> None:
    """Beyond the bar it counts as PyTorch's own error; below it changes nothing."""
    assert row(error=3.9e-3, reference_max_abs=1e-6, reference_moved=1e-3).limit == 4e-3
    assert row(error=0, reference_max_abs=2e-3, reference_moved=1e-3).limit == 8e-3
    assert row(error=0, reference_max_abs=3e-6, reference_moved=2e-6).limit == 1e-5


def test_only_stress_pictures_may_be_undetermined() -> None:
    """A photograph is judged however far one rounding moves the output."""
    loose = {"error": 9.0, "reference_max_abs": 0.0, "reference_moved": 0.02}
    assert row(**loose, is_stress=True).failure == ""
    assert not row(**loose, is_stress=True).is_judged
    assert row(**loose, full_range=3.0, is_stress=True).failure
    assert row(**loose).failure


@pytest.mark.parametrize(("window", "smallest"), [(1, 8), (1, 16), (1, 64), (16, 3)])
def test_default_sizes_start_at_the_smallest(window: int, smallest: int) -> None:
    """None is below it, none is there twice, and there is still an odd one and a batch."""
    sizes = default_sizes(window, smallest)

    assert min(min(size.height, size.width) for size, _ in sizes) == smallest
    assert len(set(sizes)) == len(sizes)
    assert any(size.height % 2 and size.width % 2 and batch == 2 for size, batch in sizes)


# --- what the user sees -------------------------------------------------------------------


def test_the_command_line_asks_for_the_generation(tmp_path: Path, run_here: RunHere) -> None:
    """``inspect`` describes the checkpoint all the same; ``onnx`` refuses until it is told."""
    save(weights_of(SMALL["munet5"]), tmp_path / "c.safetensors")

    seen = run_here("inspect", "c.safetensors", "--json")
    refused = run_here("onnx", "c.safetensors", "-o", "o.onnx")
    static = ("--static", "24x16", "-o", "o.onnx", "--json")
    made = run_here("onnx", "c.safetensors", "--set", "generation=munet5", *static)

    assert seen.code == 0
    assert json.loads(seen.stdout)["needs"] == [
        "generation (--set generation=munet3, munet4 or munet5)"
    ]
    assert refused.code == 3
    assert "--set generation=munet3, munet4 or munet5" in refused.stderr
    assert made.code == 0, made.stderr
    assert json.loads(made.stdout)["switches"]["generation"]["value"] == "munet5"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("onnx", "c.safetensors", "--static", "7x9"), "7x9 is too small"),
        (("parity", "c.safetensors", "o.onnx", "--sizes", "16x16,8x7"), "8x7 is too small"),
        (("trt", "c.safetensors", "--min", "1x1", "--opt", "8x8", "--max", "9x9"), "--min 8x8"),
        (("onnx", "c.safetensors", "--video"), "has no temporal input; leave --video out"),
        (("inspect", "c.safetensors", "--probe"), "returns none"),
    ],
)
def test_the_impossible_is_refused_in_one_line(
    args: tuple[str, ...], words: str, tmp_path: Path, run_here: RunHere
) -> None:
    """Sizes below the smallest are named, and so is what a discriminator does not do."""
    path = save(weights_of(WIDE.format(6)), tmp_path / "c.safetensors")
    if args[0] == "parity":
        checkpoint = load_checkpoint(path)
        reference = build_reference(LoadedNetwork(checkpoint=checkpoint, spec=described(path)))
        model = trace(reference.module, reference.inputs, reference.outputs, 20)
        write_onnx(model, tmp_path / "o.onnx")

    done = run_here(*args)

    assert done.code == 3
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_tensorrt_builds_the_windows_and_the_spectrum(
    tmp_path: Path, reference_of: ReferenceOf
) -> None:
    """munet5 holds every operator of all versions but the roll of munet6."""
    reference, _ = reference_of(SMALL["munet5"])
    file = tmp_path / "o.onnx"
    write_onnx(simplify(trace(reference.module, reference.inputs, reference.outputs, 20)), file)
    profile = Profile(smallest=Size(8, 8), optimal=Size(64, 64), largest=Size(328, 328))

    built = compile_engine(read_onnx_file(file), Backend.RTX, ("sm86",), profile)

    assert built.planned_bytes
