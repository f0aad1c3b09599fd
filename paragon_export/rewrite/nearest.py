"""Rules on nearest upsampling: compute at input resolution what was computed at output resolution."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.rewrite.fx_network import Network, feeds_only, is_call


def nearest_factor(network: Network, node: Any) -> int:
    """Return the integer factor of a nearest upsampling; 0 for any other node."""
    layer = network.shared(node, nn.Upsample)
    if layer is not None:
        mode, factor = layer.mode, layer.scale_factor
    elif is_call(node, F.interpolate):
        mode, factor = node.kwargs.get("mode"), node.kwargs.get("scale_factor")
    else:
        return 0
    if mode != "nearest":
        return 0
    return int(factor) if isinstance(factor, (int, float)) and float(factor).is_integer() else 0


def transpose_after_nearest(network: Network) -> int:
    """Replace nearest upsampling by ``s`` and a convolution by one transposed convolution.

    Every pixel of the upsampled map is a copy of one before it. So the taps of a kernel of width
    ``k`` that read copies of the same pixel are summed. Pixel ``x`` adds to the results from
    ``s x - (k - 1) / 2`` to ``s x + s - 1 + (k - 1) / 2``: a transposed convolution of stride ``s``,
    kernel ``s + k - 1`` and padding ``(k - 1) / 2``. For ``s = 2`` and ``k = 3`` it multiplies 4
    times for each result instead of 9, and no upsampled map is written. Zeros outside the image
    are zeros before and after.

    Applied to convolutions of one group, stride 1, that keep their size by zero padding and alone
    read the upsampled map.
    """
    fired = 0
    for node, conv in network.calls(nn.Conv2d):
        upsampled = node.args[0]
        s = nearest_factor(network, upsampled)
        if s < 2 or not feeds_only(upsampled, node) or not keeps_size(conv):
            continue
        layer = _transposed(conv, s)
        network.replace(node, network.call(node, layer, upsampled.args[0]))
        fired += 1
    return fired


def keeps_size(conv: nn.Conv2d) -> bool:
    """Return whether a convolution is dense and keeps its size by zero padding."""
    return (
        conv.groups == 1
        and conv.stride == conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and all(k % 2 for k in conv.kernel_size)
        and conv.padding == tuple(k // 2 for k in conv.kernel_size)
    )


def _transposed(conv: nn.Conv2d, s: int) -> nn.ConvTranspose2d:
    """Return the transposed convolution that equals upsampling by ``s`` and ``conv``."""
    height, width = conv.kernel_size
    kernel: Tensor = conv.weight.detach().new_zeros(
        conv.in_channels, conv.out_channels, s + height - 1, s + width - 1
    )
    for i in range(height):  # tap i reads copy a of a pixel for the result at a - i + (k - 1) / 2
        for j in range(width):
            taps = conv.weight.detach()[:, :, i, j].T[:, :, None, None]
            top, left = height - 1 - i, width - 1 - j
            kernel[:, :, top : top + s, left : left + s] += taps
    layer = nn.ConvTranspose2d(
        conv.in_channels,
        conv.out_channels,
        (s + height - 1, s + width - 1),
        stride=s,
        padding=(height // 2, width // 2),
        bias=conv.bias is not None,
    ).double()
    with torch.no_grad():
        layer.weight.copy_(kernel)
        if conv.bias is not None and layer.bias is not None:
            layer.bias.copy_(conv.bias)
    return layer


def add_before_shuffle(network: Network) -> int:
    """``shuffle(W x) + nearest(y) = shuffle(W x + repeat(y))``: add at input resolution.

    ``repeat`` copies every channel ``s^2`` times in a row. A 1x1 convolution of ones does it.

    Applied where both maps are known to have the same number of channels: a convolution makes ``y``
    or reads it. A sum of unlike maps broadcasts one of them.
    """
    fired = 0
    for node in network.nodes:
        if not is_call(node, operator.add):
            continue
        for shuffled, upsampled in (node.args, node.args[::-1]):
            if _joins(network, node, shuffled, upsampled):
                fired += 1
                break
    return fired


def _joins(network: Network, node: Any, shuffled: Any, upsampled: Any) -> bool:
    """Join a shuffle and a nearest upsampling that are added; return whether they can be."""
    shuffle, s = network.shared(shuffled, nn.PixelShuffle), nearest_factor(network, upsampled)
    if shuffle is None or shuffle.upscale_factor != s or not feeds_only(shuffled, node):
        return False
    small = shuffled.args[0]
    conv = network.shared(small, nn.Conv2d)
    if conv is None:
        return False
    channels = conv.out_channels // s**2
    if not _has_channels(network, upsampled.args[0], channels):
        return False
    repeat = nn.Conv2d(channels, channels * s**2, 1, bias=False).double()
    with torch.no_grad():
        places = torch.eye(channels, dtype=torch.float64).repeat_interleave(s**2, dim=0)
        repeat.weight.copy_(places[:, :, None, None])
    copies = network.call(node, repeat, upsampled.args[0])
    total = network.apply(node, operator.add, small, copies)
    network.replace(node, network.call(node, nn.PixelShuffle(s), total))
    return True


def _has_channels(network: Network, node: Any, channels: int) -> bool:
    """Return whether a convolution that makes or reads a map tells that it has so many channels."""
    maker = network.shared(node, nn.Conv2d)
    readers = [network.shared(user, nn.Conv2d) for user in node.users]
    counts = [] if maker is None else [maker.out_channels]
    return channels in counts + [conv.in_channels for conv in readers if conv is not None]
