"""The generations v55, v6, v7 and v8, with the variants realtime, stream, photo and pro."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from paragon_export.checkpoints.load import Checkpoint
from paragon_export.networks.options import Resolver, blend_factor, window_side
from paragon_export.networks.paragonsr2.generations import Generation
from paragon_export.networks.paragonsr2.option_checks import (
    check_scale,
    check_sources,
    notes_on_defaults,
    notes_on_unused_flags,
)
from paragon_export.networks.paragonsr2.v55_v8.layout import (
    ALPHAS,
    BLOCK,
    HEADS,
    TRAITS,
    WINDOW_SIZE,
    Hyperparameters,
    infer,
    variant_of,
)
from paragon_export.networks.state_dict import (
    Shapes,
    check_tensors,
    load_strictly,
    shapes_built_by,
    shapes_of,
)
from paragon_export.specs.network import NetworkSpec, ResolvedOption
from paragon_export.specs.plans import NetworkOptions

if TYPE_CHECKING:
    from torch import nn

IGNORED = ("source_kernel", "relative_position_index")
"""Buffers that are computed or not used, by the last component of their name."""


def describe(checkpoint: Checkpoint, found: Generation, options: NetworkOptions) -> NetworkSpec:
    """Return the network of a checkpoint; see :class:`networks.registry.Architecture`."""
    shapes = shapes_of(checkpoint, IGNORED)
    resolver = Resolver(options, checkpoint.metadata)
    variant = variant_of(shapes)
    alpha, notes = _resolve_alpha(resolver, found.name, ALPHAS[variant])
    window = resolver.resolve("window_size", WINDOW_SIZE, window_side)
    traits = TRAITS[found.name]
    hp = infer(shapes, traits, window=window.value, upsampler_alpha=alpha.value)
    resolved = {"upsampler_alpha": alpha, **_structure_options(shapes, hp, window)}
    network = f"{found.name} {variant}"
    notes += notes_on_defaults(resolved, network, ("upsampler_alpha", "window_size"))
    notes += notes_on_unused_flags(options, network, resolved)
    expected, parameters = shapes_built_by(partial(_network, hp), IGNORED)
    check_tensors(checkpoint, shapes, expected)
    check_sources(resolver, hp.scale)
    check_scale(options, hp.scale)
    return NetworkSpec(
        architecture="ParagonSR2",
        generation=found.name,
        variant=variant,
        scale=hp.scale,
        in_channels=hp.in_channels,
        out_channels=hp.in_channels,
        parameters=parameters,
        window=hp.window,
        excerpt_step=hp.window,
        options=resolved,
        structure={"hyperparameters": hp, "folder": found.folder},
        notes=tuple(notes),
    )


def _resolve_alpha(
    resolver: Resolver, generation: str, default: float
) -> tuple[ResolvedOption, list[str]]:
    """Return ``upsampler_alpha``, and notes for the user."""
    alpha = resolver.resolve("upsampler_alpha", default, blend_factor)
    if generation != "v55" or alpha.source not in ("config", "metadata"):
        return alpha, []
    # The published code of v55 ignores the option and always uses the default.
    note = (
        f"the {alpha.source} says upsampler_alpha {alpha.value}, but v55 ignores it in training and "
        f"uses its default {default}, which is used here too (--upsampler-alpha overrides it)"
    )
    return ResolvedOption(default, "default"), [note]


def _structure_options(
    shapes: Shapes, hp: Hyperparameters, window: ResolvedOption
) -> dict[str, ResolvedOption]:
    """Return the options that follow from the tensors, with the window size."""
    resolved: dict[str, ResolvedOption] = {}
    if hp.attention:
        has_table = BLOCK + "attn.relative_position_bias_table" in shapes
        resolved["window_size"] = ResolvedOption(hp.window, "tensors") if has_table else window
        resolved["heads"] = ResolvedOption(HEADS, "default")
    resolved["use_content_aware"] = ResolvedOption(hp.content > 0, "tensors")
    resolved["attention_mode"] = ResolvedOption("windows" if hp.attention else "none", "tensors")
    return resolved


def _network(hp: Hyperparameters) -> nn.Module:
    from paragon_export.networks.paragonsr2.v55_v8.network import ParagonSR2V55

    return ParagonSR2V55(hp)


def build(spec: NetworkSpec, checkpoint: Checkpoint, *, video: bool) -> nn.Module:
    """Build the network and load it strictly."""
    network = _network(spec.structure["hyperparameters"])
    return load_strictly(network, checkpoint, IGNORED)
