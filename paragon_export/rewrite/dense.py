"""Rules that merge a 1x1 convolution with the one before or after it into one dense convolution."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.networks.ops import outermost, set_edges
from paragon_export.rewrite.fx_network import Network, feeds_only, is_call
from paragon_export.rewrite.linear import is_pointwise, like
from paragon_export.rewrite.nearest import keeps_size

MAX_CHANNELS = 32
"""Channels of the widest map, on the side of the 1x1 convolution, up to which it is merged. Each byte
that is not moved costs ``4.5 * channels`` operations, and cards compute 70 to 160 while they move a
byte."""

MAX_OPERATIONS_PER_BYTE = 70
"""Operations that a rule may add for each byte that is not moved."""


def compose_pointwise(network: Network) -> int:
    """Replace a 1x1 convolution and a dense one after it by one dense convolution.

    ``V (P x + p) + v`` is a convolution with the taps ``V[k] P`` and, without the border, the bias
    ``V p + v``. At the border ``V`` pads the result of ``P`` with zeros, so ``p`` must count only for
    taps inside the image: ``V p`` is what ``V`` makes of a map that is ``p`` everywhere
    (:class:`BiasInside`). The map between the two is not written and read.

    Applied where nothing else uses that map and at most ``MAX_OPERATIONS_PER_BYTE`` are added.
    """
    fired = 0
    for node, second in network.calls(nn.Conv2d):
        inner = node.args[0]
        first = network.layer(inner, nn.Conv2d)
        if first is None or not feeds_only(inner, node) or not is_pointwise(first):
            continue
        if not keeps_size(second) or not _is_cheap(first, second):
            continue
        taps, matrix = second.weight.detach(), first.weight.detach()[:, :, 0, 0]
        merged = torch.einsum("omyx,mc->ocyx", taps, matrix)
        result = network.call(node, like(second, merged, second.bias), inner.args[0])
        if first.bias is not None:
            inside = BiasInside(second, first.bias.detach())
            bias = network.call(node, inside, result)
            result = network.apply(node, operator.add, result, bias)
        network.replace(node, result)
        fired += 1
    return fired


def _is_cheap(first: nn.Conv2d, second: nn.Conv2d) -> bool:
    """Compare the operations that are added for each pixel to the bytes of half precision saved."""
    area = second.kernel_size[0] * second.kernel_size[1]
    before = first.out_channels * (first.in_channels + area * second.out_channels)
    added = 2 * (area * first.in_channels * second.out_channels - before)
    return added <= MAX_OPERATIONS_PER_BYTE * 4 * first.out_channels


class BiasInside(nn.Module):
    """What a convolution makes of a map that is ``p`` at every pixel, without its own bias."""

    def __init__(self, conv: nn.Conv2d, p: Tensor) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(1, 1, 1, 1, dtype=torch.float64), requires_grad=False)
        taps = torch.einsum("omyx,m->oyx", conv.weight.detach(), p).unsqueeze(1)
        self.conv = like(conv, taps, None)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W), of which only the size matters, to (1, channels, H, W)."""
        return self.conv(self.one.expand(1, 1, x.shape[2], x.shape[3]))


def merge_pointwise(network: Network) -> int:
    """Replace a depthwise 3x3 and a 1x1 convolution by one dense 3x3 convolution.

    ``P (D x + d) + p`` is a convolution with the taps ``P D[k]`` and the bias ``P d + p``, at the
    border too, since a 1x1 convolution pads nothing. The map between the two is not written and
    read. Applied where nothing else uses that map and at most ``MAX_CHANNELS`` channels come out.
    """
    fired = 0
    for node, pointwise in network.calls(nn.Conv2d):
        inner = node.args[0]
        depthwise = network.layer(inner, nn.Conv2d)
        if depthwise is None or not feeds_only(inner, node) or not is_pointwise(pointwise):
            continue
        if not _is_depthwise_3x3(depthwise) or pointwise.out_channels > MAX_CHANNELS:
            continue
        network.replace(node, network.call(node, _product(pointwise, depthwise), inner.args[0]))
        fired += 1
    return fired


def _product(pointwise: nn.Conv2d, depthwise: nn.Conv2d) -> nn.Conv2d:
    """Return the dense convolution that applies ``depthwise``, then ``pointwise``, float64."""
    dense = nn.Conv2d(
        depthwise.in_channels, pointwise.out_channels, 3,
        padding=depthwise.padding,  # type: ignore[arg-type]
        dilation=depthwise.dilation,  # type: ignore[arg-type]
        dtype=torch.float64,
    )  # fmt: skip
    matrix = pointwise.weight.detach().double()
    with torch.no_grad():
        assert dense.bias is not None
        dense.weight.copy_(matrix * depthwise.weight[:, 0])
        dense.bias.zero_()
        if depthwise.bias is not None:
            dense.bias += matrix[:, :, 0, 0] @ depthwise.bias
        if pointwise.bias is not None:
            dense.bias += pointwise.bias
    return dense


