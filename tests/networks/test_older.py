"""Older generations: each computes what its original computed, and says what it cannot know."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from paragon_export.checkpoints.load import Checkpoint, load_checkpoint
from paragon_export.engines.build import compile_engine
from paragon_export.errors import CheckpointError, PlanError
from paragon_export.graph.onnx_io import serialized
from paragon_export.graph.simplify import simplify
from paragon_export.graph.trace import trace
from paragon_export.inputs.probes import choose_probes
from paragon_export.networks.describe import LoadedNetwork
from paragon_export.networks.paragonsr2.v0_v5.attention import HierarchicalAttention
from paragon_export.networks.paragonsr2.v55_v8.layout import TRAITS
from paragon_export.networks.registry import architecture_of
from paragon_export.parity.check import judge
from paragon_export.parity.reference import TorchReference, build_reference
from paragon_export.pipeline.export import export
from paragon_export.pipeline.float32_graph import finish, float32_graph
from paragon_export.precision.half import to_precision
from paragon_export.rewrite.rules import rewrite
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.specs.network import NetworkSpec, Port
from paragon_export.specs.plans import ExportPlan, NetworkOptions, ParityPlan
from paragon_export.specs.profiles import Profile
from paragon_export.specs.types import Backend, Precision, Runtime, Size
from paragon_export.testing.golden.make_weights import make_input
from paragon_export.testing.recorded import GOLDEN, recorded_weights
from paragon_export.testing.recorded import OLDER as CASES
from paragon_export.testing.tiny import Tensors, save
from tests.conftest import RunHere

COMPUTED_AS = {"v5h": "v5", "v55a": "v55", "v55b": "v55"}
"""Recorded versions that share tensors and name with another."""

SLOW = (
    "v7_photo_x2_33x20_nocontent", "v7_photo_x2_37x53_win", "v8_photo_x2_37x53_win",
    "v6_photo_x2_24x20_nocontent",
)  # fmt: skip
"""Seconds each, of networks that other cases show."""

EXPORTED = [
    "v0c_nano_x2_24x20", "v0c_nano_x2_24x20_b2_dyn", "v2_nano_x2_24x20_hr0a0",
    "v5_nano_x2_40x56_win", "v5_nano_x2_48x48_hier",
    "v5h_tiny_x2_37x53", "v55b_stream_x2_24x20", "v6_realtime_x2_24x20_content",
    "v7_realtime_x4_24x20", "v8_stream_x2_20x24", "psr1-mk_nano_x2_24x20",
    "v0_v2_anime_x2_24x20", "v1_nano_x2_24x20_cheapdyn", "v4_static_nano_x2_24x20",
    "v45d_paragonsr2v2_tiny_x2_24x20",
    *(pytest.param(name, marks=pytest.mark.slow) for name in (
        # Of many seconds each:
        "v5_nano_x2_129x128_hierspatial", "v55b_photo_x2_24x20", "v6_photo_x2_24x20", "v6_photo_x2_37x53_win",
        "v7_photo_x2_37x53_win", "v8_photo_x2_33x20_nocontent",
        # The operators of v0c, of v5_nano, of v7_realtime and of v8_stream, in other sizes:
        "v2_xs_x4_24x20", "v5_tiny_x2_37x53_win", "v6_realtime_x4_24x20", "v6_stream_x4_20x24",
    )),
]  # fmt: skip


def weights_of(name: str) -> Tensors:
    return recorded_weights(CASES[name])


def zeros_like_weights_of(name: str) -> Tensors:
    """Return tensors of the names, shapes and types of a case's weights."""
    signature = json.loads((GOLDEN / CASES[name]["signature"]).read_text(encoding="utf-8"))
    return {n: np.zeros(shape, kind) for n, (shape, kind) in signature["state_dict"].items()}


def flags_of(name: str) -> dict[str, Any]:
    """Return what has to be said of a case: what tensors do not tell and is not the default."""
    case = CASES[name]
    flags = {k: v for k, v in case["kwargs"].items() if k in ("upsampler_alpha", "use_norm")}
    if case["switches"].get("dynamic_inference"):
        flags["dynamic_inference"] = True
    if case["fill"].get("tracked") == 0:
        flags["obey_tracked_flag"] = True
    if case["switches"].get("hier"):
        flags["attention_mode"] = "hierarchical"
    if case["version"] == "v5h":
        flags["attention_mode"] = "global"
    return flags


