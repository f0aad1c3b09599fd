"""Rules on upsampling: compute at input resolution what was computed at output resolution.

A small pixel is a pixel before the shuffle, a large pixel is one after it.
"""

from __future__ import annotations

import itertools
import operator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.networks.ops import outermost, set_edges
from paragon_export.rewrite.fx_network import Network, feeds_only, is_call
from paragon_export.rewrite.nearest import nearest_factor

MAX_KERNEL_ELEMENTS = 2**25
"""Elements of the largest kernel that a rule creates, 256 MB in float64. 160 features at a scale
of 8 need 2**24.7."""


def fuse_tail(network: Network) -> int:
    """Replace convolution, shuffle, convolution by one convolution before the shuffle.

    Large pixel ``s y + i`` of a map shuffled up by ``s`` is channel ``i`` of small pixel ``y``
    (rows and columns alike). A second convolution with taps ``V[d]`` reads large pixel
    ``s y + i + d``: channel ``(i + d) mod s`` of small pixel ``y + floor((i + d) / s)``.
    With the taps ``U[k]`` of the first convolution its result is

        ``sum over d, k of V[d] U[k][(i + d) mod s] x[y + floor((i + d) / s) + k]``

    which is one convolution of ``x``, without the full-size map between the two.

    For ``d`` and ``k`` from -1 to 1 the kernel covers two small pixels before ``y`` for the first
    ``i`` and two after it for the last: five in all, of which each ``i`` needs at most four. On
    the grid between small pixels (:class:`GridShuffle`) every ``i`` needs the same four, and the
    kernel is 4x4.

    The outermost ring of large pixels differs: the second convolution takes large pixels outside
    the image as zero, the composed one computes them (see :class:`TailAtEdges`).

    Applied to zero-padded 3x3 convolutions around a shuffle by 2 or more, and only if that takes
    fewer multiplications.
    """
    fired = 0
    for node, second in network.calls(nn.Conv2d):
        shuffled = node.args[0]
        shuffle = network.shared(shuffled, nn.PixelShuffle)
        if shuffle is None:
            continue
        s, first_node = shuffle.upscale_factor, shuffled.args[0]
        first = network.layer(first_node, nn.Conv2d)
        is_chain = feeds_only(first_node, shuffled) and feeds_only(shuffled, node)
        if first is None or not is_chain or not _can_compose(first, second, s):
            continue
        small = first_node.args[0]
        result = network.call(node, compose(first, second, s), small)
        result = network.call(node, TailAtEdges(first, second, s), result, small)
        network.replace(node, network.call(node, GridShuffle(s), result))
        fired += 1
    return fired


def _can_compose(first: nn.Conv2d, second: nn.Conv2d, s: int) -> bool:
    """Return whether :func:`fuse_tail` applies to two convolutions around a shuffle by ``s``."""
    if s == 1 or not _is_dense_3x3(first) or not _is_dense_3x3(second):
        return False
    return _needs_fewer_products(first, second, s)


def _is_dense_3x3(conv: nn.Conv2d) -> bool:
    """Return whether a convolution is dense, 3x3, and keeps its size by zero padding."""
    return (
        conv.kernel_size == (3, 3)
        and conv.stride == conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
        and conv.padding == (1, 1)
    )


def _needs_fewer_products(first: nn.Conv2d, second: nn.Conv2d, s: int) -> bool:
    """Compare multiplications for each small pixel; the kernel must not be too large either."""
    apart = 9 * first.in_channels * first.out_channels
    apart += 9 * second.in_channels * second.out_channels * s**2
    composed = 16 * first.in_channels * second.out_channels * s**2
    return composed < apart and composed <= MAX_KERNEL_ELEMENTS


