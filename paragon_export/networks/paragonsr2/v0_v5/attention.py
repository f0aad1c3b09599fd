"""The attention modes of v5: one head, within overlapping windows or over the whole map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paragon_export.networks.ops import sized_like
from paragon_export.networks.windowed_attention import BlendedWindows, Coverage, OverlappingWindows


class _Attention(nn.Module):
    """``x + gamma * attend(q, k, v)`` with queries, keys and values of x, (N, C, H, W)."""

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
        """Return the attended values, (N, C, H, W)."""
        raise NotImplementedError


class LocalAttention(_Attention):
    """Attention within windows of 32x32 pixels that overlap by 8 pixels (v5)."""

    def __init__(self, channels: int, queries: int) -> None:
        super().__init__(channels, queries)
        self.windows = OverlappingWindows(32, 8, (queries, channels))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.windows(q, k, v)


class GlobalAttention(_Attention):
    """Attention over the whole map, ``softmax(q k' / sqrt(H W)) v`` (v5h)."""

    def __init__(self, channels: int, queries: int) -> None:
        super().__init__(channels, queries)
        self.windows = OverlappingWindows(WHOLE_MAP_PX, OVERLAP_PX)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.windows(q, k, v)


WHOLE_MAP_PX = 2**20
"""Side of a window that contains any map."""

MAX_WHOLE_MAP_PIXELS = 16384
"""Pixels up to which the hierarchical attention attends the whole map at once."""

REGION_PX, OVERLAP_PX = 64, 8
"""Side and overlap of the regions of the hierarchical attention."""


class HierarchicalAttention(_Attention):
    """Attention over the whole map up to 16384 pixels, else within overlapping regions.

    Regions are 64x64 pixels and overlap by 8 pixels. The result of a region is its features plus
    ``gamma`` times the attended values. The blend of these results is multiplied by ``gamma`` and
    added to the features.

    On maps of more than 16384 pixels with a side below 32 pixels, this differs from the published
    code, whose regions overlap less there.
    """

    def __init__(self, channels: int, queries: int) -> None:
        super().__init__(channels, queries)
        self.regions, self.coverage = BlendedWindows(OVERLAP_PX), Coverage(OVERLAP_PX)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2], x.shape[3]
        parts = (h * w + MAX_WHOLE_MAP_PIXELS - 1) // MAX_WHOLE_MAP_PIXELS
        is_large = (2 * parts - 2) // parts  # 0 for one part, else 1, without a branch on a size
        region = REGION_PX + (1 - is_large) * MAX_WHOLE_MAP_PIXELS
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
"""Classes by attention mode."""