def describe(weights: Tensors, folder: Path, **flags: Any) -> tuple[Checkpoint, NetworkSpec]:
    checkpoint = load_checkpoint(save(weights, folder / "older.safetensors"))
    return checkpoint, architecture_of(checkpoint).describe(checkpoint, NetworkOptions(flags=flags))


def reference_of(name: str, folder: Path, **more: Any) -> TorchReference:
    """Take a case's weights the way a user's file goes."""
    flags = {**flags_of(name), **more}
    checkpoint, variant = describe(weights_of(name), folder, **flags)
    if not more:
        assert_described(name, variant)
    if variant.needs:
        flags["scale"] = CASES[name]["kwargs"]["scale"]
        checkpoint, variant = describe(weights_of(name), folder, **flags)
    return build_reference(LoadedNetwork(checkpoint=checkpoint, spec=variant))


def assert_described(name: str, spec: NetworkSpec) -> None:
    """Check what the tensors of a recorded case say of it."""
    case = CASES[name]
    version = COMPUTED_AS.get(case["version"], case["version"])
    assert version in spec.generation.split("/")
    assert spec.variant == case["factory"].rpartition("_")[2]
    assert spec.parameters == case["params"]
    if spec.scale:
        assert spec.scale == case["kwargs"]["scale"]
    else:
        assert spec.needs == ("scale (give --scale or --config)",)
        assert case["version"] in ("psr1-mk", "psr1-nn", "v0b", "v0c", "v1", "v2", "v2a", "v4")


def recorded(name: str) -> tuple[np.ndarray, np.ndarray]:
    with np.load(GOLDEN / "older.npz") as outputs:
        return make_input(name, CASES[name]["input"]), outputs[name]


def excess(name: str, found: np.ndarray, truth: np.ndarray) -> float:
    """Return how far beyond its tolerance the worst value is; conforming is <= 0."""
    assert found.shape == truth.shape
    tolerance, wide = CASES[name]["tolerance"], truth.astype(np.float64)
    return float(
        (np.abs(found - wide) - tolerance["atol"] - tolerance["rtol"] * np.abs(wide)).max()
    )


def exported(reference: TorchReference) -> OnnxRunner:
    network = rewrite(reference.module).module
    model = simplify(trace(network, reference.inputs, reference.outputs, 20))
    return OnnxRunner(ir.to_proto(model).SerializeToString())


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CASES]
)
def test_network_computes_what_the_original_computed(name: str, tmp_path: Path) -> None:
    """It is described by its tensors alone (``assert_described``), then run."""
    x, truth = recorded(name)
    found = reference_of(name, tmp_path).runner("float32").infer({"input": x})["output"]
    assert excess(name, found, truth) <= 0


@pytest.mark.parametrize("name", EXPORTED)
def test_graph_computes_it_too_and_at_sizes_never_traced(name: str, tmp_path: Path) -> None:
    reference = reference_of(name, tmp_path)
    runner = exported(reference)
    x, truth = recorded(name)
    assert excess(name, runner.infer({"input": x})["output"], truth) <= 0

    exact = reference.runner("float64")
    for size in ((1, 1), (3, 2), (33, 7), (5, 41)):
        x = make_input(f"{name} {size}", [2, 3, *size])
        error = runner.infer({"input": x})["output"] - exact.infer({"input": x})["output"]
        assert float(np.abs(error).max()) < 2e-5