class GridShuffle(nn.Module):
    """Pixel shuffle of a map on the grid between small pixels, cropped to the image.

    Grid point ``g`` lies between small pixels ``g - 1`` and ``g``, so a map of H x W pixels has
    (H + 1) x (W + 1) grid points. Channel ``i`` of a grid point is large pixel
    ``s g + i - floor(s / 2)``. Takes (N, C s^2, H + 1, W + 1), returns (N, C, H s, W s).
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.shuffle: nn.Module = nn.PixelShuffle(factor)

    def forward(self, x: Tensor) -> Tensor:
        before, after = self.factor // 2, -(self.factor - self.factor // 2)
        return self.shuffle(x)[:, :, before:after, before:after]


def grid_position(i: int, s: int) -> tuple[int, int]:
    """Return the grid point that holds large pixel ``i`` of a small pixel, and its channel there.

    The grid point is an offset from the one before the small pixel: 0 or 1.
    """
    return divmod(i + s // 2, s)


def compose(first: nn.Conv2d, second: nn.Conv2d, s: int) -> nn.Conv2d:
    """Return the one convolution, float64, that replaces two around a shuffle by ``s``.

    It maps (N, C, H, W) to grid points, (N, channels * s^2, H + 1, W + 1); see :func:`fuse_tail`.
    """
    out, inner = second.weight.shape[:2]
    second_taps = second.weight.detach().double()
    taps = first.weight.detach().double().reshape(inner, s, s, first.in_channels, 3, 3)
    offset = torch.zeros(inner * s * s) if first.bias is None else first.bias.detach()
    offset = offset.double().reshape(inner, s, s)
    kernel = torch.zeros(out, s, s, first.in_channels, 4, 4, dtype=torch.float64)
    bias = torch.zeros(out, s, s, dtype=torch.float64)
    for i, dy in itertools.product(range(s), range(3)):
        point_y, to_i = grid_position(i, s)
        y, from_i = divmod(i + dy - 1, s)
        y += 1 - point_y
        for j, dx in itertools.product(range(s), range(3)):
            point_x, to_j = grid_position(j, s)
            x, from_j = divmod(j + dx - 1, s)
            x += 1 - point_x
            tap = second_taps[:, :, dy, dx]
            kernel[:, to_i, to_j, :, y : y + 3, x : x + 3] += torch.einsum(
                "oc,cnyx->onyx", tap, taps[:, from_i, from_j]
            )
            bias[:, to_i, to_j] += tap @ offset[:, from_i, from_j]
    if second.bias is not None:
        bias += second.bias.detach().double()[:, None, None]
    return _grid_convolution(kernel.flatten(0, 2), bias.flatten())


def _grid_convolution(kernel: Tensor, bias: Tensor | None = None) -> nn.Conv2d:
    """Return a convolution from H x W pixels to (H + 1) x (W + 1) grid points, float64."""
    side = kernel.shape[2]
    conv = nn.Conv2d(
        kernel.shape[1], kernel.shape[0], side, padding=side // 2,
        bias=bias is not None, dtype=torch.float64,
    )  # fmt: skip
    with torch.no_grad():
        conv.weight.copy_(kernel)
        if conv.bias is not None and bias is not None:
            conv.bias.copy_(bias)
    return conv


class TailAtEdges(nn.Module):
    """Overwrites the four edges of a composed map with the two convolutions of the network.

    An edge is the outermost line of grid points, which holds the outermost large pixels. They
    depend on the three outermost small pixels only.
    """

    def __init__(self, first: nn.Conv2d, second: nn.Conv2d, s: int) -> None:
        super().__init__()
        self.first, self.shuffle, self.second = first, nn.PixelShuffle(s), second
        self.s = s

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        """Return ``y`` with its edges replaced.

        Args:
            y: (N, channels * s^2, H + 1, W + 1), from :func:`compose`.
            x: (N, C, H, W), the small map that ``y`` was computed from.
        """
        rows, columns = ([self._edge(x, dim, last) for last in (False, True)] for dim in (2, 3))
        return set_edges(set_edges(y, torch.cat(rows, 2), 2), torch.cat(columns, 3), 3)

    def _edge(self, x: Tensor, dim: int, last: bool) -> Tensor:
        """Return one line of grid points, zero in the channels that lie outside the image."""
        s, channels = self.s, self.second.out_channels
        before, after = s // 2, s - s // 2
        n, h, w = x.shape[0], 1, 1
        x, inside = outermost(x, dim, last, 3)
        # Outside the image the map is zero before the first convolution and after it.
        large = self.second(self.shuffle(self.first(x * inside) * inside))
        line = slice(-before, None) if last else slice(0, after)
        outside = (0, after) if last else (before, 0)
        if dim == 2:
            large, w = F.pad(large[:, :, line], (before, after, *outside)), x.shape[3] + 1
        else:
            large, h = F.pad(large[:, :, :, line], (*outside, before, after)), x.shape[2] + 1
        large = large.reshape(n, channels, h, s, w, s).permute(0, 1, 3, 5, 2, 4)
        return large.reshape(n, channels * s * s, h, w)


def repeat_after_filter(network: Network) -> int:
    """Replace nearest upsampling and filter by a filter into ``s^2`` channels and a shuffle.

    Large pixel ``s y + i`` is a copy of small pixel ``y``, so a tap ``d`` of a filter over large
    pixels reads small pixel ``y + floor((i + d) / s)``. Taps that read the same pixel are summed.
    Filters along rows and columns commute with each other's padding and are multiplied into one
    first. The small filter works on the grid of :class:`GridShuffle`. Outside the image the map
    is zero before and after the rewrite, so the edges agree.

    Applied to depthwise filters without bias that keep their size by zero padding and directly
    follow a nearest upsampling by an integer factor.
    """
    fired = 0
    for node in network.nodes:
        s = nearest_factor(network, node)
        filters = _filters_after(network, node) if s > 1 else []
        if not filters:
            continue
        last, taps = filters[-1][0], _product([conv for _, conv in filters])
        if (len(taps) * s * 2 * _radius(taps, s)) ** 2 > MAX_KERNEL_ELEMENTS:
            continue
        small = network.call(last, _small_filter(taps, s), node.args[0])
        network.replace(last, network.call(last, GridShuffle(s), small))
        fired += 1
    return fired


def _filters_after(network: Network, node: Any) -> list[tuple[Any, nn.Conv2d]]:
    """Return the filters that directly follow ``node``: one, or one along each axis."""
    found: list[tuple[Any, nn.Conv2d]] = []
    while len(node.users) == 1:
        (node,) = node.users
        conv = network.layer(node, nn.Conv2d)
        if conv is None or not _is_filter(conv):
            break
        found.append((node, conv))
        if len(found) == 2:
            # A row and a column of taps: neither reads what the other has padded.
            shared = zip(*(conv.kernel_size for _, conv in found), strict=True)
            return found if all(min(taps) == 1 for taps in shared) else found[:1]
    return found


def _is_filter(conv: nn.Conv2d) -> bool:
    """Return whether a convolution is depthwise, has no bias, and keeps its size."""
    return (
        conv.groups == conv.in_channels == conv.out_channels
        and conv.bias is None
        and conv.stride == conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and all(k % 2 for k in conv.kernel_size)
        and conv.padding == tuple(k // 2 for k in conv.kernel_size)
    )


def _product(filters: list[nn.Conv2d]) -> Tensor:
    """Return the taps of filters along different axes as one filter, (C, height, width)."""
    taps = filters[0].weight.detach()[:, 0]
    for conv in filters[1:]:
        taps = taps * conv.weight.detach()[:, 0]  # a row times a column
    return taps


def _radius(taps: Tensor, s: int) -> int:
    """Return how many small pixels a filter reads on either side of a grid point."""
    large_radius = max(taps.shape[1:]) // 2
    return max(1 - (-large_radius) // s, (s - 1 + large_radius) // s)


def _small_filter(taps: Tensor, s: int) -> nn.Conv2d:
    """Return the filter from small pixels to the grid, from each channel to its own s^2."""
    channels, height, width = taps.shape
    radius = _radius(taps, s)
    kernel = taps.new_zeros(channels, s, s, channels, 2 * radius, 2 * radius)
    for i, dy in itertools.product(range(s), range(height)):
        point_y, to_i = grid_position(i, s)
        y = (i + dy - height // 2) // s - point_y + radius
        for j, dx in itertools.product(range(s), range(width)):
            point_x, to_j = grid_position(j, s)
            x = (j + dx - width // 2) // s - point_x + radius
            for c in range(channels):
                kernel[c, to_i, to_j, c, y, x] += taps[c, dy, dx]
    return _grid_convolution(kernel.flatten(0, 2))


def share_shuffle(network: Network) -> int:
    """``shuffle(a) + shuffle(b) = shuffle(a + b)``: one shuffle instead of two."""
    fired = 0
    for node in network.nodes:
        if not is_call(node, operator.add):
            continue
        shuffles = [network.shared(arg, GridShuffle) for arg in node.args]
        if not all(shuffles) or not all(feeds_only(arg, node) for arg in node.args):
            continue
        factors = {shuffle.factor for shuffle in shuffles if shuffle}
        if len(factors) != 1:
            continue
        total = network.apply(node, operator.add, *(arg.args[0] for arg in node.args))
        network.replace(node, network.call(node, GridShuffle(factors.pop()), total))
        fired += 1
    return fired


def shuffle_in_steps(network: Network) -> int:
    """Compute a pixel shuffle as two transposes: columns first, then rows.

    ONNX Runtime copies single values in its own shuffle. A transpose of two neighboring axes
    copies blocks.
    """
    fired = 0
    for node in network.nodes:
        shuffle = network.shared(node, nn.PixelShuffle)
        if shuffle is not None:
            steps = ShuffleInSteps(shuffle.upscale_factor)
            network.replace(node, network.call(node, steps, node.args[0]))
            fired += 1
    for _, grid in network.calls(GridShuffle):
        grid.shuffle = ShuffleInSteps(grid.factor)
        fired += 1
    return fired


class ShuffleInSteps(nn.Module):
    """Pixel shuffle in two transposes, (N, C s^2, H, W) to (N, C, H s, W s).

    Channel ``c s^2 + i s + j`` of a small pixel is row ``i``, column ``j`` of its s x s square.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        s = self.factor
        columns = x.reshape(n, -1, s, h * w).permute(0, 1, 3, 2)  # (N, C s, H W, s)
        rows = columns.reshape(n, -1, s, h, w * s).permute(0, 1, 3, 2, 4)
        return rows.reshape(n, -1, h * s, w * s)
