"""Signals: a command that is stopped ends at once and quietly, and takes its leftovers along.

Python runs a signal's handler in the main thread, between two of its instructions: a long call into
TensorRT would hold it up. So a second thread is woken by the signal as well, and whichever of the
two comes first ends the process. No ``KeyboardInterrupt`` is raised: libraries swallow it or print
it with a traceback, depending on where it strikes.
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
"""Ctrl-C, a polite kill, and a terminal that was closed; Windows has no SIGHUP."""

_clean_up: list[Callable[[], None]] = []

_ending = threading.Lock()

_ended_by: list[int] = []


def before_end(clean_up: Callable[[], None]) -> None:
    """Have a function called when a signal ends the process. It must not raise."""
    _clean_up.append(clean_up)


def listen() -> None:
    """From now on end with exit code 128 + signal, 130 for Ctrl-C, and not a word.

    A signal that is ignored, as Ctrl-C is in what a shell runs in the background, stays so.
    """
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: _end(number))
    signal.set_wakeup_fd(wake.detach(), warn_on_full_buffer=False)
    threading.Thread(target=_wait, args=(woken,), name="signals", daemon=True).start()


def end_with_parent(parent: int) -> None:
    """Have the system kill this process when its parent dies, where it can do that (Linux)."""
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if hasattr(os, "getppid") and os.getppid() != parent:
        os._exit(128 + signal.SIGTERM)  # it has died already


def _wait(woken: socket.socket) -> None:
    while number := woken.recv(1):
        if number[0] in STOPPING:
            _end(number[0])


def _end(number: int) -> None:
    if not _ending.acquire(blocking=False):
        if threading.get_ident() not in _ended_by:
            time.sleep(60)  # the other thread cleans up and ends the process
        return
    _ended_by.append(threading.get_ident())
    for clean_up in _clean_up:
        clean_up()
    os._exit(128 + number)  # no module is torn down: that, too, could be interrupted with words
