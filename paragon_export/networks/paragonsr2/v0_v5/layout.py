"""Hyperparameters of ParagonSR and of v0 to v5, and the defaults of their published code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from paragon_export.networks.state_dict import Shapes, count_blocks, shape_of, shuffle_scale

Mixer = Literal["gated", "dynamic", "tracked", "static"]

Tail = Literal["shuffle", "nearest", "magic", "head", "image"]

Norm = Literal["none", "group", "rms"]


@dataclass(frozen=True, kw_only=True)
class Traits:
    """Properties of one generation."""

    mixer: Mixer
    """The kind of convolution in the transformer of a block."""
    tail: Tail
    """How features are enlarged to the output image."""
    norms_before: bool = False
    """Whether there are learned group norms before context and transformer."""
    activation: Literal["mish", "leaky"] = "leaky"
    alpha: float = 0.5
    """Default of ``upsampler_alpha`` for sizes that have no default of their own."""
    blend_is_fixed: bool = False
    """Whether ``upsampler_alpha`` is a constant and no option."""
    norm_is_free: bool = False
    """Whether norms have no tensors, so that ``use_norm`` is an option."""


TRAITS = {
    "psr1-ps": Traits(mixer="gated", tail="shuffle", norms_before=True, activation="mish"),
    "psr1-nn": Traits(mixer="gated", tail="nearest", norms_before=True, activation="mish"),
    "psr1-mk": Traits(
        mixer="gated", tail="magic", norms_before=True, activation="mish", alpha=1.0,
        blend_is_fixed=True,
    ),
    "v0": Traits(mixer="dynamic", tail="shuffle", norms_before=True, activation="mish"),
    "v0b": Traits(mixer="dynamic", tail="magic", alpha=1.0),
    "v0c": Traits(mixer="tracked", tail="magic", alpha=1.0),
    "v2a/v2": Traits(mixer="tracked", tail="head"),
    "v1/v3": Traits(mixer="tracked", tail="head", norm_is_free=True),
    "v4": Traits(mixer="static", tail="head", norm_is_free=True),
    "v45g/v45r/v5": Traits(mixer="static", tail="image", norm_is_free=True),
    "v45r/v5": Traits(mixer="static", tail="image"),
    "v45d": Traits(mixer="static", tail="image", norm_is_free=True),
    "v5": Traits(mixer="static", tail="image"),
}  # fmt: skip
"""Properties by name of the generation."""


@dataclass(frozen=True)
class Factory:
    """A published size of a network, and its default options."""

    features: int
    groups: int
    blocks: int
    """Blocks of each group."""
    hidden: int
    band: int
    alpha: float | None = None
    """Default of ``upsampler_alpha``; None for that of the generation."""
    norm: bool = False
    """Default of ``use_norm``."""


def _sizes(
    rows: Mapping[str, tuple[int, int, int, float, int]], **more: Mapping[str, object]
) -> dict[str, Factory]:
    """Return factories by name.

    Args:
        rows: Features, groups, blocks, hidden channels per feature, and band of each.
        more: Further fields of a factory, by its name.
    """
    return {
        name: Factory(c, g, b, int(c * expansion), band, **more.get(name, {}))  # type: ignore[arg-type]
        for name, (c, g, b, expansion, band) in rows.items()
    }


_LARGE = {"m": (96, 8, 8, 2, 11), "l": (128, 10, 10, 2, 11), "xl": (160, 12, 12, 2, 11)}

_PREDECESSOR = _sizes(
    {"anime": (28, 2, 3, 1.5, 11), "nano": (24, 3, 2, 1.5, 11), "tiny": (32, 3, 2, 2, 11),
     "xs": (48, 4, 4, 2, 11), "s": (64, 6, 6, 2, 11), **_LARGE}
)  # fmt: skip
_EARLY = {
    "nano": (24, 2, 2, 1.5, 9), "anime": (28, 2, 3, 1.5, 15), "tiny": (32, 3, 2, 2, 11),
    "s": (56, 5, 5, 2, 11), **_LARGE,
}  # fmt: skip
_SECOND = {
    "nano": (24, 2, 2, 1.5, 9), "xs": (32, 2, 3, 1.5, 11), "s": (48, 3, 4, 2, 11),
    "m": (64, 4, 6, 2, 13), "l": (96, 6, 8, 2, 15), "xl": (128, 8, 10, 2, 15),
}  # fmt: skip
_FAST = {
    "nano": (24, 1, 1, 1.5, 9), "xs": (32, 1, 1, 1.5, 11), "s": (48, 1, 2, 2, 11),
    "m": (64, 4, 6, 2, 13), "l": (96, 6, 8, 2, 15), "xl": (128, 8, 10, 2, 15),
}  # fmt: skip
_NORMED = {name: {"norm": True} for name in _FAST}
_HYBRID = _sizes(
    {"nano": (12, 1, 1, 1.2, 7), "micro": (16, 1, 1, 1.5, 7), "tiny": (24, 1, 1, 1.5, 9),
     "xs": (32, 1, 1, 1.8, 11), "s": (48, 1, 2, 2, 11), "m": (64, 4, 6, 2, 11),
     "l": (96, 6, 8, 2, 13), "xl": (128, 8, 10, 2, 15)},
    nano={"alpha": 0.4}, micro={"alpha": 0.45}, l={"alpha": 0.55, "norm": True},
    xl={"alpha": 0.6, "norm": True},
    **{name: {"norm": True} for name in ("tiny", "xs", "s", "m")},
)  # fmt: skip

FACTORIES: Mapping[str, Mapping[str, Factory]] = {
    "psr1-ps": _PREDECESSOR,
    "psr1-nn": _PREDECESSOR,
    "psr1-mk": _PREDECESSOR,
    "v0": _sizes({"anime": (28, 2, 2, 1.5, 15), "tiny": (28, 3, 2, 2, 11),
                  "s": (64, 6, 6, 2, 11), **_LARGE}),
    "v0b": _sizes(_EARLY),
    "v0c": _sizes(_EARLY),
    "v2a/v2": _sizes({**{f"{n} (v2a)": s for n, s in _EARLY.items() if n != "nano"}, **_SECOND}),
    "v1/v3": _sizes(_FAST, **_NORMED),
    "v4": _sizes({"micro": (16, 1, 1, 1.2, 7), **_FAST}, **_NORMED),
    "v45g/v45r/v5": _HYBRID,
    "v45r/v5": _HYBRID,
    "v45d": _HYBRID,
    "v5": _HYBRID,
}  # fmt: skip
"""Published sizes by generation and name."""


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """All that is needed to build one network."""

    traits: Traits
    scale: int
    """0 if neither tensors nor options determine it."""
    in_channels: int
    features: int
    """Channels of the trunk."""
    groups: int
    blocks: int
    """Blocks of each group."""
    hidden: int
    """Channels inside the transformer of a block."""
    part: int
    """Channels of each convolution of the inception context."""
    band: int
    """Length of its 1xk and kx1 kernels."""
    upsampler_alpha: float
    """Weight of the sharpening filter of the upsampler."""
    norm: Norm
    """The norm after each block."""
    flat_gains: bool
    """Whether the gains of LayerScale are stored as (C)."""
    is_fused: bool
    """Whether a convolution is stored as one kernel, and not as three branches."""
    has_generator: bool
    """Whether there are tensors of a kernel generator."""
    cheap: int
    """Hidden width of the channel gate that v1 has in the training mode "cheap"; 0 without it."""
    head_blocks: int
    """Blocks of the high-resolution head."""
    head_norm: bool
    """Whether these blocks have norms."""
    dense: bool
    """Whether the blocks of a group are densely connected."""
    squeeze: int
    """Hidden width of the channel gate; 0 without it."""
    queries: int
    """Channels of queries and keys; 0 without attention."""
    attention: str
    """local, global or hierarchical; empty without attention."""
    content: tuple[int, int, int] | None
    """Channels of the content analyzer; None without it."""
    obeys_flag: bool
    """Whether a tracked kernel is used only if its flag is set, as in the published code."""
    dynamic_inference: bool
    """Whether kernels are predicted for each image instead of using tracked ones."""


BLOCK = "body.0.blocks.0."
"""Prefix of the tensors of the first block."""

BLOCK_NAME = re.compile(r"body\.(?P<group>\d+)\.blocks\.(?P<block>\d+)\.")
"""Names of the tensors of blocks, as for ``count_blocks``."""

HEAD_BLOCK = re.compile(r"(?P<group>hr_head)\.(?P<block>\d+)\.")
"""Names of the tensors of the high-resolution head, as for ``count_blocks``."""

_HIDDEN = ("project_in.weight", "project_in_g.weight")
"""Tensors of a transformer whose output channels are ``hidden``."""

_FUSED = ("spatial_mixer.weight", "dynamic_conv.weight")
"""Tensors of a transformer whose convolution is stored as one kernel."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Values of options that the tensors do not determine; see :class:`Hyperparameters`."""

    scale: int = 0
    """Used if the tensors do not determine it."""
    upsampler_alpha: float = 0.0
    use_norm: bool = False
    """Used if norms have no tensors."""
    attention: str = "local"
    """Used if there are tensors of attention."""
    obeys_flag: bool = False
    dynamic_inference: bool = False


