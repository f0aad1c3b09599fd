"""From a trained super-resolution checkpoint to verified ONNX models and TensorRT engines."""

from __future__ import annotations

import os

__version__ = "0.1.0"

# Nothing here talks to a network. ONNX Runtime would: from 1.31 on its Linux builds keep a database
# of events in the user's cache folder, to be sent to its makers, unless told before its import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
