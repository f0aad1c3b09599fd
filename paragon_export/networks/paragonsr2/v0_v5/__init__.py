"""ParagonSR and the generations v0 to v5, with sizes from nano to xl."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from paragon_export.checkpoints.load import Checkpoint
from paragon_export.networks.options import Resolver, blend_factor, scale_factor, yes_or_no
from paragon_export.networks.paragonsr2.generations import Generation
from paragon_export.networks.paragonsr2.option_checks import (
    check_scale,
    check_sources,
    notes_on_defaults,
    notes_on_unused_flags,
)
from paragon_export.networks.paragonsr2.v0_v5.layout import (
    FACTORIES,
    Choices,
    Factory,
    Hyperparameters,
    factory_of,
    infer,
    scale_of,
)
from paragon_export.networks.paragonsr2.v0_v5.tracked_kernels import check_tracked_kernels
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

ATTENTION_MODES = ("local", "global", "hierarchical")

SEVERAL_REGIONS_PX = (129, 128)
"""The smallest map of about square shape that the hierarchical attention attends in regions."""

EXCERPT_STEPS = {"local": 24, "global": 0, "hierarchical": 0}
"""``NetworkSpec.excerpt_step`` by attention mode. Local windows begin at multiples of 24 pixels."""

OPTIONAL = ("identity_kernel", "tracked_initialized")
"""Tensors that a checkpoint may lack, by the last component of their name."""


def describe(checkpoint: Checkpoint, found: Generation, options: NetworkOptions) -> NetworkSpec:
    """Return the network of a checkpoint; see :class:`networks.registry.Architecture`."""
    shapes = shapes_of(checkpoint, OPTIONAL)
    resolver = Resolver(options, checkpoint.metadata)
    # The sizes determine the published factory, whose defaults the options need.
    sizes = infer(shapes, found.name, Choices())
    name = factory_of(sizes, found.name)
    resolved = _resolve(resolver, sizes, FACTORIES[found.name].get(name))
    hp = infer(shapes, found.name, _choices(resolver, resolved))
    notes = _notes(checkpoint, hp)
    _check_scale(options, resolver, shapes, hp, resolved)
    # If the scale is unknown, no tensor depends on it.
    buildable = hp if hp.scale else replace(hp, scale=2)
    expected, parameters = shapes_built_by(partial(_network, buildable), OPTIONAL)
    check_tensors(checkpoint, shapes, expected)
    network = f"{found.name} {name}".strip()
    notes += notes_on_defaults(resolved, network, ("upsampler_alpha", "use_norm", "attention_mode"))
    notes += notes_on_unused_flags(options, network, resolved)
    return NetworkSpec(
        architecture="ParagonSR2",
        generation=found.name,
        variant=name.removesuffix(" (v2a)") or "custom",
        scale=hp.scale,
        in_channels=hp.in_channels,
        out_channels=hp.in_channels,
        parameters=parameters,
        window=32 if hp.attention == "local" else 1,
        options=resolved,
        structure={"hyperparameters": hp, "folder": found.folder},
        also_probed=(SEVERAL_REGIONS_PX,) if hp.attention == "hierarchical" else (),
        excerpt_step=EXCERPT_STEPS.get(hp.attention, 1),
        needs=() if hp.scale else ("scale (give --scale or --config)",),
        notes=tuple(notes),
    )


def _choices(resolver: Resolver, resolved: Mapping[str, ResolvedOption]) -> Choices:
    """Return the values of the options from which hyperparameters are determined."""
    values = {name: option.value for name, option in resolved.items()}
    return Choices(
        scale=resolver.resolve("scale", 0, scale_factor).value,
        upsampler_alpha=values.get("upsampler_alpha", 0.0),
        use_norm=bool(values.get("use_norm")),
        attention=values.get("attention_mode", ""),
        obeys_flag=bool(values.get("obey_tracked_flag")),
        dynamic_inference=bool(values.get("dynamic_inference")),
    )


def _notes(checkpoint: Checkpoint, hp: Hyperparameters) -> list[str]:
    """Return notes on kernels and attention.

    Raises:
        CheckpointError: If kernels that the network needs are missing.
        PlanError: If an option requires tensors that are missing.
    """
    notes = check_tracked_kernels(checkpoint, hp) if hp.traits.mixer == "tracked" else []
    if hp.attention == "hierarchical":
        notes.append(
            "hierarchical attention differs from the original on pictures with a side below 32 "
            "pixels and more than 16384 pixels: the regions of the original overlap less there"
        )
    return notes


def _check_scale(
    options: NetworkOptions,
    resolver: Resolver,
    shapes: Shapes,
    hp: Hyperparameters,
    resolved: dict[str, ResolvedOption],
) -> None:
    """Check that the scale of flag and option file is that of the tensors.

    If the tensors do not determine it, it is added to ``resolved``.

    Raises:
        PlanError: If the flag or the option file is for another network.
    """
    scale = scale_of(shapes, hp.features)
    if scale:
        check_scale(options, scale)
        check_sources(resolver, scale)
    else:
        check_sources(resolver, 0)
        resolved["scale"] = resolver.resolve("scale", 0, scale_factor)


def _resolve(
    resolver: Resolver, hp: Hyperparameters, factory: Factory | None
) -> dict[str, ResolvedOption]:
    """Return the options of the network.

    Args:
        resolver: Sources of options that the tensors do not determine.
        hp: Sizes of the network.
        factory: The published size with its defaults; None if the network is of another size.

    Raises:
        PlanError: If a source gives an invalid value.
    """
    traits = hp.traits
    resolved: dict[str, ResolvedOption] = {}
    if traits.blend_is_fixed:
        resolved["upsampler_alpha"] = ResolvedOption(traits.alpha, "tensors")
    elif traits.tail in ("magic", "head", "image"):
        default = traits.alpha if factory is None or factory.alpha is None else factory.alpha
        resolved["upsampler_alpha"] = resolver.resolve("upsampler_alpha", default, blend_factor)
    if traits.norm_is_free:
        default_norm = bool(factory and factory.norm)
        resolved["use_norm"] = resolver.resolve("use_norm", default_norm, yes_or_no)
    if traits.mixer == "tracked":
        for name in ("dynamic_inference", "obey_tracked_flag"):
            resolved[name] = resolver.resolve(name, False, yes_or_no)
    if hp.queries:
        resolved["attention_mode"] = resolver.resolve("attention_mode", "local", _attention_mode)
    elif traits.tail == "image":
        resolved["attention_mode"] = ResolvedOption("none", "tensors")
    if traits.tail == "image":
        resolved["use_content_aware"] = ResolvedOption(hp.content is not None, "tensors")
    if traits.mixer == "static":
        resolved["use_channel_mod"] = ResolvedOption(hp.squeeze > 0, "tensors")
    if traits.tail == "head":
        resolved["hr_blocks"] = ResolvedOption(hp.head_blocks, "tensors")
    return resolved


def _attention_mode(value: Any) -> str:
    """Return an attention mode of v5; raise ValueError for any other value."""
    if value not in ATTENTION_MODES:
        raise ValueError(f"it must be {', '.join(ATTENTION_MODES[:-1])} or {ATTENTION_MODES[-1]}")
    return str(value)


def _network(hp: Hyperparameters) -> nn.Module:
    from paragon_export.networks.paragonsr2.v0_v5.network import TAILS

    return TAILS[hp.traits.tail](hp)


def build(spec: NetworkSpec, checkpoint: Checkpoint, *, video: bool) -> nn.Module:
    """Build the network and load it strictly."""
    network = _network(spec.structure["hyperparameters"])
    return load_strictly(network, checkpoint, OPTIONAL)
