"""The release generations v9, v10 and v11: realtime, stream, photo and pro."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paragon_export.checkpoints.load import Checkpoint, listing
from paragon_export.errors import CheckpointError, PlanError
from paragon_export.networks.options import (
    Resolver,
    attention_mode,
    blend_factor,
    window_side,
    yes_or_no,
)
from paragon_export.networks.paragonsr2.generations import Generation
from paragon_export.networks.paragonsr2.layout import check_layout, check_scale
from paragon_export.networks.paragonsr2.v9_v11.layout import (
    HEADS,
    IGNORED,
    VARIANTS,
    WINDOW_SIZE,
    attention_tensors,
    expected_shapes,
    has_attention,
    infer,
)
from paragon_export.specs.network import NetworkSpec, ResolvedOption
from paragon_export.specs.plans import NetworkOptions
from paragon_export.system.text import brief

if TYPE_CHECKING:
    from torch import nn


def describe(checkpoint: Checkpoint, found: Generation, options: NetworkOptions) -> NetworkSpec:
    """Work out the variant; see :class:`families.Architecture`."""
    name = found.variant
    shapes = {n: a.shape for n, a in checkpoint.tensors.items() if n not in IGNORED}
    resolver = Resolver(options, checkpoint.metadata)
    settings, notes = _settle(resolver, name, has_attention(shapes, name))
    attends = has_attention(shapes, name) and not (
        settings["export_safe"].value or settings["attention_mode"].value == "none"
    )
    dropped = () if attends else tuple(attention_tensors(shapes, name))
    if dropped:
        culprit = "export_safe" if settings["export_safe"].value else "attention_mode"
        notes.append(
            f"{culprit} drops {len(dropped)} trained attention tensors: {listing(list(dropped), 3)}"
        )
    kept = {n: shape for n, shape in shapes.items() if n not in set(dropped)}
    try:
        hyperparameters = infer(
            kept,
            attention=attends,
            window_size=settings["window_size"].value if "window_size" in settings else 1,
            upsampler_alpha=settings["upsampler_alpha"].value,
        )
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error
    check_layout(checkpoint, kept, expected_shapes(hyperparameters))
    _check_options(resolver.options, name, hyperparameters.scale)
    check_scale(options, hyperparameters.scale)
    if attends:
        settings["heads"] = ResolvedOption(HEADS, "default")
    settings["detail_gain"] = ResolvedOption(_scalar(checkpoint, "detail_gain"), "tensors")
    return NetworkSpec(
        architecture="ParagonSR2",
        generation=found.name,
        variant=name,
        scale=hyperparameters.scale,
        in_channels=hyperparameters.in_channels,
        out_channels=hyperparameters.in_channels,
        parameters=sum(math.prod(shape) for shape in kept.values()),
        window=hyperparameters.window_size if attends else 1,
        options=settings,
        structure={"hyperparameters": hyperparameters, "line": found.line},
        dropped=dropped,
        notes=tuple(notes),
    )


def build(spec: NetworkSpec, checkpoint: Checkpoint, *, video: bool) -> nn.Module:
    """Build the network and load it strictly."""
    import torch

    from paragon_export.networks.paragonsr2.v9_v11.network import ParagonSR2, VideoParagonSR2

    network = (VideoParagonSR2 if video else ParagonSR2)(spec.structure["hyperparameters"])
    absent = {*IGNORED, *spec.dropped}
    tensors = {n: torch.tensor(a) for n, a in checkpoint.tensors.items() if n not in absent}
    network.load_state_dict(tensors, strict=True)
    return network


def _settle(
    resolver: Resolver, variant: str, attends: bool
) -> tuple[dict[str, ResolvedOption], list[str]]:
    """Settle the switches that tensors cannot tell and say which were assumed."""
    defaults = VARIANTS[variant]
    settings = {
        "upsampler_alpha": resolver.settle(
            "upsampler_alpha", defaults.upsampler_alpha, blend_factor
        ),
        "export_safe": resolver.settle("export_safe", False, yes_or_no),
    }
    notes: list[str] = []
    if settings["export_safe"].source == "flag" and settings["export_safe"].value and not attends:
        notes.append("export_safe has no effect: the checkpoint holds no attention")
    mode = resolver.settle("attention_mode", "sdpa", attention_mode)
    window = resolver.settle("window_size", WINDOW_SIZE, window_side)
    if defaults.attention:
        settings["attention_mode"] = _settle_attention(resolver, mode, attends, notes)
        settings["window_size"] = window
    else:
        settings["attention_mode"] = ResolvedOption("none", "tensors")
        for name, setting in (("attention_mode", mode), ("window_size", window)):
            if setting.source == "flag":
                notes.append(f"{name} has no effect: {variant} has no attention")
    relevant = ["upsampler_alpha", *(["window_size"] if attends else [])]
    for name in relevant:
        if settings[name].is_assumed:
            notes.append(
                f"{name} = {settings[name].value} is assumed, the default of {variant}: the "
                f"weights cannot tell; give --{name.replace('_', '-')} or --config"
            )
    return settings, notes


def _settle_attention(
    resolver: Resolver, mode: ResolvedOption, attends: bool, notes: list[str]
) -> ResolvedOption:
    if not attends:
        if mode.source == "flag" and mode.value != "none":
            raise PlanError(
                f"--attention-mode {mode.value}, but the checkpoint holds no attention tensors; "
                "leave the flag out"
            )
        return ResolvedOption("none", "tensors")
    if mode.source in ("config", "metadata") and resolver.given("attention_mode") == "none":
        # The trainer takes this string for an attention mode like any other and trains attention.
        notes.append(
            f"the {mode.source} says attention_mode: none, but the checkpoint holds trained "
            "attention; it is kept (--attention-mode none drops it)"
        )
        return ResolvedOption("sdpa", "tensors")
    return mode


def _check_options(options: Mapping[str, Any], variant: str, scale: int) -> None:
    """Refuse an option file that was written for another network."""
    told = options.get("type", "paragonsr2")
    if not isinstance(told, str) or told.lower() not in ("paragonsr2", f"paragonsr2_{variant}"):
        raise PlanError(
            f"the option file is for {brief(told)}, the checkpoint is paragonsr2_{variant}; "
            "give the option file it was trained with"
        )
    if "scale" in options and options["scale"] != scale:
        raise PlanError(
            f"the option file says scale {brief(options['scale'])}, the checkpoint's tensors say {scale}; "
            "give the option file it was trained with"
        )


def _scalar(checkpoint: Checkpoint, name: str) -> float:
    return float(checkpoint.tensors[name].item())
