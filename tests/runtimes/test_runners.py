"""Runners: what they compute must not depend on a library's weak spots."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from paragon_export.errors import PlanError, RunError
from paragon_export.networks.describe import read_network
from paragon_export.parity.reference import build_reference
from paragon_export.runtimes.base import prepared
from paragon_export.runtimes.isolated import open_runner
from paragon_export.runtimes.named import NamedRunner
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.runtimes.torch_runner import TorchRunner
from paragon_export.specs.plans import NetworkOptions
from paragon_export.specs.ports import PortNames
from paragon_export.specs.types import OnnxBackend
from paragon_export.system.optional import cuda_advice

SCRIPT = """
import numpy as np, torch
from paragon_export.runtimes.torch_runner import TorchRunner
torch.manual_seed(0)
for kernel in ((1, 15), (31, 1), (15, 15)):
    layer = torch.nn.Conv2d(3, 3, kernel, padding=[k // 2 for k in kernel], groups=3)
    runner = TorchRunner(layer, ["x"], ["y"], "float16")
    print(kernel, flush=True)
    runner.infer({"x": np.ones((1, 3, 40, 40), np.float32)})
print("returned")
"""


def test_wide_kernels_return_in_half_precision() -> None:
    """Of these oneDNN does not come back by itself; a test that hangs would say nothing."""
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, check=True, timeout=120, stdout=subprocess.PIPE, text=True)
    assert done.stdout.splitlines() == ["(1, 15)", "(31, 1)", "(15, 15)", "returned"]


@pytest.mark.parametrize("width", [14, 30])
def test_wide_kernels_give_what_half_precision_gives(width: int) -> None:
    """Where PyTorch does come back, the result is the same to the last bit."""
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 3, (1, 15), padding=(0, 7), groups=3)
    x = np.random.default_rng(0).random((2, 3, 9, width), dtype=np.float32)
    found = TorchRunner(layer, ["x"], ["y"], "float16").infer({"x": x})["y"]
    with torch.inference_mode():
        expected = layer.half()(torch.from_numpy(x).half()).float().numpy()
    assert np.array_equal(found, expected)
    assert layer.weight.dtype == torch.float16


# --- a device that ONNX Runtime does not take ------------------------------------------------


def one_node(op: str) -> bytes:
    """Return a serialized model: this operator on a picture and a constant, and a shape."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    is_conv = op == "Conv"
    constant = np.ones((1, 3, 3, 3), np.float32) if is_conv else np.ones(4, np.int64)
    graph = helper.make_graph(
        [
            helper.make_node(op, ["input", "constant"], ["changed"], name="node"),
            helper.make_node("Shape", ["changed"], ["shape"], name="size"),
            helper.make_node("Reshape", ["changed", "shape"], ["output"], name="same"),
        ],
        "one node",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [None] * 4)],
        [numpy_helper.from_array(constant, "constant")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture
def cuda_session(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make sessions that run on the CPU and name these providers; the test fills the list."""
    providers: list[str] = []

    class Session(onnxruntime.InferenceSession):
        def __init__(self, source: bytes, options: object, *_: object, **__: object) -> None:
            super().__init__(source, options, providers=["CPUExecutionProvider"])

        def get_providers(self) -> list[str]:
            return providers

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    return providers


def test_a_session_on_the_cpu_is_not_taken_for_cuda(cuda_session: list[str]) -> None:
    """ONNX Runtime without CUDA's libraries gives such a session, and no error."""
    cuda_session += ["CPUExecutionProvider"]
    with pytest.raises(
        RunError, match="no working CUDA here and fell back to CPUExecutionProvider"
    ):
        OnnxRunner(one_node("Conv"), "CUDAExecutionProvider")
    OnnxRunner(one_node("Conv"))


def test_convolutions_left_on_the_cpu_are_refused(cuda_session: list[str]) -> None:
    """CUDA may come first and still leave nodes to the CPU: shapes may be there, sums not."""
    cuda_session += ["CUDAExecutionProvider", "CPUExecutionProvider"]
    with pytest.raises(RunError, match="would run Conv on the CPU, not on CUDA"):
        OnnxRunner(one_node("Conv"), "CUDAExecutionProvider")
    OnnxRunner(one_node("Expand"), "CUDAExecutionProvider")


def test_a_prepared_network_runs_on_the_same_inputs_again_and_again(tiny_realtime: Path) -> None:
    """What is timed is one run; it fails where a run fails, with the same words."""
    network = build_reference(read_network(tiny_realtime, NetworkOptions()))
    image = {"input": np.ones((1, 3, 4, 4), np.float32)}
    seen: list[torch.Size] = []
    network.module.register_forward_hook(lambda *call: seen.append(call[2].shape))
    run = prepared(network.runner("float32"), image)
    assert [run(), run()] == [None, None]
    assert seen == [torch.Size((1, 3, 8, 8))] * 2
    conv = OnnxRunner(one_node("Conv"))
    run = conv.prepare(image)
    assert run() is None
    wrong = {"input": np.ones((1, 2, 4, 4), np.float32)}
    with pytest.raises(RunError, match="fails on input"):
        prepared(conv, wrong)()


def test_names_are_changed_for_what_is_prepared() -> None:
    """The runner behind has names of its own."""
    behind = OnnxRunner(one_node("Conv"))
    named = NamedRunner(behind, PortNames(image="picture", result="output"))
    with pytest.raises(RunError, match="was fed picture; the model also needs input"):
        named.prepare({"input": np.ones((1, 3, 4, 4), np.float32)})


def test_cuda_is_refused_where_onnx_runtime_has_none() -> None:
    """In this process and in that of a foreign file, with the same advice."""
    for is_own in (True, False):
        with pytest.raises(PlanError, match="this ONNX Runtime has no CUDA; run: pip"):
            open_runner(one_node("Conv"), OnnxBackend.CUDA, is_own=is_own)


@pytest.mark.parametrize(
    ("installed", "advice"),
    [
        (["onnxruntime"], "run: pip uninstall -y onnxruntime; then: pip install 'onnxruntime-gpu["),
        (["onnxruntime-gpu"], "check the NVIDIA driver, and run: pip install 'onnxruntime-gpu["),
        (
            ["onnxruntime-gpu", "onnxruntime"],
            "onnxruntime and onnxruntime-gpu overwrite each other; "
            "run: pip uninstall -y onnxruntime onnxruntime-gpu; then: pip install",
        ),
        (["onnxruntime-openvino"], "run: pip uninstall -y onnxruntime-openvino; then: pip"),
        ([], "run: pip uninstall -y onnxruntime; then: pip"),
    ],
    ids=" ".join,
)
def test_advice_for_what_is_installed(
    installed: list[str], advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Distributions that own the same package are named; one line says what to run."""
    package = (PurePosixPath("onnxruntime/__init__.py"),)
    others = [("numpy", (PurePosixPath("numpy/__init__.py"),)), ("onnxruntime-extensions", None)]
    found = [
        SimpleNamespace(name=name, files=files)
        for name, files in [*((name, package) for name in installed), *others]
    ]
    monkeypatch.setattr("importlib.metadata.distributions", lambda: found)
    assert cuda_advice().startswith(advice)
    assert "\n" not in cuda_advice()


def test_two_outputs_of_one_name_are_refused() -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    x, y = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")
    )
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", [x], [y, y]),
        opset_imports=[onnx.helper.make_opsetid("", 20)],
        ir_version=9,
    )
    with pytest.raises(RunError, match="names two outputs alike: y, y"):
        OnnxRunner(model.SerializeToString())
