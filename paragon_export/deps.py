"""Optional dependencies: imported where they are used, named when they are missing."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from paragon_export.errors import MissingDependencyError

UNWANTED = ("openvino_telemetry",)
"""Packages that tell their makers who imports them; those that would import them do without."""


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``, and keep it from importing what is ``UNWANTED``.

    Raises:
        MissingDependencyError: Naming the extra of this package that installs it, or saying why
            it cannot be loaded.
    """
    for name in UNWANTED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # importing it then fails
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{module} is not installed ({error}); run: pip install 'paragon-export[{extra}]'"
        ) from error
    except ImportError as error:
        raise MissingDependencyError(
            f"{module} is installed and cannot be loaded: {error}"
        ) from error