def infer(shapes: Shapes, generation: str, choices: Choices) -> Hyperparameters:
    """Determine the hyperparameters from the shapes of the tensors and from options.

    Raises:
        CheckpointError: If a tensor is missing or has an invalid shape.
    """
    traits = TRAITS[generation]
    features, in_channels = shape_of(shapes, "conv_in.weight", 4)[:2]
    groups, blocks = count_blocks(shapes, BLOCK_NAME)
    inner = BLOCK + "transformer."
    entry = next((inner + name for name in _HIDDEN if inner + name in shapes), inner + _HIDDEN[0])
    band = shape_of(shapes, BLOCK + "context.dwconv_w.weight", 4)
    query = inner + "attention.query.weight"
    return Hyperparameters(
        traits=traits,
        scale=scale_of(shapes, features) or choices.scale,
        in_channels=in_channels,
        features=features,
        groups=groups,
        blocks=blocks,
        hidden=shape_of(shapes, entry, 4)[0],
        part=band[0],
        band=band[3],
        upsampler_alpha=choices.upsampler_alpha,
        norm=_norm(shapes, traits, use_norm=choices.use_norm),
        flat_gains=len(shapes.get(BLOCK + "ls1.gamma", ())) == 1,
        is_fused=any(inner + name in shapes for name in _FUSED),
        has_generator=inner + "kernel_generator.predictor.1.weight" in shapes,
        cheap=_rows(shapes, inner + "cheap_dynamic.net.1.weight"),
        head_blocks=count_blocks(shapes, HEAD_BLOCK)[1],
        head_norm=choices.use_norm and traits.tail == "head" and traits.norm_is_free,
        dense="body.0.dense_proj.weight" in shapes,
        squeeze=_rows(shapes, inner + "channel_mod.net.1.weight"),
        queries=_rows(shapes, query),
        attention=choices.attention if query in shapes else "",
        content=_content(shapes),
        obeys_flag=choices.obeys_flag,
        dynamic_inference=choices.dynamic_inference,
    )


