"""Checks and notes on options that all generations of ParagonSR and ParagonSR2 share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from paragon_export.errors import PlanError
from paragon_export.networks.options import SET_OPTIONS, Resolver
from paragon_export.specs.network import ResolvedOption
from paragon_export.specs.plans import NetworkOptions
from paragon_export.system.text import brief


def notes_on_defaults(
    resolved: Mapping[str, ResolvedOption], network: str, names: Iterable[str]
) -> list[str]:
    """Return a note for each of the named options whose value is a default.

    Args:
        resolved: The options of the network.
        network: Name of the network that has these defaults, for the notes.
        names: Options to look at; those that the network does not have are left out.
    """
    return [
        f"{name} = {resolved[name].value} is assumed, the default of {network}: the tensors do not "
        f"determine it; give {_flag(name)} or --config"
        for name in names
        if name in resolved and resolved[name].is_assumed
    ]


def _flag(name: str) -> str:
    return f"--set {name}=VALUE" if name in SET_OPTIONS else f"--{name.replace('_', '-')}"


def notes_on_unused_flags(
    options: NetworkOptions, network: str, resolved: Mapping[str, ResolvedOption]
) -> list[str]:
    """Return a note for each flag that the network does not have."""
    return [
        f"{name} has no effect on {network}"
        for name in options.flags
        if name not in resolved and name != "scale"
    ]


def check_sources(resolver: Resolver, scale: int, variant: str = "") -> None:
    """Check that the option file and the metadata of the checkpoint are those of this network.

    Args:
        resolver: It holds both.
        scale: Upscaling factor that the tensors determine; 0 if they do not.
        variant: Variant that the option file's ``type`` must name, as in ``paragonsr2_photo``. If it
            is empty, any ``type`` that begins with ``paragonsr`` is accepted.

    Raises:
        PlanError: If one of them names another network or scale.
    """
    kind = resolver.options.get("type", "paragonsr2")
    lower = kind.lower() if isinstance(kind, str) else ""
    allowed = ("paragonsr2", f"paragonsr2_{variant}")
    if not (lower in allowed if variant else lower.startswith("paragonsr")):
        network = allowed[1] if variant else "a ParagonSR network"
        raise PlanError(
            f"the option file is for {brief(kind)}, the checkpoint is {network}; give the option "
            "file it was trained with"
        )
    recorded = str(resolver.recorded.get("type", "")).lower()
    if variant and recorded.startswith("paragonsr2_") and recorded not in allowed:
        raise PlanError(
            f"the metadata of the checkpoint is for {brief(recorded)}, its tensors are {allowed[1]}; "
            "correct the metadata or get the file again"
        )
    if scale:
        _check_scales(resolver, scale)


def _check_scales(resolver: Resolver, scale: int) -> None:
    """Raise PlanError if the option file or the metadata has another scale."""
    said = resolver.options.get("scale", scale)
    if said != scale:
        raise PlanError(
            f"the option file says scale {brief(said)}, the checkpoint's tensors say {scale}; give "
            "the option file it was trained with"
        )
    said = resolver.recorded.get("scale", scale)
    if isinstance(said, (int, float)) and said != scale:
        raise PlanError(
            f"the metadata of the checkpoint says scale {brief(said)}, its tensors say {scale}; "
            "correct the metadata or get the file again"
        )


def check_scale(options: NetworkOptions, scale: int) -> None:
    """Check that ``--scale`` does not contradict the tensors.

    Args:
        options: Those of the user.
        scale: Upscaling factor that the tensors determine.

    Raises:
        PlanError: If the user gave another scale.
    """
    requested = options.flags.get("scale", scale)
    if requested != scale:
        raise PlanError(
            f"--scale {requested}, but the checkpoint's tensors say {scale}; leave --scale out"
        )
