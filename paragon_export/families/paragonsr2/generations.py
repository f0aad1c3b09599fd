"""Name the generations of ParagonSR and ParagonSR2 from the names of their tensors.

Generations before v9 are told apart so that they can be refused by name. Renaming their keys
to those of v9 loads every tensor and computes another picture, so it is never done.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

Keys = Collection[str]

BLOCK = "body.0.blocks.0."


def _has(*names: str) -> Callable[[Keys], bool]:
    return lambda keys: all(name in keys for name in names)


def _any(*fragments: str) -> Callable[[Keys], bool]:
    return lambda keys: any(f in key for key in keys for f in fragments)


def _both(*rules: Callable[[Keys], bool]) -> Callable[[Keys], bool]:
    return lambda keys: all(rule(keys) for rule in rules)


GENERATIONS: tuple[tuple[str, Callable[[Keys], bool]], ...] = (
    ("v11atd or v11pre (pro)", _both(_has("conv_mid.weight"), _any("body.0.layers."))),
    ("v12dev (ultimate)", _has("conv_mid.weight", BLOCK + "gated_conv.conv1.weight")),
    ("v11 (pro)", _has("conv_mid.weight", BLOCK + "token_ca.token_dict")),
    ("v11 (stream)", _has("conv_mid.weight", BLOCK + "fuse.weight", BLOCK + "scale.gamma")),
    ("v9/v10 (stream)", _has("conv_mid.weight", BLOCK + "fuse.weight")),
    ("v11 (photo)", _has("conv_mid.weight", BLOCK + "norm.scale", BLOCK + "norm.bias")),
    ("v11pre (photo)", _has("conv_mid.weight", BLOCK + "norm.scale")),
    ("v11 (realtime)", _has("conv_mid.weight", BLOCK + "conv1.weight", BLOCK + "scale.gamma")),
    ("v9/v10 (realtime)", _has("conv_mid.weight", BLOCK + "conv1.weight")),
    ("v8", _both(_any("detail_upsampler."), _has("body.0.mscf.p1.weight", "base_upsampler.sharpen.source_kernel"))),
    ("v7", _both(_any("detail_upsampler."), _has("body.0.mscf.p1.weight"))),
    ("v6", _both(_any("detail_upsampler."), _has("global_detail_gain"))),
    ("v55", _any("detail_upsampler.")),
    ("v45d", _has("upsampler_net.up_conv.weight", "body.0.dense_proj.weight")),
    ("v5", _both(_has("upsampler_net.up_conv.weight"), _any("transformer.attention.", "content_processor."))),
    ("v45g, v45r or v5", _has("upsampler_net.up_conv.weight")),
    ("predecessor ParagonSR", _any("transformer.project_in_g.")),
    ("v0", _both(_any("transformer.project_in."), _has("upsampler.0.weight"))),
    ("v0b", _both(_has("upsampler.weight"), _any(".dynamic_conv."))),
    ("v0c", _both(_has("upsampler.weight"), _any(".tracked_kernel"))),
    ("v4", _both(_has("hr_conv_in.weight"), _any(".dw_mixer."))),
    ("v1, v2 or v3", _has("hr_conv_in.weight")),
)  # fmt: skip
"""Name and rule, in order of detection: the first rule that holds names the generation."""

SERVED = re.compile(r"(v9/v10|v11) \((realtime|stream|photo|pro)\)")


def generation_of(keys: Keys) -> str | None:
    """Return the name of the generation that these tensor names belong to, if it is known."""
    names = set(keys)
    return next((name for name, rule in GENERATIONS if rule(names)), None)
