"""Run the command in a child process if the system limits memory, as ``ulimit -v`` does.

C++ libraries abort the process, or print messages of their own, when memory runs out. The parent
process then prints one line instead and exits with code 3.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

from paragon_export.errors import COULD_NOT_RUN
from paragon_export.system.signals import STOPPING, end_with_parent

OUR_CODES = (0, 1, 2, COULD_NOT_RUN, 141, *(128 + number for number in STOPPING))
"""Exit codes of the command itself. With any other a library has ended the process."""

PREFIX = b"paragon-export: "
"""Of every error of the command."""


def run_in_child_if_memory_is_limited() -> None:
    """Return at once if memory is not limited; otherwise fork, and return in the child only.

    The parent waits for the child and exits with its exit code.
    """
    limit = _memory_limit()
    if limit is None or not hasattr(os, "fork"):
        return
    parent = os.getpid()
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        end_with_parent(parent)
        os.close(out)
        os.dup2(into, 2)
        os.close(into)
        return
    os.close(into)
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: _pass_on(child, number))
    said = b"".join(iter(lambda: os.read(out, 2**16), b""))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    allowed = f"the system allows {limit / 1e9:.1f} GB (ulimit -v)".encode()
    ours = [line for line in said.splitlines() if line.startswith(PREFIX)]
    if code not in OUR_CODES:
        said = b"%snot enough memory: a library ended the process, and %s\n" % (PREFIX, allowed)
        code = COULD_NOT_RUN
    elif code == COULD_NOT_RUN and ours:  # libraries complain besides
        said = b"%s; %s\n" % (ours[-1], allowed)
    with suppress(OSError):
        sys.stderr.buffer.write(said)
        sys.stderr.flush()
    os._exit(code)


def _pass_on(child: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(child, number)


def _memory_limit() -> int | None:
    """Return the bytes of memory that the process may have; None without a limit."""
    try:
        import resource
    except ImportError:
        return None
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    return min((limit for limit in limits if limit != resource.RLIM_INFINITY), default=None)
