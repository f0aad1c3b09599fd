"""End the process at once when a signal stops a command, without output or temporary files left.

Python runs signal handlers in the main thread between two bytecode instructions, so a long call
into TensorRT would delay them. Therefore the signal also wakes a second thread, and the faster of
the two ends the process. ``KeyboardInterrupt`` is not used: some libraries suppress it, others
print it with a traceback.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

STOPPING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Signals that end the process: Ctrl-C, kill, and a closed terminal. Windows has no SIGHUP."""

_clean_ups: list[Callable[[], None]] = []

_ending = threading.Lock()

_ending_threads: list[int] = []

_listening = threading.Event()


def before_end(clean_up: Callable[[], None]) -> None:
    """Register a function to call when a signal ends the process. It must not raise."""
    _clean_ups.append(clean_up)


def listen() -> None:
    """Install the signal handlers of this process. The command line calls this once.

    A signal then ends the process without output and with exit code 128 + its number, 130 for
    Ctrl-C. Signals that are ignored stay ignored, such as Ctrl-C in background jobs of a shell.
    """
    _listening.set()
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: _end(number))
    signal.set_wakeup_fd(wake.detach(), warn_on_full_buffer=False)
    threading.Thread(target=_wait, args=(woken,), name="signals", daemon=True).start()


def is_listening() -> bool:
    """Return whether a signal ends this process without unwinding: whether `listen` was called."""
    return _listening.is_set()


def end_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies. Other systems are not supported.

    Args:
        parent: Process id of the parent.
    """
    import ctypes

    with suppress(OSError, AttributeError, TypeError):  # elsewhere than on Linux
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if hasattr(os, "getppid") and os.getppid() != parent:
        os._exit(128 + signal.SIGTERM)  # the parent has died already


def _wait(woken: socket.socket) -> None:
    """End the process at the first signal whose number arrives at the socket."""
    while number := woken.recv(1):
        if number[0] in STOPPING:
            _end(number[0])


def _end(number: int) -> None:
    """Run the clean-up functions and end the process. The first thread to arrive does it."""
    if not _ending.acquire(blocking=False):
        if threading.get_ident() not in _ending_threads:
            time.sleep(60)  # the other thread cleans up and ends the process
        return
    _ending_threads.append(threading.get_ident())
    for clean_up in _clean_ups:
        clean_up()
    os._exit(128 + number)  # a normal exit could print errors of interrupted libraries
