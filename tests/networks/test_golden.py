"""Conformance: outputs of the original networks, recorded, against ours within their tolerances."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paragon_export.checkpoints.load import Checkpoint, load_checkpoint
from paragon_export.graph.simplify import simplify
from paragon_export.graph.trace import trace
from paragon_export.networks.describe import LoadedNetwork
from paragon_export.networks.paragonsr2.v9_v11.layout import VARIANTS, WINDOW_SIZE
from paragon_export.networks.registry import architecture_of
from paragon_export.parity.reference import TorchReference, build_reference
from paragon_export.rewrite.rules import rewrite
from paragon_export.runtimes.base import Arrays
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.specs.network import NetworkSpec
from paragon_export.specs.plans import ExportPlan, NetworkOptions
from paragon_export.testing.recorded import GOLDEN, recorded_cases, recorded_weights
from paragon_export.testing.tiny import Tensors, save

CASES = recorded_cases("manifest.json")

GENERATIONS = {
    ("v9", "realtime"): "v9/v10",
    ("v9", "stream"): "v9/v10",
    ("v10", "realtime"): "v9/v10",
    ("v10", "stream"): "v9/v10",
}
"""By recorded version and variant; every other pair computes what v11 does."""

SWITCHES = ("upsampler_alpha", "window_size", "export_safe")

ONNX_CASES = [
    "v11_realtime_x2_24x20",
    "v9_stream_x4_24x20",
    "v11_photo_x2_37x53_odd",
    "v11_photo_x2_24x20_exportsafe",
    pytest.param("v11_pro_x2_37x53_w8", marks=pytest.mark.slow),
]


def load(case: dict[str, Any], weights: Tensors, folder: Path) -> tuple[Checkpoint, NetworkSpec]:
    """Take weights the way a user's file goes: saved, loaded, described."""
    checkpoint = load_checkpoint(save(weights, folder / "golden.safetensors"))
    flags = {name: case["kwargs"][name] for name in SWITCHES if name in case["kwargs"]}
    return checkpoint, architecture_of(checkpoint).describe(checkpoint, NetworkOptions(flags=flags))


def feeds_and_truth(case: dict[str, Any]) -> tuple[Arrays, Arrays]:
    """Return the recorded inputs and outputs by port name."""
    with np.load(GOLDEN / case["npz"]) as recorded:
        feeds, truth = {"input": recorded["x"]}, {"output": recorded["y"]}
        if "forward" in case:
            feeds["prev_feat"] = recorded["prev_feat"]
            feeds["alpha"] = np.array(case["forward"]["alpha"], np.float32)
            truth["feature_map"] = recorded["feat"]
    return feeds, truth


def excess(case: dict[str, Any], found: Arrays, truth: Arrays) -> float:
    """Return how far beyond its tolerance the worst value of any output is; conforming is <= 0."""
    tolerance = case["tolerance"]
    assert found.keys() == truth.keys()
    worst = -math.inf
    for name, expected in truth.items():
        assert found[name].shape == expected.shape
        wide = expected.astype(np.float64)
        allowed = tolerance["atol"] + tolerance["rtol"] * np.abs(wide)
        worst = max(worst, float((np.abs(found[name] - wide) - allowed).max()))
    return worst


def reference_of(case: dict[str, Any], folder: Path) -> tuple[TorchReference, NetworkSpec]:
    checkpoint, variant = load(case, recorded_weights(case), folder)
    return build_reference(
        LoadedNetwork(checkpoint=checkpoint, spec=variant), video="forward" in case
    ), variant


def assert_described(case: dict[str, Any], spec: NetworkSpec) -> None:
    """Variant, scale, generation and size come from the tensors; the rest says its source."""
    expected_name = case["factory"].removeprefix("paragonsr2_")
    assert spec.variant == expected_name
    assert spec.scale == case["kwargs"]["scale"]
    assert spec.parameters == case["params"]
    assert spec.generation == GENERATIONS.get((case["version"], expected_name), "v11")
    assert (spec.in_channels, spec.out_channels) == (3, 3)
    assert spec.dropped == ()

    defaults = {
        "upsampler_alpha": VARIANTS[expected_name].upsampler_alpha,
        "window_size": WINDOW_SIZE,
        "export_safe": False,
    }
    for switch in SWITCHES:
        if switch == "window_size" and not VARIANTS[expected_name].attention:
            assert switch not in spec.options
            continue
        setting = spec.options[switch]
        given = case["kwargs"].get(switch)
        if given is None:
            assert (setting.value, setting.source) == (defaults[switch], "default")
        else:
            assert (setting.value, setting.source) == (given, "flag")


