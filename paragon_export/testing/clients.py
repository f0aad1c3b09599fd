"""Other programs' runtimes as runners: OpenCV's DNN module, and ncnn with pnnx.

Their packages are not dependencies of the tool: they are imported where they are used.
"""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from paragon_export.errors import RunError
from paragon_export.runtimes.base import Arrays
from paragon_export.specs.types import Size


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


class Ncnn:
    """An ONNX file in ncnn, in float32. ``winograd`` is ncnn's default, and errs more.

    Raises:
        RunError: If pnnx or ncnn refuses the file.
    """

    name = "ncnn"

    def __init__(self, path: Path, *, winograd: bool = False) -> None:
        import ncnn

        files = [path.with_suffix(suffix) for suffix in (".ncnn.param", ".ncnn.bin")]
        self.net = ncnn.Net()
        options = self.net.opt
        options.use_winograd_convolution = winograd
        options.use_fp16_storage = options.use_fp16_arithmetic = False
        options.use_fp16_packed = options.use_bf16_storage = False
        options.num_threads = 1
        if not all(file.exists() for file in files):
            raise RunError(f"{path} was not converted; see convert_for_ncnn")
        if self.net.load_param(str(files[0])) or self.net.load_model(str(files[1])):
            raise RunError(f"ncnn cannot load what pnnx made of {path}")

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Return the picture of the only output; batch 1."""
        import ncnn

        extractor = self.net.create_extractor()
        extractor.input("in0", ncnn.Mat(feeds["input"][0]).clone())
        code, picture = extractor.extract("out0")
        if code:
            raise RunError(f"ncnn ended with {code}")
        return {"output": np.array(picture)[None]}


def convert_for_ncnn(path: Path, sizes: Sequence[Size]) -> None:
    """Write ncnn's files next to an ONNX file; two ``sizes`` leave height and width free.

    The exit code of pnnx says nothing: it is 0 where nothing was written.
    """
    found = importlib.util.find_spec("pnnx")  # importing it would import more
    if found is None or not found.submodule_search_locations:
        raise RunError("pnnx is not installed")
    program = Path(found.submodule_search_locations[0], "pnnx")
    shapes = [
        f"inputshape{number}=[1,3,{size.height},{size.width}]f32"
        for number, size in zip(("", "2"), sizes[:2], strict=False)
    ]
    command = [str(program), path.name, *shapes, "fp16=0"]
    subprocess.run(command, cwd=path.parent, capture_output=True, check=False, timeout=300)
