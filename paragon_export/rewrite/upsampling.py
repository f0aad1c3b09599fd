"""Rules on upsampling: what is computed for every large pixel moves to the small ones."""

from __future__ import annotations

import itertools
import operator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.networks.ops import outermost, set_edges
from paragon_export.rewrite.fx_network import Network, feeds_only, is_call

MAX_COMPOSED_SIDE = 2**25
"""Elements of a kernel that a rule may make, 256 MB of float64. 160 features at a scale of 8 come
to 2**24.7."""


def fuse_tail(network: Network) -> int:
    """Convolve, shuffle, convolve: one convolution of small pixels before the shuffle.

    Large pixel ``s y + i`` of a map shuffled up by ``s`` is channel ``i`` of small pixel ``y``
    (rows and columns alike). A second convolution with taps ``V[d]`` reads large pixel
    ``s y + i + d``: channel ``(i + d) mod s`` of the small pixel ``floor((i + d) / s)`` further.
    With the taps ``U[k]`` of the first convolution its result is

        ``sum over d, k of V[d] U[k][(i + d) mod s] x[y + floor((i + d) / s) + k]``

    which is one convolution of ``x``, ``s^2`` times fewer channels wide where it matters.

    For ``d`` and ``k`` from -1 to 1 that reaches two small pixels back for the first ``i`` and
    two further for the last, five in all, of which no ``i`` needs more than four. Computed on
    the grid between small pixels (:class:`GridShuffle`) all need the same four, and the kernel
    is 4x4.

    In the outermost ring of large pixels it differs: the second convolution takes large pixels
    outside the picture as zero, the composed one computes them. :class:`TailAtEdges` computes
    that ring as the network did.

    Applied to zero-padded convolutions of 3x3 taps around a shuffle by 2 or more, and only if
    that takes fewer multiplications.
    """
    fired = 0
    for node, second in network.calls(nn.Conv2d):
        shuffled = node.args[0]
        shuffle = network.shared(shuffled, nn.PixelShuffle)
        if shuffle is None:
            continue
        s, first_node = shuffle.upscale_factor, shuffled.args[0]
        first = network.layer(first_node, nn.Conv2d)
        if first is None or not _is_plain(first) or not _is_plain(second):
            continue
        if not feeds_only(first_node, shuffled) or not feeds_only(shuffled, node):
            continue
        if s == 1 or not _pays(first, second, s):
            continue
        small = first_node.args[0]
        result = network.call(node, compose(first, second, s), small)
        result = network.call(node, TailAtEdges(first, second, s), result, small)
        network.replace(node, network.call(node, GridShuffle(s), result))
        fired += 1
    return fired


def _is_plain(conv: nn.Conv2d) -> bool:
    """Tell whether a convolution is dense, 3x3, and zero-pads to its own size."""
    return (
        conv.kernel_size == (3, 3)
        and conv.stride == conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
        and conv.padding == (1, 1)
    )


def _pays(first: nn.Conv2d, second: nn.Conv2d, s: int) -> bool:
    apart = 9 * first.in_channels * first.out_channels
    apart += 9 * second.in_channels * second.out_channels * s**2
    composed = 16 * first.in_channels * second.out_channels * s**2
    return composed < apart and composed <= MAX_COMPOSED_SIDE