@pytest.mark.parametrize("name", CASES)
def test_network_computes_what_the_original_computed(name: str, tmp_path: Path) -> None:
    """Every recorded case of v9, v10 and v11 is described and reproduced within its tolerance."""
    case = CASES[name]
    reference, spec = reference_of(case, tmp_path)
    assert_described(case, spec)
    feeds, truth = feeds_and_truth(case)

    found = reference.runner("float32").infer(feeds)

    assert excess(case, found, truth) <= 0


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("v11_realtime_x2_24x20", "body.0.blocks.1.dw.weight"),
        ("v9_realtime_x2_24x20", "body.0.blocks.2.conv2.weight"),
        ("v11_stream_x4_24x20", "body.0.blocks.1.dw3.weight"),
        ("v11_photo_x2_37x53_odd", "body.1.blocks.2.attn.qkv.weight"),
        ("v11_pro_x2_20x24_exportsafe", "body.2.blocks.3.token_ca.token_dict"),
        ("v11_realtime_x2_24x20_video", "conv_in.weight"),
    ],
)
def test_one_weight_off_by_one_percent_breaks_conformance(
    name: str, tensor: str, tmp_path: Path
) -> None:
    """The tolerances are tight enough to see one tensor in a deep block scaled by 1.01."""
    case = CASES[name]
    weights = recorded_weights(case)
    weights[tensor] = weights[tensor] * np.float32(1.01)
    checkpoint, variant = load(case, weights, tmp_path)
    reference = build_reference(
        LoadedNetwork(checkpoint=checkpoint, spec=variant), video="forward" in case
    )
    feeds, truth = feeds_and_truth(case)

    found = reference.runner("float32").infer(feeds)

    assert excess(case, found, truth) > 0


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("v11_realtime_x2_24x20", {"upsampler_alpha": 0.0}),
        ("v11_photo_x2_37x53_odd", {"window_size": 8}),
        ("v11_photo_x2_37x53_odd", {"attention_mode": "none"}),
    ],
)
def test_a_wrong_switch_breaks_conformance(
    name: str, flags: dict[str, Any], tmp_path: Path
) -> None:
    """Options that weights cannot tell change the picture, so a wrong one is seen."""
    case = CASES[name]
    reference, _ = reference_of(case, tmp_path)
    checkpoint = load_checkpoint(tmp_path / "golden.safetensors")
    variant = architecture_of(checkpoint).describe(checkpoint, NetworkOptions(flags=flags))
    feeds, truth = feeds_and_truth(case)

    right = reference.runner("float32").infer(feeds)
    wrong = (
        build_reference(LoadedNetwork(checkpoint=checkpoint, spec=variant))
        .runner("float32")
        .infer(feeds)
    )

    assert excess(case, right, truth) <= 0 < excess(case, wrong, truth)


@pytest.mark.parametrize("rewritten", [False, True])
@pytest.mark.parametrize("name", ONNX_CASES)
def test_exported_graph_computes_what_the_original_computed(
    name: str, rewritten: bool, tmp_path: Path
) -> None:
    """The traced and simplified dynamic graph reproduces recorded cases in ONNX Runtime."""
    import onnx_ir as ir

    case = CASES[name]
    reference, _ = reference_of(case, tmp_path)
    plan = ExportPlan(checkpoint=tmp_path / "c", output=tmp_path / "o.onnx")
    module = rewrite(reference.module).module if rewritten else reference.module
    model = simplify(trace(module, reference.inputs, reference.outputs, plan.operator_set))
    runner = OnnxRunner(ir.to_proto(model).SerializeToString())
    feeds, truth = feeds_and_truth(case)

    assert excess(case, runner.infer(feeds), truth) <= 0
