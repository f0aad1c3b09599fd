"""Plans: what the user asks for, complete and checked before any work is done."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from paragon_export.errors import PlanError
from paragon_export.system.text import brief

ONNX_SUFFIXES = (".onnx",)


ENGINE_SUFFIXES = (".engine", ".plan", ".trt")


MAX_EXTENT_PX = 16384
"""Pixels per side that a profile may ask for."""


class Precision(StrEnum):
    """The arithmetic of an artifact."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"

    @property
    def is_half(self) -> bool:
        return self is not Precision.FP32


class Quantization(StrEnum):
    """Arithmetic in whole numbers: of phase 2 of the glyph classifier alone (see ``int8``)."""

    INT8 = "int8"


class Runtime(StrEnum):
    """What an ONNX file is meant to be run by; any of them can run any file."""

    ANY = "any"
    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"


class OnnxBackend(StrEnum):
    """What runs an ONNX file here."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"


@dataclass(frozen=True, order=True)
class Size:
    """Height and width in pixels, in that order everywhere."""

    height: int
    width: int

    @classmethod
    def parse(cls, text: str) -> Size:
        """Read ``HxW``.

        Raises:
            PlanError: If it is anything else, or an extent is 0 or over ``MAX_EXTENT_PX``.
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


class Backend(StrEnum):
    """Which TensorRT builds the engine."""

    RTX = "rtx"
    TENSORRT = "tensorrt"


TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
"""Compute capabilities that TensorRT-RTX compiles for ahead of time."""


def check_suffix(path: Path, suffixes: tuple[str, ...]) -> None:
    """Refuse a file name by which the file would not be known again.

    Raises:
        PlanError: If the name ends in none of ``suffixes``.
    """
    if path.suffix.lower() not in suffixes:
        raise PlanError(f"output {path} must end in {' or '.join(suffixes)}")
