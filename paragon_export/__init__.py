"""From a trained super-resolution checkpoint to verified ONNX models and TensorRT engines."""

from __future__ import annotations

__version__ = "0.1.0"
