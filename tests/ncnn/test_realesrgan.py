"""Files for Real-ESRGAN-ncnn-vulkan: its layers alone, the same picture, nothing below 0."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from paragon_export.errors import PlanError, RunError
from paragon_export.ncnn import export as exporting
from paragon_export.ncnn.convert import BLOBS, UNCLAMPED, NcnnFiles
from paragon_export.ncnn.export import export_ncnn, paths_of
from paragon_export.ncnn.realesrgan import LAYERS, fitted, make_dense
from paragon_export.ncnn.runner import NcnnRunner
from paragon_export.networks.describe import load_network
from paragon_export.parity.reference import build_reference
from paragon_export.specs.types import NcnnProgram
from paragon_export.testing.tiny import tiny_checkpoint
from tests.conftest import RunHere

PICTURE = np.random.default_rng(5).random((1, 3, 19, 26), dtype=np.float32)


def read(name: Path) -> NcnnFiles:
    param, weights = paths_of(name)
    return NcnnFiles(param=param.read_text(), weights=weights.read_bytes())


def layers_of(param: str) -> set[str]:
    return {line.split()[0] for line in param.splitlines()[2:]}


@pytest.mark.parametrize("variant", ["realtime", "stream"])
def test_the_file_has_the_layers_of_the_program_and_the_picture(
    variant: str, tmp_path: Path
) -> None:
    """Of the file for ncnn, Stream's has Clip, and both have depthwise convolutions."""
    network = load_network(tiny_checkpoint(tmp_path / "net.safetensors", variant))
    result = export_ncnn(network, tmp_path / "net", at=(), program=NcnnProgram.REALESRGAN)

    files = read(tmp_path / "net")
    assert result.passed
    assert layers_of(files.param) <= LAYERS
    assert files.is_clamped
    expected = build_reference(network).runner("float64").infer({"input": PICTURE})["output"]
    found = NcnnRunner(files).infer({"input": PICTURE})["output"]
    assert np.abs(found - expected).max() < 1e-5


def test_the_file_for_ncnn_has_one_layer_for_gelu(tiny_realtime: Path, tmp_path: Path) -> None:
    """Upscayl is built without Erf."""
    assert export_ncnn(load_network(tiny_realtime), tmp_path / "net", at=()).passed
    layers = layers_of(read(tmp_path / "net").param)
    assert "GELU" in layers
    assert "ConvolutionDepthWise" in layers
    assert "Erf" not in layers


PARAM = """7767517
3 3
Input in0 0 1 data
{} one 1 1 data 1 {}
{} two 1 1 1 output {}
"""


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [("HardSwish", "0=1.6666667e-1 1=5.0e-1"), ("HardSwish", ""), ("Clip", "0=-0.25 1=0.5")],
)
def test_layers_that_the_program_lacks_are_computed_by_others(kind: str, parameters: str) -> None:
    """The same values, to the last bits, twice in one file; below 0 the output is 0."""
    param = PARAM.format(kind, parameters, kind, parameters)
    image = {"input": 8 * PICTURE - 4}
    (expected,) = NcnnRunner(NcnnFiles(param=param, weights=b"")).infer(image).values()
    other = fitted(param, "net")
    (found,) = NcnnRunner(NcnnFiles(param=other, weights=b"")).infer(image).values()
    assert layers_of(other) <= LAYERS
    scalars = re.findall(r" 1=1 (2=\S+)", other)
    assert scalars
    assert all("e" in scalar for scalar in scalars), "older versions of ncnn read an integer"
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert expected.min() < 0


