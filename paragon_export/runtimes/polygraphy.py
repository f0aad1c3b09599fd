"""Polygraphy for TensorRT-RTX or full TensorRT.

Polygraphy chooses one of them when it is first imported, by an environment variable. The choice
holds until the process ends.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from paragon_export.errors import PlanError
from paragon_export.system.optional import require

VARIABLE = "POLYGRAPHY_USE_TENSORRT_RTX"
"""Environment variable that Polygraphy reads when it is imported."""

_MODULES = {"rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}


def polygraphy_trt(backend: str) -> ModuleType:
    """Return ``polygraphy.backend.trt``, bound to TensorRT-RTX or to full TensorRT.

    Args:
        backend: ``rtx`` or ``tensorrt``, which are also the names of the extras.

    Raises:
        MissingDependencyError: If the backend is not installed.
        PlanError: If this process has already used the other one.
    """
    if "polygraphy.config" in sys.modules:
        _check_bound(backend)
    tensorrt(backend)
    with _environment(VARIABLE, "1" if backend == "rtx" else "0"):
        require("polygraphy.config", backend)
        module = require("polygraphy.backend.trt", backend)
    _check_bound(backend)
    return module


def _check_bound(backend: str) -> None:
    bound = "rtx" if require("polygraphy.config", backend).USE_TENSORRT_RTX else "tensorrt"
    if bound != backend:
        raise PlanError(
            f"backend {backend} was requested and this process already uses the other TensorRT; "
            "run it in a new process"
        )


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for the body."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def python_logging(backend: str, handler: logging.Handler | None = None) -> Iterator[None]:
    """Send all messages of Polygraphy and TensorRT to Python's logger ``Polygraphy`` in the body.

    By default they are printed. ``handler`` receives every message. Without one, Python prints
    warnings and errors to stderr. The loggers are restored after the body.
    """
    printer = require("polygraphy.logger", backend).G_LOGGER
    logger = logging.getLogger("Polygraphy")
    before = printer.use_python_logging_system, printer.module_severity
    level, propagate = logger.level, logger.propagate
    printer.use_python_logging_system = True
    printer.module_severity = {"": printer.VERBOSE}
    logger.setLevel(1)
    logger.propagate = False
    if handler is not None:
        logger.addHandler(handler)
    try:
        yield
    finally:
        if handler is not None:
            logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
        printer.use_python_logging_system, printer.module_severity = before


def tensorrt(backend: str) -> ModuleType:
    """Return the TensorRT module of a backend, ``rtx`` or ``tensorrt``.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    return require(_MODULES[backend], backend)
