"""The child process of ``isolated``: loads one model and runs it on the inputs that it receives."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from contextlib import suppress
from typing import BinaryIO

import numpy as np

from paragon_export.errors import ParagonExportError
from paragon_export.runtimes.base import Arrays, Runner
from paragon_export.runtimes.isolated import receive, send
from paragon_export.runtimes.openvino_runner import OpenVinoRunner
from paragon_export.runtimes.ort_runner import OnnxRunner, open_on_cuda
from paragon_export.specs.types import OnnxBackend
from paragon_export.system.limits import Limits, limit_memory, memory_taken
from paragon_export.system.signals import end_with_parent


def main() -> None:
    """Read requests from stdin and write answers to stdout until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends this process
    end_with_parent(int(sys.argv[1]))
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # keep output of libraries out of the answers
    with suppress(EOFError, OSError):
        _serve(requests, answers)
    os._exit(0)


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Load the model, then run it for each request; answer with the outputs or an error."""
    options = json.loads(receive(requests))
    before, limits = memory_taken(), Limits(**options.pop("limits"))
    limit_memory(before, limits.bytes_for(0))
    runner: Runner | None = None
    while True:
        if runner is not None:  # set before the arrays arrive, because they need memory too
            limit_memory(before, limits.bytes_for(int(receive(requests))))
        message = receive(requests)
        try:
            if runner is None:
                runner, result = _open(message, **options), b""
            else:
                result = _message(runner.infer(_arrays(message)))
            answer = b"R" + result
        except ParagonExportError as error:
            answer = _failure(type(error).__name__, str(error))
        except MemoryError:
            answer = _failure(
                "OutOfMemoryError",
                "the model needs more memory than the limit; use a smaller input or model",
            )
        except Exception:  # a fault of this tool, which the parent raises again
            answer = _failure("", f"in the child process:\n{traceback.format_exc()}")
        send(answers, answer)


def _failure(kind: str, text: str) -> bytes:
    """Return the answer that makes the parent raise an error of a class name."""
    return b"E" + json.dumps({"type": kind, "text": text}).encode()


def _open(data: bytes, *, backend: str, title: str, in_order: bool) -> Runner:
    if backend == OnnxBackend.OPENVINO:
        return OpenVinoRunner(data, title=title)
    if backend == OnnxBackend.CUDA:
        return open_on_cuda(data, title)
    return OnnxRunner(data, title=title, in_order=in_order)


def _arrays(message: bytes) -> Arrays:
    from safetensors.numpy import load

    return load(message)


def _message(arrays: Arrays) -> bytes:
    from safetensors.numpy import save

    return save({name: np.asarray(array, order="C") for name, array in arrays.items()})
