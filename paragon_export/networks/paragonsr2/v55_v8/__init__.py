"""The generations v55, v6, v7 and v8, the way to the release."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from paragon_export.checkpoints.load import Checkpoint
from paragon_export.networks.options import Resolver, blend_factor, window_side
from paragon_export.networks.paragonsr2.describing import (
    assume,
    check_option_file,
    check_tensors,
    load_strictly,
    no_effect,
)
from paragon_export.networks.paragonsr2.generations import Generation
from paragon_export.networks.paragonsr2.layout import check_scale, shapes_in
from paragon_export.networks.paragonsr2.v55_v8.layout import (
    ALPHAS,
    BLOCK,
    HEADS,
    TRAITS,
    WINDOW,
    infer,
    variant_of,
)
from paragon_export.specs.network import NetworkSpec, ResolvedOption
from paragon_export.specs.plans import NetworkOptions

if TYPE_CHECKING:
    from torch import nn

IGNORED = ("source_kernel", "relative_position_index")
"""Buffers that are made anew or never read, by the last part of their name."""


def describe(checkpoint: Checkpoint, found: Generation, options: NetworkOptions) -> NetworkSpec:
    """Work out the variant; see :class:`families.Architecture`."""
    shapes = shapes_in(checkpoint, IGNORED)
    resolver = Resolver(options, checkpoint.metadata)
    name = variant_of(shapes)
    alpha = resolver.settle("upsampler_alpha", ALPHAS[name], blend_factor)
    notes: list[str] = []
    if found.name == "v55" and alpha.source in ("config", "metadata"):
        # Its code took the default whatever it was asked for.
        notes.append(
            f"the {alpha.source} says upsampler_alpha {alpha.value}; v55 was trained with its "
            f"default {ALPHAS[name]} whatever it said (--upsampler-alpha overrides)"
        )
        alpha = ResolvedOption(ALPHAS[name], "default")
    window = resolver.settle("window_size", WINDOW, window_side)
    traits = TRAITS[found.name]
    hp = infer(shapes, traits, window=window.value, upsampler_alpha=alpha.value)
    settings = {"upsampler_alpha": alpha}
    if hp.attention:
        told = BLOCK + "attn.relative_position_bias_table" in shapes
        settings["window_size"] = ResolvedOption(hp.window, "tensors") if told else window
        settings["heads"] = ResolvedOption(HEADS, "default")
    settings["use_content_aware"] = ResolvedOption(hp.content > 0, "tensors")
    settings["attention_mode"] = ResolvedOption("windows" if hp.attention else "none", "tensors")
    notes += assume(settings, f"{found.name} {name}", ("upsampler_alpha", "window_size"))
    notes += no_effect(options, f"{found.name} {name}", settings)
    build_empty = partial(_network, hp)
    parameters = check_tensors(checkpoint, shapes, build_empty, IGNORED)
    check_option_file(resolver.options, hp.scale)
    check_scale(options, hp.scale)
    return NetworkSpec(
        architecture="ParagonSR2",
        generation=found.name,
        variant=name,
        scale=hp.scale,
        in_channels=hp.in_channels,
        out_channels=hp.in_channels,
        parameters=parameters,
        window=hp.window,
        options=settings,
        structure={"hyperparameters": hp, "line": found.line},
        notes=tuple(notes),
    )


def _network(hp: object) -> nn.Module:
    from paragon_export.networks.paragonsr2.v55_v8.network import Preview

    return Preview(hp)  # type: ignore[arg-type]


def build(spec: NetworkSpec, checkpoint: Checkpoint, *, video: bool) -> nn.Module:
    """Build the network and load it strictly."""
    network = _network(spec.structure["hyperparameters"])
    return load_strictly(network, checkpoint, IGNORED)
