"""Streams: what is printed reaches its reader, or the command says in one line that it did not."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from paragon_export.errors import COULD_NOT_RUN

READER_GONE = 128 + getattr(signal, "SIGPIPE", 13)
"""As ``head`` leaves any program that writes to it."""


class _Guarded:
    """A stream with another end to its errors; everything else is the stream's own."""

    def __init__(self, stream: TextIO, lost: Callable[[OSError], None]) -> None:
        self._stream, self._lost = stream, lost

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._watched():
            try:
                self._stream.write(text)
            except UnicodeEncodeError:  # a file's name need not be UTF-8
                self._stream.write(text.encode("ascii", "backslashreplace").decode())
        return len(text)

    def flush(self) -> None:
        with self._watched():
            self._stream.flush()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            _to_nowhere(self._stream)
            self._lost(error)


def _end(error: OSError) -> None:
    if isinstance(error, BrokenPipeError):
        raise SystemExit(READER_GONE)
    reason = error.strerror or error
    print(f"paragon-export: cannot write to standard output: {reason}", file=sys.stderr)
    raise SystemExit(COULD_NOT_RUN)


def _go_on(error: OSError) -> None:
    """Of an error about errors nobody can be told."""


@contextmanager
def guarded() -> Iterator[None]:
    """Guard stdout and stderr: the reader may be gone, the disk full, the stream closed.

    Raises:
        SystemExit: 141 where the reader of stdout has gone, 3 where stdout cannot be written to.
    """
    usual = sys.stdout, sys.stderr
    nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open until the process ends
    sys.stderr = _Guarded(sys.stderr or nowhere, _go_on)
    sys.stdout = _Guarded(sys.stdout or nowhere, _end)
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
    finally:
        sys.stdout, sys.stderr = usual


def fill_gaps() -> None:
    """Open stdin, stdout and stderr to nowhere where they are closed.

    The next file to be opened would take the number, and what is printed would land in it.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)


def _to_nowhere(stream: TextIO) -> None:
    """Let what is still buffered go nowhere, or Python complains about it as it ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
