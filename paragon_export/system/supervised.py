"""Run the command in a child process if the system limits memory, as ``ulimit -v`` does.

When memory runs out, C++ libraries abort the process or print messages of their own. The parent
process then prints one line instead and exits with code 3.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

from paragon_export.errors import COULD_NOT_RUN
from paragon_export.system.signals import STOPPING, end_with_parent

COMMAND_EXIT_CODES = (0, 1, 2, COULD_NOT_RUN, 141, *(128 + number for number in STOPPING))
"""Exit codes of the command itself. Any other one means that a library ended the process."""

ERROR_PREFIX = b"paragon-export: "
"""First characters of every error message of the command."""


def run_in_child_if_memory_is_limited() -> None:
    """Return at once if memory is not limited; otherwise fork, and return in the child only.

    The parent waits for the child and exits with its exit code.
    """
    limit = _memory_limit()
    if limit is None or not hasattr(os, "fork"):
        return
    parent = os.getpid()
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        end_with_parent(parent)
        os.close(read_end)
        os.dup2(write_end, 2)
        os.close(write_end)
        return
    os.close(write_end)
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: _forward(child, number))
    stderr = b"".join(iter(lambda: os.read(read_end, 2**16), b""))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    stderr, code = _explained(stderr, code, limit)
    with suppress(OSError):
        sys.stderr.buffer.write(stderr)
        sys.stderr.flush()
    os._exit(code)


def _explained(stderr: bytes, code: int, limit: int) -> tuple[bytes, int]:
    """Return what to print and the exit code, with the memory limit named in the error message."""
    allowed = f"the system allows {limit / 1e9:.1f} GB (ulimit -v)".encode()
    errors = [line for line in stderr.splitlines() if line.startswith(ERROR_PREFIX)]
    if code not in COMMAND_EXIT_CODES:
        text = b"%snot enough memory: a library ended the process, and %s\n"
        return text % (ERROR_PREFIX, allowed), COULD_NOT_RUN
    if code == COULD_NOT_RUN and errors:  # leaves out messages of libraries
        return b"%s; %s\n" % (errors[-1], allowed), code
    return stderr, code


def _forward(child: int, number: int) -> None:
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
