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


def positions(x: Tensor, dim: int) -> Tensor:
    """Return the whole numbers from 0 to the extent of ``x`` along ``dim`` as an int64 vector.

    Arithmetic on it, with whole numbers and extents, stays int64 in ONNX too.
    """
    return torch.arange(x.shape[dim], device=x.device)


def floating(x: Tensor, like: Tensor) -> Tensor:
    """Return whole numbers in the floating dtype of ``like``."""
    return x.to(like.dtype)


def spectrum(x: Tensor) -> Tensor:
    """Return the magnitude of the two-dimensional Fourier transform, orthonormal.

    Args:
        x: (N, 1, H, W), float32 or float64: widen half precision before.

    Returns:
        (N, 1, H, W), not negative, frequency 0 first.
    """
    return torch.fft.fft2(x, norm="ortho").abs()


def set_edges(x: Tensor, edges: Tensor, dim: int) -> Tensor:
    """Return ``x`` with ``edges`` for its first and last slice along ``dim``.

    Args:
        x: Any shape with 2 or more along ``dim``.
        edges: The shape of ``x`` with 2 along ``dim``.
        dim: Not negative.
    """
    index = torch.tensor([0, x.shape[dim] - 1], device=x.device)
    return x.index_copy(dim, index, edges)


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


def multi_head_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, heads: int) -> Tensor:
    """Return ``softmax(q k') v`` for every head, without a factor on the scores.

    One operator of ONNX Runtime's own, which keeps the scores in cache; no other runtime has it.

    Args:
        q: (batch, tokens, C), as are the others.
        k: Keys.
        v: Values.
        bias: (3 C), added to q, k and v.
        heads: Number of heads, of C / heads neighbouring channels each.

    Returns:
        (batch, tokens, C).
    """
    n, tokens, c = q.shape
    q, k, v = (
        (x + b).reshape(n, tokens, heads, c // heads).transpose(1, 2)
        for x, b in zip((q, k, v), bias.chunk(3), strict=True)
    )
    y = torch.softmax(q @ k.transpose(2, 3), dim=-1) @ v
    return y.transpose(1, 2).reshape(n, tokens, c)


def sized_like(y: Tensor, x: Tensor) -> Tensor:
    """Return ``y`` (N, C, H, W), and say that it has the batch and size of ``x``.

    Exported graphs then work out once what depends on sizes alone, not in every layer.

    Raises:
        ValueError: If it has not.
    """
    if (y.shape[0], *y.shape[2:]) != (x.shape[0], *x.shape[2:]):
        raise ValueError(f"{tuple(y.shape)} is not the size of {tuple(x.shape)}")
    return y


def single_head_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return ``softmax(q k') v`` with one head, without a factor on the scores.

    ONNX Runtime's operator, as for :func:`multi_head_attention`: memory does not grow with the
    square of the tokens.

    Args:
        q: (batch, tokens, R), as is ``k``.
        k: Keys.
        v: (batch, tokens, C).

    Returns:
        (batch, tokens, C).
    """
    return torch.softmax(q @ k.transpose(1, 2), dim=-1) @ v


def padding_penalty(x: Tensor, window: int) -> Tensor:
    """Return what keeps padding out of a softmax where a map fits into one window.

    Args:
        x: (N, C, H, W).
        window: Side of the windows, to whole numbers of which the map is padded.

    Returns:
        (1, 1, H', W'), H' and W' being the padded extents: a large negative number beyond a map
        of one window, 0 elsewhere.
    """
    h, w = x.shape[2], x.shape[3]
    rows, columns = -(-h // window), -(-w // window)
    penalty = x.new_zeros(1, 1, rows * window, columns * window)
    if rows == columns == 1:
        penalty[:, :, h:], penalty[:, :, :, w:] = PENALTY, PENALTY
    return penalty


PENALTY = -3e4
"""Far below any score, and within float16 together with one."""


PRIMITIVES = (
    numbers, positions, floating, spectrum, set_edges, outermost, multi_head_attention,
    padding_penalty, sized_like, single_head_attention,
)  # fmt: skip
"""All of them; each is seen as one call while a network is traced."""
