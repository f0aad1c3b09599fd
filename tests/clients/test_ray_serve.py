"""The application in Ray Serve itself: started, loaded, a worker killed, and stopped."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from paragon_export import export_onnx
from paragon_export.serving.ray_serve import Limits, write_application
from paragon_export.specs.types import Size
from tests.clients.conftest import CLIENTS

pytestmark = pytest.mark.clients

MARK = "PARAGON_TEST"
"""Environment variable by which a test knows the processes that it started."""

LONGEST_START_S = 120


def processes(mark: str, name: str = "") -> list[int]:
    """Return the running processes with this mark whose command line holds ``name``."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            marked = f"{MARK}={mark}".encode() in (folder / "environ").read_bytes()
            if marked and name.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


@dataclass(frozen=True)
class Application:
    address: str
    process: subprocess.Popen[bytes]
    mark: str
    model: Path

    def upscale(self, data: bytes, query: str = "") -> tuple[int, bytes]:
        """Return the status and the body of an answer."""
        request = urllib.request.Request(f"{self.address}/upscale{query}", data)
        try:
            with urllib.request.urlopen(request, timeout=100) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def refusal(self, data: bytes, query: str = "") -> tuple[int, str]:
        status, body = self.upscale(data, query)
        return status, json.loads(body)["error"]


@pytest.fixture(scope="module")
def application(
    tiny_realtime: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Application]:
    """Return an application with two workers that takes pictures of at most 64x64 pixels."""
    folder = tmp_path_factory.mktemp("ray")
    model = folder / "net.onnx"
    assert export_onnx(tiny_realtime, model, at=()).passed
    limits = Limits(workers=2, pixels=64 * 64, file_bytes=50_000, batch=4)
    app = write_application(model, folder / "app", limits=limits, sizes=[Size(16, 16)])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    mark = uuid.uuid4().hex
    environment = {n: v for n, v in os.environ.items() if not n.startswith("PYTHON")}
    environment |= {"PORT": port, MARK: mark, "RAY_USAGE_STATS_ENABLED": "0"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [CLIENTS / "bin" / "python", app], env=environment, stdout=log, stderr=log
        )
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + LONGEST_START_S
        while b"serving on" not in (folder / "log").read_bytes():
            assert process.poll() is None, (folder / "log").read_text()[-3000:]
            assert time.monotonic() < end, (folder / "log").read_text()[-3000:]
            time.sleep(0.2)
        yield Application(address, process, mark, model)
    finally:
        process.kill()
        for pid in processes(mark):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def png(pixels: np.ndarray, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def pictures(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (20 + i % 3, 24, 3), np.uint8) for i in range(count)]


def check(application: Application, pixels: np.ndarray, answer: tuple[int, bytes]) -> None:
    """Check that an answer is what the model makes of a picture, in 8 bits."""
    status, data = answer
    assert status == 200, data
    session = onnxruntime.InferenceSession(application.model)
    image = pixels.astype(np.float32).transpose(2, 0, 1)[None] / 255
    (expected,) = session.run(None, {"input": image})
    found = np.asarray(Image.open(io.BytesIO(data)))
    expected = np.rint(255 * expected[0].clip(0, 1)).transpose(1, 2, 0)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_concurrent_requests_are_answered_right(application: Application) -> None:
    """Of three sizes, in batches of one size; health and metrics say so."""
    given = pictures(24)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda one: application.upscale(png(one)), given))
    for pixels, answer in zip(given, answers, strict=True):
        check(application, pixels, answer)
    with urllib.request.urlopen(f"{application.address}/health", timeout=10) as answer:
        assert json.load(answer)["status"] == "ok"
    with urllib.request.urlopen(f"{application.address}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    (counted,) = (line for line in lines if line.startswith('upscale_requests_total{status="200"}'))
    assert float(counted.split()[1]) >= 24


def test_jpeg_in_and_out(application: Application) -> None:
    """With its orientation applied."""
    flat = np.full((20, 30, 3), 128, np.uint8)
    file = io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6  # turned by 90 degrees
    Image.fromarray(flat).save(file, "JPEG", exif=exif)
    status, data = application.upscale(file.getvalue(), "?format=jpeg")
    image = Image.open(io.BytesIO(data))
    assert (status, image.format, image.size) == (200, "JPEG", (40, 60))


def test_what_is_no_picture_is_one_clear_error(application: Application) -> None:
    """And the server goes on."""
    whole = png(pictures(1)[0])
    assert application.refusal(b"no picture") == (400, "the body is no whole PNG or JPEG file")
    assert application.refusal(whole[: len(whole) // 2])[0] == 400
    assert application.refusal(png(pictures(1)[0], "BMP"))[0] == 400
    assert application.refusal(b"")[0] == 400
    assert application.refusal(whole, "?format=gif") == (400, "format must be png or jpeg")
    status, reason = application.refusal(png(np.zeros((65, 64, 3), np.uint8)))
    assert (status, reason) == (413, "64x65 has more than 4096 pixels")
    assert application.refusal(b"\0" * 50_001) == (413, "the file is larger than 50000 bytes")
    check(application, pictures(1)[0], application.upscale(whole))


def test_a_killed_worker_loses_no_request(application: Application) -> None:
    """Another worker is asked, and Ray starts a new one."""
    given = pictures(60)

    def one(number: int) -> tuple[int, bytes]:
        if number == 20:
            os.kill(processes(application.mark, "ServeReplica:default:Upscaler")[0], signal.SIGKILL)
        return application.upscale(png(given[number]))

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(one, range(60)))
    for pixels, answer in zip(given, answers, strict=True):
        check(application, pixels, answer)


def test_a_signal_ends_all_of_its_processes(application: Application) -> None:
    """The last test: the application is stopped."""
    assert len(processes(application.mark)) > 3
    application.process.send_signal(signal.SIGTERM)
    assert application.process.wait(60) == 0
    end = time.monotonic() + 30
    while processes(application.mark) and time.monotonic() < end:
        time.sleep(0.2)
    assert processes(application.mark) == []
