"""Rule on heads of attention: widths that TensorRT's fused attention takes as they are."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.networks.spandrel.swin import (
    CosineWindows,
    ShiftedWindows,
    WiderWindows,
    WindowHeads,
    linear,
)
from paragon_export.rewrite.fx_network import Network

LEAST, STEP = 16, 8
"""TensorRT's fused attention takes heads of at least so many channels, in multiples of ``STEP``."""


def pad_heads(network: Network) -> int:
    """Give the heads of windows a multiple of ``STEP`` channels, at least ``LEAST``, by zero weights.

    Queries and keys get channels that are zero, which add nothing to a score. Values get channels that
    are zero, which the projection multiplies by zero. Without this rule TensorRT copies queries, keys
    and values into wider maps, and cuts the result.
    """
    fired = 0
    for kind in (ShiftedWindows, CosineWindows, WiderWindows):
        for _, layer in network.calls(kind):
            if _missing(layer):
                _pad(layer)
                fired += 1
    return fired


def _missing(layer: WindowHeads) -> int:
    """Return how many channels a head of a layer lacks."""
    width = layer.q.out_features // layer.heads
    return max(LEAST, -(-width // STEP) * STEP) - width


def _pad(layer: WindowHeads) -> None:
    """Widen the heads of a layer in place."""
    missing = _missing(layer)
    layer.q, layer.k, layer.v = (
        _more_rows(one, layer.heads, missing) for one in (layer.q, layer.k, layer.v)
    )
    columns = layer.proj.weight.detach().reshape(layer.channels, layer.heads, -1)
    layer.proj = linear(F.pad(columns, (0, missing)).flatten(1), layer.proj.bias)


def _more_rows(layer: nn.Linear, heads: int, missing: int) -> nn.Linear:
    """Return a layer with ``missing`` more results of zero behind those of each head."""

    def padded(x: Tensor) -> Tensor:
        parts = x.detach().reshape(heads, -1, *x.shape[1:])
        return F.pad(parts, (*[0, 0] * (x.dim() - 1), 0, missing)).flatten(0, 1)

    return linear(padded(layer.weight), None if layer.bias is None else padded(layer.bias))