class GridShuffle(nn.Module):
    """Shuffle up a map on the grid between small pixels, and cut it to the picture.

    Grid point ``g`` stands between small pixels ``g - 1`` and ``g``, so a map of H x W has
    (H + 1) x (W + 1) of them. Its channel ``i`` is large pixel ``s g + i - floor(s / 2)``.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.shuffle: nn.Module = nn.PixelShuffle(factor)

    def forward(self, x: Tensor) -> Tensor:
        before, after = self.factor // 2, -(self.factor - self.factor // 2)
        return self.shuffle(x)[:, :, before:after, before:after]


def on_grid(i: int, s: int) -> tuple[int, int]:
    """Return for large pixel ``i`` of a small one how far its grid point is, and its channel."""
    return divmod(i + s // 2, s)


def compose(first: nn.Conv2d, second: nn.Conv2d, s: int) -> nn.Conv2d:
    """Compose two convolutions around a shuffle by ``s``, on the grid; see :func:`fuse_tail`."""
    out, inner = second.weight.shape[:2]
    second_taps = second.weight.detach().double()
    taps = first.weight.detach().double().reshape(inner, s, s, first.in_channels, 3, 3)
    offset = torch.zeros(inner * s * s) if first.bias is None else first.bias.detach()
    offset = offset.double().reshape(inner, s, s)
    kernel = torch.zeros(out, s, s, first.in_channels, 4, 4, dtype=torch.float64)
    bias = torch.zeros(out, s, s, dtype=torch.float64)
    for i, dy in itertools.product(range(s), range(3)):
        point_y, to_i = on_grid(i, s)
        y, from_i = divmod(i + dy - 1, s)
        y += 1 - point_y
        for j, dx in itertools.product(range(s), range(3)):
            point_x, to_j = on_grid(j, s)
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
    made = nn.Conv2d(
        kernel.shape[1], kernel.shape[0], side, padding=side // 2,
        bias=bias is not None, dtype=torch.float64,
    )  # fmt: skip
    with torch.no_grad():
        made.weight.copy_(kernel)
        if made.bias is not None and bias is not None:
            made.bias.copy_(bias)
    return made


class TailAtEdges(nn.Module):
    """The tail as the network computes it, for the four edges of a map that has the rest.

    An edge is the outermost line of grid points, which holds the outermost large pixels; what
    they need of the small map reaches less than three pixels.
    """

    def __init__(self, first: nn.Conv2d, second: nn.Conv2d, s: int) -> None:
        super().__init__()
        self.first, self.shuffle, self.second = first, nn.PixelShuffle(s), second
        self.s = s

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        """Set the edges of ``y`` (N, channels * s^2, H + 1, W + 1), composed from ``x``."""
        rows, columns = ([self._edge(x, dim, last) for last in (False, True)] for dim in (2, 3))
        return set_edges(set_edges(y, torch.cat(rows, 2), 2), torch.cat(columns, 3), 3)

    def _edge(self, x: Tensor, dim: int, last: bool) -> Tensor:
        """Return a line of grid points, zero where they hold what is outside the picture."""
        s, channels = self.s, self.second.out_channels
        before, after = s // 2, s - s // 2
        n, h, w = x.shape[0], 1, 1
        x, inside = outermost(x, dim, last, 3)
        # Beyond the picture there is nothing, before the first convolution and after it.
        large = self.second(self.shuffle(self.first(x * inside) * inside))
        picked = slice(-before, None) if last else slice(0, after)
        beyond = (0, after) if last else (before, 0)
        if dim == 2:
            large, w = F.pad(large[:, :, picked], (before, after, *beyond)), x.shape[3] + 1
        else:
            large, h = F.pad(large[:, :, :, picked], (*beyond, before, after)), x.shape[2] + 1
        large = large.reshape(n, channels, h, s, w, s).permute(0, 1, 3, 5, 2, 4)
        return large.reshape(n, channels * s * s, h, w)


def repeat_after_filter(network: Network) -> int:
    """Repeat pixels, then filter: filter small pixels into ``s^2`` channels, then shuffle.

    Large pixel ``s y + i`` is a copy of small pixel ``y``, so a tap ``d`` of a filter over large
    pixels reads small pixel ``y + floor((i + d) / s)``, and the taps that read the same one are
    summed. Filters along rows and columns commute with each other's padding and are multiplied
    into one first. The small filter works on the grid of :class:`GridShuffle`. What lies outside the picture is zero before and after, so edges agree.

    Applied to depthwise filters without bias that zero-pad to their own size and directly
    follow a nearest upsampling by a whole factor.
    """
    fired = 0
    for node in network.nodes:
        s = _repeats(node)
        filters = _filters_after(network, node) if s > 1 else []
        if not filters:
            continue
        last, taps = filters[-1][0], _product([conv for _, conv in filters])
        if (len(taps) * s * 2 * _reach(taps, s)) ** 2 > MAX_COMPOSED_SIDE:
            continue
        small = network.call(last, _small_filter(taps, s), node.args[0])
        network.replace(last, network.call(last, GridShuffle(s), small))
        fired += 1
    return fired


def _repeats(node: Any) -> int:
    """Return how often a node repeats every pixel along both axes; 0 where it does not."""
    if not is_call(node, F.interpolate) or node.kwargs.get("mode") != "nearest":
        return 0
    factor = node.kwargs.get("scale_factor")
    return int(factor) if isinstance(factor, (int, float)) and float(factor).is_integer() else 0


def _filters_after(network: Network, node: Any) -> list[tuple[Any, nn.Conv2d]]:
    """Return the filters that follow in a chain: one, or one along each axis."""
    found: list[tuple[Any, nn.Conv2d]] = []
    while len(node.users) == 1:
        (node,) = node.users
        conv = network.layer(node, nn.Conv2d)
        if conv is None or not _is_filter(conv):
            break
        found.append((node, conv))
        if len(found) == 2:
            # One is a row and the other a column: neither sees what the other padded.
            shared = zip(*(conv.kernel_size for _, conv in found), strict=True)
            return found if all(min(taps) == 1 for taps in shared) else found[:1]
    return found


def _is_filter(conv: nn.Conv2d) -> bool:
    return (
        conv.groups == conv.in_channels == conv.out_channels
        and conv.bias is None
        and conv.stride == conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and all(k % 2 for k in conv.kernel_size)
        and conv.padding == tuple(k // 2 for k in conv.kernel_size)
    )


def _product(filters: list[nn.Conv2d]) -> Tensor:
    """Return the taps of filters along different axes as one (C, height, width)."""
    taps = filters[0].weight.detach()[:, 0]
    for conv in filters[1:]:
        taps = taps * conv.weight.detach()[:, 0]  # a row times a column
    return taps


def _reach(taps: Tensor, s: int) -> int:
    """Return how many small pixels, on either side of a grid point, a filter reads."""
    longest = max(taps.shape[1:]) // 2
    return max(1 - (-longest) // s, (s - 1 + longest) // s)


def _small_filter(taps: Tensor, s: int) -> nn.Conv2d:
    """Return the filter from small pixels to the grid: every channel into its own s^2."""
    channels, height, width = taps.shape
    reach = _reach(taps, s)
    kernel = taps.new_zeros(channels, s, s, channels, 2 * reach, 2 * reach)
    for i, dy in itertools.product(range(s), range(height)):
        point_y, to_i = on_grid(i, s)
        y = (i + dy - height // 2) // s - point_y + reach
        for j, dx in itertools.product(range(s), range(width)):
            point_x, to_j = on_grid(j, s)
            x = (j + dx - width // 2) // s - point_x + reach
            for c in range(channels):
                kernel[c, to_i, to_j, c, y, x] += taps[c, dy, dx]
    return _grid_convolution(kernel.flatten(0, 2))


def share_shuffle(network: Network) -> int:
    """``shuffle(a) + shuffle(b) = shuffle(a + b)``: one pass over the large picture."""
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
    """A pixel shuffle is two transposes: columns first, then rows.

    ONNX Runtime moves numbers one by one in its own shuffle; swapping two neighbouring axes it
    moves in blocks.
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
    """Channel ``c s^2 + i s + j`` of a small pixel is row ``i``, column ``j`` of its square."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        s = self.factor
        columns = x.reshape(n, -1, s, h * w).permute(0, 1, 3, 2)  # (N, C s, H W, s)
        rows = columns.reshape(n, -1, s, h, w * s).permute(0, 1, 3, 2, 4)
        return rows.reshape(n, -1, h * s, w * s)
