"""Networks of v5 in their published sizes, with random weights, and their attentions as published.

``published`` replaces attention that is computed for all windows at once by one window after the
other, and the hierarchical attention by parts of the queries, as the family's own code does it.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from paragon_export.networks.paragonsr2.v0_v5.attention import HierarchicalAttention
from paragon_export.networks.paragonsr2.v0_v5.layout import FACTORIES, TRAITS, Hyperparameters
from paragon_export.networks.paragonsr2.v0_v5.network import TAILS
from paragon_export.networks.windowed_attention import BlendedWindows

SIZES = tuple(FACTORIES["v5"])

WHOLE_BODY = {"micro": (1, 2), "tiny": (2, 2), "xs": (2, 3), "s": (3, 4)}
"""Groups and blocks without ``fast_body_mode``, of the sizes that have it by default."""

FAST_BODY = {"m": (2, 3), "l": (3, 4), "xl": (4, 5)}
"""Groups and blocks with it, of the sizes that do not."""

WITHOUT_ATTENTION = ("l", "xl")
"""Sizes that the published code builds without attention, whatever is asked."""


def hybrid(
    size: str, *, attention: str = "local", content: bool = True, other_body: bool = False
) -> nn.Module:
    """Return a network of v5 at 2x, eval mode.

    Args:
        size: nano to xl.
        attention: local, global or hierarchical; empty for none.
        content: Whether it has ``use_content_aware``.
        other_body: Whether ``fast_body_mode`` is the opposite of its default.
    """
    torch.manual_seed(0)
    sizes = FACTORIES["v5"][size]
    if size in WITHOUT_ATTENTION:
        attention = ""
    c, h = sizes.features, sizes.hidden
    hp = Hyperparameters(
        traits=TRAITS["v5"], scale=2, in_channels=3, features=c, groups=sizes.groups,
        blocks=sizes.blocks, hidden=h, part=max(1, c // 8), band=sizes.band,
        upsampler_alpha=sizes.alpha or 0.5, norm="rms" if sizes.norm else "none",
        flat_gains=False, is_fused=False, has_generator=False, cheap=0, head_blocks=0,
        head_norm=False, dense=False, squeeze=0 if size == "nano" else h // 4,
        queries=max(1, h // 8) if attention else 0, attention=attention,
        content=(c // 4, c // 2, c // 2) if content else None, obeys_flag=False,
        dynamic_inference=False,
    )  # fmt: skip
    if other_body:
        groups, blocks = (WHOLE_BODY | FAST_BODY)[size]
        hp = replace(hp, groups=groups, blocks=blocks)
    network = TAILS[hp.traits.tail](hp)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(0.05)
    return network.requires_grad_(False).eval()


def published(network: nn.Module) -> nn.Module:
    """Let a network compute its attention as the published code does; it is changed in place."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, BlendedWindows):
                in_parts = isinstance(module, HierarchicalAttention)
                setattr(module, name, OneByOne(getattr(child, "window", 32), in_parts=in_parts))
    return network


class OneByOne(nn.Module):
    """Computes the same as :class:`BlendedWindows`, window after window."""

    def __init__(self, window: int, overlap: int = 8, *, in_parts: bool) -> None:
        super().__init__()
        self.window, self.overlap, self.in_parts = window, overlap, in_parts

    def forward(self, q: Tensor, k: Tensor, v: Tensor, window: int = 0) -> Tensor:
        """Return the attended values, (N, C, H, W)."""
        window = window or self.window
        h, w = v.shape[2:]
        if h <= window and w <= window:
            return self._attend(q, k, v)
        total, weights = torch.zeros_like(v), torch.zeros_like(v[:, :1])
        for top, bottom, rise in spans(h, window, self.overlap):
            for left, right, ramp in spans(w, window, self.overlap):
                part = (..., slice(top, bottom), slice(left, right))
                weight = (rise[:, None] * ramp).to(v)
                total[part] += weight * self._attend(q[part], k[part], v[part])
                weights[part] += weight
        return total / (weights + 1e-8)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n, c, h, w = v.shape
        q, k, v = (x.flatten(2).transpose(1, 2) for x in (q, k, v))
        tokens = h * w
        step = max(1, min(256, tokens // 8)) if self.in_parts else tokens
        parts = [
            torch.softmax(rows @ k.transpose(1, 2) / tokens**0.5, dim=-1) @ v
            for rows in q.split(step, dim=1)
        ]
        return torch.cat(parts, dim=1).transpose(1, 2).reshape(n, c, h, w)


def spans(length: int, window: int, overlap: int) -> list[tuple[int, int, Tensor]]:
    """Return the first and last pixel of each window along an axis, and its weights."""
    extent = min(window, length)
    shared = min(overlap, extent // 4, length // 4)
    stride, found = extent - shared, []
    for index in range((length + shared - 1) // stride):
        start, end = index * stride, min(length, index * stride + extent)
        ramp = torch.ones(end - start)
        fade = min(shared, (end - start) // 4)
        if start > 0:
            ramp[:fade] *= torch.linspace(0, 1, fade)
        if end < length:
            ramp[-fade:] *= torch.linspace(1, 0, fade)
        found.append((start, end, ramp))
    return found
