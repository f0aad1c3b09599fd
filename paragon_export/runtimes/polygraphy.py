"""Polygraphy for either TensorRT. It picks one when it is first imported, for good."""

from __future__ import annotations

import logging
import os
import sys
from types import ModuleType

from paragon_export.errors import MissingDependencyError, PlanError
from paragon_export.system.optional import require

VARIABLE = "POLYGRAPHY_USE_TENSORRT_RTX"

_MODULES = {"rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}


def polygraphy_trt(flavour: str) -> ModuleType:
    """Return ``polygraphy.backend.trt``, bound to TensorRT-RTX or to full TensorRT.

    Args:
        flavour: ``rtx`` or ``tensorrt``, which are also the names of the extras.

    Raises:
        MissingDependencyError: If the flavour is not installed.
        PlanError: If this process has already used the other one.
    """
    wanted = "1" if flavour == "rtx" else "0"
    if "polygraphy" in sys.modules and os.environ.get(VARIABLE, "0") != wanted:
        raise PlanError(f"this process already uses another TensorRT; run {flavour} in a new one")
    os.environ[VARIABLE] = wanted
    tensorrt(flavour)
    polygraphy_logger = require("polygraphy.logger", flavour).G_LOGGER
    # TensorRT's own lines come through here; the planned memory is among them.
    polygraphy_logger.use_python_logging_system = True
    polygraphy_logger.module_severity = {"": polygraphy_logger.VERBOSE}
    logging.getLogger("Polygraphy").setLevel(1)
    logging.getLogger("Polygraphy").propagate = False
    return require("polygraphy.backend.trt", flavour)


def tensorrt(flavour: str) -> ModuleType:
    """Return the TensorRT module of a flavour."""
    return require(_MODULES[flavour], flavour)


def is_installed(flavour: str) -> bool:
    """Tell whether a flavour can be imported."""
    try:
        tensorrt(flavour)
    except MissingDependencyError:
        return False
    return True
