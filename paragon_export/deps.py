"""Optional dependencies: imported where they are used, named when they are missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from paragon_export.errors import MissingDependencyError


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``.

    Raises:
        MissingDependencyError: Naming the extra of this package that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{module} is not installed ({error}); run: pip install 'paragon-export[{extra}]'"
        ) from error
