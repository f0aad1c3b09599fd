"""Name the generations of ParagonSR and ParagonSR2 from the names of their tensors.

Renaming the keys of an older generation to those of a later one loads every tensor and computes
another picture, so it is never done: each is built as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Shapes = Mapping[str, tuple[int, ...]]

Rule = Callable[[Shapes], bool]

BLOCK = "body.0.blocks.0."


@dataclass(frozen=True)
class Generation:
    """One way of computing, which several published versions may share."""

    name: str
    line: str
    """The folder that builds it; empty where it is recognised and refused."""
    rule: Rule
    variant: str = ""
    """Where the tensors' names tell it."""


def _has(*names: str) -> Rule:
    return lambda found: all(name in found for name in names)


def _any(*fragments: str) -> Rule:
    return lambda found: any(f in name for name in found for f in fragments)


def _both(*rules: Rule) -> Rule:
    return lambda found: all(rule(found) for rule in rules)


def _release(*names: str) -> Rule:
    return _has("conv_mid.weight", *(BLOCK + name for name in names))


def _tail(*rules: Rule) -> Rule:
    return _both(_any("detail_upsampler."), *rules)


def _context(*rules: Rule) -> Rule:
    return _both(_any("context.dwconv_hw."), *rules)


_MSCF = _has("body.0.mscf.p1.weight")
_HEAD = _has("hr_conv_in.weight")
_IMAGE = _has("upsampler_net.up_conv.weight")
_GATED = _any("transformer.project_in_g.")


def _flat_gain(found: Shapes) -> bool:
    return len(found.get(BLOCK + "ls1.gamma", ())) == 1


GENERATIONS = (
    Generation("v11atd or v11pre", "", _both(_release(), _any("body.0.layers.")), "pro"),
    Generation("v12dev", "", _release("gated_conv.conv1.weight"), "ultimate"),
    Generation("v11", "v9_v11", _release("token_ca.token_dict"), "pro"),
    Generation("v11", "v9_v11", _release("fuse.weight", "scale.gamma"), "stream"),
    Generation("v9/v10", "v9_v11", _release("fuse.weight"), "stream"),
    Generation("v11", "v9_v11", _release("norm.scale", "norm.bias"), "photo"),
    Generation("v11pre", "", _release("norm.scale"), "photo"),
    Generation("v11", "v9_v11", _release("conv1.weight", "scale.gamma"), "realtime"),
    Generation("v9/v10", "v9_v11", _release("conv1.weight"), "realtime"),
    Generation("v8", "v55_v8", _tail(_MSCF, _has("base_upsampler.sharpen.source_kernel"))),
    Generation("v7", "v55_v8", _tail(_MSCF)),
    Generation("v6", "v55_v8", _tail(_has("global_detail_gain"))),
    Generation("v55", "v55_v8", _tail()),
    Generation("v45d", "v0_v5", _context(_IMAGE, _has("body.0.dense_proj.weight"))),
    Generation("v5", "v0_v5", _context(_IMAGE, _any("transformer.attention.", "content_processor."))),
    Generation("v45r/v5", "v0_v5", _context(_IMAGE, _has(BLOCK + "norm.scale"))),
    Generation("v45g/v45r/v5", "v0_v5", _context(_IMAGE)),
    Generation("psr1-mk", "v0_v5", _context(_GATED, _any("magic_upsampler."))),
    Generation("psr1-nn", "v0_v5", _context(_GATED, _has("upsampler.1.weight"))),
    Generation("psr1-ps", "v0_v5", _context(_GATED)),
    Generation("v0", "v0_v5", _context(_has("upsampler.0.weight"))),
    Generation("v0b", "v0_v5", _context(_has("upsampler.weight"), _any(".dynamic_conv."))),
    Generation("v0c", "v0_v5", _context(_has("upsampler.weight"))),
    Generation("v4", "v0_v5", _context(_HEAD, _any(".dw_mixer."))),
    Generation("v2a/v2", "v0_v5", _context(_HEAD, _flat_gain)),
    Generation("v1/v3", "v0_v5", _context(_HEAD)),
)  # fmt: skip
"""In order of detection: the first rule that holds names the generation."""


def generation_of(shapes: Shapes) -> Generation | None:
    """Return the generation that tensors of these names and shapes belong to, if it is known."""
    return next((g for g in GENERATIONS if g.rule(shapes)), None)
