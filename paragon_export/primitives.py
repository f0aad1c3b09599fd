"""Primitives: what rewritten networks compute and PyTorch has no single call for.

Each is plain PyTorch here, which says what it means, and one row of the table in
``operators``, which says how it is written in ONNX.
"""

from __future__ import annotations

import torch
from torch import Tensor


def numbers(first: int, count: int) -> Tensor:
    """Return ``count`` whole numbers from ``first`` on as an int64 vector."""
    return torch.arange(first, first + count)


def add_to_edge(x: Tensor, strip: Tensor, dim: int, last: bool) -> Tensor:
    """Return ``x`` with ``strip`` added to its first or last slice along ``dim``.

    Args:
        x: Any shape.
        strip: The shape of ``x`` with 1 along ``dim``.
        dim: Not negative.
        last: Whether the slice is the last one; where there is one only, it is both.
    """
    edge = x.shape[dim] - 1 if last else 0
    return x.index_add(dim, torch.tensor([edge], device=x.device), strip)
