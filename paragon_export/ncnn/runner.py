"""Run a network in ncnn, on the processor and in float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from paragon_export.errors import RunError
from paragon_export.ncnn.convert import BLOBS, UNCLAMPED, NcnnFiles
from paragon_export.runtimes.base import Arrays
from paragon_export.system.optional import require
from paragon_export.system.private_folder import scratch

HALF_OPTIONS = (
    "use_fp16_storage", "use_fp16_arithmetic", "use_fp16_packed", "use_bf16_storage", "use_bf16_packed",
)  # fmt: skip
"""Options of ncnn that store or compute in 16 bits where the processor can."""


class NcnnRunner:
    """A network in ncnn, on one thread. It is a ``Runner``.

    Raises:
        MissingDependencyError: If ncnn is not installed.
        RunError: If ncnn cannot load the files.
    """

    name = "ncnn"

    def __init__(self, files: NcnnFiles, *, winograd: bool = False) -> None:
        """Load the files. ``winograd`` is ncnn's default for convolutions, and errs more."""
        self._is_clamped = files.is_clamped
        self._ncnn = require("ncnn", "ncnn")
        self._net = self._ncnn.Net()
        options = self._net.opt
        options.num_threads = 1
        options.use_vulkan_compute = False
        options.use_winograd_convolution = winograd
        for option in HALF_OPTIONS:
            setattr(options, option, False)
        with scratch() as folder:
            (folder / "n.param").write_text(files.param, encoding="utf-8")
            (folder / "n.bin").write_bytes(files.weights)
            if self._net.load_param(str(folder / "n.param")):
                raise RunError("ncnn cannot load the .param that pnnx made")
            if self._net.load_model(str(folder / "n.bin")):
                raise RunError("ncnn cannot load the .bin that pnnx made")

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Return the pictures (N, C, s*H, s*W) of ``input``, (N, C, H, W), one after the other.

        They are what the network computes, without the bound of the output.

        Raises:
            RunError: If ncnn fails, or the bound changes values that are not below 0.
        """
        pictures = [self._one(picture) for picture in feeds["input"]]
        return {"output": np.stack(pictures)}

    def _one(self, picture: np.ndarray) -> np.ndarray:
        pixels = np.ascontiguousarray(picture, np.float32)  # a Mat does not keep what it reads
        extractor = self._net.create_extractor()
        extractor.input(BLOBS["in0"], self._ncnn.Mat(pixels).clone())
        if not self._is_clamped:
            return self._extract(extractor, BLOBS["out0"])
        free = self._extract(extractor, UNCLAMPED)
        if not np.array_equal(self._extract(extractor, BLOBS["out0"]), np.maximum(free, 0)):
            raise RunError("ncnn bounds the output by another value than 0")
        return free

    def _extract(self, extractor: Any, blob: str) -> np.ndarray:
        code, result = extractor.extract(blob)
        if code:
            raise RunError(f"ncnn ended with {code} at the blob {blob}")
        return np.array(result)
