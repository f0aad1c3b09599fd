"""Group norms whose error does not grow with the image."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from paragon_export.networks.float32 import narrow, widen


class RowwiseGroupNorm(nn.Module):
    """What ``nn.GroupNorm`` computes, with sums over rows first.

    Exporters make ``InstanceNormalization`` of a group norm, and ONNX Runtime adds up all values of a
    group in one long float32 sum. Means over rows and a sum of them lose fewer digits.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.groups, self.eps = norm.num_groups, norm.eps
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W), or (N, C, ...) as PyTorch does, to the same shape."""
        # The proxy of a trace has no rank: there all are maps.
        if not isinstance(x, fx.Proxy) and x.dim() != 4:
            return functional.group_norm(x, self.groups, self.weight, self.bias, self.eps)
        shape, given, x = x.shape, x, widen(x)
        grouped = x.reshape(shape[0], self.groups, -1, shape[3])
        rows = grouped.shape[2]
        centered = grouped - (grouped.mean(3).sum(2) / rows).unsqueeze(2).unsqueeze(3)
        variance = (centered.square().mean(3).sum(2) / rows).unsqueeze(2).unsqueeze(3)
        normed = (centered / torch.sqrt(variance + self.eps)).reshape(
            shape[0], -1, shape[2], shape[3]
        )
        normed = narrow(normed, given)
        if self.weight is None:
            return normed
        return normed * self.weight.reshape(1, -1, 1, 1) + self.bias.reshape(1, -1, 1, 1)


def replace_group_norms(module: nn.Module) -> int:
    """Replace the group norms of a module; return how many there were."""
    found = 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.GroupNorm:
                setattr(parent, name, RowwiseGroupNorm(child))
                found += 1
    return found
