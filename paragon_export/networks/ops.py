"""Operations of networks that PyTorch has no single function for.

Each function here defines an operation in PyTorch. A trace records it as one call, and
``graph.lowerings`` converts that call to ONNX.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from paragon_export.networks.float32 import narrow, widen


def numbers(first: int, count: int) -> Tensor:
    """Return the integers ``first`` to ``first + count - 1`` as (count), int64."""
    return torch.arange(first, first + count)


def positions(x: Tensor, dim: int) -> Tensor:
    """Return the indices of ``x`` along ``dim``, from 0, as a vector, int64.

    Arithmetic on it with integers and extents stays int64 in ONNX too.
    """
    return torch.arange(x.shape[dim], device=x.device)


def floating(x: Tensor, like: Tensor) -> Tensor:
    """Return an integer tensor in the floating point dtype of ``like``."""
    return x.to(like.dtype)


def spectrum(x: Tensor) -> Tensor:
    """Return the magnitude of the two-dimensional discrete Fourier transform, orthonormal.

    Args:
        x: (N, 1, H, W), float32 or float64.

    Returns:
        (N, 1, H, W), not negative, with frequency 0 at index 0.
    """
    return torch.fft.fft2(x, norm="ortho").abs()


def picture_mean(x: Tensor, height: int, width: int, channels_last: bool = False) -> Tensor:
    """Return the mean of every channel over the whole picture, (N, C); a float32 island.

    Runtimes add values one after the other, so the rounding error of one sum over a picture grows
    with it: means of a flat picture are off by 1 to 8 % at 2160x3840. The graph adds short blocks.

    Args:
        x: (N, C, H, W), or (N, H, W, C) if ``channels_last``.
        height: H, as read from the shape of a map.
        width: W.
        channels_last: Where the channels are.
    """
    return narrow(widen(x).mean(dim=(1, 2) if channels_last else (2, 3)), x)


def set_edges(x: Tensor, edges: Tensor, dim: int) -> Tensor:
    """Return ``x`` with its first and last slice along ``dim`` replaced by ``edges``.

    Args:
        x: A map, (N, C, H, W). If it has one slice along ``dim``, the first edge replaces it.
        edges: The shape of ``x`` with an extent of 2 along ``dim``.
        dim: Not negative.
    """
    extent = x.shape[dim]
    index = torch.tensor([0, extent - 1], device=x.device)[:extent]
    return x.index_copy(dim, index, edges.narrow(dim, 0, len(index)))


def reflected(x: Tensor, dim: int, padded: Any) -> Tensor:
    """Return which row or column of a map stands at each place of the map padded behind it.

    Of ``n`` rows ``n - 1`` are reflected; beyond, the first row is repeated.

    Args:
        x: (N, C, H, W).
        dim: 2 for rows, 3 for columns.
        padded: Rows of the padded map, not fewer than of ``x``.

    Returns:
        (padded), int64, on the device of ``x``.
    """
    extent = x.shape[dim]
    places = torch.arange(padded, device=x.device)
    return torch.where(places < extent, places, (2 * (extent - 1) - places).clamp(min=0))


def with_part(x: Tensor, index: Any, value: Tensor) -> Tensor:
    """Return ``x`` with ``x[index]`` replaced by a value."""
    changed = x.clone()
    changed[index] = value
    return changed


def outermost(x: Tensor, dim: int, last: bool, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` first or last slices of a map, also if it has fewer.

    Args:
        x: (N, C, H, W).
        dim: 2 or 3.
        last: Whether to return the last slices instead of the first.
        count: Number of slices.

    Returns:
        The slices in order, (N, C, count, W) or (N, C, H, count), with arbitrary values for slices
        that the map does not have; and a mask, 1 for each slice that exists and else 0, of a shape
        that broadcasts. Both shapes are independent of the extent of the map along ``dim``:
        TensorRT allocates memory for the largest possible extent.
    """
    extent = x.shape[dim]
    index = torch.arange(count, device=x.device) + (extent - count if last else 0)
    inside = ((index >= 0) & (index < extent)).to(x.dtype)
    shape = [count if axis == dim else 1 for axis in range(4)]
    return x.index_select(dim, index.clamp(0, extent - 1)), inside.reshape(shape)


