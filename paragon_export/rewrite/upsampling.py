"""Rules on upsampling: what is computed for every large pixel moves to the small ones."""

from __future__ import annotations

import itertools
import operator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.primitives import outermost, set_edge
from paragon_export.rewrite.graph import Network, feeds_only, is_call


def fuse_tail(network: Network) -> int:
    """Convolve, shuffle, convolve: one convolution of small pixels before the shuffle.

    Large pixel ``s y + i`` of a map shuffled up by ``s`` is channel ``i`` of small pixel ``y``
    (rows and columns alike). A second convolution with taps ``V[d]`` reads large pixel
    ``s y + i + d``: channel ``(i + d) mod s`` of the small pixel ``floor((i + d) / s)`` further.
    With the taps ``U[k]`` of the first convolution its result is

        ``sum over d, k of V[d] U[k][(i + d) mod s] x[y + floor((i + d) / s) + k]``

    which is one convolution of ``x``, ``s^2`` times fewer channels wide where it matters.

    In the outermost ring of small pixels it differs: the second convolution takes large pixels
    outside the picture as zero, the composed one computes them. :class:`TailAtEdges` computes
    that ring as the network did.

    Applied to zero-padded convolutions of 3x3 taps, then any odd taps that reach no further
    than one small pixel, and only if that takes fewer multiplications.
    """
    fired = 0
    for node, second in network.calls(nn.Conv2d):
        shuffled = node.args[0]
        shuffle = network.shared(shuffled, nn.PixelShuffle)
        if shuffle is None:
            continue
        s, first_node = shuffle.upscale_factor, shuffled.args[0]
        first = network.layer(first_node, nn.Conv2d)
        if first is None or not _composable(first, second):
            continue
        if not feeds_only(first_node, shuffled) or not feeds_only(shuffled, node):
            continue
        if second.kernel_size[0] // 2 > s or not _pays(first, second, s):
            continue
        small = first_node.args[0]
        result = network.call(node, compose(first, second, s), small)
        result = network.call(node, TailAtEdges(first, second, s), result, small)
        network.replace(node, network.call(node, nn.PixelShuffle(s), result))
        fired += 1
    return fired


def _composable(first: nn.Conv2d, second: nn.Conv2d) -> bool:
    side = second.kernel_size[0]
    return (
        first.kernel_size == (3, 3)
        and second.kernel_size == (side, side)
        and side % 2 == 1
        and all(_is_plain(conv) for conv in (first, second))
    )


