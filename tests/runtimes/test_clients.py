"""Portable files in OpenCV and in ncnn themselves, judged as every candidate is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paragon_export.inputs.probes import Probe
from paragon_export.ncnn.convert import convert
from paragon_export.ncnn.runner import NcnnRunner
from paragon_export.networks.describe import LoadedNetwork, load_network
from paragon_export.parity.candidates import Candidate
from paragon_export.parity.compare import verify
from paragon_export.parity.reference import build_reference
from paragon_export.pipeline.float32_graph import finish, float32_graph
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.types import Precision, Runtime, Size
from paragon_export.testing.clients import OpenCv
from paragon_export.testing.tiny import tiny_checkpoint

FIXED = Size(17, 23)

SIZES = (FIXED, Size(9, 11), Size(37, 20))


def network(variant: str, folder: Path, **options: Any) -> LoadedNetwork:
    return load_network(tiny_checkpoint(folder / f"{variant}.safetensors", variant), **options)


def write(loaded: LoadedNetwork, folder: Path, **options: Any) -> Path:
    """Write an export without its verdict in ONNX Runtime, which other tests are about."""
    path = folder / "net.onnx"
    plan = ExportPlan(checkpoint=loaded.checkpoint.path, output=path, **options)
    graph = float32_graph(loaded, plan)
    path.write_bytes(finish(graph, graph.model, plan).data)
    return path


def errors(loaded: LoadedNetwork, client: OpenCv | NcnnRunner, *sizes: Size) -> tuple[bool, float]:
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

    files = convert(path.read_bytes(), 3, SIZES)

    passed, error = errors(loaded, NcnnRunner(files), *SIZES)
    assert passed, error
    assert errors(loaded, NcnnRunner(files, winograd=True), *SIZES)[1] < 1e-5


def test_ncnn_gives_another_picture_where_the_check_refuses(tmp_path: Path) -> None:
    """Norms run without an error and are wrong: this is why their operators are not portable."""
    loaded = network("photo", tmp_path, attention_mode="none")
    path = write(loaded, tmp_path, rewrite=False, opset=18, static=FIXED)

    passed, error = errors(loaded, NcnnRunner(convert(path.read_bytes(), 3, [FIXED])), FIXED)

    assert not passed
    assert error > 0.1
