"""The generations v9, v10 and v11, with the variants realtime, stream, photo and pro."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from paragon_export.checkpoints.load import Checkpoint, listing
from paragon_export.errors import PlanError
from paragon_export.networks.options import (
    Resolver,
    attention_mode,
    blend_factor,
    window_side,
    yes_or_no,
)
from paragon_export.networks.paragonsr2.generations import Generation
from paragon_export.networks.paragonsr2.option_checks import (
    check_scale,
    check_sources,
    notes_on_defaults,
)
from paragon_export.networks.paragonsr2.v9_v11.layout import (
    HEADS,
    IGNORED,
    VARIANTS,
    WINDOW_SIZE,
    Hyperparameters,
    attention_tensors,
    expected_shapes,
    has_attention,
    infer,
)
from paragon_export.networks.paragonsr2.v9_v11.widths import (
    notes_on_widths,
    read_widths,
    with_widths,
)
from paragon_export.networks.state_dict import Shapes, check_tensors
from paragon_export.specs.network import NetworkSpec, ResolvedOption
from paragon_export.specs.plans import NetworkOptions

if TYPE_CHECKING:
    from torch import nn


def describe(checkpoint: Checkpoint, found: Generation, options: NetworkOptions) -> NetworkSpec:
    """Return the network of a checkpoint; see :class:`networks.registry.Architecture`."""
    variant = found.variant
    shapes = {n: a.shape for n, a in checkpoint.tensors.items() if n not in IGNORED}
    resolver = Resolver(options, checkpoint.metadata)
    has_attention_tensors = has_attention(shapes, variant)
    resolved, notes = _resolve(resolver, variant, has_attention_tensors)
    attention = has_attention_tensors and not (
        resolved["export_safe"].value or resolved["attention_mode"].value == "none"
    )
    dropped = () if attention else tuple(attention_tensors(shapes, variant))
    if dropped:
        cause = "export_safe" if resolved["export_safe"].value else "attention_mode"
        notes.append(
            f"{cause} drops {len(dropped)} trained attention tensors: {listing(list(dropped), 3)}"
        )
    kept = {n: shape for n, shape in shapes.items() if n not in set(dropped)}
    hyperparameters = _checked(checkpoint, kept, resolved, attention=attention)
    check_sources(resolver, hyperparameters.scale, variant)
    check_scale(options, hyperparameters.scale)
    if attention:
        resolved["heads"] = ResolvedOption(HEADS, "default")
    gain = float(checkpoint.tensors["detail_gain"].item())
    resolved["detail_gain"] = ResolvedOption(gain, "tensors")
    return NetworkSpec(
        architecture="ParagonSR2",
        generation=found.name,
        variant=variant,
        scale=hyperparameters.scale,
        in_channels=hyperparameters.in_channels,
        out_channels=hyperparameters.in_channels,
        parameters=sum(math.prod(shape) for shape in kept.values()),
        window=hyperparameters.window_size if attention else 1,
        excerpt_step=hyperparameters.window_size if attention else 1,
        options=resolved,
        structure={"hyperparameters": hyperparameters, "folder": found.folder},
        dropped=dropped,
        notes=(*notes, *notes_on_widths(hyperparameters)),
    )


def _checked(
    checkpoint: Checkpoint, kept: Shapes, resolved: Mapping[str, ResolvedOption], *, attention: bool
) -> Hyperparameters:
    """Return the hyperparameters of a network whose tensors are complete.

    Args:
        checkpoint: The checkpoint.
        kept: Shapes of the tensors that are not dropped.
        resolved: Options of the network.
        attention: Whether the network has window attention.

    Raises:
        CheckpointError: If tensors are missing, unexpected or of a wrong shape or dtype.
    """
    hyperparameters = infer(
        kept,
        attention=attention,
        window_size=resolved["window_size"].value if "window_size" in resolved else 1,
        upsampler_alpha=resolved["upsampler_alpha"].value,
    )
    hyperparameters = with_widths(hyperparameters, read_widths(checkpoint.metadata))
    check_tensors(checkpoint, kept, expected_shapes(hyperparameters))
    return hyperparameters


def build(spec: NetworkSpec, checkpoint: Checkpoint, *, video: bool) -> nn.Module:
    """Build the network and load it strictly."""
    import torch

    from paragon_export.networks.paragonsr2.v9_v11.network import ParagonSR2, VideoParagonSR2

    network = (VideoParagonSR2 if video else ParagonSR2)(spec.structure["hyperparameters"])
    absent = {*IGNORED, *spec.dropped}
    tensors = {n: torch.tensor(a) for n, a in checkpoint.tensors.items() if n not in absent}
    network.load_state_dict(tensors, strict=True)
    return network


def _resolve(
    resolver: Resolver, variant: str, has_attention_tensors: bool
) -> tuple[dict[str, ResolvedOption], list[str]]:
    """Return the options that the tensors do not determine, and notes for the user."""
    defaults = VARIANTS[variant]
    resolved = {
        "upsampler_alpha": resolver.resolve(
            "upsampler_alpha", defaults.upsampler_alpha, blend_factor
        ),
        "export_safe": resolver.resolve("export_safe", False, yes_or_no),
    }
    notes: list[str] = []
    export_safe = resolved["export_safe"]
    if export_safe.source == "flag" and export_safe.value and not has_attention_tensors:
        notes.append("export_safe has no effect: the checkpoint holds no attention")
    mode = resolver.resolve("attention_mode", "sdpa", attention_mode)
    window = resolver.resolve("window_size", WINDOW_SIZE, window_side)
    if defaults.attention:
        resolved["attention_mode"] = _resolve_attention(
            resolver, mode, has_attention_tensors, notes
        )
        resolved["window_size"] = window
    else:
        resolved["attention_mode"] = ResolvedOption("none", "tensors")
        for name, option in (("attention_mode", mode), ("window_size", window)):
            if option.source == "flag":
                notes.append(f"{name} has no effect: {variant} has no attention")
    relevant = ["upsampler_alpha", *(["window_size"] if has_attention_tensors else [])]
    return resolved, notes + notes_on_defaults(resolved, variant, relevant)


def _resolve_attention(
    resolver: Resolver, mode: ResolvedOption, has_attention_tensors: bool, notes: list[str]
) -> ResolvedOption:
    """Return the attention mode of a variant that has attention; notes may be added.

    Raises:
        PlanError: If a flag requires attention and the checkpoint has none.
    """
    if not has_attention_tensors:
        if mode.source == "flag" and mode.value != "none":
            raise PlanError(
                f"--attention-mode {mode.value}, but the checkpoint holds no attention tensors; "
                "leave the flag out"
            )
        return ResolvedOption("none", "tensors")
    if mode.source in ("config", "metadata") and resolver.unchecked("attention_mode") == "none":
        # The trainer trains attention with the text "none"; only null means no attention.
        notes.append(
            f"the {mode.source} says attention_mode: none, but the checkpoint holds trained "
            "attention; it is kept (--attention-mode none drops it)"
        )
        return ResolvedOption("sdpa", "tensors")
    return mode
