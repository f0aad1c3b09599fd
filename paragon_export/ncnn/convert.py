"""Convert: a portable ONNX file in, the two files of ncnn out, by the program pnnx."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paragon_export.checkpoints.load import listing
from paragon_export.errors import MissingDependencyError, RunError
from paragon_export.specs.types import Size
from paragon_export.system.private_folder import scratch
from paragon_export.system.text import one_line

LONGEST_RUN_S = 300

MAGIC = "7767517"
"""First line of a ``.param``."""

BLOBS = {"in0": "data", "out0": "output"}
"""Names that pnnx gives, and those that Upscayl and other programs look for."""

UNCLAMPED = "unclamped"
"""Blob of the output before values below 0 become 0, in files that have such a bound."""

TRACED = (Size(64, 64), Size(96, 80))
"""Sizes that pnnx is given: with two of them it leaves height and width free."""


@dataclass(frozen=True, kw_only=True)
class NcnnFiles:
    """A network as ncnn loads it."""

    param: str
    """The graph, as text."""
    weights: bytes

    @property
    def is_clamped(self) -> bool:
        """Whether the output has a bound; then ``UNCLAMPED`` is what the network computes."""
        return UNCLAMPED in self.param.split()


def pnnx_program() -> Path:
    """Return the path of pnnx in its package, which is not imported: that would import PyTorch.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    found = importlib.util.find_spec("pnnx")
    for folder in (found and found.submodule_search_locations) or ():
        program = Path(folder, "pnnx.exe" if sys.platform == "win32" else "pnnx")
        if program.is_file():
            return program
    raise MissingDependencyError("pnnx is not installed; run: pip install 'paragon-export[ncnn]'")


def convert(onnx: bytes, channels: int, sizes: Sequence[Size] = TRACED) -> NcnnFiles:
    """Convert an ONNX file.

    Args:
        onnx: A serialized portable model, from pictures to pictures.
        channels: Of its input.
        sizes: One size, which is then the only one, or two, for any size.

    Raises:
        MissingDependencyError: If pnnx is not installed.
        RunError: If pnnx wrote no files, or files that ncnn cannot load. Its exit code is 0 then too.
    """
    program = pnnx_program()
    shapes = [
        f"inputshape{number}=[1,{channels},{size.height},{size.width}]f32"
        for number, size in zip(("", "2"), sizes, strict=False)
    ]
    command = [str(program), "model.onnx", *shapes, "fp16=0"]
    with scratch() as folder:
        (folder / "model.onnx").write_bytes(onnx)
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, timeout=LONGEST_RUN_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RunError(f"pnnx did not run: {one_line(str(error))[:200]}") from error
        param, weights = folder / "model.ncnn.param", folder / "model.ncnn.bin"
        if not (param.is_file() and weights.is_file()):
            said = one_line(done.stderr.decode("utf-8", "replace"))[-200:]
            raise RunError(f"pnnx wrote no files, with exit code {done.returncode}: {said}")
        return NcnnFiles(param=renamed(param.read_text("utf-8")), weights=weights.read_bytes())


def renamed(param: str) -> str:
    """Return a ``.param`` with the names of its input and output as other programs look for them.

    Raises:
        RunError: If it is no ``.param`` of one input and one output, or holds operators that ncnn does
            not have.
    """
    lines = param.splitlines()
    layers = [line.split() for line in lines[2:]]
    if len(lines) < 3 or lines[0] != MAGIC or any(len(layer) < 4 for layer in layers):
        raise RunError("pnnx wrote a .param that is none")
    unknown = sorted({layer[0] for layer in layers if not layer[0].isalnum()})
    if unknown:
        raise RunError(f"ncnn has no {listing(unknown, 6)}, which pnnx left in its .param")
    names: list[str] = []
    for layer in layers:
        layer[4:] = [BLOBS.get(name, name) for name in layer[4:]]
        names += layer[4:]
    if not set(BLOBS.values()) <= set(names) or "in1" in names or "out1" in names:
        raise RunError("pnnx wrote a .param that has not one input and one output")
    return "\n".join([*lines[:2], *(" ".join(layer) for layer in layers)]) + "\n"
