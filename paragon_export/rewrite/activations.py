"""Rules on activations: the same function from operators that a runtime computes faster."""

from __future__ import annotations

import operator

import torch
from torch import nn
from torch.nn import functional as F

from paragon_export.rewrite.fx_network import Network, is_call


def mish_by_sigmoid(network: Network) -> int:
    """``mish(x) = x t / (2 - t)`` with ``t = s (2 - s)`` and the sigmoid ``s`` of ``x``.

    Mish is ``x tanh(log(1 + e^x))``. With ``e^x = s / (1 - s)`` the tangent is
    ``(1 - (1 - s)^2) / (1 + (1 - s)^2) = t / (2 - t)``. Nothing can overflow: ``s`` and ``t`` are
    in [0, 1]. For very negative ``x`` both are small without cancellation.

    ONNX Runtime has no kernel for ``Mish``; it computes its parts, and ``Softplus`` one value at a
    time.
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
