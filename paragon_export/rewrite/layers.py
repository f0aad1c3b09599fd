"""Rules on activations and norms: the same function from operators that a runtime computes faster."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.networks.spandrel.norms import RowwiseGroupNorm
from paragon_export.rewrite.fx_network import Network, is_call


def mish_by_sigmoid(network: Network) -> int:
    """``mish(x) = x t / (2 - t)`` with ``t = s (2 - s)`` and the sigmoid ``s`` of ``x``.

    Mish is ``x tanh(log(1 + e^x))``. With ``e^x = s / (1 - s)`` the tangent is
    ``(1 - (1 - s)^2) / (1 + (1 - s)^2) = t / (2 - t)``. Nothing can overflow: ``s`` and ``t`` are
    in [0, 1]. For very negative ``x`` both are small without cancellation.

    ONNX Runtime has no kernel for ``Mish``; it computes its parts, and ``Softplus`` slowly. TensorRT
    computes sigmoids in the kernel of the convolution before them, and ``Mish`` in one of its own.
    """
    fired = 0
    for node in network.nodes:
        is_layer = network.shared(node, nn.Mish) is not None
        if not is_layer and not is_call(node, F.mish):
            continue
        x = node.args[0]
        sigmoid = network.apply(node, torch.sigmoid, x)
        rest = network.apply(node, operator.sub, 2.0, sigmoid)
        t = network.apply(node, operator.mul, sigmoid, rest)
        divisor = network.apply(node, operator.sub, 2.0, t)
        product = network.apply(node, operator.mul, x, t)
        network.replace(node, network.apply(node, operator.truediv, product, divisor))
        fired += 1
    return fired


class SlopedByMaximum(nn.Module):
    """What ``nn.PReLU`` computes, as products and a maximum."""

    def __init__(self, slopes: Tensor) -> None:
        super().__init__()
        signs = torch.where(slopes > 1, -1.0, 1.0).to(slopes.dtype)
        self.mirrored = bool((signs < 0).any())
        self.signs = nn.Parameter(signs.reshape(-1, 1, 1), requires_grad=False)
        self.slopes = nn.Parameter((signs * slopes).reshape(-1, 1, 1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        if not self.mirrored:
            return torch.maximum(x, x * self.slopes)
        return torch.maximum(x * self.signs, x * self.slopes) * self.signs


def prelu_by_maximum(network: Network) -> int:
    """``prelu(x) = max(x, a x)`` for slopes ``a`` up to 1, and ``-max(-x, -a x)`` for larger ones.

    TensorRT computes products and a maximum in the kernel of the convolution before them. ``PRelu``
    is a kernel of its own there, which reads and writes the whole map.
    """
    fired = 0
    for node in network.nodes:
        layer = network.shared(node, nn.PReLU)
        if layer is not None:
            same = SlopedByMaximum(layer.weight.detach().clone())
            network.replace(node, network.call(node, same, node.args[0]))
            fired += 1
    return fired


def group_norm_in_one_call(network: Network) -> int:
    """Compute a group norm by one operator instead of sums over rows.

    TensorRT has one kernel for it, which reads and writes half precision and adds up in float32. Sums
    over rows write maps in float32 in between. ONNX Runtime's operator loses digits on large images,
    so the rule is for half precision alone, where they do not count.

    Applied to norms with weight and bias.
    """
    fired = 0
    for node, norm in network.calls(RowwiseGroupNorm):
        if norm.weight is None:
            continue
        same = nn.GroupNorm(norm.groups, norm.weight.numel(), eps=norm.eps).double()
        same.load_state_dict({"weight": norm.weight.detach(), "bias": norm.bias.detach()})
        network.swap(node, same)
        fired += 1
    return fired
