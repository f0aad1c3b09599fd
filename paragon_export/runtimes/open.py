"""Open an ONNX file for running it."""

from __future__ import annotations

from pathlib import Path

from paragon_export.graph.onnx_io import read_onnx_file
from paragon_export.runtimes import isolated
from paragon_export.runtimes.base import Runner
from paragon_export.runtimes.named import with_standard_names
from paragon_export.specs.types import OnnxBackend


def open_runner(path: str | Path, backend: str = "onnxruntime") -> Runner:
    """Open an ONNX file on the CPU, in a child process with limits of time and memory.

    Args:
        path: The ``.onnx`` file.
        backend: ``"onnxruntime"`` or ``"openvino"``.

    Returns:
        A runner. ``infer({"input": image})["output"]`` maps an image (N, C, H, W), float32, RGB in
        [0, 1], to (N, C, s*H, s*W) with the upscaling factor s. These are the names also where the
        file has one input and one output of other names.

    Raises:
        RunError: If the file is not a self-contained ONNX file, or the backend refuses it.
        PlanError: If its ports are not those of a supported network.
        MissingDependencyError: If the backend is not installed.

    Example:
        >>> import numpy as np
        >>> from paragon_export import export_onnx
        >>> from paragon_export.assets import CHECKPOINT
        >>> _ = export_onnx(CHECKPOINT, "model.onnx")
        >>> runner = open_runner("model.onnx")
        >>> runner.infer({"input": np.zeros((1, 3, 8, 8), np.float32)})["output"].shape
        (1, 3, 16, 16)
    """
    file = read_onnx_file(Path(path))
    names, chosen = file.names, OnnxBackend(backend)
    runner = isolated.open_runner(file.data, chosen, is_own=False, title=str(file.path))
    return with_standard_names(runner, names)
