"""Environment: the machine and the versions that a figure was measured with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from datetime import datetime, timezone
from typing import Any

import paragon_export

PACKAGES = (
    "torch", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "numpy", "openvino",
    "polygraphy", "tensorrt-rtx-cu13", "tensorrt",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Return the versions of this tool and of what it stands on, as far as installed."""
    found = {"paragon-export": paragon_export.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def environment() -> dict[str, Any]:
    """Return where and with what a measurement was taken."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": gpu_name(),
        "versions": versions(),
    }


def gpu_name() -> str | None:
    """Return the first GPU that PyTorch can use, with its compute capability; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability(0)
    return f"{torch.cuda.get_device_name(0)} (sm{major}{minor})"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