@pytest.mark.parametrize("name", SLOW)
def test_tensors_describe_the_network(name: str, tmp_path: Path) -> None:
    """The cases that the default run does not compute are described all the same."""
    _, spec = describe(zeros_like_weights_of(name), tmp_path, **flags_of(name))
    assert_described(name, spec)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("v0c_nano_x2_24x20", "body.1.blocks.1.transformer.tracked_kernel"),
        ("v2_nano_x2_24x20", "hr_head.0.conv2.weight"),
        ("v5_nano_x2_40x56_win", "body.0.blocks.0.transformer.attention.value.weight"),
        ("v55b_stream_x2_24x20", "content_processor.analyzer.5.weight"),
        ("v6_stream_x4_20x24", "detail_upsampler.stages.1.weight"),
        ("v7_realtime_x2_24x20", "body.0.mscf.attn.0.weight"),
        ("v8_stream_x2_20x24", "body.0.blocks.1.context.dwconv_w.weight"),
    ],
)
def test_one_weight_off_by_two_percent_breaks_conformance(
    name: str, tensor: str, tmp_path: Path
) -> None:
    weights = weights_of(name)
    weights[tensor] = weights[tensor] * np.float32(1.02)
    flags = flags_of(name) | {"scale": CASES[name]["kwargs"]["scale"]}
    checkpoint, variant = describe(weights, tmp_path, **flags)
    x, truth = recorded(name)
    found = (
        build_reference(LoadedNetwork(checkpoint=checkpoint, spec=variant))
        .runner("float32")
        .infer({"input": x})["output"]
    )
    assert excess(name, found, truth) > 0


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("v0c_nano_x2_24x20", {"upsampler_alpha": 0.5}),
        ("v0c_nano_x2_24x20_untracked", {"obey_tracked_flag": False}),
        ("v2_nano_x2_24x20_b2_dyn", {"dynamic_inference": False}),
        ("v1_nano_x2_24x20_nonorm", {"use_norm": True}),
        ("v5_nano_x2_40x56_win", {"attention_mode": "global"}),
        ("v5_nano_x2_129x128_hierspatial", {"attention_mode": "local"}),
        pytest.param(  # a map of 16512 pixels at once: 1 GB of scores
            "v5_nano_x2_129x128_hierspatial", {"attention_mode": "global"}, marks=pytest.mark.slow
        ),
        ("v6_photo_x2_37x53_win", {"window_size": 16}),
    ],
)
def test_a_wrong_switch_breaks_conformance(
    name: str, wrong: dict[str, Any], tmp_path: Path
) -> None:
    x, truth = recorded(name)
    found = reference_of(name, tmp_path, **wrong).runner("float32").infer({"input": x})["output"]
    assert excess(name, found, truth) > 0


# --- tracked kernels ----------------------------------------------------------------------


def test_a_lost_flag_is_mended_and_said(tmp_path: Path) -> None:
    """Averaging keeps tracked kernels and loses the flag: the kernels are used all the same."""
    whole = weights_of("v0c_nano_x2_24x20")
    lost = {
        k: np.zeros_like(a) if k.endswith("tracked_initialized") else a for k, a in whole.items()
    }
    gone = {k: a for k, a in whole.items() if not k.endswith("tracked_initialized")}
    x, truth = recorded("v0c_nano_x2_24x20")
    for weights in (lost, gone):
        checkpoint, variant = describe(weights, tmp_path, scale=2)
        assert any("tracked_initialized is not set in 4 blocks" in note for note in variant.notes)
        found = (
            build_reference(LoadedNetwork(checkpoint=checkpoint, spec=variant))
            .runner("float32")
            .infer({"input": x})["output"]
        )
        assert excess("v0c_nano_x2_24x20", found, truth) <= 0
    _, variant = describe(whole, tmp_path, scale=2)
    assert not any("tracked" in note for note in variant.notes)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda w: {k: a for k, a in w.items() if not k.endswith("tracked_kernel")},
         "tracked_kernel is missing, so the kernels of this generation cannot be baked"),
        (lambda w: {k: a * 0 if k.endswith("tracked_kernel") else a for k, a in w.items()},
         "is set but tracked_kernel is all zero"),
    ],
    ids=["missing", "zero"],
)  # fmt: skip
def test_what_cannot_be_baked_is_refused(damage: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=reason):
        describe(damage(weights_of("v2_nano_x2_24x20")), tmp_path, scale=2)


