"""OpenCV's DNN module as a runner. It is no dependency of the tool: it is imported where it is used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from paragon_export.runtimes.base import Arrays


class OpenCv:
    """An ONNX file in OpenCV. ``winograd`` is OpenCV's default, and errs more."""

    name = "OpenCV"

    def __init__(self, path: Path, *, winograd: bool = False) -> None:
        import cv2

        self.net = cv2.dnn.readNetFromONNX(str(path))
        self.net.enableWinograd(winograd)

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Return the picture of the only output."""
        self.net.setInput(feeds["input"])
        return {"output": self.net.forward().copy()}
