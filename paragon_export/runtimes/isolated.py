"""Run foreign ONNX files in a child process, with limits on memory and time.

A file of a few bytes can keep a runtime busy for hours or use all memory: while a session is
created, when constants are folded, or inside one operator, which cannot be interrupted. So the
runtime runs in a child process (``isolated_worker``), which is killed at its time limit. The parent
sends the checked bytes of the file and the inputs, and receives the outputs. Only the child sets
memory limits: the calling process stays as it is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO

import numpy as np

import paragon_export
from paragon_export.errors import (
    MissingDependencyError,
    OutOfMemoryError,
    ParagonExportError,
    PlanError,
    RunError,
)
from paragon_export.runtimes.base import Arrays, Runner, shapes_of
from paragon_export.runtimes.openvino_runner import OpenVinoRunner
from paragon_export.runtimes.ort_runner import OnnxRunner, open_on_cuda
from paragon_export.specs.types import OnnxBackend
from paragon_export.system.limits import Limits, limited_time
from paragon_export.system.optional import require
from paragon_export.system.signals import before_end

CHILD_PROGRAM = """
import sys
sys.path.insert(0, {root!r})
import paragon_export
sys.path.append(sys.path.pop(0))
from paragon_export.runtimes.isolated_worker import main
main()
"""
"""Program of the child: imports this package from ``root``, and all others from the usual paths."""

ERRORS: Mapping[str, type[ParagonExportError]] = {
    kind.__name__: kind for kind in (PlanError, RunError, OutOfMemoryError, MissingDependencyError)
}
"""Error classes of the child, by name, that the parent raises again."""

LIMITS = Limits()
"""Default limits of a child process."""

CUDA_LIMITS = Limits(base_bytes=16 * 2**30)
"""Limits of a child process with CUDA, whose libraries take gigabytes of memory of their own."""

_NAMES = {
    OnnxBackend.ONNXRUNTIME: "ONNX Runtime",
    OnnxBackend.CUDA: "ONNX Runtime CUDA",
    OnnxBackend.OPENVINO: "OpenVINO",
}

_running: weakref.WeakSet[subprocess.Popen[bytes]] = weakref.WeakSet()
"""Child processes to be killed when this process ends."""


class IsolatedRunner:
    """A serialized ONNX model in a child process; a :class:`~paragon_export.runtimes.base.Runner`."""

    def __init__(
        self,
        data: bytes,
        backend: OnnxBackend = OnnxBackend.ONNXRUNTIME,
        *,
        title: str = "the model",
        in_order: bool = False,
        limits: Limits | None = None,
    ) -> None:
        """Start a child process and load a model in it.

        Args:
            data: A self-contained ONNX model, checked by ``onnx_checks``.
            backend: The runtime in the child.
            title: Name of the model in error messages.
            in_order: As for ``OnnxRunner``.
            limits: Limits on time and, on Linux, on memory; None takes those of the backend.

        Raises:
            RunError: If the backend refuses the model, or loading exceeds the time limit.
            OutOfMemoryError: If loading exceeds the memory limit.
            MissingDependencyError: If the backend is not installed.
        """
        self.name = _NAMES[backend]
        limits = limits or (CUDA_LIMITS if backend is OnnxBackend.CUDA else LIMITS)
        self._limits = limits
        self._process = _start(title)
        _running.add(self._process)
        weakref.finalize(self, _stop, self._process)
        request = {"backend": backend.value, "title": title, "in_order": in_order,
                   "limits": asdict(limits)}  # fmt: skip
        self._ask([json.dumps(request).encode(), data], f"loading {title}", limits.seconds_for(0))

    @property
    def process(self) -> int:
        """ID of the child process."""
        return self._process.pid

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Run the network once in the child (see ``Runner.infer``).

        Raises:
            RunError: If the model cannot run on these inputs, or exceeds the time limit.
            OutOfMemoryError: If it exceeds the memory limit, or the child has ended.
            PlanError: If an ID or a cell is invalid.
        """
        from safetensors.numpy import load, save

        arrays = {name: np.asarray(array, order="C") for name, array in feeds.items()}
        values = sum(array.size for array in arrays.values())
        messages = [str(values).encode(), save(arrays)]
        answer = self._ask(messages, shapes_of(arrays), self._limits.seconds_for(values))
        return {name: np.array(array) for name, array in load(answer).items()}

    def _ask(self, messages: list[bytes], what: str, seconds: float) -> bytes:
        """Send messages and return the answer to the last.

        Raises:
            ParagonExportError: The error that the child raised.
            RuntimeError: If it is none of ``ERRORS``; the text is the traceback of the child.
            RunError: If the time limit was exceeded.
            OutOfMemoryError: If the child has ended.
        """
        process, timed_out = self._process, []

        def stop() -> None:
            timed_out.append(True)
            process.kill()

        assert process.stdin is not None
        assert process.stdout is not None
        with limited_time(seconds, stop):
            try:
                for message in messages:
                    send(process.stdin, message)
                answer = receive(process.stdout)
            except (OSError, EOFError) as error:
                code = process.wait()
                if timed_out:
                    raise RunError(
                        f"{self.name} was stopped after {seconds:.0f} seconds ({what}), the limit for "
                        "foreign models; use a smaller input or model"
                    ) from error
                raise OutOfMemoryError(
                    f"the process of {self.name} ended with code {code} ({what}): it ran out of "
                    "memory or crashed; use a smaller input or model"
                ) from error
        kind, content = answer[:1], answer[1:]
        if kind == b"E":
            raised = json.loads(content)
            raise ERRORS.get(raised["type"], RuntimeError)(raised["text"])
        return content


