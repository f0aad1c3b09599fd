"""Read the layer list with which TensorRT-RTX ends a build: one line a kernel."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from paragon_export.errors import EngineBuildError

HEAD = "Layers:"
"""First line of the list, in TensorRT's log at its most detailed level."""

ITEM_BYTES = {
    "Float": 4, "Half": 2, "BFloat16": 2, "Int8": 1, "UInt8": 1, "Int32": 4, "Int64": 8, "Bool": 1,
}  # fmt: skip
"""Bytes of an element, by TensorRT's name of the type."""

WORK = frozenset(
    {"kgen", "correlation", "deconv", "gemm", "maxpool", "runtime_function", "runtime_fusion"}
)
"""Layer types that are kernels on the GPU."""

CONTROL = frozenset({"signal", "wait", "shape_call"})
"""Layer types that order streams or compute sizes. They move no maps."""

_LAYER = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<type>\w+), Inputs: \[(?P<inputs>.*?)\], "
    r"Constants: \[(?P<constants>.*?)\], Outputs: \[(?P<outputs>.*?)\], "
    r"TacticName: .*?, StreamId: (?P<stream>\d+),(?: EventId: \d+,)? Metadata: ?(?P<metadata>.*)"
)
_TENSOR = re.compile(
    r" ?\{ Name: (?P<name>.*?), Dimensions: \[(?P<dims>[\d,]*)\], Strides: \[(?P<strides>[\d,]*)\], "
    r"StrideOrder: \[[\d,]*\], Datatype: (?P<dtype>\w+), Format: (?P<format>[^{}]*?) \},?"
)
_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """What a kernel reads or writes: a whole buffer, or a part of one."""

    name: str
    dims: tuple[int, ...]
    strides: tuple[int, ...]
    """Elements from one index to the next, by axis; 0 repeats an element."""
    dtype: str
    """A key of ``ITEM_BYTES``."""
    format: str
    """TensorRT's words for the layout."""

    @property
    def elements(self) -> int:
        """Number of different elements."""
        pairs = zip(self.dims, self.strides, strict=True)
        return math.prod(extent for extent, stride in pairs if stride or extent == 0)

    @property
    def bytes(self) -> int:
        return self.elements * ITEM_BYTES[self.dtype]

    @property
    def is_dense(self) -> bool:
        """Whether the elements lie next to each other, so that no other part is between them."""
        last = sum((e - 1) * s for e, s in zip(self.dims, self.strides, strict=True))
        return last + 1 == self.elements


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One line of the list."""

    name: str
    type: str
    """An element of ``WORK`` or ``CONTROL``."""
    inputs: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    stream: int
    nodes: tuple[str, ...]
    """Names of the ONNX nodes in it, as far as TensorRT names them."""

    @property
    def is_launch(self) -> bool:
        """Whether the GPU starts a kernel for it."""
        return self.type in WORK


def read_listing(text: str) -> tuple[Kernel, ...]:
    """Read the list of an engine with static shapes.

    Args:
        text: TensorRT's message, from ``Layers:`` on.

    Raises:
        EngineBuildError: If a line is not understood, with its beginning. None is left out.
    """
    lines = text.splitlines()
    if not lines or lines[0] != HEAD:
        raise _not_understood("the list of layers", text)
    end = lines.index("I/O Tensors:") if "I/O Tensors:" in lines else len(lines)
    kernels = tuple(_kernel(line) for line in lines[1:end] if line.strip())
    if not kernels:
        raise _not_understood("an empty list of layers", text)
    return kernels


def _kernel(line: str) -> Kernel:
    found = _LAYER.fullmatch(line)
    # ``]`` also ends the extents of a tensor: split at the names of the lists, not at brackets.
    parts = re.split(r", (?:Inputs|Constants|Outputs): \[|\], TacticName: ", line)
    if not found or len(parts) != 5:
        raise _not_understood("a layer", line)
    if found["type"] not in WORK | CONTROL:
        raise _not_understood(f"the layer type {found['type']}", line)
    inputs, constants = (part.removesuffix("]") for part in parts[1:3])
    return Kernel(
        name=found["name"],
        type=found["type"],
        inputs=_tensors(inputs, line),
        constants=_tensors(constants, line),
        outputs=_tensors(parts[3], line),
        stream=int(found["stream"]),
        nodes=tuple(_NODE.findall(found["metadata"])),
    )


def _tensors(text: str, line: str) -> tuple[Tensor, ...]:
    tensors, at = [], 0
    while text[at:].strip():
        found = _TENSOR.match(text, at)
        if not found or found["dtype"] not in ITEM_BYTES:
            raise _not_understood("a tensor", text[at:] + " in " + line)
        dims, strides = (_numbers(found[key]) for key in ("dims", "strides"))
        if len(dims) != len(strides):
            raise _not_understood("the strides of a tensor", text[at:] + " in " + line)
        tensors.append(
            Tensor(
                name=found["name"], dims=dims, strides=strides,
                dtype=found["dtype"], format=found["format"],
            )
        )  # fmt: skip
        at = found.end()
    return tuple(tensors)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)


def _not_understood(what: str, text: str) -> EngineBuildError:
    return EngineBuildError(
        f"TensorRT's log has {what} that is not understood, so nothing is counted: "
        f"{' '.join(text.split())[:200]}"
    )
