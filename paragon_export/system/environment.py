"""Environment: the machine and the versions that a figure was measured with."""

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


MAKERS = ("torch", "onnx", "onnx-ir", "onnxsim", "numpy", "onnxruntime", "onnxruntime-gpu")
"""What decides an ONNX file's bytes. Python does not: it adds up nothing that ends up in there."""


def makers() -> dict[str, str]:
    """Return the versions that an ONNX file depends on; the same wherever they are the same."""
    return {"paragon-export": paragon_export.__version__, **_installed(MAKERS)}


def versions() -> dict[str, str]:
    """Return the versions of this tool and of what it stands on, as far as installed."""
    python = {"paragon-export": paragon_export.__version__, "python": platform.python_version()}
    return {**python, **_installed(PACKAGES)}


def _installed(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def environment() -> dict[str, Any]:
    """Return where and with what a measurement was taken."""
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
    """Return the name of the first GPU that the CUDA driver knows; None without driver or GPU.

    Asks the driver itself, so that it works beside a PyTorch built without CUDA.
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
