"""Run the command in a child process if the system limits memory, as ``ulimit -v`` does.

When memory runs out, C++ libraries abort the process, exit with codes of their own or print
messages of their own, and Python 3.11 can repeat a failed allocation without end. The parent process
then prints one line instead and exits with code 3.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from paragon_export.errors import COULD_NOT_RUN
from paragon_export.system.signals import STOPPING, end_with_parent

ENDS = (COULD_NOT_RUN, 141, *(128 + number for number in STOPPING))
"""Exit codes that nothing but the command uses. All others count only if `report_end` gave them."""

ERROR_PREFIX = b"paragon-export: "
"""First characters of every error message of the command."""

FULL = 2**18
"""Bytes: with less than this left to allocate, a process counts as out of memory. glibc asks for
132 KiB or 1 MiB at a time."""

LONGEST_FULL_S = 10.0
"""Seconds after which a process that is out of memory is ended."""

_report: list[int] = []  # in the child: the file descriptor that the parent reads


def run_in_child_if_memory_is_limited() -> None:
    """Return at once if memory is not limited; otherwise fork, and return in the child only.

    The parent waits for the child and exits with its exit code.
    """
    limit = _memory_limit()
    if limit is None or not hasattr(os, "fork"):
        return
    parent = os.getpid()
    (errors, write_errors), (report, write_report) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        end_with_parent(parent)
        os.close(errors)
        os.close(report)
        os.dup2(write_errors, 2)
        os.close(write_errors)
        _report.append(write_report)
        return
    os.close(write_errors)
    os.close(write_report)
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: _signal(child, number))
    stderr = _read_while_it_runs(errors, child)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.set_blocking(report, False)  # a process that the child left may hold the other end
    reported = b""
    with suppress(BlockingIOError):
        reported = os.read(report, 1)
    is_own = code in ENDS or reported == bytes([code % 256])
    stderr, code = _explained(stderr, code if is_own else None, limit)
    with suppress(OSError):
        sys.stderr.buffer.write(stderr)
        sys.stderr.flush()
    os._exit(code)


def report_end(code: int) -> None:
    """Tell the parent process, if there is one, that the command itself ends with this exit code.

    A library can end the process with code 1, which otherwise says that a verdict failed.
    """
    for descriptor in _report:
        os.write(descriptor, bytes([code % 256]))


def _read_while_it_runs(errors: int, child: int) -> bytes:
    """Return all that the child writes; kill it if it is out of memory for too long."""
    read, last_free = b"", time.monotonic()
    while True:
        if not _is_full(child):
            last_free = time.monotonic()
        elif time.monotonic() - last_free > LONGEST_FULL_S:
            _signal(child, signal.SIGKILL)
        if select.select([errors], [], [], 1.0)[0]:
            part = os.read(errors, 2**16)
            if not part:
                return read
            read += part


def _is_full(process: int) -> bool:
    """Return whether a process can allocate next to nothing. False where there is no /proc."""
    import resource

    try:
        status = Path(f"/proc/{process}/status").read_text()
        used = {line.split()[0]: line.split()[1] for line in status.splitlines() if " kB" in line}
        kinds = {"VmSize:": resource.RLIMIT_AS, "VmData:": resource.RLIMIT_DATA}
        return any(
            int(used[name]) * 1024 + FULL > limit
            for name, limit in ((name, resource.getrlimit(kind)[0]) for name, kind in kinds.items())
            if limit != resource.RLIM_INFINITY
        )
    except (OSError, KeyError):
        return False


def _explained(stderr: bytes, code: int | None, limit: int) -> tuple[bytes, int]:
    """Return what to print and the exit code, with the memory limit named in the error message.

    The code is None if something else than the command ended the process.
    """
    allowed = f"the system allows {limit / 1e9:.1f} GB (ulimit -v)".encode()
    errors = [line for line in stderr.splitlines() if line.startswith(ERROR_PREFIX)]
    if code is None:
        text = b"%snot enough memory: a library ended the process, and %s\n"
        return text % (ERROR_PREFIX, allowed), COULD_NOT_RUN
    if code == COULD_NOT_RUN and errors:  # leaves out messages of libraries
        return b"%s; %s\n" % (errors[-1], allowed), code
    return stderr, code


def _signal(child: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(child, number)


def _memory_limit() -> int | None:
    """Return the lower of the limits RLIMIT_AS and RLIMIT_DATA in bytes; None without a limit."""
    try:
        import resource
    except ImportError:
        return None
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    return min((limit for limit in limits if limit != resource.RLIM_INFINITY), default=None)
