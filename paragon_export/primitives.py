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


def set_edge(x: Tensor, strip: Tensor, dim: int, last: bool) -> Tensor:
    """Return ``x`` with ``strip`` for its first or last slice along ``dim``.

    Args:
        x: Any shape.
        strip: The shape of ``x`` with 1 along ``dim``.
        dim: Not negative.
        last: Whether the slice is the last one; where there is one only, it is both.
    """
    edge = x.shape[dim] - 1 if last else 0
    return x.index_copy(dim, torch.tensor([edge], device=x.device), strip)


def outermost(x: Tensor, dim: int, last: bool, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` first or last slices of a map, however few it has.

    Args:
        x: (N, C, H, W).
        dim: 2 or 3.
        last: Whether to count from the end.
        count: Of slices.

    Returns:
        The slices in order, any values where the map has none, and 1 or 0 for each slice that
        the map has or has not, in a shape that broadcasts. The result's shape does not depend on
        the map's extent along ``dim``: TensorRT plans memory for the largest that may be.
    """
    extent = x.shape[dim]
    index = torch.arange(count, device=x.device) + (extent - count if last else 0)
    inside = ((index >= 0) & (index < extent)).to(x.dtype)
    shape = [count if axis == dim else 1 for axis in range(4)]
    return x.index_select(dim, index.clamp(0, extent - 1)), inside.reshape(shape)


def multi_head_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Return ``softmax(q k') v`` for every head, without a factor on the scores.

    One operator of ONNX Runtime's own, which keeps the scores in cache; no other runtime has it.

    Args:
        q: (batch, tokens, C), as are the others.
        k: Keys.
        v: Values.
        heads: Number of heads, of C / heads neighbouring channels each.

    Returns:
        (batch, tokens, C).
    """
    n, tokens, c = q.shape
    q, k, v = (x.reshape(n, tokens, heads, c // heads).transpose(1, 2) for x in (q, k, v))
    y = torch.softmax(q @ k.transpose(2, 3), dim=-1) @ v
    return y.transpose(1, 2).reshape(n, tokens, c)


PRIMITIVES = (numbers, set_edge, outermost, multi_head_attention)
"""All of them; each is seen as one call while a network is traced."""
