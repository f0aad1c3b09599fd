"""Hyperparameters of ParagonSR2 v9, v10 and v11, and the tensors that such a network has.

Imports no PyTorch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from paragon_export.errors import CheckpointError
from paragon_export.networks.state_dict import Shapes, count_blocks, shape_of, shuffle_scale

IGNORED = ("base.sharp.kernel", "base.blur.kernel")
"""Buffers in published files that the network does not use."""


@dataclass(frozen=True, kw_only=True)
class Widths:
    """The inner widths of one block. Networks that were not pruned have the same in all blocks."""

    hidden: int
    """Channels between the two 1x1 convolutions; in stream, of the product. 0: photo and pro go
    without them."""
    heads: int
    """Heads of the window attention; 0: the block has none."""
    context: int
    """Channels between stream's fused depthwise convolutions and its projection."""


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """All that is needed to build one network."""

    variant: str
    """A key of ``VARIANTS``."""
    scale: int
    in_channels: int
    features: int
    """Channels of the trunk."""
    groups: int
    blocks: int
    """Blocks of each group."""
    attention: bool
    """Whether blocks have window attention."""
    layer_scale: bool
    """Whether the blocks of realtime and stream have a LayerScale (v11) or not (v9, v10)."""
    window_size: int
    """Side of the attention windows in pixels; used by photo and pro with attention only."""
    upsampler_alpha: float
    """Weight of the sharpening filter of the base upsampler; 0 omits it."""
    tokens: int = 0
    """Tokens of the dictionary of pro; 0 for other variants."""
    token_width: int = 0
    """Channels of queries and keys of pro's token attention; 0 for other variants."""
    squeeze: int = 0
    """Hidden width of pro's channel attention; 0 for other variants."""
    widths: tuple[Widths, ...] = ()
    """Of each block, counted over all groups; empty for a network that was not pruned."""

    def widths_of(self, index: int) -> Widths:
        """Return the inner widths of a block, counted over all groups."""
        return self.widths[index] if self.widths else full_widths(self.features)


@dataclass(frozen=True, kw_only=True)
class VariantDefaults:
    """Properties of a variant, and its default options."""

    marker: str
    """A tensor of the first block by which the variant is detected; empty for realtime, which has
    no such tensor."""
    upsampler_alpha: float
    attention: str
    """Name of the submodule with the window attention; empty for a variant without attention."""
    attention_parts: tuple[str, ...] = ()
    """Names of the submodules that exist with attention only."""


WINDOW_SIZE = 16
"""Default side of the attention windows in pixels."""

MAX_TOKENS = 4096
"""Tokens of a dictionary. Each pixel attends to all tokens."""

HEADS = 4
"""Heads of the window attention. All published generations have this number."""

VARIANTS = {
    "pro": VariantDefaults(
        marker="token_ca.token_dict",
        upsampler_alpha=0.4,
        attention="window_attn",
        attention_parts=("window_attn", "norm3", "scale3"),
    ),
    "stream": VariantDefaults(marker="fuse.weight", upsampler_alpha=0.0, attention=""),
    "photo": VariantDefaults(
        marker="norm.scale",
        upsampler_alpha=0.4,
        attention="attn",
        attention_parts=("attn", "attn_norm"),
    ),
    "realtime": VariantDefaults(marker="", upsampler_alpha=0.3, attention=""),
}
"""Properties by name of the variant, in order of detection."""

FIRST_BLOCK = "body.0.blocks.0."
"""Prefix of the tensors of the first block."""


def full_widths(features: int) -> Widths:
    """Return the inner widths of the blocks of a network that was not pruned."""
    return Widths(hidden=2 * features, heads=HEADS, context=features)


BLOCK_NAME = re.compile(r"body\.(?P<group>\d+)\.blocks\.(?P<block>\d+)\.(?P<part>\w+)\.")
"""Names of the tensors of blocks, as for ``count_blocks``; ``part`` is the submodule."""


def variant_of(shapes: Shapes) -> str:
    """Return the name of the variant, determined from the tensors of the first block."""
    return next(n for n, v in VARIANTS.items() if not v.marker or FIRST_BLOCK + v.marker in shapes)


def has_attention(shapes: Shapes, variant: str) -> bool:
    """Return whether the state dict has tensors of a window attention."""
    module = VARIANTS[variant].attention
    return bool(module) and f"{FIRST_BLOCK}{module}.qkv.weight" in shapes


def attention_tensors(shapes: Shapes, variant: str) -> list[str]:
    """Return the names of the tensors that exist only with attention, sorted."""
    parts = VARIANTS[variant].attention_parts
    found = ((name, BLOCK_NAME.match(name)) for name in sorted(shapes))
    return [name for name, match in found if match and match["part"] in parts]


