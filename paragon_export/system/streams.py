"""Guard stdout and stderr: a failed write to stdout ends the command with one line on stderr."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from paragon_export.errors import COULD_NOT_RUN

READER_GONE = 128 + getattr(signal, "SIGPIPE", 13)
"""Exit code of a program whose reader has closed the pipe, as ``head`` does."""


class _Guarded:
    """A stream that passes its write errors to a function; the rest is the stream's own."""

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
    """Ignore a failed write to stderr: there is nowhere left to report it."""


@contextmanager
def guarded() -> Iterator[None]:
    """Guard stdout and stderr against a reader that is gone, a full disk and a closed stream.

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
    """Open the null device as stdin, stdout and stderr where they are closed.

    The next file to be opened would get the free number, and printed text would land in it.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)


def _to_nowhere(stream: TextIO) -> None:
    """Send what is still buffered to the null device; Python would report an error at exit."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
