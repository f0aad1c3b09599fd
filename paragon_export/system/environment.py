"""Describe the machine and the package versions that a measurement was made with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import paragon_export

PACKAGES = (
    "torch", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "numpy", "openvino",
    "polygraphy", "tensorrt-rtx-cu13", "tensorrt",
)  # fmt: skip
"""Packages whose versions are reported with measurements."""

EXPORT_PACKAGES = ("torch", "onnx", "onnx-ir", "onnxsim", "numpy", "onnxruntime", "onnxruntime-gpu")
"""Packages whose versions may change the bytes of an exported ONNX file. Python's version does
not: no number in the file is computed by Python itself."""


def export_versions() -> dict[str, str]:
    """Return the versions, by package, that the bytes of an exported ONNX file depend on."""
    return {"paragon-export": paragon_export.__version__, **_installed_versions(EXPORT_PACKAGES)}


def versions() -> dict[str, str]:
    """Return the versions of this tool, of Python and of the installed ``PACKAGES``."""
    python = {"paragon-export": paragon_export.__version__, "python": platform.python_version()}
    return {**python, **_installed_versions(PACKAGES)}


def _installed_versions(packages: Sequence[str]) -> dict[str, str]:
    installed = {}
    for package in packages:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def environment() -> dict[str, Any]:
    """Return the time, the machine and the versions, for the record of a measurement.

    Returns:
        ``time`` (UTC, ISO 8601), ``platform``, ``processor``, ``cores``, ``gpu`` (None if there is
        none) and ``versions``.
    """
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": cuda_gpu(),
        "versions": versions(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def cuda_gpu() -> str | None:
    """Return the name of the first GPU of the CUDA driver; None without a driver or a GPU.

    The driver is called directly, because PyTorch may be built without CUDA.
    """
    import ctypes

    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return None
    count, device, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return None
    if driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    driver.cuDeviceGetName(name, len(name), device)
    return name.value.decode(errors="replace")