@pytest.mark.parametrize(
    ("old", "new"), [("0=4 1=1 2=0.0", "0=4 1=1 2=0.1"), ("0=4 1=1 2=0.0", "0=5 1=1 2=1.0")]
)
def test_another_bound_of_the_output_is_seen(old: str, new: str) -> None:
    """One that lifts small values, and one above in place of the one below."""
    good = fitted(PARAM.format("ReLU", "", "ReLU", "0=0.5"), "net")
    image = {"input": 4 * PICTURE - 2}
    NcnnRunner(NcnnFiles(param=good, weights=b"")).infer(image)
    wrong = good.replace(old, new)
    assert wrong != good
    with pytest.raises(RunError, match="by another value than 0"):
        NcnnRunner(NcnnFiles(param=wrong, weights=b"")).infer(image)


def test_what_is_left_of_a_network_is_judged(
    tiny_realtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer that is replaced by another one: nothing is written."""

    def wrong(param: str, network: str) -> str:
        return fitted(param, network).replace("GELU", "ReLU", 1)

    monkeypatch.setattr(exporting, "fitted", wrong)
    network = load_network(tiny_realtime)
    result = export_ncnn(network, tmp_path / "net", at=(), program=NcnnProgram.REALESRGAN)
    assert not result.passed
    assert list(tmp_path.iterdir()) == []


def grouped(groups: int) -> ir.Model:
    """Return a model of one convolution, from 6 channels to 12."""
    weight = np.random.default_rng(1).random((12, 6 // groups, 3, 3), dtype=np.float32)
    x, y = (
        ir.Value(name=n, shape=ir.Shape([1, c, None, None]), type=ir.TensorType(ir.DataType.FLOAT))
        for n, c in (("x", 6), ("y", 12))
    )
    w = ir.Value(name="w", const_value=ir.tensor(weight, name="w"))
    node = ir.Node("", "Conv", [x, w], [ir.AttrInt64("group", groups)], outputs=[y])
    graph = ir.Graph([x], [y], nodes=[node], initializers=[w], opset_imports={"": 20})
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_a_grouped_convolution_is_the_same_as_an_ordinary_one(groups: int) -> None:
    from onnxruntime import InferenceSession

    def run(model: ir.Model) -> Any:
        session = InferenceSession(ir.to_proto(model).SerializeToString())
        x = np.random.default_rng(2).random((1, 6, 9, 7), dtype=np.float32)
        return session.run(None, {"x": x})[0]

    model = grouped(groups)
    expected = run(model)
    assert make_dense(model) == (groups > 1)
    np.testing.assert_allclose(run(model), expected, rtol=1e-6)
    assert len(model.graph.initializers) == 1


def test_a_network_with_other_layers_is_refused(run_here: RunHere, tmp_path: Path) -> None:
    """In one line; a plain file for ncnn is still made of it."""
    with pytest.raises(
        PlanError, match="the v8 network needs Sigmoid, Slice, which these programs"
    ):
        fitted(PARAM.format("Slice", "", "Sigmoid", ""), "v8")
    checkpoint = tiny_checkpoint(tmp_path / "net.safetensors", "photo")
    done = run_here("ncnn", checkpoint, "--for", "realesrgan", "-o", tmp_path / "out")
    assert (done.code, len(done.stderr.splitlines())) == (3, 1)
    assert not list(tmp_path.glob("out*"))


def test_pixels_in_any_order_of_memory_are_read(tiny_realtime: Path, tmp_path: Path) -> None:
    """A Mat of ncnn refers to the array it is made of, which must live as long."""
    assert export_ncnn(load_network(tiny_realtime), tmp_path / "net", at=()).passed
    runner = NcnnRunner(read(tmp_path / "net"))
    expected = runner.infer({"input": PICTURE})["output"]
    for image in (np.asfortranarray(PICTURE), PICTURE.astype(np.float64)):
        assert np.array_equal(runner.infer({"input": image})["output"], expected)


def test_names_of_blobs_are_those_of_the_files() -> None:
    """Input and output keep their names; what the network computes has one of its own."""
    words = fitted(PARAM.format("ReLU", "", "ReLU", ""), "net").split()
    assert {*BLOBS.values(), UNCLAMPED} <= set(words)
    assert not NcnnFiles(param=PARAM, weights=b"").is_clamped
