"""Replace blocks of spandrel's networks by blocks that the own tracer can follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

from torch import nn

from paragon_export.networks.spandrel.dat import ChannelBlock, GatedFeed, SpatialBlock, features
from paragon_export.networks.spandrel.swin import (
    CosineBlock,
    CrossBlock,
    HybridBlock,
    SwinBlock,
    ToMap,
    ToTokens,
)

BLOCKS: Mapping[str, Callable[[Any, Any], nn.Module]] = {
    "SwinIR.SwinTransformerBlock": lambda block, root: SwinBlock(block),
    "SwinIR.PatchEmbed": lambda layer, root: ToTokens(layer),
    "SwinIR.PatchUnEmbed": lambda layer, root: ToMap(int(layer.embed_dim)),
    "Swin2SR.SwinTransformerBlock": lambda block, root: CosineBlock(block),
    "Swin2SR.PatchEmbed": lambda layer, root: ToTokens(layer),
    "Swin2SR.PatchUnEmbed": lambda layer, root: ToMap(int(layer.embed_dim)),
    "DRCT.SwinTransformerBlock": lambda block, root: SwinBlock(block),
    "DRCT.PatchEmbed": lambda layer, root: ToTokens(layer),
    "DRCT.PatchUnEmbed": lambda layer, root: ToMap(),
    "HAT.PatchEmbed": lambda layer, root: ToTokens(layer),
    "HAT.PatchUnEmbed": lambda layer, root: ToMap(int(layer.embed_dim)),
    "HAT.HAB": lambda block, root: HybridBlock(block, root.relative_position_index_SA),
    "HAT.OCAB": lambda block, root: CrossBlock(block, root.relative_position_index_OCA),
    "DAT.Adaptive_Spatial_Attention": lambda layer, root: SpatialBlock(layer),
    "DAT.Adaptive_Channel_Attention": lambda layer, root: ChannelBlock(layer),
    "DAT.SGFN": lambda layer, root: GatedFeed(layer),
}
"""Architecture and class of a layer, and how it is made anew from the layer and the network."""


def replace_blocks(network: nn.Module) -> int:
    """Replace the blocks of ``BLOCKS`` in a network of spandrel; return how many there were."""
    found = 0
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            make = BLOCKS.get(_kind(child))
            if make is not None:
                setattr(parent, name, make(child, network))
                found += 1
    if _kind(network) == "HAT.HAT":
        object.__setattr__(network, "calculate_mask", _no_mask)  # the new blocks make their own
    if _kind(network) == "DAT.DAT":
        object.__setattr__(network, "forward_features", MethodType(features, network))
    return found


def _kind(layer: nn.Module) -> str:
    """Return architecture and class of a layer of spandrel; empty for others."""
    package, _, rest = type(layer).__module__.partition(".architectures.")
    return f"{rest.partition('.')[0]}.{type(layer).__name__}" if package == "spandrel" else ""


class _NoMask:
    """What stands for the mask that the new blocks do not use."""

    def to(self, device: Any) -> None:
        """Return nothing."""


def _no_mask(*_: Any, **__: Any) -> _NoMask:
    return _NoMask()
