"""ParagonSR and the generations v0 to v5: nano to xl."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from paragon_export.checkpoints.load import Checkpoint, listing
from paragon_export.errors import CheckpointError, PlanError
from paragon_export.networks.options import Resolver, blend_factor, factor, yes_or_no
from paragon_export.networks.paragonsr2.describing import (
    assume,
    check_option_file,
    check_tensors,
    load_strictly,
    no_effect,
)
from paragon_export.networks.paragonsr2.generations import Generation
from paragon_export.networks.paragonsr2.layout import check_scale, shapes_in
from paragon_export.networks.paragonsr2.v0_v5.layout import (
    FACTORIES,
    TRAITS,
    Hyperparameters,
    factory_of,
    infer,
    told_scale,
)
from paragon_export.specs.network import NetworkSpec, ResolvedOption
from paragon_export.specs.plans import NetworkOptions

if TYPE_CHECKING:
    from torch import nn

ATTENTION_MODES = ("local", "global", "hierarchical")

OPTIONAL = ("identity_kernel", "tracked_initialized")
"""Tensors that a checkpoint may lack: kernels are baked without them."""


def describe(checkpoint: Checkpoint, found: Generation, options: NetworkOptions) -> NetworkSpec:
    """Work out the variant; see :class:`families.Architecture`."""
    shapes = shapes_in(checkpoint, OPTIONAL)
    resolver = Resolver(options, checkpoint.metadata)
    traits = TRAITS[found.name]
    # A first look without what tensors do not tell, by which the published size is known.
    bare = infer(
        shapes, found.name, scale=0, upsampler_alpha=0.0, use_norm=False, attention="local"
    )
    name = factory_of(bare, found.name)
    known = FACTORIES[found.name].get(name)
    settings, notes = _settle(resolver, bare, known)
    scale = resolver.settle("scale", 0, factor)
    hp = infer(
        shapes,
        found.name,
        scale=scale.value,
        upsampler_alpha=settings["upsampler_alpha"].value if "upsampler_alpha" in settings else 0.0,
        use_norm=_value(settings, "use_norm"),
        attention=settings["attention_mode"].value if bare.queries else "",
        obeys_flag=_value(settings, "obey_tracked_flag"),
        dynamic_inference=_value(settings, "dynamic_inference"),
    )
    network = f"{found.name} {name}".strip()
    if traits.mixer == "tracked":
        notes += _tracked(checkpoint, hp)
    told = told_scale(shapes, hp.features)
    if told:
        check_scale(options, told)
        check_option_file(resolver.options, told)
    else:
        check_option_file(resolver.options, resolver.options.get("scale", 0))
        settings["scale"] = scale
    if hp.attention == "hierarchical":
        notes.append(
            "hierarchical attention of pictures thinner than 32 pixels and of more than 16384 in "
            "all is not that of the original, whose regions overlap by less there"
        )
    needs = () if hp.scale else ("scale (give --scale or --config)",)
    built = hp if hp.scale else replace(hp, scale=2)  # no tensor depends on it
    parameters = check_tensors(checkpoint, shapes, partial(_network, built), OPTIONAL)
    names = ("upsampler_alpha", "use_norm", "attention_mode")
    return NetworkSpec(
        architecture="ParagonSR2",
        generation=found.name,
        variant=name.removesuffix(" (v2a)") or "custom",
        scale=hp.scale,
        in_channels=hp.in_channels,
        out_channels=hp.in_channels,
        parameters=parameters,
        window=32 if hp.attention == "local" else 1,
        options=settings,
        structure={"hyperparameters": hp, "line": found.line},
        needs=needs,
        notes=(*notes, *assume(settings, network, names), *no_effect(options, network, settings)),
    )


def _value(settings: Mapping[str, ResolvedOption], name: str) -> bool:
    return name in settings and bool(settings[name].value)


def _settle(
    resolver: Resolver, hp: Hyperparameters, known: Any
) -> tuple[dict[str, ResolvedOption], list[str]]:
    """Settle what tensors cannot tell of this generation."""
    traits = hp.traits
    settings: dict[str, ResolvedOption] = {}
    notes: list[str] = []
    if traits.blend_is_fixed:
        settings["upsampler_alpha"] = ResolvedOption(traits.alpha, "tensors")
    elif traits.tail in ("magic", "head", "image"):
        default = traits.alpha if known is None or known.alpha is None else known.alpha
        settings["upsampler_alpha"] = resolver.settle("upsampler_alpha", default, blend_factor)
    if traits.norm_is_free:
        default_norm = bool(known and known.norm)
        settings["use_norm"] = resolver.settle("use_norm", default_norm, yes_or_no)
    if traits.mixer == "tracked":
        for switch in ("dynamic_inference", "obey_tracked_flag"):
            settings[switch] = resolver.settle(switch, False, yes_or_no)
    if hp.queries:
        settings["attention_mode"] = resolver.settle("attention_mode", "local", _attention_mode)
    elif traits.tail == "image":
        settings["attention_mode"] = ResolvedOption("none", "tensors")
    if traits.tail == "image":
        settings["use_content_aware"] = ResolvedOption(hp.content is not None, "tensors")
    if traits.mixer == "static":
        settings["use_channel_mod"] = ResolvedOption(hp.squeeze > 0, "tensors")
    if traits.tail == "head":
        settings["hr_blocks"] = ResolvedOption(hp.head_blocks, "tensors")
    return settings, notes


def _attention_mode(value: Any) -> str:
    if value not in ATTENTION_MODES:
        raise ValueError(f"it must be {', '.join(ATTENTION_MODES[:-1])} or {ATTENTION_MODES[-1]}")
    return str(value)


def _tracked(checkpoint: Checkpoint, hp: Hyperparameters) -> list[str]:
    """Say what kernels will be baked, and refuse a checkpoint that lacks them.

    Averaging weights copies the kernels and loses the flag that says they are there; a kernel
    that is not zero was tracked, whatever the flag.

    Raises:
        CheckpointError: If a block has a flag that is set and no kernel, or neither.
        PlanError: If kernels are to be predicted and nothing predicts them.
    """
    if hp.dynamic_inference:
        # v1, whose gains are not flat, may have been trained with a gate or nothing instead.
        if hp.flat_gains and not hp.has_generator:
            raise PlanError(
                f"dynamic_inference is asked for, and {checkpoint.path} cannot predict kernels: "
                "its kernel_generator is missing; leave --set dynamic_inference=true out"
            )
        return []
    mended, untracked = [], []
    for group in range(hp.groups):
        for block in range(hp.blocks):
            prefix = f"body.{group}.blocks.{block}.transformer."
            kernel = checkpoint.tensors.get(prefix + "tracked_kernel")
            flag = checkpoint.tensors.get(prefix + "tracked_initialized")
            if kernel is None:
                raise CheckpointError(
                    f"{checkpoint.path}: {prefix}tracked_kernel is missing, so the kernels of this "
                    "generation cannot be baked; save the whole state dict of the network"
                )
            is_set, is_there = flag is not None and bool(flag.any()), bool(kernel.any())
            if flag is None and hp.obeys_flag:
                raise CheckpointError(
                    f"{checkpoint.path}: {prefix}tracked_initialized is missing, so it cannot be "
                    "obeyed; leave --set obey_tracked_flag=true out"
                )
            is_there = is_there and (is_set or not hp.obeys_flag)
            if is_set and not is_there:
                raise CheckpointError(
                    f"{checkpoint.path}: {prefix}tracked_initialized is set and tracked_kernel is "
                    "all zero, so nothing was tracked; save the network again"
                )
            if is_there and not is_set:
                mended.append(prefix.rstrip("."))
            if not is_there:
                untracked.append(prefix.rstrip("."))
    notes = []
    if mended:
        notes.append(
            f"tracked_initialized is not set in {len(mended)} blocks that hold tracked kernels "
            f"({listing(mended, 2)}), as in averaged checkpoints; the kernels are used "
            "(--set obey_tracked_flag=true leaves them out)"
        )
    if untracked:
        notes.append(
            f"no kernels were tracked in {len(untracked)} blocks ({listing(untracked, 2)}); they "
            "pass features unchanged there, as the original does"
        )
    return notes


def _network(hp: Hyperparameters) -> nn.Module:
    from paragon_export.networks.paragonsr2.v0_v5.network import TAILS

    return TAILS[hp.traits.tail](hp)


def build(spec: NetworkSpec, checkpoint: Checkpoint, *, video: bool) -> nn.Module:
    """Build the network and load it strictly."""
    network = _network(spec.structure["hyperparameters"])
    return load_strictly(network, checkpoint, OPTIONAL)
