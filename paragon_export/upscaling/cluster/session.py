"""Session: Ray, started here or connected to."""

from __future__ import annotations

import io
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from paragon_export.errors import PlanError
from paragon_export.specs.types import ADDRESS, LOCAL
from paragon_export.system.optional import require
from paragon_export.system.text import one_line

ANSWER_S = 5.0
"""How long a cluster may take to answer, in seconds. Ray itself would try for minutes."""

GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""First bytes of a client of HTTP/2, which Ray speaks: the preface and an empty frame of settings."""

SETTINGS = 4
"""Type of the frame that a server answers with; the fourth byte."""


def check_address(address: str) -> None:
    """Check that there may be a cluster at an address.

    Raises:
        PlanError: If it is no address, or nothing answers there.
    """
    if not ADDRESS.fullmatch(address):
        raise PlanError(
            f"{address!r} is no address of a Ray cluster: HOST:PORT, auto (that of this machine) or local"
        )
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), ANSWER_S) as connection:
            answers = _is_ray(connection)
    except (OSError, OverflowError) as error:
        raise PlanError(f"cannot connect to Ray at {address}: {error}") from error
    if not answers:
        raise PlanError(f"cannot connect to Ray at {address}: another program answers there")


def _is_ray(connection: socket.socket) -> bool:
    """Return whether a server speaks HTTP/2, as Ray does; with TLS it is not asked.

    Raises:
        OSError: If it does not answer.
    """
    if os.environ.get("RAY_USE_TLS", "0") != "0":
        return True
    connection.sendall(GREETING)
    with connection.makefile("rb") as answer:
        return answer.read(4)[3:] == bytes([SETTINGS])


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Yield the module ``ray``, connected to a cluster in the block.

    ``local`` starts one on this machine and stops it at the end. A process that is connected already
    stays so, whatever the address. What Ray prints meanwhile is dropped: it would mix with results.

    Raises:
        MissingDependencyError: If Ray is not installed.
        PlanError: If there is no cluster at the address.
    """
    check_address(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports its use to its vendor
    ray = require("ray", "ray")
    logging.getLogger("ray").setLevel(logging.ERROR)
    if ray.is_initialized():
        yield ray
        return
    with redirect_stdout(io.StringIO()):
        try:
            ray.init(
                address=address, log_to_driver=False, configure_logging=False,
                **({"include_dashboard": False} if address == LOCAL else {}),
            )  # fmt: skip
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            reason = one_line(str(error))[:300]
            raise PlanError(f"cannot connect to Ray at {address}: {reason}") from error
        try:
            yield ray
        finally:
            ray.shutdown()
