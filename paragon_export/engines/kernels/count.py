"""Count what a kernel moves and computes. docs/concepts/kernels.md states the rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paragon_export.engines.kernels.listing import ITEM_BYTES, Kernel, Tensor

GROUPS = CONVOLUTION, ATTENTION, PRODUCT, NORM, COPY, OTHER = (
    "convolution", "attention", "product", "norm", "copy", "other",
)  # fmt: skip
"""Kinds of kernels that times are added up by."""

REDUCING = ("Redu", "Mean", "Sum")
"""Operators whose result is smaller than what they read."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one kernel moves and computes."""

    read: int
    """Bytes read from device memory, weights included."""
    written: int
    """Bytes written to device memory."""
    flops: int | None
    """Operations of products and convolutions, two for a multiplication and an addition; None if
    the kernel has such a product and its length cannot be read from the log."""
    group: str
    """The kind of kernel, one of ``GROUPS``."""

    @property
    def moved(self) -> int:
        """Bytes read and written."""
        return self.read + self.written


def work_of(kernel: Kernel) -> Work:
    """Count one kernel. Streams' signals and waits move nothing."""
    group = group_of(kernel)
    read, written = _moved(kernel)
    return Work(read=read, written=written, flops=_flops(kernel, group), group=group)


def group_of(kernel: Kernel) -> str:
    """Return the kind of a kernel, one of ``GROUPS``, from its type and the operators in its name."""
    name, kind = kernel.name, kernel.type
    if not kernel.is_launch:
        return OTHER
    if kind == "correlation" or "Corr" in name or _is_transposed(kernel):
        return CONVOLUTION
    if "mha" in name:
        return ATTENTION
    if kind == "gemm" or name.startswith("_gemm") or "Gemm" in name or "Fc" in _operators(name):
        return PRODUCT
    if "Redu" in name or "Mean" in name or "Sqrt" in name:
        return NORM
    moves = ("Tran", "Move", "Resh", "Slic", "Gath", "Scat", "Conc", "Cast")
    operators = _operators(name)
    return COPY if operators and all(operator in moves for operator in operators) else OTHER


def _operators(name: str) -> list[str]:
    """Return the operators in a name such as ``__myl_SlicMove_myl0_2``, four letters each."""
    if not name.startswith("__myl_"):
        return []
    text, operators = name.removeprefix("__myl_").split("_")[0], []
    for letter in text:
        if letter.isupper():
            operators.append("")
        if operators:
            operators[-1] += letter
    return operators


def _moved(kernel: Kernel) -> tuple[int, int]:
    """Return the bytes that are read and written."""
    operators = _operators(kernel.name)
    weights = sum(constant.bytes for constant in kernel.constants)
    kept = {tensor.name for tensor in kernel.outputs} if "Scat" in operators else set()
    updates = [tensor for tensor in _different(kernel.inputs) if tensor.name not in kept]
    read, written = updates, list(kernel.outputs)
    in_place = [t for t in kernel.inputs if t.name in kept]
    if in_place:  # the rest of the map stays where it is
        item = ITEM_BYTES[in_place[0].dtype]
        changed = max((tensor.elements for tensor in updates), default=0)
        whole = sum(tensor.bytes for tensor in written if tensor.name not in _names(in_place))
        return weights + sum(t.bytes for t in read), whole + changed * item
    most = max((tensor.elements for tensor in written), default=0)
    takes_part = bool({"Slic", "Gath"} & set(operators)) and not set(REDUCING) & set(operators)
    sizes = [
        min(tensor.elements, most) * ITEM_BYTES[tensor.dtype] if takes_part else tensor.bytes
        for tensor in read
    ]
    return weights + sum(sizes), sum(tensor.bytes for tensor in written)


def _names(tensors: Sequence[Tensor]) -> set[str]:
    return {tensor.name for tensor in tensors}


def _different(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Leave out repetitions of a whole buffer. Parts of one may differ in their offset."""
    kept: list[Tensor] = []
    for tensor in tensors:
        if not (tensor.is_dense and tensor in kept):
            kept.append(tensor)
    return kept


def _flops(kernel: Kernel, group: str) -> int | None:
    if group == CONVOLUTION:
        return _convolution(kernel)
    if group == ATTENTION and len(kernel.inputs) >= 3:
        # Scores: a row of q by every row of k. Sum: every row of v for each row of the output.
        query, key = kernel.inputs[:2]
        return 2 * key.dims[-2] * (query.elements + kernel.outputs[0].elements)
    if group == PRODUCT and kernel.outputs:
        operands = [t for t in (*kernel.inputs, *kernel.constants) if len(t.dims) >= 2][:2]
        if len(operands) == 2 and operands[0].dims[-1] in operands[1].dims[-2:]:
            return 2 * kernel.outputs[0].elements * operands[0].dims[-1]
    return None if group in (ATTENTION, PRODUCT) else 0


def _is_transposed(kernel: Kernel) -> bool:
    """Return whether a kernel computes a transposed convolution, alone or fused with others."""
    return kernel.type == "deconv" or "Deco" in _operators(kernel.name)


def _convolution(kernel: Kernel) -> int | None:
    """Each output is a sum over the kernel; of a transposed one, each input goes to as many."""
    weights = [t for t in kernel.constants if len(t.dims) >= 3 and t.dims[0] > 1]
    if not weights or not kernel.outputs or not kernel.inputs:
        return None
    _, *rest = weights[0].dims
    length = 1
    for extent in rest:
        length *= extent
    places = kernel.inputs[0] if _is_transposed(kernel) else kernel.outputs[0]
    return 2 * places.elements * length
