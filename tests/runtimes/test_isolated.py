"""Files of others run in a process of their own: same results, hard limits, and no way around it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from paragon_export.errors import OutOfMemoryError, PlanError, RunError
from paragon_export.graph.onnx_io import read_onnx_file
from paragon_export.pipeline.export import export
from paragon_export.runtimes import isolated
from paragon_export.runtimes.isolated import IsolatedRunner
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.specs.plans import ExportPlan, NetworkOptions
from paragon_export.specs.types import OnnxBackend, Precision, Size
from paragon_export.system.limits import Limits
from tests.conftest import ON_CPU, RunHere, shell_environment
from tests.robustness.test_hostile_onnx import plain

pytestmark = pytest.mark.processes

PICTURE = np.random.default_rng(0).random((1, 3, 9, 12), dtype=np.float32)


def model_of(*nodes: onnx.NodeProto, **weights: np.ndarray) -> bytes:
    return plain(*nodes, **weights).SerializeToString()


@pytest.fixture(scope="module")
def exported(tiny_realtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = ExportPlan(
        checkpoint=tiny_realtime,
        output=tmp_path_factory.mktemp("exported") / "video.onnx",
        video=True,
        options=NetworkOptions(flags={"upsampler_alpha": 0.5}),
    )
    assert export(plan).passed
    return plan.output


@pytest.mark.parametrize("backend", ON_CPU)
def test_results_are_those_of_this_process(exported: Path, backend: OnnxBackend) -> None:
    """Names, shapes, types and values; a scalar stays a scalar on its way."""
    data = read_onnx_file(exported).data
    feeds = {
        "input": PICTURE,
        "prev_feat": np.ones((1, 8, 9, 12), np.float32),
        "alpha": np.array(0.2, np.float32),
    }
    found = IsolatedRunner(data, backend).infer(feeds)
    expected = OnnxRunner(data).infer(feeds)
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype)
        assert np.abs(found[name] - array).max() < 1e-5


def test_errors_are_those_of_this_process(exported: Path) -> None:
    """The same class and the same words, and the model runs on afterwards."""
    data = read_onnx_file(exported).data
    here, there = OnnxRunner(data), IsolatedRunner(data)
    for feeds in ({"input": PICTURE}, {"input": PICTURE[0], "prev_feat": PICTURE, "alpha": 0.0}):
        said = []
        for runner in (here, there):
            with pytest.raises(RunError) as caught:
                runner.infer({name: np.asarray(value) for name, value in feeds.items()})
            said.append(str(caught.value))
        assert said[0] == said[1]
    with pytest.raises(RunError, match="cannot load its name"):
        IsolatedRunner(b"no model", title="its name")


def test_values_are_checked_before_they_run() -> None:
    """A cell outside [0, 1] is refused in the child as it is here."""
    cells = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1, 8, 8])
    logits = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 64])
    nodes = [helper.make_node("Flatten", ["input"], ["output"])]
    graph = helper.make_graph(nodes, "g", [cells], [logits])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    runner = IsolatedRunner(model.SerializeToString())
    with pytest.raises(PlanError, match="from 0 to 1"):
        runner.infer({"input": np.full((1, 1, 8, 8), 255, np.float32)})


# --- limits --------------------------------------------------------------------------------


def folding() -> bytes:
    """Return a model whose constants take hours to compute, all when it is loaded."""
    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["v0"])]
    nodes += [helper.make_node("MatMul", [f"v{i}", "v0"], [f"v{i + 1}"]) for i in range(60)]
    nodes += [
        helper.make_node("ReduceMax", ["v60"], ["most"], keepdims=0),
        helper.make_node("Add", ["input", "most"], ["output"]),
    ]
    return model_of(*nodes, shape=np.array([6000, 6000]))


def one_long_convolution() -> bytes:
    """Return a model of which a single operator takes minutes; nothing interrupts an operator."""
    nodes = [
        helper.make_node("Expand", ["input", "large"], ["picture"]),
        helper.make_node("Expand", ["weight", "wide"], ["kernel"]),
        helper.make_node("Conv", ["picture", "kernel"], ["map"], pads=[64] * 4),
        helper.make_node("ReduceMax", ["map"], ["most"], keepdims=0),
        helper.make_node("Add", ["input", "most"], ["output"]),
    ]
    shapes = {"large": np.array([1, 3, 1500, 1500]), "wide": np.array([16, 3, 129, 129])}
    return model_of(*nodes, weight=np.ones((1, 1, 1, 1), np.float32), **shapes)


def hungry(extent: int) -> bytes:
    """Return a model that expands its input to ``3 * extent`` values."""
    nodes = [
        helper.make_node("Expand", ["input", "shape"], ["large"]),
        helper.make_node("ReduceMin", ["large"], ["output"]),
    ]
    return model_of(*nodes, shape=np.array([extent, 3, 1, 1]))


def test_loading_has_a_time_limit() -> None:
    """A session that folds constants without end is ended from outside."""
    start = time.perf_counter()
    with pytest.raises(RunError, match=r"was stopped after 1 seconds \(loading x\)"):
        IsolatedRunner(folding(), title="x", limits=Limits(base_seconds=1))
    assert time.perf_counter() - start < 20


def test_one_operator_has_a_time_limit() -> None:
    """ONNX Runtime looks at its own switch between operators alone."""
    limits = Limits(base_seconds=3, base_bytes=2**32)
    runner = IsolatedRunner(one_long_convolution(), limits=limits)
    start = time.perf_counter()
    with pytest.raises(RunError, match=r"was stopped after 3 seconds \(input \[1, 3, 1, 1\]\)"):
        runner.infer({"input": np.ones((1, 3, 1, 1), np.float32)})
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize("backend", ON_CPU)
def test_memory_is_limited(backend: OnnxBackend) -> None:
    """The limit is this tool's, not the machine's: 768 MiB are asked for, 512 may be had."""
    limits = Limits(base_bytes=2**29, bytes_per_value=0)
    one = {"input": np.ones((1, 3, 1, 1), np.float32)}
    with pytest.raises(OutOfMemoryError):
        IsolatedRunner(hungry(2**26), backend, limits=limits).infer(one)
    assert IsolatedRunner(hungry(4), backend, limits=limits).infer(one)["output"].max() == 1


def test_memory_counts_over_all_runs() -> None:
    """Other shapes give no new allowance: arenas keep what they have had."""
    limits = Limits(base_bytes=2**28, bytes_per_value=0)
    runner = IsolatedRunner(model_of(helper.make_node("Tanh", ["input"], ["output"])),
                            limits=limits)  # fmt: skip
    with pytest.raises(OutOfMemoryError):
        run_ever_larger(runner)


def test_larger_inputs_may_take_more_memory() -> None:
    """The allowance for an input holds before its array arrives in the child."""
    limits = Limits(base_bytes=2**26, bytes_per_value=64)
    runner = IsolatedRunner(model_of(helper.make_node("Tanh", ["input"], ["output"])),
                            limits=limits)  # fmt: skip
    picture = np.ones((1, 3, 2600, 2600), np.float32)
    assert runner.infer({"input": picture})["output"].shape == picture.shape


def test_a_fault_of_this_tool_is_no_verdict(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that nobody foresaw in the child is raised here, with its traceback."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if '-c' in sys.argv:\n"
        "    import safetensors.numpy\n"
        "    safetensors.numpy.save = lambda arrays: 1 / 0\n"
    )
    known = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(tmp_path), known))))
    runner = IsolatedRunner(read_onnx_file(exported).data)
    feeds = {
        "input": PICTURE,
        "prev_feat": np.ones((1, 8, 9, 12), np.float32),
        "alpha": np.array(0, np.float32),
    }
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        runner.infer(feeds)


def run_ever_larger(runner: IsolatedRunner) -> None:
    for side in range(1000, 6000, 500):
        runner.infer({"input": np.ones((1, 3, side, side), np.float32)})


def test_a_constant_of_terabytes_is_an_error_when_the_model_is_opened() -> None:
    """ONNX Runtime computes constants as soon as it opens a model."""
    nodes = (
        helper.make_node("ConstantOfShape", ["shape"], ["large"]),
        helper.make_node("ReduceMin", ["large"], ["least"], keepdims=0),
        helper.make_node("Add", ["input", "least"], ["output"]),
    )
    with pytest.raises((RunError, OutOfMemoryError)):
        IsolatedRunner(model_of(*nodes, shape=np.array([2**40]))).infer({"input": PICTURE})


def test_a_child_that_dies_is_an_error(exported: Path) -> None:
    """As where the system kills it or a library crashes."""
    runner = IsolatedRunner(read_onnx_file(exported).data)
    runner._process.kill()
    with pytest.raises(OutOfMemoryError, match=r"process of ONNX Runtime ended with code -9"):
        runner.infer({"input": PICTURE})


ORPHAN = """
import sys
from paragon_export.runtimes.isolated import IsolatedRunner
runner = IsolatedRunner(open(sys.argv[1], "rb").read())
print(runner._process.pid, flush=True)
import time; time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems leave it to end by itself")
def test_the_child_ends_with_its_parent(exported: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, str(exported)],
        stdout=subprocess.PIPE, text=True, env=shell_environment(),
    )  # fmt: skip
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 10
    while _is_running(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _is_running(child)


def _is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_the_child_ends_with_its_runner(exported: Path) -> None:
    runner = IsolatedRunner(read_onnx_file(exported).data)
    process = runner._process
    del runner
    assert process.wait(10) is not None


# --- nothing goes around it ----------------------------------------------------------------


def test_modules_in_the_working_folder_are_not_imported(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder with a ``numpy.py`` in it, as an unpacked archive may be, runs nothing."""
    for name in ("numpy", "json", "onnxruntime", "safetensors", "paragon_export", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    IsolatedRunner(read_onnx_file(exported).data)
    assert not (tmp_path / "ran").exists()


COMMANDS = {
    "parity": ("parity", "{c}", "{m}", "--sizes", "9x12", "--upsampler-alpha", "0"),
    "parity of one": ("parity", "{m}", "--sizes", "9x12"),
    "parity, half": ("parity", "{c}", "{h}", "--sizes", "9x12", "--upsampler-alpha", "0"),
    "audit": ("audit", "{m}"),
    "trt": ("trt", "{m}", "-o", "{m}.engine", "--target", "sm86"),
    "trt, half": ("trt", "{m}", "--fp16", "-o", "{m}.engine", "--target", "sm86"),
}


@pytest.fixture(scope="module")
def foreign(tiny_realtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a checkpoint and its exports in float32 and half precision."""
    folder = tmp_path_factory.mktemp("foreign")
    checkpoint = Path(shutil.copy(tiny_realtime, folder / "net.safetensors"))
    options = NetworkOptions(flags={"upsampler_alpha": 0.0})
    for name, precision in (("m", Precision.FP32), ("h", Precision.FP16)):
        plan = ExportPlan(
            checkpoint=checkpoint,
            output=folder / f"{name}.onnx",
            precision=precision,
            static=Size(9, 12),
            options=options,
        )
        assert export(plan).passed
    return folder


@pytest.mark.parametrize("args", COMMANDS.values(), ids=COMMANDS.keys())
def test_no_command_runs_a_foreign_file_in_its_own_process(
    args: tuple[str, ...],
    foreign: Path,
    tmp_path: Path,
    run_here: RunHere,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every session of this process would show here; the commands do their work without one."""
    shutil.copytree(foreign, tmp_path, dirs_exist_ok=True)
    names = {"c": "net.safetensors", "m": "m.onnx", "h": "h.onnx"}
    files = {key: tmp_path / name for key, name in names.items()}

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a session in the command's own process")

    monkeypatch.setattr("onnxruntime.InferenceSession", refuse)
    done = run_here(*(arg.format(**files) for arg in args))
    assert done.code == 0, done.stderr


def test_what_was_read_is_what_is_judged(
    tiny_realtime: Path, tmp_path: Path, run_here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is replaced while it is judged is not judged in parts."""
    good, bad = tmp_path / "good.onnx", tmp_path / "bad.onnx"
    flags = ("--upsampler-alpha", "0", "--static", "9x12")
    assert run_here("onnx", tiny_realtime, "-o", good, *flags).code == 0
    model = onnx.load(good)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor) * np.float32(1.5)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, bad)
    args = ("parity", tiny_realtime, good, "--upsampler-alpha", "0", "--sizes", "9x12", "--json")
    before = json.loads(run_here(*args).stdout)

    start = isolated.open_runner

    def swap_first(*given: object, **how: object) -> object:
        os.replace(bad, good) if bad.exists() else None
        return start(*given, **how)  # type: ignore[arg-type]

    monkeypatch.setattr("paragon_export.parity.candidates.open_runner", swap_first)
    during = json.loads(run_here(*args).stdout)
    assert not bad.exists()
    assert during["passed"] is True
    assert [row["max_abs"] for row in during["rows"]] == [row["max_abs"] for row in before["rows"]]
    assert run_here(*args).code == 1


def test_sizes_in_words() -> None:
    """The limits that SECURITY.md promises."""
    limits = isolated.LIMITS
    assert limits.bytes_for(0) == 3 * 2**30
    assert limits.seconds_for(0) == 300
    full_hd = 3 * Size(1080, 1920).height * 1920
    assert limits.bytes_for(full_hd) == 3 * 2**30 + 2**14 * full_hd
