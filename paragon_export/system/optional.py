"""Import optional dependencies, and libraries that have telemetry to turn off."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from paragon_export.errors import MissingDependencyError

TELEMETRY_PACKAGES = ("openvino_telemetry",)
"""Packages that report usage to their vendor. Their importers work without them."""

ORT_TELEMETRY_VARIABLE = "ORT_DISABLE_TELEMETRY"
"""From version 1.31 on, ONNX Runtime for Linux records events in the user's cache folder and sends
them to its vendor, unless this variable is set before it is imported."""


def import_without_telemetry(module: str) -> ModuleType:
    """Import a module with the telemetry of ONNX Runtime and OpenVINO turned off.

    Every import of ``onnxruntime`` and of a package that imports it goes through this function. A
    value of ``ORT_DISABLE_TELEMETRY`` that the user has set stays as it is.

    Raises:
        ImportError: If the module is missing or cannot be loaded.
    """
    os.environ.setdefault(ORT_TELEMETRY_VARIABLE, "1")
    with _blocked(TELEMETRY_PACKAGES):
        return importlib.import_module(module)


@contextmanager
def _blocked(packages: tuple[str, ...]) -> Iterator[None]:
    """Make the import of these packages fail in the body, unless they are imported already."""
    blocked = [name for name in packages if name not in sys.modules]
    for name in blocked:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in blocked:
            sys.modules.pop(name, None)


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, as with :func:`import_without_telemetry`.

    Raises:
        MissingDependencyError: If it is not installed, naming the ``extra`` of this package that
            installs it, or if it cannot be loaded.
    """
    try:
        return import_without_telemetry(module)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{module} is not installed ({error}); run: pip install 'paragon-export[{extra}]'"
        ) from error
    except ImportError as error:
        raise MissingDependencyError(
            f"{module} is installed but cannot be loaded: {error}"
        ) from error


def cuda_advice() -> str:
    """Return what a user can do so that ONNX Runtime runs on CUDA, as the end of a message.

    It depends on the installed distributions that contain ``onnxruntime``.
    """
    named_like_it = (
        found
        for found in importlib.metadata.distributions()
        if found.name.lower().startswith(("onnxruntime", "ort"))
    )
    # Reading the files of all distributions takes half a second.
    installed = sorted({d.name for d in named_like_it if _contains(d, "onnxruntime")})
    install = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
    if installed == ["onnxruntime-gpu"]:
        return f"check the NVIDIA driver, and run: {install}"
    conflict = f"{' and '.join(installed)} overwrite each other; " if len(installed) > 1 else ""
    remove = " ".join(installed or ["onnxruntime"])
    return f"{conflict}run: pip uninstall -y {remove}; then: {install}"


def _contains(distribution: importlib.metadata.Distribution, package: str) -> bool:
    return any(path.parts[0] == package for path in distribution.files or ())
