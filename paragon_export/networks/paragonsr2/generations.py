"""Determine the generation of ParagonSR or ParagonSR2 from the names and shapes of its tensors.

Each generation has its own network. Renaming the tensors of one generation to those of another may
load without an error, but computes another picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from paragon_export.networks.state_dict import Shapes

Rule = Callable[[Shapes], bool]
"""Returns whether the tensors are those of a generation."""

BLOCK = "body.0.blocks.0."
"""Prefix of the tensors of the first block."""


@dataclass(frozen=True)
class Generation:
    """One network architecture, which several published versions may share."""

    name: str
    """Published versions, as in ``v9/v10``."""
    folder: str
    """The folder that builds it; empty if it is not supported."""
    rule: Rule
    variant: str = ""
    """Empty if the folder determines it."""


def _has(*names: str) -> Rule:
    """All of these tensors exist."""
    return lambda found: all(name in found for name in names)


def _any(*fragments: str) -> Rule:
    """The name of at least one tensor contains one of these texts."""
    return lambda found: any(f in name for name in found for f in fragments)


def _all(*rules: Rule) -> Rule:
    """All of these rules hold."""
    return lambda found: all(rule(found) for rule in rules)


def _v9_v12(*names: str) -> Rule:
    """A generation from v9 on whose first block has these tensors."""
    return _has("conv_mid.weight", *(BLOCK + name for name in names))


def _v55_v8(*rules: Rule) -> Rule:
    """A generation from v55 to v8 for which these rules hold."""
    return _all(_any("detail_upsampler."), *rules)


def _v0_v5(*rules: Rule) -> Rule:
    """ParagonSR or a generation from v0 to v5 for which these rules hold."""
    return _all(_any("context.dwconv_hw."), *rules)


_FUSES = _has("body.0.mscf.p1.weight")
_HEAD = _has("hr_conv_in.weight")
_IMAGE = _has("upsampler_net.up_conv.weight")
_GATED = _any("transformer.project_in_g.")


def _flat_gain(found: Shapes) -> bool:
    """The gains of LayerScale are vectors."""
    return len(found.get(BLOCK + "ls1.gamma", ())) == 1


GENERATIONS = (
    Generation("v11atd or v11pre", "", _all(_v9_v12(), _any("body.0.layers.")), "pro"),
    Generation("v12dev", "", _v9_v12("gated_conv.conv1.weight"), "ultimate"),
    Generation("v11", "v9_v11", _v9_v12("token_ca.token_dict"), "pro"),
    Generation("v11", "v9_v11", _v9_v12("fuse.weight", "scale.gamma"), "stream"),
    Generation("v9/v10", "v9_v11", _v9_v12("fuse.weight"), "stream"),
    Generation("v11", "v9_v11", _v9_v12("norm.scale", "norm.bias"), "photo"),
    Generation("v11pre", "", _v9_v12("norm.scale"), "photo"),
    Generation("v11", "v9_v11", _v9_v12("conv1.weight", "scale.gamma"), "realtime"),
    Generation("v9/v10", "v9_v11", _v9_v12("conv1.weight"), "realtime"),
    Generation("v8", "v55_v8", _v55_v8(_FUSES, _has("base_upsampler.sharpen.source_kernel"))),
    Generation("v7", "v55_v8", _v55_v8(_FUSES)),
    Generation("v6", "v55_v8", _v55_v8(_has("global_detail_gain"))),
    Generation("v55", "v55_v8", _v55_v8()),
    Generation("v45d", "v0_v5", _v0_v5(_IMAGE, _has("body.0.dense_proj.weight"))),
    Generation("v5", "v0_v5", _v0_v5(_IMAGE, _any("transformer.attention.", "content_processor."))),
    Generation("v45r/v5", "v0_v5", _v0_v5(_IMAGE, _has(BLOCK + "norm.scale"))),
    Generation("v45g/v45r/v5", "v0_v5", _v0_v5(_IMAGE)),
    Generation("psr1-mk", "v0_v5", _v0_v5(_GATED, _any("magic_upsampler."))),
    Generation("psr1-nn", "v0_v5", _v0_v5(_GATED, _has("upsampler.1.weight"))),
    Generation("psr1-ps", "v0_v5", _v0_v5(_GATED)),
    Generation("v0", "v0_v5", _v0_v5(_has("upsampler.0.weight"))),
    Generation("v0b", "v0_v5", _v0_v5(_has("upsampler.weight"), _any(".dynamic_conv."))),
    Generation("v0c", "v0_v5", _v0_v5(_has("upsampler.weight"))),
    Generation("v4", "v0_v5", _v0_v5(_HEAD, _any(".dw_mixer."))),
    Generation("v2a/v2", "v0_v5", _v0_v5(_HEAD, _flat_gain)),
    Generation("v1/v3", "v0_v5", _v0_v5(_HEAD)),
)  # fmt: skip
"""In order of detection: the first rule that holds names the generation."""


def generation_of(shapes: Shapes) -> Generation | None:
    """Return the generation with tensors of these names and shapes; None if there is none."""
    return next((g for g in GENERATIONS if g.rule(shapes)), None)
