"""What tensors a ParagonSR2 network of v9, v10 or v11 has, and what they say about it.

Pure: reads names and shapes, builds nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from paragon_export.errors import CheckpointError
from paragon_export.networks.paragonsr2.layout import Shapes, counted, dims, square_root

IGNORED = ("base.sharp.kernel", "base.blur.kernel")
"""Buffers that published files carry and no forward pass reads."""


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """Everything needed to build one network."""

    variant: str
    scale: int
    in_channels: int
    features: int
    """Channels of the trunk."""
    groups: int
    blocks: int
    """Per group."""
    attention: bool
    layer_scale: bool
    """Whether realtime and stream blocks carry LayerScale (v11) or not (v9, v10)."""
    window_size: int
    """Pixels per side; read by photo and pro with attention only."""
    upsampler_alpha: float
    """How far the base blends towards its 7-tap filter; 0 leaves it out."""
    tokens: int = 0
    """Entries of pro's token dictionary; 0 elsewhere, as are the two below."""
    token_width: int = 0
    squeeze: int = 0


@dataclass(frozen=True, kw_only=True)
class VariantDefaults:
    """What the factory of a variant assumes where weights cannot tell."""

    marker: str
    """A tensor of block 0 that only this variant has; realtime is what remains."""
    upsampler_alpha: float
    attention: str
    """Submodule that holds the window attention; empty where the variant has none."""
    attention_parts: tuple[str, ...] = ()
    """Submodules that are absent without attention."""


WINDOW_SIZE = 16

MAX_TOKENS = 4096
"""Every pixel attends to all of them."""

HEADS = 4
"""Heads of every window attention; fixed in every published generation."""

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
"""In order of detection."""

FIRST_BLOCK = "body.0.blocks.0."

BLOCK_NAME = re.compile(r"body\.(?P<group>\d+)\.blocks\.(?P<block>\d+)\.(?P<part>\w+)\.")


def variant_of(shapes: Shapes) -> str:
    """Name the variant from the tensors of the first block."""
    return next(n for n, v in VARIANTS.items() if not v.marker or FIRST_BLOCK + v.marker in shapes)


def has_attention(shapes: Shapes, variant: str) -> bool:
    module = VARIANTS[variant].attention
    return bool(module) and f"{FIRST_BLOCK}{module}.qkv.weight" in shapes


def attention_tensors(shapes: Shapes, variant: str) -> list[str]:
    """Names of the tensors that exist only with attention."""
    parts = VARIANTS[variant].attention_parts
    found = ((name, BLOCK_NAME.match(name)) for name in sorted(shapes))
    return [name for name, match in found if match and match["part"] in parts]


def infer(
    shapes: Shapes, *, attention: bool, window_size: int, upsampler_alpha: float
) -> Hyperparameters:
    """Read the hyperparameters off the tensors.

    Raises:
        CheckpointError: If a tensor that tells one is missing or has an impossible shape.
    """
    variant = variant_of(shapes)
    features, in_channels = dims(shapes, "conv_in.weight", 4)[:2]
    groups, blocks = counted(shapes, BLOCK_NAME)
    scale = square_root(shapes, "up.0.weight", features)
    if attention and features % HEADS:
        raise CheckpointError(f"{features} features cannot be shared by {HEADS} attention heads")
    block = FIRST_BLOCK
    pro = variant == "pro"
    tokens = dims(shapes, f"{block}token_ca.token_dict", 3)[1] if pro else 0
    if tokens > MAX_TOKENS:
        raise CheckpointError(f"a dictionary of {tokens} tokens; served are {MAX_TOKENS} at most")
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
        token_width=dims(shapes, f"{block}token_ca.q_proj.weight", 2)[0] if pro else 0,
        squeeze=dims(shapes, f"{block}channel_attn.fc.0.weight", 2)[0] if pro else 0,
    )


def expected_shapes(hp: Hyperparameters) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the network, the ignored buffers left out."""
    c, i = hp.features, hp.in_channels
    shapes = dict(_filters("base.sharp", i, 7)) | dict(_filters("base.blur", i, 5))
    shapes |= _conv("conv_in", c, i, 3) | _conv("conv_mid", c, c, 3)
    shapes |= _conv("up.0", c * hp.scale**2, c, 3) | _conv("conv_out", i, c, 3)
    shapes |= {"detail_gain": ()}
    block = _BLOCKS[hp.variant](hp)
    for group in range(hp.groups):
        for index in range(hp.blocks):
            prefix = f"body.{group}.blocks.{index}."
            shapes |= {prefix + name: shape for name, shape in block.items()}
    return shapes


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


def _mix(c: int) -> dict[str, tuple[int, ...]]:
    return _conv("conv1", 2 * c, c, 1) | _conv("dw", 2 * c, 1, 3) | _conv("conv2", c, 2 * c, 1)


def _window(name: str, c: int) -> dict[str, tuple[int, ...]]:
    return _linear(f"{name}.qkv", 3 * c, c) | _linear(f"{name}.proj", c, c)


def _realtime(hp: Hyperparameters) -> dict[str, tuple[int, ...]]:
    return _mix(hp.features) | (_scale("scale", hp.features) if hp.layer_scale else {})


def _stream(hp: Hyperparameters) -> dict[str, tuple[int, ...]]:
    c = hp.features
    block = _conv("dw1", c, 1, 3) | _conv("dw3", c, 1, 3) | _conv("fuse", c, 2 * c, 1)
    block |= _conv("proj", 4 * c, c, 1) | _conv("gate", 4 * c, 1, 3) | _conv("out", c, 2 * c, 1)
    return block | (_scale("scale", c) if hp.layer_scale else {})


def _photo(hp: Hyperparameters) -> dict[str, tuple[int, ...]]:
    c = hp.features
    block = _norm("norm", c) | _mix(c) | _scale("scale", c)
    return block | (_norm("attn_norm", c) | _window("attn", c) if hp.attention else {})


def _pro(hp: Hyperparameters) -> dict[str, tuple[int, ...]]:
    c, t = hp.features, hp.token_width
    block = _norm("norm1", c) | _mix(c) | _scale("scale1", c)
    block |= {
        "channel_attn.fc.0.weight": (hp.squeeze, c),
        "channel_attn.fc.2.weight": (c, hp.squeeze),
    } | _scale("scale2", c)
    if hp.attention:
        block |= _norm("norm3", c) | _window("window_attn", c) | _scale("scale3", c)
    block |= _norm("norm4", c) | _scale("scale4", c)
    block |= {"token_ca.token_dict": (1, hp.tokens, c)}
    block |= _linear("token_ca.q_proj", t, c) | _linear("token_ca.k_proj", t, c)
    return block | _linear("token_ca.v_proj", c, c) | _linear("token_ca.out_proj", c, c)


_BLOCKS = {"realtime": _realtime, "stream": _stream, "photo": _photo, "pro": _pro}