def test_a_flag_that_is_set_is_obeyed(tmp_path: Path) -> None:
    name = "v0c_nano_x2_24x20"
    x, truth = recorded(name)
    reference = reference_of(name, tmp_path, obey_tracked_flag=True)
    assert excess(name, reference.runner("float32").infer({"input": x})["output"], truth) <= 0


def test_dynamic_inference_needs_the_generator(tmp_path: Path) -> None:
    weights = weights_of("v2_nano_x2_24x20")
    gone = {k: a for k, a in weights.items() if "kernel_generator" not in k}
    with pytest.raises(PlanError, match=r"dynamic_inference.*kernel_generator is missing"):
        describe(gone, tmp_path, scale=2, dynamic_inference=True)


def test_a_flag_beats_the_option_files_scale(tmp_path: Path) -> None:
    config = tmp_path / "train.yml"
    config.write_text("scale: 4\nnetwork_g: {type: paragonsr2_nano}\n")
    checkpoint = load_checkpoint(save(weights_of("v2_nano_x2_24x20"), tmp_path / "v2.safetensors"))
    switches = NetworkOptions(flags={"scale": 2}, config=config)
    assert architecture_of(checkpoint).describe(checkpoint, switches).scale == 2


def test_generators_may_be_gone(tmp_path: Path) -> None:
    """The author's release tool deletes them; outputs stay, dynamic inference has nothing to run."""
    name = "v2_nano_x2_24x20"
    weights = {k: a for k, a in weights_of(name).items() if "kernel_generator" not in k}
    checkpoint, variant = describe(weights, tmp_path, scale=2)
    x, truth = recorded(name)
    found = (
        build_reference(LoadedNetwork(checkpoint=checkpoint, spec=variant))
        .runner("float32")
        .infer({"input": x})["output"]
    )
    assert excess(name, found, truth) <= 0


# --- what tensors cannot tell --------------------------------------------------------------


def test_scale_must_be_told(run_here: RunHere, tmp_path: Path) -> None:
    """Nothing is assumed that changes the picture's size."""
    checkpoint = save(weights_of("v2_nano_x2_24x20"), tmp_path / "v2.safetensors")
    output = tmp_path / "v2.onnx"
    refused = run_here("onnx", checkpoint, "-o", output)
    assert refused.code == 3
    assert "do not tell scale (give --scale or --config)" in refused.stderr
    assert not output.exists()

    inspected = run_here("inspect", checkpoint, "--json")
    told = json.loads(inspected.stdout)
    assert (inspected.code, told["scale"], len(told["needs"])) == (0, 0, 1)
    assert "still needed: scale" in run_here("inspect", checkpoint).stdout

    config = tmp_path / "train.yml"
    config.write_text("scale: 2\nnetwork_g: {type: paragonsr2_nano, upsampler_alpha: 0.5}\n")
    for more in (("--scale", "2"), ("--config", config)):
        finished = run_here("onnx", checkpoint, "-o", output, *more)
        assert finished.code == 0, finished.stderr
        output.unlink()


def test_probe_tries_scales_where_none_is_told(run_here: RunHere, tmp_path: Path) -> None:
    checkpoint = save(weights_of("v2_nano_x2_24x20"), tmp_path / "v2.safetensors")
    told = run_here("inspect", checkpoint, "--probe", "--upsampler-alpha", "0.5", "--json")
    fits = json.loads(told.stdout)["probe"]
    assert {fit["scale"] for fit in fits} == {2, 3, 4, 8}
    ranks = [fit["over_bicubic_db"] for fit in fits]
    assert ranks == sorted(ranks, reverse=True)
    assert fits[0]["below_best_db"] == 0