def open_runner(
    data: bytes,
    backend: OnnxBackend = OnnxBackend.ONNXRUNTIME,
    *,
    is_own: bool,
    title: str = "the model",
    in_order: bool = False,
    threads: int = 0,
) -> Runner:
    """Return a runner for a serialized ONNX model.

    Args:
        data: The model.
        backend: The runtime.
        is_own: Whether this process created the model. Any other model runs in a child process.
        title: Name of the model in error messages.
        in_order: As for ``OnnxRunner``.
        threads: As for ``OnnxRunner``; only where this process runs the model on the processor.

    Raises:
        RunError: If the backend refuses the model.
        MissingDependencyError: If the backend is not installed.
    """
    if backend is OnnxBackend.OPENVINO:
        require("openvino", "openvino")
    if not is_own:
        return IsolatedRunner(data, backend, title=title, in_order=in_order)
    if backend is OnnxBackend.OPENVINO:
        return OpenVinoRunner(data, title=title, threads=threads)
    if backend is OnnxBackend.CUDA:
        return open_on_cuda(data, title)
    return OnnxRunner(data, title=title, in_order=in_order, threads=threads)


def send(stream: IO[bytes], message: bytes) -> None:
    """Write a message, preceded by its length in 8 bytes.

    Raises:
        OSError: If the stream is closed at the other end.
    """
    stream.write(len(message).to_bytes(8, "little"))
    stream.write(message)
    stream.flush()


def receive(stream: IO[bytes]) -> bytes:
    """Read a message that :func:`send` wrote.

    Raises:
        EOFError: If the stream is closed at the other end.
    """
    head = stream.read(8)
    length = int.from_bytes(head, "little")
    message = stream.read(length) if len(head) == 8 else b""
    if len(head) != 8 or len(message) != length:
        raise EOFError
    return message


def _start(title: str) -> subprocess.Popen[bytes]:
    """Start a child process.

    Raises:
        RunError: If the system starts none; ``title`` names the model.
    """
    root = str(Path(paragon_export.__file__).parents[1])
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", CHILD_PROGRAM.format(root=root), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError as error:
        raise RunError(
            f"cannot start a child process for {title}: {error.strerror}; end other processes or "
            "raise the limit on processes"
        ) from error


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for stream in (process.stdin, process.stdout):
        with suppress(OSError):
            if stream is not None:
                stream.close()
    process.wait()


def _stop_all() -> None:
    for process in tuple(_running):
        process.kill()


before_end(_stop_all)
