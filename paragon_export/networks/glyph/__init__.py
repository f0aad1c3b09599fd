"""Glyph: describe the checkpoints of both phases of the glyph classifier and build them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from paragon_export.checkpoints.load import Checkpoint, listing
from paragon_export.errors import CheckpointError, PlanError, UnsupportedNetworkError
from paragon_export.networks.glyph.config import Check, check, entries_of
from paragon_export.networks.glyph.layout import (
    CELL,
    GRID,
    CellHyperparameters,
    Hyperparameters,
    Shapes,
    expected_cell_shapes,
    expected_shapes,
    infer,
    infer_cells,
    is_phase_1,
    is_phase_2,
    is_trained,
    sibling,
)
from paragon_export.networks.options import CHECKS
from paragon_export.specs.network import NetworkSpec, Port, ResolvedOption, Source, Task
from paragon_export.specs.plans import NetworkOptions
from paragon_export.system.strict_yaml import read_yaml
from paragon_export.system.text import brief

if TYPE_CHECKING:
    from torch import nn

OPEN: Mapping[str, Check] = {
    name: CHECKS[name] for name in ("activation", "normalize_embeddings", "stem_stride", "bn_eps")
}
"""What tensors do not tell, and how a value is checked."""


class GlyphArchitecture:
    """Both phases of the classifier; its sequence-aware and transformer relatives are refused."""

    name = "Glyph"

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        shapes = _shapes(checkpoint)
        return bool(sibling(shapes)) or is_phase_2(shapes) or is_phase_1(shapes)

    def describe(self, checkpoint: Checkpoint, options: NetworkOptions) -> NetworkSpec:
        shapes = _shapes(checkpoint)
        if relative := sibling(shapes):
            raise UnsupportedNetworkError(
                f"{checkpoint.path} is the {relative} relative of the {self.name} classifier, "
                "which is not served; served are its phase 1 and its phase 2 with the cnn "
                "architecture"
            )
        foreign = [name for name in options.flags if name not in OPEN]
        if foreign:
            raise PlanError(f"{foreign[0]} is no switch of a {self.name} network; leave it out")
        phase = self._phase_2 if is_phase_2(shapes) else self._phase_1
        try:
            return phase(checkpoint, shapes, options)
        except CheckpointError as error:
            raise CheckpointError(f"{checkpoint.path}: {error}") from error

    def _phase_2(
        self, checkpoint: Checkpoint, shapes: Shapes, options: NetworkOptions
    ) -> NetworkSpec:
        found = infer(shapes)
        _check_layout(checkpoint, shapes, expected_shapes(found))
        settings, entries = _settle(checkpoint, options)
        check(entries, found)
        h = replace(found, **{name: setting.value for name, setting in settings.items()})
        assumed = {name: s.value for name, s in settings.items() if s.is_assumed}
        notes = []
        if assumed:
            told = ", ".join(f"{name} = {value}" for name, value in assumed.items())
            notes.append(
                f"{told}: assumed, the defaults of {self.name}: the weights cannot tell; give "
                f"--config or --set {next(iter(assumed))}=VALUE"
            )
        return NetworkSpec(
            architecture=self.name,
            task=Task.GRID,
            generation="phase 2",
            variant=h.variant,
            scale=1,
            in_channels=1,
            out_channels=h.classes,
            parameters=_trained(shapes),
            window=1,
            options=settings,
            structure={"hyperparameters": h},
            contract={
                "value_range": [0, h.vocabulary - 1],
                "layout": "batch, row, column of primitive IDs, int64",
                "classes": h.classes,
                "vocabulary": h.vocabulary,
            },
            notes=tuple(notes),
        )

    def _phase_1(
        self, checkpoint: Checkpoint, shapes: Shapes, options: NetworkOptions
    ) -> NetworkSpec:
        h = infer_cells(shapes)
        _check_layout(checkpoint, shapes, expected_cell_shapes(h))
        given = [*options.flags, *(["--config"] if options.config else [])]
        notes = (f"{given[0]} has no effect: phase 1 leaves nothing open",) if given else ()
        return NetworkSpec(
            architecture=self.name,
            task=Task.CELLS,
            generation="phase 1",
            variant="cells",
            scale=1,
            in_channels=1,
            out_channels=h.classes,
            parameters=_trained(shapes),
            window=1,
            options={},
            structure={"hyperparameters": h},
            contract={"value_range": [0, 1], "layout": "NCHW, cells", "classes": h.classes},
            notes=notes,
        )

    def build(self, spec: NetworkSpec, checkpoint: Checkpoint, *, video: bool = False) -> nn.Module:
        import torch

        from paragon_export.networks.glyph.network import CellClassifier, GlyphClassifier

        h = spec.structure["hyperparameters"]
        network: nn.Module = (
            GlyphClassifier(h) if isinstance(h, Hyperparameters) else CellClassifier(h)
        )
        tensors = {name: torch.tensor(array) for name, array in checkpoint.tensors.items()}
        network.load_state_dict(tensors, strict=True)
        return network.requires_grad_(False).eval()

    def ports(self, spec: NetworkSpec, *, video: bool) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
        if video:
            raise PlanError(f"--video is for pictures; a {self.name} network has no frames")
        h = spec.structure["hyperparameters"]
        output = Port("output", ("batch", h.classes))
        if isinstance(h, CellHyperparameters):
            return (Port("input", ("batch", 1, CELL, CELL), span=(0, 1)),), (output,)
        ids = Port("input", ("batch", GRID, GRID), "int64", span=(0, h.vocabulary - 1))
        return (ids,), (output,)


def _shapes(checkpoint: Checkpoint) -> Shapes:
    return {name: array.shape for name, array in checkpoint.tensors.items()}


def _trained(shapes: Shapes) -> int:
    return sum(math.prod(shape) for name, shape in shapes.items() if is_trained(name))


def _settle(
    checkpoint: Checkpoint, options: NetworkOptions
) -> tuple[dict[str, ResolvedOption], dict[str, Any]]:
    """Settle what tensors do not tell: flag, ``--config``, the checkpoint's own config, default.

    Returns:
        The settings, and all that configs say of the network: of two, the stronger one.
    """
    sources: list[tuple[Source, Mapping[str, Any]]] = [("flag", options.flags)]
    if options.config:
        document = read_yaml(options.config)
        try:
            sources.append(("config", entries_of(document)))
        except PlanError as error:
            raise PlanError(f"{options.config}: {error}") from error
    embedded = checkpoint.beside.get("config")
    if isinstance(embedded, Mapping) and ("input" in embedded or "model" in embedded):
        sources.append(("metadata", entries_of(embedded)))
    entries: dict[str, Any] = {}
    for _, values in reversed(sources[1:]):
        entries |= values
    return {name: _setting(name, sources) for name in OPEN}, entries


def _setting(name: str, sources: list[tuple[Source, Mapping[str, Any]]]) -> ResolvedOption:
    for source, values in sources:
        if name in values:
            try:
                return ResolvedOption(OPEN[name](values[name]), source)
            except (ValueError, TypeError) as error:
                raise PlanError(
                    f"{name} = {brief(values[name])} (from the {source}) is impossible: {error}"
                ) from error
    return ResolvedOption(getattr(Hyperparameters, name), "default")


def _check_layout(checkpoint: Checkpoint, found: Shapes, expected: Shapes) -> None:
    """Refuse a checkpoint whose tensors are not exactly those of the network.

    Raises:
        CheckpointError: Listing missing, extra and wrongly shaped or typed tensors.
    """
    both = [name for name in expected if name in found]
    kinds = {n: "i" if n.endswith("num_batches_tracked") else "f" for n in both}
    faults = {
        "missing": sorted(set(expected) - set(found)),
        "unexpected": sorted(set(found) - set(expected)),
        "wrong": [
            f"{name} is {list(found[name])}, expected {list(expected[name])}"
            for name in both
            if found[name] != expected[name]
        ]
        + [
            f"{name} holds {checkpoint.tensors[name].dtype}"
            for name in both
            if checkpoint.tensors[name].dtype.kind != kinds[name]
        ],
    }
    told = [f"{len(names)} {kind}: {listing(names)}" for kind, names in faults.items() if names]
    if told:
        raise CheckpointError(f"not the tensors of its network; {'; '.join(told)}")
