"""Provenance: the files that a report is about, the network's options, the machine and versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from paragon_export.reports.document import Code, Text
from paragon_export.specs.network import NetworkSpec
from paragon_export.system.atomic_write import sha256_of
from paragon_export.system.environment import environment
from paragon_export.system.text import brief

Facts = tuple[tuple[str, Text], ...]
"""What a report was made of and with, by name."""


def of_files(paths: Iterable[Path], known: Mapping[Path, str] | None = None) -> Facts:
    """Return the SHA-256 of files.

    Args:
        paths: The files. One that cannot be read any more is listed without a digest.
        known: Digests of files that need not be read again, or were not written.
    """
    digests = dict(known or {})
    for path in paths:
        if path not in digests:
            digests[path] = _digest(path)
    return tuple((path.name, ("SHA-256 ", Code(digest))) for path, digest in digests.items())


def _digest(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError:
        return "unknown: it cannot be read"


def of_network(spec: NetworkSpec | None) -> Facts:
    """Return what is known of a network: its kind, and its options with their sources."""
    if spec is None:
        return ()
    kind = f"{spec.architecture} {spec.generation} {spec.variant}"
    options: list[str] = []
    for name, option in spec.options.items():
        value = option.value if isinstance(option.value, str) else brief(option.value)
        options += [", " if options else "", Code(f"{name} = {value}"), f" ({option.source})"]
    network = ("network", (Code(kind), f", scale {spec.scale}, {spec.parameters:,} parameters"))
    return (network, ("options", options)) if options else (network,)


def of_machine(found: Mapping[str, Any] | None = None) -> Facts:
    """Return time, machine and versions; those of now if ``found`` is None."""
    facts = environment() if found is None else found
    if not facts:
        return ()
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    machine = f"{facts['processor']}, {facts['cores']} cores, {facts['platform']}"
    return (
        ("time", (str(facts["time"]),)),
        ("machine", (Code(machine), "; GPU: ", Code(facts["gpu"] or "none"))),
        ("versions", (Code(versions),)),
    )
