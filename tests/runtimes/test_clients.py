"""Portable files in OpenCV and in ncnn themselves, judged as every candidate is."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paragon_export.inputs.probes import Probe
from paragon_export.networks.describe import LoadedNetwork, load_network
from paragon_export.parity.candidates import Candidate
from paragon_export.parity.compare import verify
from paragon_export.parity.reference import build_reference
from paragon_export.pipeline.float32_graph import finish, float32_graph
from paragon_export.runtimes.base import Arrays
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.types import Precision, Runtime, Size
from paragon_export.testing.tiny import tiny_checkpoint

FIXED = Size(17, 23)

SIZES = (FIXED, Size(9, 11), Size(37, 20))


class OpenCv:
    """OpenCV's DNN module; without Winograd its convolutions are exact to rounding."""

    name = "OpenCV"

    def __init__(self, path: Path, winograd: bool = False) -> None:
        import cv2

        self.net = cv2.dnn.readNetFromONNX(str(path))
        self.net.enableWinograd(winograd)

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        self.net.setInput(feeds["input"])
        return {"output": self.net.forward().copy()}


class Ncnn:
    """ncnn, with the file that pnnx makes of an ONNX file for one size, or for all from two."""

    name = "ncnn"

    def __init__(self, path: Path, sizes: Sequence[Size], winograd: bool = False) -> None:
        import ncnn

        converted = [path.with_suffix(suffix) for suffix in (".ncnn.param", ".ncnn.bin")]
        spec = importlib.util.find_spec("pnnx")  # importing it would import PyTorch again
        assert spec is not None
        assert spec.submodule_search_locations
        program = Path(spec.submodule_search_locations[0], "pnnx")
        shapes = [
            f"inputshape{n}=[1,3,{size.height},{size.width}]f32"
            for n, size in zip(("", "2"), sizes, strict=False)
        ]
        subprocess.run(
            [program, path.name, *shapes, "fp16=0"],
            cwd=path.parent,
            capture_output=True,
            check=False,
        )  # its exit code says nothing
        assert all(file.exists() for file in converted)
        self.net = ncnn.Net()
        self.net.opt.use_winograd_convolution = winograd
        self.net.opt.use_fp16_storage = self.net.opt.use_fp16_arithmetic = False
        self.net.opt.use_fp16_packed = self.net.opt.use_bf16_storage = False
        self.net.opt.num_threads = 1
        assert self.net.load_param(str(converted[0])) == 0
        assert self.net.load_model(str(converted[1])) == 0

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        import ncnn

        extractor = self.net.create_extractor()
        extractor.input("in0", ncnn.Mat(feeds["input"][0]).clone())
        code, picture = extractor.extract("out0")
        assert code == 0
        return {"output": np.array(picture)[None]}


def network(variant: str, folder: Path, **options: Any) -> LoadedNetwork:
    return load_network(tiny_checkpoint(folder / f"{variant}.safetensors", variant), **options)


def write(loaded: LoadedNetwork, folder: Path, **options: Any) -> Path:
    """Write an export without its verdict in ONNX Runtime, which other tests are about."""
    path = folder / "net.onnx"
    plan = ExportPlan(checkpoint=loaded.checkpoint.path, output=path, **options)
    graph = float32_graph(loaded, plan)
    path.write_bytes(finish(graph, graph.model, plan).data)
    return path


def errors(loaded: LoadedNetwork, client: OpenCv | Ncnn, *sizes: Size) -> tuple[bool, float]:
    """Return the verdict on noise and the largest error, against the float64 network."""
    rng = np.random.default_rng(0)
    probes = [
        Probe(
            label="noise",
            size=size,
            frames=(rng.random((1, 3, size.height, size.width), dtype=np.float32),),
        )
        for size in sizes
    ]
    candidate = Candidate(name=client.name, runner=client, precision=Precision.FP32)
    report = verify(build_reference(loaded), [candidate], probes)
    return report.passed, max(row.found.max_abs for row in report.rows)


@pytest.mark.parametrize("variant", ["realtime", "stream"])
def test_opencv_runs_a_portable_file_of_one_size(variant: str, tmp_path: Path) -> None:
    """Right by the rule of float32 files; with Winograd, its default, to 1e-5."""
    loaded = network(variant, tmp_path)
    path = write(loaded, tmp_path, runtime=Runtime.PORTABLE, static=FIXED)

    passed, error = errors(loaded, OpenCv(path), FIXED)
    assert passed, error
    assert errors(loaded, OpenCv(path, winograd=True), FIXED)[1] < 1e-5


@pytest.mark.parametrize("variant", ["realtime", "stream"])
def test_opencv_runs_a_portable_file_of_any_size(variant: str, tmp_path: Path) -> None:
    """From 4.11 on, one loaded network takes one size after the other."""
    loaded = network(variant, tmp_path)
    path = write(loaded, tmp_path, runtime=Runtime.PORTABLE)

    passed, error = errors(loaded, OpenCv(path), *SIZES)
    assert passed, error


@pytest.mark.parametrize("variant", ["realtime", "stream"])
def test_ncnn_runs_a_portable_file(variant: str, tmp_path: Path) -> None:
    """At the two sizes that it was converted for, and at another."""
    loaded = network(variant, tmp_path)
    path = write(loaded, tmp_path, runtime=Runtime.PORTABLE)

    passed, error = errors(loaded, Ncnn(path, SIZES), *SIZES)
    assert passed, error
    assert errors(loaded, Ncnn(path, SIZES, winograd=True), *SIZES)[1] < 1e-5


def test_ncnn_gives_another_picture_where_the_check_refuses(tmp_path: Path) -> None:
    """Norms run without an error and are wrong: this is why their operators are not portable."""
    loaded = network("photo", tmp_path, attention_mode="none")
    path = write(loaded, tmp_path, rewrite=False, opset=18, static=FIXED)

    passed, error = errors(loaded, Ncnn(path, [FIXED]), FIXED)

    assert not passed
    assert error > 0.1
