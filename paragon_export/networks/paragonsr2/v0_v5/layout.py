"""What the tensors of ParagonSR and of v0 to v5 tell, and what their factories assumed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from paragon_export.networks.paragonsr2.layout import Shapes, counted, dims, square_root

Mixer = Literal["gated", "dynamic", "tracked", "static"]

Tail = Literal["shuffle", "nearest", "magic", "head", "image"]

Norm = Literal["none", "group", "rms"]


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What a generation does that others do not."""

    mixer: Mixer
    """The convolution inside a block's transformer."""
    tail: Tail
    """How features become a large picture."""
    norms_before: bool = False
    """Learned group norms stand before context and transformer."""
    activation: Literal["mish", "leaky"] = "leaky"
    alpha: float = 0.5
    """Default of ``upsampler_alpha``, where a factory does not name its own."""
    blend_is_fixed: bool = False
    """``upsampler_alpha`` cannot be chosen."""
    norm_is_free: bool = False
    """Norms have no tensors, so that ``use_norm`` has to be told."""


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


@dataclass(frozen=True)
class Factory:
    """A published size. Groups and blocks are those that are built."""

    features: int
    groups: int
    blocks: int
    hidden: int
    band: int
    alpha: float | None = None
    norm: bool = False


def _sizes(
    rows: Mapping[str, tuple[int, int, int, float, int]], **more: Mapping[str, object]
) -> dict[str, Factory]:
    """Make factories of (features, groups, blocks, expansion, band)."""
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


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """Everything needed to build one network."""

    traits: Traits
    scale: int
    """0 where tensors do not tell it and nobody has said it."""
    in_channels: int
    features: int
    groups: int
    blocks: int
    """Per group."""
    hidden: int
    part: int
    """Channels in each slice of the inception context."""
    band: int
    upsampler_alpha: float
    norm: Norm
    """After each block."""
    flat_gains: bool
    """Whether LayerScale is stored as (C)."""
    is_fused: bool
    """Whether the three branches of a convolution were added up by the author's release tool."""
    has_generator: bool
    """Whether the tensors of the kernel generator are there."""
    cheap: int
    """Inner width of the gate of ``dynamic_training_mode`` cheap; 0 without."""
    head_blocks: int
    head_norm: bool
    dense: bool
    squeeze: int
    """Inner width of the channel gate; 0 without."""
    queries: int
    """Channels of queries and keys; 0 without attention."""
    attention: str
    """local, global or hierarchical; empty without."""
    content: tuple[int, int, int] | None
    """Widths of the content analyzer."""
    obeys_flag: bool
    """Whether kernels that are not flagged as tracked are left out, as the original does."""
    dynamic_inference: bool
    """Whether kernels are predicted for every picture instead of those tracked in training."""


BLOCK = "body.0.blocks.0."

BLOCK_NAME = re.compile(r"body\.(?P<group>\d+)\.blocks\.(?P<block>\d+)\.")

HEAD_BLOCK = re.compile(r"(?P<group>hr_head)\.(?P<block>\d+)\.")

_HIDDEN = ("project_in.weight", "project_in_g.weight")

_FUSED = ("spatial_mixer.weight", "dynamic_conv.weight")


def infer(
    shapes: Shapes,
    generation: str,
    *,
    scale: int,
    upsampler_alpha: float,
    use_norm: bool,
    attention: str,
    obeys_flag: bool = False,
    dynamic_inference: bool = False,
) -> Hyperparameters:
    """Read the hyperparameters off the tensors; the arguments are what they may not tell.

    Raises:
        CheckpointError: If a tensor that tells one is missing or has an impossible shape.
    """
    traits = TRAITS[generation]
    features, in_channels = dims(shapes, "conv_in.weight", 4)[:2]
    groups, blocks = counted(shapes, BLOCK_NAME)
    inner = BLOCK + "transformer."
    entry = next((inner + name for name in _HIDDEN if inner + name in shapes), inner + _HIDDEN[0])
    band = dims(shapes, BLOCK + "context.dwconv_w.weight", 4)
    query = inner + "attention.query.weight"
    has_norm_tensors = BLOCK + "norm.scale" in shapes
    norm_after: Norm = "rms" if has_norm_tensors else "none"
    if use_norm and traits.norm_is_free and traits.mixer == "static":
        norm_after = "group"
    told = told_scale(shapes, features)
    return Hyperparameters(
        traits=traits,
        scale=told or scale,
        in_channels=in_channels,
        features=features,
        groups=groups,
        blocks=blocks,
        hidden=dims(shapes, entry, 4)[0],
        part=band[0],
        band=band[3],
        upsampler_alpha=upsampler_alpha,
        norm=norm_after,
        flat_gains=len(shapes.get(BLOCK + "ls1.gamma", ())) == 1,
        is_fused=any(inner + name in shapes for name in _FUSED),
        has_generator=inner + "kernel_generator.predictor.1.weight" in shapes,
        cheap=_rows(shapes, inner + "cheap_dynamic.net.1.weight"),
        head_blocks=counted(shapes, HEAD_BLOCK)[1],
        head_norm=use_norm and traits.tail == "head" and traits.norm_is_free,
        dense="body.0.dense_proj.weight" in shapes,
        squeeze=_rows(shapes, inner + "channel_mod.net.1.weight"),
        queries=_rows(shapes, query),
        attention=attention if query in shapes else "",
        content=_content(shapes),
        obeys_flag=obeys_flag,
        dynamic_inference=dynamic_inference,
    )


def told_scale(shapes: Shapes, features: int) -> int:
    """Return the scale that the tail's rows tell; 0 where it has no convolution before a shuffle."""
    names = ["upsampler_net.up_conv.weight"]
    if not any(name.startswith("magic_upsampler.") for name in shapes):
        names.append("upsampler.0.weight")
    return next((square_root(shapes, name, features) for name in names if name in shapes), 0)


def _rows(shapes: Shapes, name: str) -> int:
    return dims(shapes, name, 4)[0] if name in shapes else 0


def _content(shapes: Shapes) -> tuple[int, int, int] | None:
    prefix = "content_processor.content_analyzer."
    if prefix + "0.weight" not in shapes:
        return None
    first, second, third = (dims(shapes, f"{prefix}{i}.weight", 4)[0] for i in (0, 2, 4))
    return first, second, third


def factory_of(hp: Hyperparameters, generation: str) -> str:
    """Return the name of the published size that these hyperparameters are; empty if none."""
    for name, size in FACTORIES[generation].items():
        told = (size.features, size.hidden, size.band)
        if told == (hp.features, hp.hidden, hp.band) and _is_built(hp, size):
            return name
    return ""


def _is_built(hp: Hyperparameters, size: Factory) -> bool:
    """Whether groups and blocks are a factory's own, or twice or half that (fast_body_mode)."""
    own = size.groups, size.blocks
    found = hp.groups, hp.blocks
    return found == own or _halved(found) == own or found == _halved(own)


def _halved(counts: tuple[int, int]) -> tuple[int, int]:
    return max(1, counts[0] // 2), max(1, counts[1] // 2)