def _is_plain(conv: nn.Conv2d) -> bool:
    """Tell whether a convolution is dense, steps by one pixel and zero-pads to its own size."""
    return (
        conv.stride == conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
        and conv.padding == tuple(k // 2 for k in conv.kernel_size)
    )


def _pays(first: nn.Conv2d, second: nn.Conv2d, s: int) -> bool:
    taps = second.kernel_size[0] ** 2
    apart = 9 * first.in_channels * first.out_channels
    apart += taps * second.in_channels * second.out_channels * s**2
    return 25 * first.in_channels * second.out_channels * s**2 < apart


def compose(first: nn.Conv2d, second: nn.Conv2d, s: int) -> nn.Conv2d:
    """Compose two convolutions around a shuffle by ``s``; see :func:`fuse_tail`."""
    out, inner, side, _ = second.weight.shape
    second_taps = second.weight.detach().double()
    taps = first.weight.detach().double().reshape(inner, s, s, first.in_channels, 3, 3)
    offset = torch.zeros(inner * s * s) if first.bias is None else first.bias.detach()
    offset = offset.double().reshape(inner, s, s)
    kernel = torch.zeros(out, s, s, first.in_channels, 5, 5, dtype=torch.float64)
    bias = torch.zeros(out, s, s, dtype=torch.float64)
    for i, dy in itertools.product(range(s), range(side)):
        y, from_i = divmod(i + dy - side // 2, s)
        for j, dx in itertools.product(range(s), range(side)):
            x, from_j = divmod(j + dx - side // 2, s)
            tap = second_taps[:, :, dy, dx]
            kernel[:, i, j, :, y + 1 : y + 4, x + 1 : x + 4] += torch.einsum(
                "oc,cnyx->onyx", tap, taps[:, from_i, from_j]
            )
            bias[:, i, j] += tap @ offset[:, from_i, from_j]
    if second.bias is not None:
        bias += second.bias.detach().double()[:, None, None]
    return _convolution(kernel.reshape(out * s * s, first.in_channels, 5, 5), bias.flatten())


def _convolution(kernel: Tensor, bias: Tensor | None = None) -> nn.Conv2d:
    """Return a zero-padded convolution of size-keeping geometry, float64."""
    height, width = kernel.shape[2:]
    made = nn.Conv2d(
        kernel.shape[1], kernel.shape[0], (height, width), padding=(height // 2, width // 2),
        bias=bias is not None, dtype=torch.float64,
    )  # fmt: skip
    with torch.no_grad():
        made.weight.copy_(kernel)
        if made.bias is not None and bias is not None:
            made.bias.copy_(bias)
    return made


class TailAtEdges(nn.Module):
    """The tail as the network computes it, for the four edges of a map that has the rest.

    An edge is one small pixel wide; what it needs of the map below reaches two further.
    """

    def __init__(self, first: nn.Conv2d, second: nn.Conv2d, s: int) -> None:
        super().__init__()
        self.first, self.shuffle, self.second = first, nn.PixelShuffle(s), second
        self.s = s

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        """Set the edges of ``y`` (N, channels * s^2, H, W), the composed convolution of ``x``."""
        n, h, w, s = y.shape[0], y.shape[2], y.shape[3], self.s
        for last in (False, True):
            edge = slice(-s, None) if last else slice(0, s)
            row = self._tail(outermost(x, 2, last, 3))[:, :, edge]
            row = row.reshape(n, -1, s, w, s).permute(0, 1, 2, 4, 3).reshape(n, -1, 1, w)
            column = self._tail(outermost(x, 3, last, 3))[:, :, :, edge]
            column = column.reshape(n, -1, h, s, s).permute(0, 1, 3, 4, 2).reshape(n, -1, h, 1)
            y = set_edge(set_edge(y, row, 2, last), column, 3, last)
        return y

    def _tail(self, slices: tuple[Tensor, Tensor]) -> Tensor:
        x, inside = slices
        # Beyond the picture there is nothing, before the first convolution and after it.
        return self.second(self.shuffle(self.first(x * inside) * inside))


def repeat_after_filter(network: Network) -> int:
    """Repeat pixels, then filter: filter small pixels into ``s^2`` channels, then shuffle.

    Large pixel ``s y + i`` is a copy of small pixel ``y``, so a tap ``d`` of a filter over large
    pixels reads small pixel ``y + floor((i + d) / s)``, and the taps that read the same one are
    summed. Filters along rows and columns commute with each other's padding and are multiplied
    into one first. What lies outside the picture is zero before and after, so edges agree.

    Applied to depthwise filters without bias that zero-pad to their own size and directly
    follow a nearest upsampling by a whole factor.
    """
    fired = 0
    for node in network.nodes:
        s = _repeats(node)
        filters = _filters_after(network, node) if s else []
        if not filters:
            continue
        last, taps = filters[-1][0], _product([conv for _, conv in filters])
        small = network.call(last, _small_filter(taps, s), node.args[0])
        network.replace(last, network.call(last, nn.PixelShuffle(s), small))
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


def _small_filter(taps: Tensor, s: int) -> nn.Conv2d:
    """Return the filter over small pixels: every channel into its own s^2."""
    channels, height, width = taps.shape
    reach_y, reach_x = -(-(height // 2) // s), -(-(width // 2) // s)
    kernel = taps.new_zeros(channels, s, s, channels, 2 * reach_y + 1, 2 * reach_x + 1)
    for i in range(s):
        for dy in range(height):
            y = (i + dy - height // 2) // s + reach_y
            for j in range(s):
                for dx in range(width):
                    x = (j + dx - width // 2) // s + reach_x
                    for c in range(channels):
                        kernel[c, i, j, c, y, x] += taps[c, dy, dx]
    kernel = kernel.reshape(channels * s * s, channels, *kernel.shape[-2:])
    return _convolution(kernel)


def share_shuffle(network: Network) -> int:
    """``shuffle(a) + shuffle(b) = shuffle(a + b)``: one pass over the large picture."""
    fired = 0
    for node in network.nodes:
        if not is_call(node, operator.add):
            continue
        shuffles = [network.shared(arg, nn.PixelShuffle) for arg in node.args]
        if not all(shuffles) or not all(feeds_only(arg, node) for arg in node.args):
            continue
        factors = {shuffle.upscale_factor for shuffle in shuffles if shuffle}
        if len(factors) != 1:
            continue
        total = network.apply(node, operator.add, *(arg.args[0] for arg in node.args))
        network.replace(node, network.call(node, nn.PixelShuffle(factors.pop()), total))
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