def multi_head_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, heads: int) -> Tensor:
    """Return ``softmax(q k') v`` of each head, with unscaled scores.

    It becomes the operator MultiHeadAttention of ONNX Runtime, which keeps the scores in the CPU's
    cache. Other runtimes do not have it.

    Args:
        q: Queries (batch, tokens, C).
        k: Keys (batch, tokens, C).
        v: Values (batch, tokens, C).
        bias: (3 C), added to q, k and v.
        heads: Number of heads. Each has C / heads consecutive channels.

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
    """Return ``y`` (N, C, H, W), declaring that its batch, height and width are those of ``x``.

    With this declaration an exported graph computes values that depend on sizes once, and not in
    every layer.

    Raises:
        ValueError: If batch, height or width differ.
    """
    if (y.shape[0], *y.shape[2:]) != (x.shape[0], *x.shape[2:]):
        raise ValueError(f"{tuple(y.shape)} is not the size of {tuple(x.shape)}")
    return y


def single_head_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return ``softmax(q k') v`` with one head and unscaled scores.

    It becomes an operator of ONNX Runtime, as :func:`multi_head_attention`. Its memory is linear in
    the number of tokens.

    Args:
        q: Queries (batch, tokens, R).
        k: Keys (batch, tokens, R).
        v: Values (batch, tokens, C).

    Returns:
        (batch, tokens, C).
    """
    return torch.softmax(q @ k.transpose(1, 2), dim=-1) @ v


def padding_penalty(x: Tensor, window: int) -> Tensor:
    """Return a mask for scores that excludes padding from a softmax if a map fits in one window.

    Args:
        x: (N, C, H, W).
        window: Side of the windows in pixels. The map is padded to a multiple of it.

    Returns:
        (1, 1, H', W') with the padded extents H' and W'. ``PENALTY`` at padded pixels of a map of
        one window, else 0.
    """
    h, w = x.shape[2], x.shape[3]
    rows, columns = -(-h // window), -(-w // window)
    penalty = x.new_zeros(1, 1, rows * window, columns * window)
    if rows == columns == 1:
        penalty[:, :, h:], penalty[:, :, :, w:] = PENALTY, PENALTY
    return penalty


def shift_penalty(
    x: Tensor, height: int, width: int, window: tuple[int, int], shift: tuple[int, int]
) -> Tensor:
    """Return the mask of scores for windows of a map that was shifted cyclically.

    A shift moves the first rows and columns behind the last ones. Where they meet in one window, they
    do not see each other.

    Args:
        x: A tensor of the dtype of the result.
        height: H, a multiple of the windows' height.
        width: W, a multiple of the windows' width.
        window: Height and width of the windows in pixels.
        shift: By how many pixels the map was shifted up and to the left, less than ``window``.

    Returns:
        (windows, T, T) with T pixels in a window: -100 for pixels of different parts of the image,
        else 0.
    """
    rows, columns = (
        (torch.arange(extent, device=x.device) >= extent - moved).int()
        for extent, moved in zip((height, width), shift, strict=True)
    )
    parts = rows[:, None] * 2 + columns
    parts = parts.reshape(height // window[0], window[0], width // window[1], window[1])
    parts = parts.permute(0, 2, 1, 3).reshape(-1, window[0] * window[1])
    return (parts[:, :, None] != parts[:, None]).to(x.dtype) * SHIFTED


SHIFTED = -100.0
"""Added to a score by :func:`shift_penalty`."""


PENALTY = -3e4
"""Added to a score, it makes its softmax 0. Its sum with a score does not overflow in float16."""


PRIMITIVES = (
    numbers, positions, floating, spectrum, set_edges, outermost, multi_head_attention,
    padding_penalty, picture_mean, reflected, with_part, sized_like, single_head_attention, shift_penalty,
)  # fmt: skip
"""All operations of this module. A trace records each as one call."""
