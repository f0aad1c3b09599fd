"""Rules on attention in overlapping windows (v5): the scores of all windows are never held at once.

They apply where the widths of queries and values are known: in the local attention of v5.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.networks.ops import PENALTY
from paragon_export.networks.windowed_attention import MaskedAttention
from paragon_export.rewrite.fx_network import Network

STEPS = 8
"""Parts of the queries of a window. More parts are slower on CPUs: each reads all keys again."""

FUSED_MULTIPLE = 16
"""TensorRT's fused attention takes heads whose width is a multiple of this."""


def equal_widths(network: Network) -> int:
    """Give queries, keys and values one width, so that TensorRT computes attention in one kernel.

    Its kernel in half precision (``_gemm_mha_v2``) keeps the scores on the chip. It takes no mask,
    and one width for all three: the mask becomes a channel, ``[q, 1] [k, m]' = q k' + m`` with a
    large negative m for a masked key, and channels of zeros fill up the rest.
    """
    fired = 0
    for node, attention in network.calls(MaskedAttention):
        if attention.widths is not None:
            network.swap(node, EqualWidths(*attention.widths))
            fired += 1
    return fired


def attend_in_steps(network: Network) -> int:
    """Compute attention for an eighth of the queries at a time.

    A row of ``softmax(q k' + m) v`` needs one query and all keys, so the result is the same. A
    runtime reuses the memory of one step for the next. Memory is an eighth, and still grows with
    the number of windows: there is no loop.
    """
    fired = 0
    for node, attention in network.calls(MaskedAttention):
        if attention.widths is not None:
            network.swap(node, AttentionInSteps(attention.widths[0]))
            fired += 1
    return fired


def _with_mask(q: Tensor, k: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Return queries and keys with one more channel, whose product is the mask."""
    ones = q[:, :, :, :1] * 0 + 1
    return torch.cat((q, ones), dim=-1), torch.cat((k, (ones * inside - 1) * -PENALTY), dim=-1)


class EqualWidths(nn.Module):
    """Computes the same as :class:`MaskedAttention`, for queries and values of known width."""

    def __init__(self, queries: int, values: int) -> None:
        super().__init__()
        widest = max(queries + 1, values)
        width = -(-widest // FUSED_MULTIPLE) * FUSED_MULTIPLE
        self.values = values
        self.missing = (width - queries - 1, width - values)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, inside: Tensor) -> Tensor:
        q, k = (F.pad(x, (0, self.missing[0])) for x in _with_mask(q, k, inside))
        v = F.pad(v, (0, self.missing[1]))
        return (torch.softmax(q @ k.permute(0, 1, 3, 2), dim=-1) @ v)[:, :, :, : self.values]


class AttentionInSteps(nn.Module):
    """Computes the same as :class:`MaskedAttention`, in ``STEPS`` steps.

    Each step adds zero times the result before to its queries. So a runtime cannot compute the
    scores of all steps in one product, which TensorRT would do.
    """

    def __init__(self, queries: int) -> None:
        super().__init__()
        # TensorRT computes products of one channel inside the softmax, so none is added.
        self.masks_in_channel = queries > 1
        self.width = queries + self.masks_in_channel

    def forward(self, q: Tensor, k: Tensor, v: Tensor, inside: Tensor) -> Tensor:
        n, windows, tokens = q.shape[0], q.shape[1], q.shape[2]
        mask = torch.log(inside).permute(0, 1, 3, 2)
        if self.masks_in_channel:
            q, k = _with_mask(q, k, inside)
        k = k.permute(0, 1, 3, 2)
        size = (tokens + STEPS - 1) // STEPS
        q = F.pad(q, (0, 0, 0, STEPS * size - tokens))
        q = q.reshape(n, windows, STEPS, size, self.width)
        done: list[Tensor] = []
        for step in range(STEPS):
            part = q[:, :, step : step + 1].reshape(n, windows, size, self.width)
            if done:
                part = part + done[-1][:, :, :, :1] * 0
            scores = part @ k if self.masks_in_channel else part @ k + mask
            done.append(torch.softmax(scores, dim=-1) @ v)
        return torch.cat(done, dim=2)[:, :, :tokens]
