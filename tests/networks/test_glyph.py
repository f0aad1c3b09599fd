"""The glyph classifier: conformance with recorded logits, and what tensors and configs tell."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from torch.nn import functional as F

from paragon_export.checkpoints.load import load_checkpoint
from paragon_export.errors import CheckpointError, PlanError, UnsupportedNetworkError
from paragon_export.graph.simplify import simplify
from paragon_export.graph.trace import trace
from paragon_export.networks.describe import read_network
from paragon_export.networks.glyph.layout import Hyperparameters
from paragon_export.parity.reference import TorchReference
from paragon_export.runtimes.openvino_runner import OpenVinoRunner
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.specs.plans import NetworkOptions
from paragon_export.testing.glyph import (
    PHASE_2,
    SMALL,
    SMALL_CELLS,
    config_of,
    golden_checkpoint,
    golden_weights,
    recorded,
    reference_of,
    save_checkpoint,
    signature,
    small_checkpoint,
    small_weights,
)
from paragon_export.testing.tiny import Tensors, save

FLOAT64, FLOAT32, RUNTIME = 1e-9, 5e-5, 1e-3

OTHERS = {
    "stem stride 3": replace(SMALL, stem_stride=3),
    "kernels 5 and 7": replace(SMALL, kernel=5, stem_kernel=7),
    "none": replace(SMALL, downsample="none", stages=(12, 20, 16), blocks=(1, 0, 2)),
    "normalised": replace(SMALL, normalize_embeddings=True),
    "relu, bn_eps": replace(SMALL, activation="relu", bn_eps=1e-2),
    "no hidden layer": replace(SMALL, hidden=0),
    "stage without a block": replace(SMALL, stages=(12, 12, 16), blocks=(0, 2, 0)),
    "one stage": replace(SMALL, stages=(12,), blocks=(2,), downsample=None),
    "no block": replace(SMALL, blocks=(0, 0), kernel=None),
    "vocabulary 300": replace(SMALL, vocabulary=300),
}


def to_onnx(reference: TorchReference, opset: int = 20) -> bytes:
    import onnx_ir as ir

    model = simplify(trace(reference.module, reference.inputs, reference.outputs, opset))
    return ir.to_proto(model).SerializeToString()


@cache
def golden_reference(name: str, folder: Path) -> TorchReference:
    return reference_of(golden_checkpoint(name, folder))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("glyph")


def feeds_of(name: str) -> dict[str, np.ndarray]:
    found = recorded(name)
    return {"input": found["cells"].astype(np.float32) if name == "phase1" else found["ids"]}


def assert_close(found: np.ndarray, truth: np.ndarray, tolerance: float) -> None:
    assert np.abs(found - truth).max() <= tolerance
    assert (found.argmax(1) == truth.argmax(1)).all()


@pytest.mark.parametrize("name", [*PHASE_2, "phase1"])
def test_network_computes_what_the_original_computed(name: str, folder: Path) -> None:
    """Every recorded case is met: 1e-9 in float64, 5e-5 in float32, the best class equal."""
    reference, truth = golden_reference(name, folder), recorded(name)["logits_f64"]

    for dtype, tolerance in (("float64", FLOAT64), ("float32", FLOAT32)):
        assert_close(reference.runner(dtype).infer(feeds_of(name))["output"], truth, tolerance)


@pytest.mark.parametrize("runner", [OnnxRunner, OpenVinoRunner])
@pytest.mark.parametrize("name", [*PHASE_2, "phase1"])
def test_exported_graph_computes_what_the_original_computed(
    name: str, runner: Callable[[bytes], Any], folder: Path
) -> None:
    """The dynamic graph in both runtimes: as close as float32 in PyTorch has to be."""
    exported = runner(to_onnx(golden_reference(name, folder)))
    truth, feeds = recorded(name)["logits_f64"], feeds_of(name)
    alone = {"input": feeds["input"][1:2]}

    assert_close(exported.infer(feeds)["output"], truth, FLOAT32)
    assert_close(exported.infer(alone)["output"], truth[1:2], FLOAT32)
    assert FLOAT32 < RUNTIME


@pytest.mark.parametrize("name", ["full", "light", "tiny"])
def test_tensors_tell_what_the_case_is(name: str, folder: Path) -> None:
    """Variant, counts and classes come from the tensors, without a config."""
    path = save(golden_weights(name), folder / f"{name}.safetensors")
    network = read_network(path, NetworkOptions())
    variant = network.spec

    assert (variant.architecture, variant.generation, variant.variant) == ("Glyph", "phase 2", name)
    assert variant.parameters == signature(name)["param_count"]
    assert variant.out_channels == signature(name)["num_classes"]
    assert {s.source for s in variant.options.values()} == {"default"}
    (note,) = variant.notes
    assert "activation = gelu" in note
    assert "assumed" in note


def test_graph_is_plain(folder: Path) -> None:
    """Batch norm is folded, the embedding is one Gather, and the batch is open."""
    import onnx

    model = onnx.ModelProto.FromString(to_onnx(golden_reference("light", folder)))
    kinds = [node.op_type for node in model.graph.node]

    assert kinds.count("Conv") == 15
    assert set(kinds) <= {"Gather", "Transpose", "Conv", "Gelu", "Add", "ReduceMean",
                          "LayerNormalization", "MatMul", "Gemm"}  # fmt: skip
    (port,) = model.graph.input
    assert port.type.tensor_type.elem_type == onnx.TensorProto.INT64
    assert [d.dim_param or d.dim_value for d in port.type.tensor_type.shape.dim] == [
        "batch",
        16,
        16,
    ]


# --- hyperparameters of every kind --------------------------------------------------------


def functional(weights: Tensors, h: Hyperparameters, ids: np.ndarray) -> np.ndarray:
    """Compute a network from its state dict, by the specification, in float64."""
    w = {n: torch.from_numpy(np.array(a, np.float64)) for n, a in weights.items()}
    act = F.gelu if h.activation == "gelu" else F.relu

    def unit(x: Tensor, path: str, stride: int = 1) -> Tensor:
        kernel = w[f"{path}.conv.weight"]
        z = F.conv2d(x, kernel, None, stride, kernel.shape[-1] // 2)
        mean, var, gain, bias = (
            w[f"{path}.bn.{leaf}"][:, None, None]
            for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        return act((z - mean) / torch.sqrt(var + h.bn_eps) * gain + bias)

    x = w["embedding.weight"][torch.from_numpy(ids)]
    if h.normalize_embeddings:
        x = x / x.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    x = unit(x.permute(0, 3, 1, 2), "stem", h.stem_stride)
    index = 0
    while True:
        if f"features.{index}.conv1.conv.weight" in w:
            x = x + unit(unit(x, f"features.{index}.conv1"), f"features.{index}.conv2")
        elif f"features.{index}.conv.weight" in w:
            three = w[f"features.{index}.conv.weight"].shape[-1] == 3
            x = unit(x, f"features.{index}", 2 if three else 1)
        else:
            break
        index += 1
    x = x.mean((2, 3))
    centred = x - x.mean(1, keepdim=True)
    x = centred / torch.sqrt(centred.square().mean(1, keepdim=True) + 1e-5)
    x = x * w["classifier.0.weight"] + w["classifier.0.bias"]
    if h.hidden:
        x = act(x @ w["classifier.1.weight"].T + w["classifier.1.bias"])
    last = "classifier.4" if h.hidden else "classifier.2"
    return (x @ w[f"{last}.weight"].T + w[f"{last}.bias"]).numpy()


@pytest.mark.parametrize("h", OTHERS.values(), ids=OTHERS)
def test_any_hyperparameters(h: Hyperparameters, tmp_path: Path) -> None:
    """Read back from tensors and the embedded config, computed by both, exported."""
    reference = reference_of(small_checkpoint(tmp_path / "n.pt", h))
    ids = np.random.default_rng(1).integers(0, h.vocabulary, (3, 16, 16))
    truth = functional(small_weights(h), h, ids)

    assert_close(reference.runner("float64").infer({"input": ids})["output"], truth, FLOAT64)
    for opset in (18, 20):
        found = OnnxRunner(to_onnx(reference, opset)).infer({"input": ids})["output"]
        assert_close(found, truth, FLOAT32)


def test_numbers_read_from_tensors_match_the_config(tmp_path: Path) -> None:
    """Every hyperparameter of every kind of network is found again."""
    for h in OTHERS.values():
        network = read_network(small_checkpoint(tmp_path / "n.pt", h), NetworkOptions())
        variant = network.spec
        assert variant.structure["hyperparameters"] == h
        assert {s.source for s in variant.options.values()} == {"metadata"}
        assert not variant.notes


# --- configs ------------------------------------------------------------------------------


def with_config(tmp_path: Path, text: str) -> NetworkOptions:
    path = tmp_path / "train.yaml"
    path.write_text(text, encoding="utf-8")
    return NetworkOptions(config=path)


def test_a_given_config_is_stronger_than_the_embedded_one(tmp_path: Path) -> None:
    """Entry by entry; a flag is stronger than both, and 1e-3 is a number although YAML says not."""
    path = small_checkpoint(tmp_path / "n.pt", replace(SMALL, stem_stride=2))
    given = with_config(tmp_path, "model: {cnn: {activation: ReLU, bn_eps: 1e-3}}")
    network = read_network(path, replace(given, flags={"activation": "gelu"}))
    variant = network.spec

    told = {n: (s.value, s.source) for n, s in variant.options.items()}
    assert told == {
        "activation": ("gelu", "flag"),
        "normalize_embeddings": (False, "metadata"),
        "stem_stride": (2, "metadata"),
        "bn_eps": (1e-3, "config"),
    }


@pytest.mark.parametrize(
    "cnn",
    [
        {"stages": [], "width_base": 12, "width_factor": 4 / 3, "num_stages": 2},
        {"stages": None, "width_base": 12, "width_factor": "1.3333", "num_stages": 2},
        {"blocks_per_stage": [1]},
        {"blocks_per_stage": None},
        {"blocks_per_stage": [1, 1, 7, 7]},
        {"classifier_hidden_dim": 10, "dropout": 0.9, "kernel_size": 3},
    ],
)
def test_configs_that_fit(cnn: dict[str, Any], tmp_path: Path) -> None:
    """Widths made from a base, block lists too short and too long, entries that do not matter."""
    given = with_config(tmp_path, yaml.safe_dump({"model": {"cnn": cnn}}))
    network = read_network(save_checkpoint(small_weights(), tmp_path / "n.pt"), given)
    variant = network.spec
    assert variant.structure["hyperparameters"].stages == SMALL.stages


def test_stages_that_cannot_be_told_apart(tmp_path: Path) -> None:
    """Without downsampling, stages of equal width compute as one and the config still fits."""
    h = replace(SMALL, downsample="none", stages=(12,), blocks=(3,))
    config = config_of(h)
    config["model"]["cnn"] |= {"stages": [12, 12], "blocks_per_stage": [1, 2]}
    path = save_checkpoint(small_weights(h), tmp_path / "n.pt", config=config)
    assert read_network(path, NetworkOptions()).spec.structure["hyperparameters"].blocks == (3,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("input: {embedding_dim: 9}", "embedding_dim 9"),
        ("input: {primitive_vocab_size: 1024}", "primitive_vocab_size 1024"),
        ("model: {cnn: {stages: [12, 17]}}", "stages"),
        ("model: {cnn: {width_base: 12}}", "width_base"),
        ("model: {cnn: {blocks_per_stage: [2, 1]}}", "blocks_per_stage"),
        ("model: {cnn: {blocks_per_stage: 1}}", "expected a list"),
        ("model: {cnn: {kernel_size: 5}}", "kernel_size 5"),
        ("model: {cnn: {stem_kernel_size: 5}}", "stem_kernel_size 5"),
        ("model: {cnn: {downsample: none}}", "downsample none"),
        ("model: {cnn: {downsample: pool}}", "expected conv or none"),
        ("model: {cnn: {classifier_hidden_dim: null}}", "classifier_hidden_dim 0"),
        ("model: {cnn: {activation: silu}}", "gelu or relu"),
        ("model: {cnn: {bn_eps: 0}}", "positive"),
        ("model: {cnn: {stem_stride: 0}}", "stem_stride"),
        ("model: {architecture: transformer}", "architecture transformer"),
        ("network_g: {type: paragonsr2_photo}", "neither an input nor a model"),
        ("model: [1]", "expected a table"),
    ],
)
def test_a_config_for_another_network_is_refused(text: str, said: str, tmp_path: Path) -> None:
    """In one line that names the entry; whether it is given or embedded."""
    path = save_checkpoint(small_weights(), tmp_path / "n.pt")
    with pytest.raises(PlanError, match=said) as error:
        read_network(path, with_config(tmp_path, text))
    assert "\n" not in str(error.value)
    if "network_g" not in text:
        embedded = yaml.safe_load(text)
        path = save_checkpoint(small_weights(), tmp_path / "e.pt", config=embedded)
        with pytest.raises(PlanError, match=said):
            read_network(path, NetworkOptions())


def test_switches_of_pictures_are_refused(tmp_path: Path) -> None:
    path = small_checkpoint(tmp_path / "n.pt")
    with pytest.raises(PlanError, match="upsampler_alpha is no option of a Glyph"):
        read_network(path, NetworkOptions(flags={"upsampler_alpha": 0.5}))


# --- containers ---------------------------------------------------------------------------


@pytest.mark.parametrize("container", ["model_state", "model_state_dict", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module._orig_mod.", "model.net.module."])
def test_containers_and_prefixes(container: str, prefix: str, tmp_path: Path) -> None:
    """The weights arrive whole whatever they were wrapped in, and what lay beside is kept."""
    labels = {"1649_alef": 0}
    path = save_checkpoint(
        small_weights(), tmp_path / "n.pt", container=container, prefix=prefix,
        config=config_of(SMALL), label_map=labels, metrics={"top1": 0.5},
    )  # fmt: skip
    link = tmp_path / "best.pt"
    link.symlink_to(path)
    checkpoint = load_checkpoint(link)

    assert checkpoint.extra["label_map"] == labels
    assert checkpoint.extra["config"] == config_of(SMALL)
    assert checkpoint.extra["epoch"] == 3
    assert set(checkpoint.tensors) == set(small_weights())
    assert checkpoint.tensors["stem.bn.num_batches_tracked"].dtype == np.int64
    reference_of(link)


def test_a_prefix_that_not_every_tensor_has_stays(tmp_path: Path) -> None:
    """``model.`` may be a name of the network itself."""
    path = save({"model.a": np.zeros(1, np.float32), "b": np.zeros(1, np.float32)}, tmp_path / "n")
    assert set(load_checkpoint(path).tensors) == {"model.a", "b"}


def test_code_in_a_container_is_not_run(tmp_path: Path) -> None:
    """A pickle that asks for a function is refused, weights or not."""

    class Trap:
        def __reduce__(self) -> Any:
            return (Path(tmp_path / "ran").touch, ())

    path = tmp_path / "trap.pt"
    path.write_bytes(pickle.dumps({"model_state": Trap()}))
    with pytest.raises(CheckpointError, match="run code"):
        load_checkpoint(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.pop("stem.bn.running_var"), "1 missing: stem.bn.running_var"),
        (lambda w: w.update(extra=np.zeros(2, np.float32)), "1 unexpected: extra"),
        (lambda w: w.update({"stem.bn.bias": np.zeros(5, np.float32)}), "stem.bn.bias is"),
        (lambda w: w.update({"stem.bn.bias": np.zeros(12, np.int64)}), "holds int64"),
        (lambda w: w.pop("classifier.4.weight"), "head"),
    ],
)
def test_loading_is_strict(change: Callable[[Tensors], Any], said: str, tmp_path: Path) -> None:
    weights = dict(small_weights())
    change(weights)
    with pytest.raises(CheckpointError, match=said):
        read_network(save_checkpoint(weights, tmp_path / "n.pt"), NetworkOptions())


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("visual_features.0.conv.weight", "sequence-aware"),
        ("encoder.layers.0.weight", "transformer"),
    ],
)
def test_relatives_are_refused_by_name(key: str, said: str, tmp_path: Path) -> None:
    kept = {n: a for n, a in small_weights().items() if n.startswith(("embedding", "stem"))}
    path = save_checkpoint({**kept, key: np.zeros((2, 2), np.float32)}, tmp_path / "n.pt")
    with pytest.raises(UnsupportedNetworkError, match=said):
        read_network(path, NetworkOptions())


def test_phase_1_of_other_sizes(tmp_path: Path) -> None:
    """Widths and classes come from the tensors; a config would have nothing to say."""
    path = small_checkpoint(tmp_path / "cells.pt", SMALL_CELLS)
    network = read_network(path, NetworkOptions())
    checkpoint, variant = network.checkpoint, network.spec
    assert variant.structure["hyperparameters"] == SMALL_CELLS
    assert (variant.generation, variant.out_channels) == ("phase 1", 40)
    without_norm = {n: a for n, a in checkpoint.tensors.items() if not n.startswith("features.1")}
    with pytest.raises(CheckpointError, match="missing"):
        read_network(save_checkpoint(without_norm, tmp_path / "n.pt"), NetworkOptions())


def test_inspect_says_what_it_is(run_here: Any, tmp_path: Path) -> None:
    """Classes instead of channels, settings with their sources."""
    done = run_here("inspect", small_checkpoint(tmp_path / "n.pt"), "--json")
    document = json.loads(done.stdout)
    assert (document["family"], document["classes"]) == ("Glyph", SMALL.classes)
    shown = run_here("inspect", tmp_path / "n.pt", "--set", "stem_stride=2").stdout
    assert "Glyph custom, generation phase 2" in shown
    assert "23 classes" in shown