@pytest.mark.parametrize(
    ("name", "flags", "reason"),
    [
        ("v6_realtime_x2_24x20", {"scale": 4}, "tensors say 2; leave --scale out"),
        ("v5_nano_x2_24x20", {"attention_mode": "sdpa"}, "must be local, global or hierarchical"),
        ("v2_nano_x2_24x20", {"scale": 0}, "scale = 0 .* impossible: it must be 1 to 16"),
        ("v6_realtime_x2_24x20", {"generation": "v9"}, "are those of v6"),
    ],
)
def test_contradictions_are_refused(
    name: str, flags: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(PlanError, match=reason):
        describe(weights_of(name), tmp_path, **flags)


def test_v55_took_its_default_whatever_it_was_asked(tmp_path: Path) -> None:
    config = tmp_path / "train.yml"
    config.write_text("network_g: {type: paragonsr2_realtime, upsampler_alpha: 0.0}\n")
    checkpoint = load_checkpoint(
        save(weights_of("v55b_realtime_x2_24x20"), tmp_path / "v55.safetensors")
    )
    variant = architecture_of(checkpoint).describe(checkpoint, NetworkOptions(config=config))
    assert variant.options["upsampler_alpha"].value == 0.35
    assert any("uses its default 0.35" in note for note in variant.notes)


def test_video_is_refused(run_here: RunHere, tmp_path: Path) -> None:
    checkpoint = save(weights_of("v6_realtime_x2_24x20"), tmp_path / "v6.safetensors")
    refused = run_here("onnx", checkpoint, "--video", "-o", tmp_path / "v.onnx")
    assert refused.code == 3
    assert "--video is for v10 and later" in refused.stderr


# --- functions ------------------------------------------------------------------------------


def test_small_pictures_that_crash_the_original_are_padded_to_one_window(tmp_path: Path) -> None:
    """v7 at 20x9: as the attention of a picture that fills its window, zeros where it ends."""
    reference = reference_of("v7_photo_x2_37x53_win", tmp_path)
    attention = reference.module.get_submodule("body.0.blocks.0.attn").double()
    x = torch.randn(1, 128, 20, 9, dtype=torch.float64)
    whole = torch.nn.functional.pad(x, (0, 23, 0, 12))
    assert torch.equal(attention(x), attention(whole)[:, :, :20, :9])
    assert TRAITS["v7"].has_bias


@pytest.mark.parametrize(
    "size",
    [
        (30, 71),
        # The recorded case ``v5_nano_x2_129x128_hierspatial`` has the regions, too.
        pytest.param((129, 128), marks=pytest.mark.slow),
    ],
)
def test_hierarchical_attention_is_global_or_regional(size: tuple[int, int]) -> None:
    """Up to 16384 pixels a map is one region; beyond, a loop over regions says the same."""
    torch.manual_seed(0)
    layer = HierarchicalAttention(6, 2).double()
    layer.gamma.data.fill_(0.7)
    x = torch.randn(1, 6, *size, dtype=torch.float64)
    q, k, v = layer.query(x)[0], layer.key(x)[0], layer.value(x)[0]

    def attended(rows: slice, columns: slice) -> torch.Tensor:
        parts = [t[:, rows, columns].flatten(1) for t in (q, k, v)]
        weights = torch.softmax(parts[0].T @ parts[1] / parts[0].shape[1] ** 0.5, dim=-1)
        shape = v[:, rows, columns].shape
        return (weights @ parts[2].T).T.reshape(shape)

    with torch.no_grad():
        if size[0] * size[1] <= 16384:
            expected = x[0] + 0.7 * attended(slice(None), slice(None))
        else:
            total, weight = torch.zeros_like(x[0]), torch.zeros(size, dtype=torch.float64)
            for top, ramp_y in _regions(size[0]):
                for left, ramp_x in _regions(size[1]):
                    rows, columns = slice(top, top + len(ramp_y)), slice(left, left + len(ramp_x))
                    share = ramp_y[:, None] * ramp_x
                    region = x[0, :, rows, columns] + 0.7 * attended(rows, columns)
                    total[:, rows, columns] += share * region
                    weight[rows, columns] += share
            expected = x[0] + 0.7 * total / (weight + 1e-8)
        assert float((layer(x)[0] - expected).abs().max()) < 1e-9


def _regions(extent: int) -> list[tuple[int, torch.Tensor]]:
    """The regions of 64 that overlap by 8, and their ramps, as the specification has them."""
    found = []
    for index in range((extent + 7) // 56):
        start, end = 56 * index, min(extent, 56 * index + 64)
        ramp, fade = torch.ones(end - start, dtype=torch.float64), min(8, (end - start) // 4)
        if start:
            ramp[:fade] *= torch.linspace(0, 1, fade, dtype=torch.float64)
        if end < extent:
            ramp[-fade:] *= torch.linspace(1, 0, fade, dtype=torch.float64)
        found.append((start, ramp))
    return found


@pytest.mark.parametrize(
    "name",
    [
        "v5_nano_x2_40x56_win",
        # Local attention as well, below the size at which regions count:
        pytest.param("v5_nano_x2_48x48_hier", marks=pytest.mark.slow),
        "v7_realtime_x2_24x20",
        # Convolutions and gates alone, which v7 has as well:
        pytest.param("v2_nano_x2_24x20", marks=pytest.mark.slow),
        pytest.param("v55b_stream_x2_24x20", marks=pytest.mark.slow),
    ],
)
def test_tensorrt_builds_it_in_half_precision(name: str, tmp_path: Path) -> None:
    """Gathered windows, multi-scale fusion and all: TensorRT-RTX takes the graph made for it."""
    reference = reference_of(name, tmp_path)
    network = rewrite(reference.module, Runtime.TENSORRT).module
    wide = simplify(trace(network, reference.inputs, reference.outputs, 20))
    half = to_precision(wide, Precision.FP16, Precision.FP32)
    file = serialized(half, tmp_path / "half.onnx")
    profile = Profile(smallest=Size(1, 1), optimal=Size(48, 48), largest=Size(96, 96))
    built = compile_engine(file, Backend.RTX, ("sm86",), profile)
    assert len(built.data) > 10_000


@pytest.mark.parametrize("name", ["v0c_nano_x2_24x20", "v6_realtime_x2_24x20"])
def test_whole_flow(name: str, tmp_path: Path) -> None:
    """Loaded, exported and judged at every default size, as any other network."""
    checkpoint = save(weights_of(name), tmp_path / "c.safetensors")
    flags = {"scale": 2} if name.startswith("v0c") else {}
    plan = ExportPlan(
        checkpoint=checkpoint, output=tmp_path / "c.onnx", options=NetworkOptions(flags=flags)
    )
    assert export(plan).parity.passed


def test_index_tables_are_named_by_their_content(tmp_path: Path) -> None:
    """A copy of a network, whose tables lie elsewhere in memory, gives the same bytes."""
    reference = reference_of("v7_photo_x2_37x53_win", tmp_path)
    attention = reference.module.get_submodule("body.0.blocks.0.attn")
    ports = tuple(Port(name, ("batch", 128, "height", "width")) for name in ("x", "y"))
    modules = (attention, copy.deepcopy(attention))
    models = [trace(m, ports[:1], ports[1:], 20) for m in modules]
    first, second = (ir.to_proto(model).SerializeToString() for model in models)
    assert any(name.startswith("table_") for name in models[0].graph.initializers)
    assert first == second


def test_hierarchical_attention_is_judged_above_its_limit(tmp_path: Path) -> None:
    """Without it, an export that lost the regions, used above 16384 pixels, would pass."""
    for name, sizes in (("v5_nano_x2_48x48_hier", {(129, 128)}), ("v5_nano_x2_40x56_win", set())):
        spec = reference_of(name, tmp_path).spec
        assert set(spec.also_probed) == sizes
        judged = {(p.size.height, p.size.width) for p in choose_probes(spec.input_spec)}
        assert sizes <= judged


@pytest.mark.slow  # 3 minutes: attention between all of 16512 pixels, in float64
def test_an_export_that_lost_the_regions_fails(tmp_path: Path) -> None:
    """A global network is the same up to 16384 pixels. The default sizes hold a larger one."""
    hierarchical = reference_of("v5_nano_x2_48x48_hier", tmp_path)
    lost = reference_of("v5_nano_x2_48x48_hier", tmp_path, attention_mode="global")
    plan = ExportPlan(checkpoint=tmp_path / "net.safetensors", output=tmp_path / "net.onnx")
    graph = float32_graph(lost.network, plan)
    report = judge(hierarchical, [finish(graph, graph.model, plan)], ParityPlan(at=()))
    assert {row.size for row in report.rows if row.failure} == {Size(129, 128)}