def _norm(shapes: Shapes, traits: Traits, *, use_norm: bool) -> Norm:
    """Return the norm after each block."""
    if use_norm and traits.norm_is_free and traits.mixer == "static":
        return "group"
    return "rms" if BLOCK + "norm.scale" in shapes else "none"


def scale_of(shapes: Shapes, features: int) -> int:
    """Return the upscaling factor that the tensors determine; 0 for a tail without pixel shuffle.

    Raises:
        CheckpointError: If it is invalid.
    """
    names = ["upsampler_net.up_conv.weight"]
    if not any(name.startswith("magic_upsampler.") for name in shapes):
        names.append("upsampler.0.weight")
    return next((shuffle_scale(shapes, name, features) for name in names if name in shapes), 0)


def _rows(shapes: Shapes, name: str) -> int:
    """Return the output channels of a convolution; 0 if there is none."""
    return shape_of(shapes, name, 4)[0] if name in shapes else 0


def _content(shapes: Shapes) -> tuple[int, int, int] | None:
    """Return the channels of the content analyzer; None if there is none."""
    prefix = "content_processor.content_analyzer."
    if prefix + "0.weight" not in shapes:
        return None
    first, second, third = (shape_of(shapes, f"{prefix}{i}.weight", 4)[0] for i in (0, 2, 4))
    return first, second, third


def factory_of(hp: Hyperparameters, generation: str) -> str:
    """Return the name of the published size with these hyperparameters; empty if there is none."""
    for name, factory in FACTORIES[generation].items():
        sizes = (factory.features, factory.hidden, factory.band)
        if sizes == (hp.features, hp.hidden, hp.band) and _has_blocks_of(hp, factory):
            return name
    return ""


def _has_blocks_of(hp: Hyperparameters, factory: Factory) -> bool:
    """Return whether groups and blocks are those of a factory, or twice or half as many.

    The option ``fast_body_mode`` of the published code halves them.
    """
    expected = factory.groups, factory.blocks
    found = hp.groups, hp.blocks
    return found == expected or _halved(found) == expected or found == _halved(expected)


def _halved(counts: tuple[int, int]) -> tuple[int, int]:
    return max(1, counts[0] // 2), max(1, counts[1] // 2)
