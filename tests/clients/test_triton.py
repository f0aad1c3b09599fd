"""Model repositories, read by Triton's own protobuf; the model runs with what they say."""

from __future__ import annotations

import ast
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from paragon_export import export_onnx
from paragon_export.serving.triton import write_repository
from paragon_export.specs.types import Size
from tests.clients.conftest import CLIENTS, run_client

pytestmark = pytest.mark.clients

PARSER = Path(__file__).with_name("parse_triton.py")

TYPES = {"TYPE_FP32": ("tensor(float)", np.float32), "TYPE_FP16": ("tensor(float16)", np.float16)}


def parsed(config: Path) -> dict[str, Any]:
    done = run_client(PARSER, config, cwd=config.parent)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def extents(dims: list[str], batch: int) -> list[int | None]:
    """Return the shape of a tensor: of a batched model without its batch."""
    sizes = [None if int(dim) < 0 else int(dim) for dim in dims]
    return [None, *sizes] if batch else sizes


@pytest.mark.parametrize(
    "options", [{}, {"static": "20x24"}, {"precision": "fp16", "io": "fp16"}], ids=str
)
def test_the_model_runs_with_what_its_configuration_says(
    options: dict[str, Any], tiny_realtime: Path, tmp_path: Path
) -> None:
    """Names, types and shapes are those of the session; every warm-up runs, and the largest batch."""
    model = tmp_path / "net.onnx"
    assert export_onnx(tiny_realtime, model, at=(), **options).passed
    sizes = () if "static" in options else (Size(20, 24), Size(9, 7))

    written = write_repository(model, tmp_path / "repository", max_batch=4, sizes=sizes)
    config = parsed(written.folder / "config.pbtxt")

    session = onnxruntime.InferenceSession(written.folder / str(written.version) / "model.onnx")
    batch = int(config.get("max_batch_size", 0))
    assert batch == (0 if "static" in options else 4)
    assert config["name"] == written.folder.name
    for said, ports in (("input", session.get_inputs()), ("output", session.get_outputs())):
        for tensor, port in zip(config[said], ports, strict=True):
            assert (tensor["name"], TYPES[tensor["data_type"]][0]) == (port.name, port.type)
            found = [dim if isinstance(dim, int) else None for dim in port.shape]
            assert extents(tensor["dims"], batch) == found
    assert len(config["model_warmup"]) == max(1, len(sizes))
    for request in config["model_warmup"]:
        for largest in {request["batch_size"], batch or request["batch_size"]}:
            feeds = {}
            for name, value in request["inputs"].items():
                shape = [int(dim) for dim in value["dims"]]
                shape = [largest, *shape] if batch else shape
                feeds[name] = np.zeros(shape, TYPES[value["data_type"]][1])
            (picture,) = session.run(None, feeds)
            assert picture.shape[0] == (largest if batch else 1)


def test_a_wrong_configuration_is_not_read(tmp_path: Path) -> None:
    """Triton's protobuf knows all fields: a wrong name is an error."""
    (tmp_path / "config.pbtxt").write_text('nam: "x"')
    assert run_client(PARSER, tmp_path / "config.pbtxt", cwd=tmp_path).returncode != 0


@contextmanager
def triton(repository: Path, folder: Path) -> Iterator[str]:
    """Run the server of nvidia-pytriton on a repository; yield its address once it is ready."""
    asked = (
        "import importlib.util as u, sysconfig as s\n"
        "print(u.find_spec('pytriton').submodule_search_locations[0], s.get_config_var('LIBDIR'))"
    )
    root, libraries = run_client("-c", asked, cwd=folder).stdout.split()
    server = Path(root, "tritonserver")
    backends = folder / "backends"
    shutil.copytree(server / "backends", backends)
    stub = server / "python_backend_stubs" / "3.12" / "triton_python_backend_stub"
    shutil.copy(stub, backends / "python")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = f"{CLIENTS / 'bin'}{os.pathsep}{os.environ['PATH']}"
    packages = Path(root).parent
    environment = {
        "PATH": path,
        "LD_LIBRARY_PATH": f"{packages / 'nvidia_pytriton.libs'}{os.pathsep}{libraries}",
        "PYTHONPATH": str(packages),
    }
    command = [
        server / "bin" / "tritonserver", f"--model-repository={repository}",
        f"--backend-directory={backends}", "--http-address=127.0.0.1", f"--http-port={port}",
        "--allow-grpc=false", "--allow-metrics=false",
    ]  # fmt: skip
    with (folder / "triton.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}/v2"
    try:
        for _ in range(300):
            with suppress(OSError), urllib.request.urlopen(f"{address}/health/ready"):
                break
            assert process.poll() is None, (folder / "triton.log").read_text()[-2000:]
            time.sleep(0.1)
        else:
            raise AssertionError((folder / "triton.log").read_text()[-2000:])
        yield address
    finally:
        process.terminate()
        process.wait(60)


def infer(address: str, picture: np.ndarray) -> np.ndarray:
    """Ask the server for one picture."""
    tensor = {
        "name": "input",
        "shape": picture.shape,
        "datatype": "FP32",
        "data": picture.ravel().tolist(),
    }
    request = urllib.request.Request(
        f"{address}/models/net/infer", json.dumps({"inputs": [tensor]}).encode()
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        (output,) = json.load(answer)["outputs"]
    return np.array(output["data"], np.float32).reshape(output["shape"])


def test_triton_serves_what_was_written(tiny_realtime: Path, tmp_path: Path) -> None:
    """The server reads the configuration, warms up, and batches requests of one size.

    The wheel has the server and its Python backend alone, so the backend is replaced.
    """
    model = tmp_path / "net.onnx"
    assert export_onnx(tiny_realtime, model, at=()).passed
    for _ in range(2):
        written = write_repository(
            model, tmp_path / "repository", max_batch=4, sizes=[Size(20, 24), Size(9, 7)]
        )
    config, folder = written.folder / "config.pbtxt", written.folder / "2"
    shutil.copy(Path(__file__).with_name("triton_backend.py"), folder / "model.py")
    config.write_text(config.read_text().replace('backend: "onnxruntime"', 'backend: "python"'))
    session = onnxruntime.InferenceSession(model)
    rng = np.random.default_rng(0)
    pictures = [rng.random((1, 3, 12 + i % 2, 16), dtype=np.float32) for i in range(16)]

    with triton(tmp_path / "repository", tmp_path) as address:
        warm = (folder / "batches.txt").read_text().splitlines()
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda picture: infer(address, picture), pictures))
        with pytest.raises(urllib.error.HTTPError, match="400"):
            infer(address, rng.random((1, 4, 8, 8), dtype=np.float32))

    assert warm == ["[(1, 3, 20, 24)]", "[(1, 3, 9, 7)]"]
    batches = (folder / "batches.txt").read_text().splitlines()[2:]
    assert sum(batch.count("(") for batch in batches) == 16
    assert len(batches) < 16
    assert all(len(set(ast.literal_eval(batch))) == 1 for batch in batches)
    for picture, answer in zip(pictures, answers, strict=True):
        (expected,) = session.run(None, {"input": picture})
        assert np.abs(answer - expected).max() <= 1e-6
