"""ParagonSR2: describe a checkpoint and build its network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paragon_export.checkpoint import Checkpoint, listing
from paragon_export.errors import CheckpointError, PlanError, UnsupportedNetworkError
from paragon_export.families.paragonsr2.generations import SERVED, generation_of
from paragon_export.families.paragonsr2.layout import (
    HEADS,
    IGNORED,
    VARIANTS,
    WINDOW_SIZE,
    Shapes,
    attention_tensors,
    expected_shapes,
    has_attention,
    infer,
)
from paragon_export.plan import Switches
from paragon_export.switches import (
    Resolver,
    attention_mode,
    brief,
    finite_number,
    whole_number,
    yes_or_no,
)
from paragon_export.variant import Port, Setting, Variant

if TYPE_CHECKING:
    from torch import nn


class ParagonSR2Family:
    """The release generations v9, v10 and v11; older ones are recognised and refused."""

    name = "ParagonSR2"

    def recognises(self, checkpoint: Checkpoint) -> bool:
        return generation_of(checkpoint.tensors) is not None

    def describe(self, checkpoint: Checkpoint, switches: Switches) -> Variant:
        served = SERVED.fullmatch(generation_of(checkpoint.tensors) or "")
        if not served:
            raise UnsupportedNetworkError(
                f"{checkpoint.path} is a {self.name} {generation_of(checkpoint.tensors)} network, "
                "which is not served yet; renaming its tensors to v9 or later would load and "
                "compute another picture"
            )
        generation, name = served[1], served[2]
        shapes = {n: a.shape for n, a in checkpoint.tensors.items() if n not in IGNORED}
        resolver = Resolver(switches, checkpoint.metadata)
        settings, notes = _settle(resolver, name, has_attention(shapes, name))
        attends = has_attention(shapes, name) and not (
            settings["export_safe"].value or settings["attention_mode"].value == "none"
        )
        dropped = () if attends else tuple(attention_tensors(shapes, name))
        if dropped:
            culprit = "export_safe" if settings["export_safe"].value else "attention_mode"
            notes.append(
                f"{culprit} drops {len(dropped)} trained attention tensors: "
                f"{listing(list(dropped), 3)}"
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
        _check_layout(checkpoint, kept, expected_shapes(hyperparameters))
        _check_options(resolver.options, name, hyperparameters.scale)
        if attends:
            settings["heads"] = Setting(HEADS, "default")
        settings["detail_gain"] = Setting(_scalar(checkpoint, "detail_gain"), "tensors")
        return Variant(
            family=self.name,
            generation=generation,
            name=name,
            scale=hyperparameters.scale,
            in_channels=hyperparameters.in_channels,
            out_channels=hyperparameters.in_channels,
            parameters=sum(math.prod(shape) for shape in kept.values()),
            window=hyperparameters.window_size if attends else 1,
            switches=settings,
            structure={"hyperparameters": hyperparameters},
            dropped=dropped,
            notes=tuple(notes),
        )

    def build(self, variant: Variant, checkpoint: Checkpoint, *, video: bool = False) -> nn.Module:
        import torch

        from paragon_export.families.paragonsr2.network import ParagonSR2, VideoParagonSR2

        network = (VideoParagonSR2 if video else ParagonSR2)(variant.structure["hyperparameters"])
        absent = {*IGNORED, *variant.dropped}
        tensors = {n: torch.tensor(a) for n, a in checkpoint.tensors.items() if n not in absent}
        network.load_state_dict(tensors, strict=True)
        return network.requires_grad_(False).eval()

    def ports(self, variant: Variant, *, video: bool) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
        features = variant.structure["hyperparameters"].features
        s = variant.scale
        image = Port("input", ("batch", variant.in_channels, "height", "width"))
        output = Port("output", ("batch", variant.out_channels, f"{s}*height", f"{s}*width"))
        if not video:
            return (image,), (output,)
        map_dims = ("batch", features, "height", "width")
        return (
            (image, Port("prev_feat", map_dims), Port("alpha", ())),
            (output, Port("feature_map", map_dims)),
        )


def _settle(
    resolver: Resolver, variant: str, attends: bool
) -> tuple[dict[str, Setting], list[str]]:
    """Settle the switches that tensors cannot tell and say which were assumed."""
    defaults = VARIANTS[variant]
    settings = {
        "upsampler_alpha": resolver.settle(
            "upsampler_alpha", defaults.upsampler_alpha, finite_number
        ),
        "export_safe": resolver.settle("export_safe", False, yes_or_no),
    }
    notes: list[str] = []
    if settings["export_safe"].source == "flag" and settings["export_safe"].value and not attends:
        notes.append("export_safe has no effect: the checkpoint holds no attention")
    mode = resolver.settle("attention_mode", "sdpa", attention_mode)
    window = resolver.settle("window_size", WINDOW_SIZE, whole_number)
    if defaults.attention:
        settings["attention_mode"] = _settle_attention(resolver, mode, attends, notes)
        settings["window_size"] = window
    else:
        settings["attention_mode"] = Setting("none", "tensors")
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
    resolver: Resolver, mode: Setting, attends: bool, notes: list[str]
) -> Setting:
    if not attends:
        if mode.source == "flag" and mode.value != "none":
            raise PlanError(
                f"--attention-mode {mode.value}, but the checkpoint holds no attention tensors; "
                "leave the flag out"
            )
        return Setting("none", "tensors")
    if mode.source in ("config", "metadata") and resolver.given("attention_mode") == "none":
        # The trainer takes this string for an attention mode like any other and trains attention.
        notes.append(
            f"the {mode.source} says attention_mode: none, but the checkpoint holds trained "
            "attention; it is kept (--attention-mode none drops it)"
        )
        return Setting("sdpa", "tensors")
    return mode


def _check_layout(
    checkpoint: Checkpoint, found: Shapes, expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse a checkpoint whose tensors are not exactly those of the network.

    Raises:
        CheckpointError: Listing missing, extra and wrongly shaped tensors.
    """
    missing = sorted(set(expected) - set(found))
    extra = sorted(set(found) - set(expected))
    wrong = [
        f"{name} is {list(found[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        # A scalar may come as one element, as PyTorch itself accepts it.
        if name in found and found[name] not in (shape, shape or (1,))
    ]
    wrong += [
        f"{name} holds {checkpoint.tensors[name].dtype}, expected floating point"
        for name in expected
        if name in found and checkpoint.tensors[name].dtype.kind != "f"
    ]
    faults = {"missing": missing, "unexpected": extra, "wrong": wrong}
    told = [f"{len(names)} {kind}: {listing(names)}" for kind, names in faults.items() if names]
    if told:
        raise CheckpointError(
            f"{checkpoint.path} does not hold the tensors of its network; {'; '.join(told)}"
        )


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