def infer(
    shapes: Shapes, *, attention: bool, window_size: int, upsampler_alpha: float
) -> Hyperparameters:
    """Determine the hyperparameters from the shapes of the tensors, and from options.

    Raises:
        CheckpointError: If a tensor is missing or has an invalid shape.
    """
    variant = variant_of(shapes)
    features, in_channels = shape_of(shapes, "conv_in.weight", 4)[:2]
    groups, blocks = count_blocks(shapes, BLOCK_NAME)
    scale = shuffle_scale(shapes, "up.0.weight", features)
    if attention and features % HEADS:
        raise CheckpointError(f"{features} features cannot be divided by {HEADS} attention heads")
    block = FIRST_BLOCK
    pro = variant == "pro"
    tokens = shape_of(shapes, f"{block}token_ca.token_dict", 3)[1] if pro else 0
    if tokens > MAX_TOKENS:
        raise CheckpointError(
            f"a dictionary of {tokens} tokens; at most {MAX_TOKENS} are supported"
        )
    return Hyperparameters(
        variant=variant,
        scale=scale,
        in_channels=in_channels,
        features=features,
        groups=groups,
        blocks=blocks,
        attention=attention,
        layer_scale=f"{block}scale.gamma" in shapes,
        window_size=window_size,
        upsampler_alpha=upsampler_alpha,
        tokens=tokens,
        token_width=shape_of(shapes, f"{block}token_ca.q_proj.weight", 2)[0] if pro else 0,
        squeeze=shape_of(shapes, f"{block}channel_attn.fc.0.weight", 2)[0] if pro else 0,
    )


def expected_shapes(hp: Hyperparameters) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors of the network by name, without the ``IGNORED`` buffers."""
    c, i = hp.features, hp.in_channels
    shapes = dict(_filters("base.sharp", i, 7)) | dict(_filters("base.blur", i, 5))
    shapes |= _conv("conv_in", c, i, 3) | _conv("conv_mid", c, c, 3)
    shapes |= _conv("up.0", c * hp.scale**2, c, 3) | _conv("conv_out", i, c, 3)
    shapes |= {"detail_gain": ()}
    for index in range(hp.groups * hp.blocks):
        prefix = block_prefix(hp, index)
        block = _BLOCKS[hp.variant](hp, hp.widths_of(index))
        shapes |= {prefix + name: shape for name, shape in block.items()}
    return shapes


def block_prefix(hp: Hyperparameters, index: int) -> str:
    """Return the prefix of the tensors of a block, counted over all groups."""
    return f"body.{index // hp.blocks}.blocks.{index % hp.blocks}."


def _filters(name: str, channels: int, taps: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.h.weight", (channels, 1, 1, taps)
    yield f"{name}.v.weight", (channels, 1, taps, 1)


def _conv(name: str, out: int, into: int, kernel: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into, kernel, kernel), f"{name}.bias": (out,)}


def _linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _norm(name: str, c: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.scale": (c, 1, 1), f"{name}.bias": (c, 1, 1)}


def _scale(name: str, c: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.gamma": (1, c, 1, 1)}


def _mix(c: int, hidden: int) -> dict[str, tuple[int, ...]]:
    return _conv("conv1", hidden, c, 1) | _conv("dw", hidden, 1, 3) | _conv("conv2", c, hidden, 1)


def _normed_mix(norm: str, c: int, hidden: int) -> dict[str, tuple[int, ...]]:
    return _norm(norm, c) | _mix(c, hidden) if hidden else {}


def _normed_window(norm: str, name: str, c: int, heads: int) -> dict[str, tuple[int, ...]]:
    inner = c // HEADS * heads
    window = _linear(f"{name}.qkv", 3 * inner, c) | _linear(f"{name}.proj", c, inner)
    return _norm(norm, c) | window if heads else {}


def _realtime(hp: Hyperparameters, widths: Widths) -> dict[str, tuple[int, ...]]:
    block = _mix(hp.features, widths.hidden)
    return block | (_scale("scale", hp.features) if hp.layer_scale else {})


def _stream(hp: Hyperparameters, widths: Widths) -> dict[str, tuple[int, ...]]:
    c, context, hidden = hp.features, widths.context, widths.hidden
    block = _conv("dw1", c, 1, 3) | _conv("dw3", c, 1, 3) | _conv("fuse", context, 2 * c, 1)
    block |= _conv("proj", 2 * hidden, context, 1) | _conv("gate", 2 * hidden, 1, 3)
    block |= _conv("out", c, hidden, 1)
    return block | (_scale("scale", c) if hp.layer_scale else {})


def _photo(hp: Hyperparameters, widths: Widths) -> dict[str, tuple[int, ...]]:
    c = hp.features
    block = _normed_mix("norm", c, widths.hidden) | _scale("scale", c)
    return block | (_normed_window("attn_norm", "attn", c, widths.heads) if hp.attention else {})


def _pro(hp: Hyperparameters, widths: Widths) -> dict[str, tuple[int, ...]]:
    c, t = hp.features, hp.token_width
    block = _normed_mix("norm1", c, widths.hidden) | _scale("scale1", c)
    block |= {
        "channel_attn.fc.0.weight": (hp.squeeze, c),
        "channel_attn.fc.2.weight": (c, hp.squeeze),
    } | _scale("scale2", c)
    if hp.attention:
        block |= _normed_window("norm3", "window_attn", c, widths.heads) | _scale("scale3", c)
    block |= _norm("norm4", c) | _scale("scale4", c)
    block |= {"token_ca.token_dict": (1, hp.tokens, c)}
    block |= _linear("token_ca.q_proj", t, c) | _linear("token_ca.k_proj", t, c)
    return block | _linear("token_ca.v_proj", c, c) | _linear("token_ca.out_proj", c, c)


_BLOCKS = {"realtime": _realtime, "stream": _stream, "photo": _photo, "pro": _pro}
