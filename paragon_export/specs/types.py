"""Basic types of a request: precision, runtime, backend, image size and engine target."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from paragon_export.errors import PlanError
from paragon_export.system.text import brief

ONNX_SUFFIXES = (".onnx",)

ENGINE_SUFFIXES = (".engine", ".plan", ".trt")

LOCAL = "local"
"""Address of a Ray cluster that is started on this machine, and stopped at the end."""

ADDRESS = re.compile(r"local|auto|[\w.-]+:\d+|\[[0-9a-fA-F:]+\]:\d+")
"""Address of a Ray cluster: ``auto`` is the one that runs on this machine."""

MAX_EXTENT_PX = 16384
"""Largest height or width of a size in pixels, and largest batch of a profile."""


class Precision(StrEnum):
    """Floating point type of the arithmetic of an artifact."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"

    @property
    def is_half(self) -> bool:
        """Whether it has 16 bits."""
        return self is not Precision.FP32


class Quantization(StrEnum):
    """Integer type of the convolutions and matrix products of a quantized artifact."""

    INT8 = "int8"


class Runtime(StrEnum):
    """The runtime that an ONNX file is optimized for. The others can run the file as well.

    ``PORTABLE`` stands for runtimes that know few operators: OpenCV and ncnn.
    """

    ANY = "any"
    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"
    PORTABLE = "portable"


class Tracer(StrEnum):
    """A way from a PyTorch module to an ONNX graph."""

    SYMBOLIC = "symbolic"
    """This tool's own: sizes are unknown during the trace."""
    TORCHSCRIPT = "torchscript"
    DYNAMO = "dynamo"

    @property
    def described(self) -> str:
        """Name in messages."""
        own = self is Tracer.SYMBOLIC
        return "this tool's own tracer" if own else f"PyTorch's {self.value} exporter"


class OnnxBackend(StrEnum):
    """A runtime that this tool runs ONNX files with.

    ``CUDA`` is ONNX Runtime on the NVIDIA GPU of this machine, ``ONNXRUNTIME`` is it on the CPU.
    """

    ONNXRUNTIME = "onnxruntime"
    CUDA = "cuda"
    OPENVINO = "openvino"


class Player(StrEnum):
    """A player that a script is written for; mpv runs those for VapourSynth."""

    VAPOURSYNTH = "vapoursynth"

    @property
    def suffix(self) -> str:
        """Of the script's name."""
        return ".vpy"


class NcnnProgram(StrEnum):
    """What runs the files of ncnn."""

    NCNN = "ncnn"
    """Any program with the layers of a recent ncnn."""
    REALESRGAN = "realesrgan"
    """Real-ESRGAN-ncnn-vulkan and programs made from it, as Upscayl: few layers."""


class Server(StrEnum):
    """A server that a folder is written for."""

    TRITON = "triton"
    RAY = "ray"


@dataclass(frozen=True, order=True)
class Size:
    """Height and width in pixels, always in this order."""

    height: int
    width: int

    @classmethod
    def parse(cls, text: str) -> Size:
        """Return the size that a text such as ``720x1280`` (height x width) names.

        Raises:
            PlanError: If the text has another form, or an extent is not in 1 to ``MAX_EXTENT_PX``.
        """
        match = re.fullmatch(r"\s*(\d{1,6})\s*[xX]\s*(\d{1,6})\s*", text)
        if not match:
            raise PlanError(f"size {brief(text)} is not HEIGHTxWIDTH in pixels, as in 720x1280")
        size = cls(int(match[1]), int(match[2]))
        if not (1 <= size.height <= MAX_EXTENT_PX and 1 <= size.width <= MAX_EXTENT_PX):
            raise PlanError(f"size {size} is outside 1x1 to {MAX_EXTENT_PX}x{MAX_EXTENT_PX}")
        return size

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


def sizes_of(given: Iterable[str | Size] | None) -> tuple[Size, ...] | None:
    """Return sizes, of which some may be texts (see ``Size.parse``); None if none are given."""
    if given is None:
        return None
    return tuple(size if isinstance(size, Size) else Size.parse(size) for size in given)


class Backend(StrEnum):
    """The kind of TensorRT that builds an engine: TensorRT-RTX or full TensorRT."""

    RTX = "rtx"
    TENSORRT = "tensorrt"


TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
"""Compute capabilities that TensorRT-RTX can compile for ahead of time."""


def check_suffix(path: Path, suffixes: tuple[str, ...]) -> None:
    """Check the suffix of an output. Commands recognize their input files by suffix.

    Raises:
        PlanError: If the file name ends in none of ``suffixes``.
    """
    if path.suffix.lower() not in suffixes:
        raise PlanError(f"output {path} must end in {' or '.join(suffixes)}")
