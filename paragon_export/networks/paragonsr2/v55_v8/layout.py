"""What the tensors of v55, v6, v7 and v8 tell, and what their factories assumed."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from paragon_export.errors import CheckpointError
from paragon_export.networks.paragonsr2.layout import Shapes, counted, dims, square_root
from paragon_export.specs.network import MAX_SCALE

HEADS = 4
"""Fixed in the published code."""

WINDOW = 32


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What a generation does that others do not."""

    has_gain: bool = True
    """A learned gain of the detail."""
    gates_picture: bool = False
    """The content map is made of the picture and gates the detail in full size; otherwise it is
    made of features and gates them."""
    shifts: bool = True
    """Windows are rolled in odd blocks."""
    fuses: bool = False
    """Groups end in a convolution and a multi-scale fusion."""
    has_bias: bool = False
    """Attention has a relative position bias and looks at convolved keys and values."""


TRAITS = {
    "v55": Traits(has_gain=False, gates_picture=True, shifts=False),
    "v6": Traits(),
    "v7": Traits(fuses=True, has_bias=True),
    "v8": Traits(fuses=True, has_bias=True),
}

ALPHAS = {"realtime": 0.35, "stream": 0.0, "photo": 0.4, "pro": 0.6}
"""``upsampler_alpha`` of the factories."""

PRO_FEATURES = 96
"""By which pro is told from photo, as both have the same tensors."""


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """Everything needed to build one network."""

    traits: Traits
    variant: str
    scale: int
    staged: bool
    """Whether it shuffles up by two several times."""
    in_channels: int
    features: int
    groups: int
    blocks: int
    """Per group."""
    hidden: int
    part: int
    """Channels in each slice of the inception context; 0 without, as is the band."""
    band: int
    squeeze: int
    attention: bool
    window: int
    content: int
    """Width of the content analyzer; 0 without."""
    upsampler_alpha: float


BLOCK = "body.0.blocks.0."

BLOCK_NAME = re.compile(r"body\.(?P<group>\d+)\.blocks\.(?P<block>\d+)\.")


def variant_of(shapes: Shapes) -> str:
    """Name the variant from the first block, and photo or pro by its width."""
    if BLOCK + "net.0.weight" in shapes:
        return "realtime"
    if BLOCK + "dw_gate.weight" in shapes:
        return "stream"
    return "pro" if dims(shapes, "conv_in.weight", 4)[0] == PRO_FEATURES else "photo"


def infer(
    shapes: Shapes, traits: Traits, *, window: int, upsampler_alpha: float
) -> Hyperparameters:
    """Read the hyperparameters off the tensors.

    Raises:
        CheckpointError: If a tensor that tells one is missing or has an impossible shape.
    """
    variant = variant_of(shapes)
    features, in_channels = dims(shapes, "conv_in.weight", 4)[:2]
    scale, staged = _scale(shapes, features)
    groups, blocks = counted(shapes, BLOCK_NAME)
    hidden = {
        "realtime": lambda: dims(shapes, BLOCK + "net.0.weight", 4)[0],
        "stream": lambda: dims(shapes, BLOCK + "proj_out.weight", 4)[1],
    }.get(variant, lambda: dims(shapes, BLOCK + "project_in.weight", 4)[0])()
    attention = BLOCK + "attn.qkv.weight" in shapes
    if attention and hidden % HEADS:
        raise CheckpointError(f"{hidden} channels cannot be shared by {HEADS} attention heads")
    table = BLOCK + "attn.relative_position_bias_table"
    if table in shapes:
        window = (math.isqrt(dims(shapes, table, 2)[0]) + 1) // 2
        if window > WINDOW:
            raise CheckpointError(f"{table} is of windows of {window} pixels; served are {WINDOW}")
    band = BLOCK + "context.dwconv_w.weight"
    gate, analyzer = BLOCK + "gate.1.weight", "content_processor.analyzer.0.weight"
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
        part=dims(shapes, band, 4)[0] if band in shapes else 0,
        band=dims(shapes, band, 4)[3] if band in shapes else 0,
        squeeze=dims(shapes, gate, 4)[0] if gate in shapes else 0,
        attention=attention,
        window=window if attention else 1,
        content=dims(shapes, analyzer, 4)[0] if analyzer in shapes else 0,
        upsampler_alpha=upsampler_alpha,
    )


def _scale(shapes: Shapes, features: int) -> tuple[int, bool]:
    """Return the scale and whether it is reached in stages."""
    single = "detail_upsampler.up_conv.weight"
    if single in shapes:
        return square_root(shapes, single, features), False
    stages = sum(name.startswith("detail_upsampler.stages.") and name.endswith("up_conv.weight")
                 for name in shapes)  # fmt: skip
    if 2 ** min(stages, MAX_SCALE) > MAX_SCALE:
        raise CheckpointError(f"{stages} stages of doubling; served are 4 at most")
    return 2**stages, True