def merge_depthwise(network: Network) -> int:
    """Replace a 1x1 and a depthwise 3x3 convolution by one dense 3x3 convolution.

    Without the border, ``D (P x + p) + d`` is a convolution with the taps ``D[k] P``. The wide map
    between the two is not written and read.

    At the border the depthwise convolution pads the result of the 1x1 convolution with zeros,
    the dense one pads ``x``, so the bias ``p`` must count only for taps inside the image. The
    outermost lines are computed anew from a map with a channel of ones, on which the taps are
    ``D[k] p`` (:class:`ActivationAtEdges`). They replace those of the dense convolution after the
    activation, so that TensorRT keeps both in one kernel.

    Applied where a GELU follows, or a product of two such pairs of one map with a clamp, and at
    most ``MAX_CHANNELS`` channels come in.
    """
    fired = 0
    for node in network.nodes:
        if is_call(node, F.gelu):
            end, pairs, limits = node, [_pair(network, node.args[0], node)], None
        elif is_call(node, "clamp") and is_call(node.args[0], operator.mul):
            product, end, limits = node.args[0], node, node.args[1:]
            pairs = [_pair(network, factor, product) for factor in product.args]
            if not feeds_only(product, node) or product.args[0] is product.args[1]:
                continue
        else:
            continue
        found = [pair for pair in pairs if pair is not None]
        if len(found) < len(pairs) or len({pair.source for pair in found}) > 1:
            continue
        source, convolutions = found[0].source, [pair.merged() for pair in found]
        factors = [network.call(end, _without_ones(conv), source) for conv in convolutions]
        y = _activate(network, end, factors, limits)
        edges = ActivationAtEdges(convolutions, limits)
        network.replace(end, network.call(end, edges, y, source))
        fired += len(found)
    return fired


@dataclass(frozen=True)
class _Pair:
    """A 1x1 convolution of the map ``source`` and the depthwise one that follows it."""

    source: Any
    pointwise: nn.Conv2d
    depthwise: nn.Conv2d

    def merged(self) -> nn.Conv2d:
        """Return the dense convolution, float64, of the map with a last channel of ones."""
        taps = self.depthwise.weight.detach().double()  # (out, 1, 3, 3)
        weight = self.pointwise.weight.detach().double()  # (out, in, 1, 1)
        offset = weight.new_zeros(len(weight))
        if self.pointwise.bias is not None:
            offset = self.pointwise.bias.detach().double()
        weight = torch.cat((weight, offset[:, None, None, None]), dim=1) * taps
        conv = nn.Conv2d(weight.shape[1], len(weight), 3, padding=1, dtype=torch.float64)
        with torch.no_grad():
            conv.weight.copy_(weight)
            assert conv.bias is not None
            conv.bias.zero_()
            if self.depthwise.bias is not None:
                conv.bias.copy_(self.depthwise.bias)
        return conv


def _pair(network: Network, node: Any, user: Any) -> _Pair | None:
    """Return the two convolutions that end in ``node``, which ``user`` alone uses; or None."""
    depthwise = network.layer(node, nn.Conv2d)
    if depthwise is None or not feeds_only(node, user) or not _is_depthwise_3x3(depthwise):
        return None
    if depthwise.dilation != (1, 1):
        return None
    inner = node.args[0]
    pointwise = network.layer(inner, nn.Conv2d)
    if pointwise is None or not feeds_only(inner, node) or not is_pointwise(pointwise):
        return None
    if pointwise.in_channels > MAX_CHANNELS:
        return None
    return _Pair(inner.args[0], pointwise, depthwise)


def _is_depthwise_3x3(conv: nn.Conv2d) -> bool:
    """Return whether a convolution is depthwise, 3x3, and keeps its size by zero padding."""
    return (
        conv.kernel_size == (3, 3)
        and conv.stride == (1, 1)
        and conv.groups == conv.in_channels == conv.out_channels
        and conv.padding_mode == "zeros"
        and conv.padding == conv.dilation
    )


def _without_ones(conv: nn.Conv2d) -> nn.Conv2d:
    """Return the convolution of a map without its channel of ones, as if all taps were inside."""
    plain = nn.Conv2d(conv.in_channels - 1, conv.out_channels, 3, padding=1, dtype=torch.float64)
    with torch.no_grad():
        plain.weight.copy_(conv.weight[:, :-1])
        assert plain.bias is not None
        assert conv.bias is not None
        plain.bias.copy_(conv.bias + conv.weight[:, -1].sum(dim=(1, 2)))
    return plain


def _activate(network: Network, before: Any, factors: list[Any], limits: Any) -> Any:
    """Insert the activation: a GELU, or a product and a clamp where there are ``limits``."""
    if limits is None:
        return network.apply(before, F.gelu, *factors)
    return network.apply(before, "clamp", network.apply(before, operator.mul, *factors), *limits)


class ActivationAtEdges(nn.Module):
    """Overwrites the outermost lines of an activated map with those of the trained network.

    They depend on the two outermost lines of the map that was convolved.
    """

    def __init__(self, convolutions: list[nn.Conv2d], limits: tuple[float, ...] | None) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(convolutions)
        self.limits = limits

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        """Return ``y`` with its edges replaced.

        Args:
            y: (N, channels, H, W).
            x: (N, C, H, W), the map that ``y`` was computed from.
        """
        return set_edges(set_edges(y, self._edges(x, 2), 2), self._edges(x, 3), 3)

    def _edges(self, x: Tensor, dim: int) -> Tensor:
        """Return the first and the last line along ``dim``."""
        strip = torch.cat([_lines(x, dim, last) for last in (False, True)], dim)
        factors = [conv(strip) for conv in self.convolutions]
        if self.limits is None:
            y = F.gelu(factors[0])
        else:
            y = (factors[0] * factors[1]).clamp(*self.limits)
        # The lines between are next to lines that are no neighbors in the map.
        parts = (y[:, :, :1], y[:, :, 3:]) if dim == 2 else (y[:, :, :, :1], y[:, :, :, 3:])
        return torch.cat(parts, dim)


def _lines(x: Tensor, dim: int, last: bool) -> Tensor:
    """Return two outermost lines and a channel of ones, with zeros where the map has no line."""
    n, h, w = x.shape[0], x.shape[2], x.shape[3]
    lines, inside = outermost(x, dim, last, 2)
    ones = inside.expand(n, 1, 2, w) if dim == 2 else inside.expand(n, 1, h, 2)
    return torch.cat((lines * inside, ones), 1)
