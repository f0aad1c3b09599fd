"""Ray Serve: an application that upscales PNG and JPEG files over HTTP.

Facts about the model are constants at the top of the application. What follows them is ``ray_app.txt``, the
same in every application. It needs neither this tool nor PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paragon_export
from paragon_export.errors import PlanError
from paragon_export.graph.onnx_io import OnnxFile, is_onnx, read_onnx_file
from paragon_export.serving.model import ServedModel, make_folder, read_served
from paragon_export.specs.types import OnnxBackend, Size
from paragon_export.system.atomic_write import encoded, write_files

BODY = Path(__file__).with_name("ray_app.txt")

APP = "app.py"

MARK = "# Upscales pictures over HTTP in Ray Serve. Written by paragon-export "
"""First words of an application."""

REQUIREMENTS = "fastapi\nnumpy\nonnxruntime\npillow\nprometheus_client\nray[serve]\n"

PROVIDERS = {
    OnnxBackend.ONNXRUNTIME: ["CPUExecutionProvider"],
    OnnxBackend.CUDA: ["CUDAExecutionProvider", "CPUExecutionProvider"],
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of the application."""

    batch: int = 8
    """Pictures of one size that are computed at a time, if the model takes any batch."""
    workers: int = 1
    """Processes that hold the model."""
    wait_s: float = 0.005
    """How long a picture waits for others."""
    queued: int = 256
    """Pictures that may wait."""
    file_bytes: int = 2**25
    pixels: int = 2**22
    """Of one picture."""
    longest_s: float = 60.0
    """How long a request may take."""


def write_application(
    model: Path,
    folder: Path,
    *,
    backend: OnnxBackend = OnnxBackend.ONNXRUNTIME,
    limits: Limits | None = None,
    sizes: Sequence[Size] = (),
) -> Path:
    """Write an application, a copy of its model, and the packages that it needs.

    Args:
        model: The ONNX file of a network that upscales pictures.
        folder: Where to write; it is made if its parent exists.
        backend: ONNX Runtime on the processor, or on CUDA.
        limits: None for the defaults.
        sizes: The first is run before the first request.

    Returns:
        The path of the application.

    Raises:
        RunError, PlanError: If the model cannot be read or served, or the folder cannot be written.
    """
    if not is_onnx(model):
        raise PlanError(f"{model}: the application runs ONNX files; give the one of the engine")
    if backend not in PROVIDERS:
        raise PlanError(f"--backend {backend.value}: the application takes onnxruntime and cuda")
    served = read_served(model, sizes)
    text = _application(model, served, backend, limits or Limits())
    path = folder / APP
    if path.exists() and not path.read_bytes().startswith(MARK.encode()):
        raise PlanError(f"{path} exists and was not written by this tool; choose another folder")
    make_folder(folder)
    contents = {
        "model.onnx": served.data,
        "requirements.txt": encoded(REQUIREMENTS),
        APP: encoded(text),
    }
    write_files({folder / name: data for name, data in contents.items()})
    return path


def _application(model: Path, served: ServedModel, backend: OnnxBackend, limits: Limits) -> str:
    """Return the constants and the body of an application."""
    file = read_onnx_file(model)
    channels, (first, *_) = served.inputs[0].dims[1], served.outputs
    if file.task.is_classifier or channels not in (1, 3) or first.dims[1] not in (channels, None):
        raise PlanError(f"{model} does not map pictures of 3 channels, or of 1, to pictures")
    if served.inputs[0].kind not in ("FP32", "FP16"):
        raise PlanError(f"{model} takes {served.inputs[0].kind}; export it with --io fp32")
    constants = {
        **_model_constants(file, served, backend),
        "BATCH": limits.batch if served.batch is None else 1,
        "WORKERS": limits.workers,
        "WAIT_S": limits.wait_s,
        "MAX_QUEUED": limits.queued,
        "MAX_BYTES": limits.file_bytes,
        "MAX_PIXELS": limits.pixels,
        "LONGEST_S": limits.longest_s,
    }
    lines = [f"{name} = {value!a}" for name, value in constants.items()]
    head = (
        f"{MARK}{paragon_export.__version__}.\n#   python app.py, or: serve run app:application\n\n"
    )
    return head + "\n".join(lines) + "\n" + BODY.read_text("utf-8")


def _model_constants(file: OnnxFile, served: ServedModel, backend: OnnxBackend) -> dict[str, Any]:
    """Return what an application says of its model."""
    size, warm_up = file.static, served.sizes[0]
    return {
        "MODEL": "model.onnx",
        "INPUT": file.names.image,
        "CHANNELS": served.inputs[0].dims[1],
        "IS_HALF": served.inputs[0].kind == "FP16",
        "SIZE": (size.height, size.width) if size else None,
        "SMALLEST": file.metadata.smallest,
        "PROVIDERS": PROVIDERS[backend],
        "WARM_UP": (warm_up.height, warm_up.width),
        "NEEDS": {"num_gpus": 1} if backend is OnnxBackend.CUDA else {"num_cpus": 1},
    }
