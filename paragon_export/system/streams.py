"""Protect standard output and standard error against closed pipes, full disks and bad encodings."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any, TextIO

from paragon_export.errors import COULD_NOT_RUN
from paragon_export.system import signals

BROKEN_PIPE = 128 + getattr(signal, "SIGPIPE", 13)
"""Exit code of a program whose reader has closed the pipe, as in ``program | head``."""


class _GuardedStream:
    """A text stream that calls ``on_error`` instead of raising OSError."""

    def __init__(self, stream: TextIO, on_error: Callable[[OSError], None]) -> None:
        self._stream, self._on_error = stream, on_error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._handled_errors():
            try:
                self._stream.write(text)
            except UnicodeEncodeError:  # file names may hold bytes that are not UTF-8
                self._stream.write(text.encode("ascii", "backslashreplace").decode())
        return len(text)

    def flush(self) -> None:
        with self._handled_errors():
            self._stream.flush()

    @contextmanager
    def _handled_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            _redirect_to_null(self._stream)
            self._on_error(error)


def _exit(error: OSError) -> None:
    if isinstance(error, BrokenPipeError):
        raise SystemExit(BROKEN_PIPE)
    reason = error.strerror or error
    print(f"paragon-export: cannot write to standard output: {reason}", file=sys.stderr)
    raise SystemExit(COULD_NOT_RUN)


def _ignore(error: OSError) -> None:
    """Ignore a failed write to stderr: there is nowhere left to report it."""


@contextmanager
def guarded() -> Iterator[None]:
    """Replace ``sys.stdout`` and ``sys.stderr`` in the body by streams that handle write errors.

    Failed writes to stderr are ignored.

    Raises:
        SystemExit: With code 141 if the reader of stdout has closed the pipe, with code 3 if
            writing to stdout fails for another reason.
    """
    previous = sys.stdout, sys.stderr
    null = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open until the process ends
    sys.stderr = _GuardedStream(sys.stderr or null, _ignore)
    sys.stdout = _GuardedStream(sys.stdout or null, _exit)
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
    finally:
        sys.stdout, sys.stderr = previous


def fill_gaps() -> None:
    """Open the null device for each of file descriptors 0, 1 and 2 that is closed.

    Otherwise the next file that is opened gets that descriptor, and printed text ends up in it.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)


@contextmanager
def libraries_silenced() -> Iterator[None]:
    """Discard what libraries print to standard output in the body, in native code too.

    In the command line, where standard output is the result, the file descriptor is redirected. In any
    other process, in which threads may print, only prints of Python are discarded.
    """
    with redirect_stdout(io.StringIO()):
        if not signals.is_listening():
            yield
            return
        kept = os.dup(1)
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.close(null)
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)


def _redirect_to_null(stream: TextIO) -> None:
    """Discard what is still buffered. Python would report it as an error when it exits."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
