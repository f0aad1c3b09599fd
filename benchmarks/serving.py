"""Requests a second of the Ray Serve application, against the bare session.

The network is the shipped one as an ONNX file, pictures are crops of the shipped photograph as PNG files. ``bare``
runs the session alone on pixels in memory; ``with files`` decodes, runs and encodes in one process, in as many
threads as there are cores. Server and clients share the machine. All ways take turns; ``ROUNDS`` times. Needs
the packages of the application: fastapi, prometheus_client and ray[serve].

Writes ``serving.json``.
"""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import onnxruntime
import typer
from common import write
from PIL import Image

from paragon_export.assets import CHECKPOINT, photograph
from paragon_export.pipeline.export import export_onnx
from paragon_export.serving.ray_serve import Limits, write_application
from paragon_export.specs.types import Size

SIZE, CLIENTS = Size(180, 320), (1, 4, 16)

REQUESTS = 24
"""Of one way in one round."""


def main(rounds: Annotated[int, typer.Option(help="Turns of each way.")] = 5) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "net.onnx"
        assert export_onnx(CHECKPOINT, model, at=()).passed
        file = picture()
        with served(model, folder / "app") as address:
            ways: dict[str, Callable[[], object]] = {
                "bare": bare(model),
                "with files": with_files(model, file),
            }
            ways |= {f"{count} clients": clients(address, file, count) for count in CLIENTS}
            rates = measured(ways, rounds)
    row = {"size": str(SIZE)} | {f"{way}/s": rate for way, rate in rates.items()}
    row |= {f"{n} clients / bare": rates[f"{n} clients"] / rates["bare"] for n in CLIENTS}
    row["16 clients / with files"] = rates["16 clients"] / rates["with files"]
    write("serving", [row], ("size",))


def picture() -> bytes:
    """Return a PNG file."""
    image = np.tile(photograph(), (2, 2, 1))[: SIZE.height, : SIZE.width]
    return encoded(np.rint(255 * image).astype(np.uint8))


def encoded(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def measured(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median of requests a second."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()  # not timed
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            rates[name].append(REQUESTS / (time.perf_counter() - start))
    return {name: median(all_of) for name, all_of in rates.items()}


def bare(model: Path) -> Callable[[], None]:
    session = onnxruntime.InferenceSession(model)
    pixels = np.full((1, 3, SIZE.height, SIZE.width), 0.5, np.float32)

    def run() -> None:
        for _ in range(REQUESTS):
            session.run(None, {"input": pixels})

    return run


def with_files(model: Path, file: bytes) -> Callable[[], None]:
    session = onnxruntime.InferenceSession(model)

    def one(_: int) -> bytes:
        image = np.asarray(Image.open(io.BytesIO(file)), np.float32).transpose(2, 0, 1)[None] / 255
        (output,) = session.run(None, {"input": np.ascontiguousarray(image)})
        return encoded(np.rint(255 * output[0].clip(0, 1)).astype(np.uint8).transpose(1, 2, 0))

    def run() -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(one, range(REQUESTS)))

    return run


def clients(address: str, file: bytes, count: int) -> Callable[[], None]:
    def one(_: int) -> bytes:
        with urllib.request.urlopen(urllib.request.Request(f"{address}/upscale", file)) as answer:
            return answer.read()

    def run() -> None:
        with ThreadPoolExecutor(count) as pool:
            assert all(data[:4] == b"\x89PNG" for data in pool.map(one, range(REQUESTS)))

    return run


@contextmanager
def served(model: Path, folder: Path) -> Iterator[str]:
    """Yield the address of the application."""
    app = write_application(model, folder, limits=Limits(), sizes=[SIZE])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    changes = {"PORT": port, "RAY_USAGE_STATS_ENABLED": "0"}
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, app], env={**os.environ, **changes}, stdout=file, stderr=file
        )
        try:
            while b"serving on" not in log.read_bytes():
                assert process.poll() is None, log.read_text()[-2000:]
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


if __name__ == "__main__":
    typer.run(main)
