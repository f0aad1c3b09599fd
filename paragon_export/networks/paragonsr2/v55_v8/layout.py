"""Hyperparameters of v55, v6, v7 and v8, and the defaults of their published code."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from paragon_export.errors import CheckpointError
from paragon_export.networks.state_dict import Shapes, count_blocks, shape_of, shuffle_scale
from paragon_export.specs.network import MAX_SCALE

HEADS = 4
"""Heads of the window attention. The published code has this constant."""

WINDOW_SIZE = 32
"""Default and largest side of the attention windows in pixels."""


@dataclass(frozen=True, kw_only=True)
class Traits:
    """Properties of one generation."""

    has_gain: bool = True
    """Whether the detail has a learned gain."""
    gates_picture: bool = False
    """Whether the content map is computed from the input image and multiplied with the detail at
    full size. Otherwise it is computed from features and multiplied with them."""
    shifts: bool = True
    """Whether windows are rolled in odd blocks."""
    fuses: bool = False
    """Whether groups end with a convolution and a multi-scale fusion."""
    has_bias: bool = False
    """Whether attention has a relative position bias, and a convolution for keys and values."""


TRAITS = {
    "v55": Traits(has_gain=False, gates_picture=True, shifts=False),
    "v6": Traits(),
    "v7": Traits(fuses=True, has_bias=True),
    "v8": Traits(fuses=True, has_bias=True),
}
"""Properties by name of the generation."""

ALPHAS = {"realtime": 0.35, "stream": 0.0, "photo": 0.4, "pro": 0.6}
"""Default ``upsampler_alpha`` of each variant."""

PRO_FEATURES = 96
"""Channels of pro. Its tensors have the same names as those of photo."""


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """All that is needed to build one network."""

    traits: Traits
    variant: str
    """realtime, stream, photo or pro."""
    scale: int
    staged: bool
    """Whether features are enlarged by several pixel shuffles of factor 2."""
    in_channels: int
    features: int
    """Channels of the trunk."""
    groups: int
    blocks: int
    """Blocks of each group."""
    hidden: int
    """Channels inside a block."""
    part: int
    """Channels of each convolution of the inception context; 0 without it."""
    band: int
    """Length of its 1xk and kx1 kernels; 0 without it."""
    squeeze: int
    """Hidden width of the channel gate; 0 without it."""
    attention: bool
    """Whether blocks have window attention."""
    window: int
    """Side of the attention windows in pixels; 1 without attention."""
    content: int
    """Channels of the content analyzer; 0 without it."""
    upsampler_alpha: float
    """Weight of the sharpening filter of the base upsampler."""


BLOCK = "body.0.blocks.0."
"""Prefix of the tensors of the first block."""

BLOCK_NAME = re.compile(r"body\.(?P<group>\d+)\.blocks\.(?P<block>\d+)\.")
"""Names of the tensors of blocks, as for ``count_blocks``."""


def variant_of(shapes: Shapes) -> str:
    """Return the variant, determined by the tensors of the first block and by the features."""
    if BLOCK + "net.0.weight" in shapes:
        return "realtime"
    if BLOCK + "dw_gate.weight" in shapes:
        return "stream"
    return "pro" if shape_of(shapes, "conv_in.weight", 4)[0] == PRO_FEATURES else "photo"


def infer(
    shapes: Shapes, traits: Traits, *, window: int, upsampler_alpha: float
) -> Hyperparameters:
    """Determine the hyperparameters from the shapes of the tensors.

    ``window`` is used if the tensors do not determine it.

    Raises:
        CheckpointError: If a tensor is missing or has an invalid shape.
    """
    variant = variant_of(shapes)
    features, in_channels = shape_of(shapes, "conv_in.weight", 4)[:2]
    scale, staged = _scale(shapes, features)
    groups, blocks = count_blocks(shapes, BLOCK_NAME)
    hidden = _hidden(shapes, variant)
    attention = BLOCK + "attn.qkv.weight" in shapes
    if attention and hidden % HEADS:
        raise CheckpointError(f"{hidden} channels cannot be divided by {HEADS} attention heads")
    band = BLOCK + "context.dwconv_w.weight"
    part, length = (shape_of(shapes, band, 4)[i] if band in shapes else 0 for i in (0, 3))
    return Hyperparameters(
        traits=traits,
        variant=variant,
        scale=scale,
        staged=staged,
        in_channels=in_channels,
        features=features,
        groups=groups,
        blocks=blocks,
        hidden=hidden,
        part=part,
        band=length,
        squeeze=_rows(shapes, BLOCK + "gate.1.weight"),
        attention=attention,
        window=_window(shapes, window) if attention else 1,
        content=_rows(shapes, "content_processor.analyzer.0.weight"),
        upsampler_alpha=upsampler_alpha,
    )


def _hidden(shapes: Shapes, variant: str) -> int:
    """Return the number of channels inside a block."""
    name, axis = {"realtime": ("net.0", 0), "stream": ("proj_out", 1)}.get(
        variant, ("project_in", 0)
    )
    return shape_of(shapes, f"{BLOCK}{name}.weight", 4)[axis]


def _window(shapes: Shapes, default: int) -> int:
    """Return the side w of the attention windows: a bias table has ``(2 w - 1)^2`` rows.

    Raises:
        CheckpointError: If it is larger than ``WINDOW_SIZE``.
    """
    table = BLOCK + "attn.relative_position_bias_table"
    if table not in shapes:
        return default
    window = (math.isqrt(shape_of(shapes, table, 2)[0]) + 1) // 2
    if window > WINDOW_SIZE:
        raise CheckpointError(
            f"{table} is for windows of {window} pixels; at most {WINDOW_SIZE} are supported"
        )
    return window


def _rows(shapes: Shapes, name: str) -> int:
    """Return the output channels of a convolution; 0 if there is none."""
    return shape_of(shapes, name, 4)[0] if name in shapes else 0


def _scale(shapes: Shapes, features: int) -> tuple[int, bool]:
    """Return the scale, and whether it is reached in several stages.

    Raises:
        CheckpointError: If the scale is invalid or larger than ``MAX_SCALE``.
    """
    single = "detail_upsampler.up_conv.weight"
    if single in shapes:
        return shuffle_scale(shapes, single, features), False
    stages = sum(name.startswith("detail_upsampler.stages.") and name.endswith("up_conv.weight")
                 for name in shapes)  # fmt: skip
    if 2 ** min(stages, MAX_SCALE) > MAX_SCALE:
        raise CheckpointError(
            f"{stages} stages of factor 2; a scale of at most {MAX_SCALE} is supported"
        )
    return 2**stages, True
