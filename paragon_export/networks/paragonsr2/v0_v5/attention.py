"""The attentions of v5: one head, over windows that overlap, or over the whole map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paragon_export.networks.ops import sized_like
from paragon_export.networks.windowed_attention import BlendedWindows, Coverage, OverlappingWindows


class _Attention(nn.Module):
    """Queries, keys and values of a map (N, C, H, W), and how much of the result joins it."""

    def __init__(self, channels: int, queries: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, queries, 1)
        self.key = nn.Conv2d(channels, queries, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        attended = self.attend(self.query(x), self.key(x), self.value(x))
        return x + self.gamma * sized_like(attended, x)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return (N, C, H, W)."""
        raise NotImplementedError


class LocalAttention(_Attention):
    """Inside windows of 32 that overlap by 8: v5."""

    def __init__(self, channels: int, queries: int) -> None:
        super().__init__(channels, queries)
        self.windows = OverlappingWindows(32, 8)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.windows(q, k, v)


class GlobalAttention(_Attention):
    """Over the whole map at once, ``softmax(q k' / sqrt(H W)) v``: v5h."""

    def __init__(self, channels: int, queries: int) -> None:
        super().__init__(channels, queries)
        self.windows = OverlappingWindows(UNBOUNDED, OVERLAP)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.windows(q, k, v)


UNBOUNDED = 2**20
"""A window of so many pixels a side holds every map."""

WHOLE = 16384
"""Pixels up to which the hierarchical attention takes a map as a whole."""

REGION, OVERLAP = 64, 8


class HierarchicalAttention(_Attention):
    """Over the whole map up to 16384 pixels; beyond, inside regions of 64 that overlap by 8.

    A region's result is its features plus ``gamma`` times what was attended, and what is blended
    of that joins the features by ``gamma`` once more. Maps with less than 32 pixels along one axis
    and more than 16384 in all would overlap by less and are not served.
    """

    def __init__(self, channels: int, queries: int) -> None:
        super().__init__(channels, queries)
        self.regions, self.coverage = BlendedWindows(OVERLAP), Coverage(OVERLAP)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2], x.shape[3]
        parts = (h * w + WHOLE - 1) // WHOLE
        is_large = (2 * parts - 2) // parts  # 0 for one part, else 1: no branch on a size
        region = REGION + (1 - is_large) * WHOLE
        q, k, v = self.query(x), self.key(x), self.value(x)
        attended = sized_like(self.regions(q, k, v, region), x)
        covered, several = self.coverage(q, region)
        blended = x * covered + attended * (1 + several * (self.gamma - 1))
        return x + self.gamma * blended


ATTENTIONS: dict[str, type[_Attention]] = {
    "local": LocalAttention,
    "global": GlobalAttention,
    "hierarchical": HierarchicalAttention,
}
