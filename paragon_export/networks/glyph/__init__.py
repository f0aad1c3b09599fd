"""The glyph classifier: determine the network of a checkpoint of either phase and build it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from paragon_export.checkpoints.load import Checkpoint
from paragon_export.errors import CheckpointError, PlanError, UnsupportedNetworkError
from paragon_export.networks.glyph.config import Check, check, entries_of
from paragon_export.networks.glyph.layout import (
    CELL,
    GRID,
    CellHyperparameters,
    Hyperparameters,
    expected_cell_shapes,
    expected_shapes,
    infer,
    infer_cells,
    is_phase_1,
    is_phase_2,
    is_trained,
    unsupported_phase_2,
)
from paragon_export.networks.options import CHECKS
from paragon_export.networks.state_dict import Shapes, check_tensors, shapes_of, with_path
from paragon_export.specs.network import NetworkSpec, Port, ResolvedOption, Source, Task
from paragon_export.specs.plans import NetworkOptions
from paragon_export.system.strict_yaml import read_document
from paragon_export.system.text import brief

if TYPE_CHECKING:
    from torch import nn

OPTIONS: Mapping[str, Check] = {
    name: CHECKS[name] for name in ("activation", "normalize_embeddings", "stem_stride", "bn_eps")
}
"""Options that the tensors do not determine, and the check of each."""


class GlyphArchitecture:
    """Both phases of the glyph classifier, phase 2 with the cnn architecture."""

    name = "Glyph"

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        shapes = shapes_of(checkpoint)
        return bool(unsupported_phase_2(shapes)) or is_phase_2(shapes) or is_phase_1(shapes)

    def describe(self, checkpoint: Checkpoint, options: NetworkOptions) -> NetworkSpec:
        shapes = shapes_of(checkpoint)
        if architecture := unsupported_phase_2(shapes):
            raise UnsupportedNetworkError(
                f"{checkpoint.path} is a {self.name} classifier with the {architecture} "
                "architecture, which is not supported; supported are phase 1, and phase 2 with the "
                "cnn architecture"
            )
        unknown = [name for name in options.flags if name not in OPTIONS]
        if unknown:
            raise PlanError(f"{unknown[0]} is no option of a {self.name} network; leave it out")
        phase = self._phase_2 if is_phase_2(shapes) else self._phase_1
        try:
            return phase(checkpoint, shapes, options)
        except CheckpointError as error:
            raise with_path(error, checkpoint.path) from error

    def _phase_2(
        self, checkpoint: Checkpoint, shapes: Shapes, options: NetworkOptions
    ) -> NetworkSpec:
        inferred = infer(shapes)
        check_tensors(checkpoint, shapes, expected_shapes(inferred), _kind_of)
        resolved, entries = _resolve(checkpoint, options)
        check(entries, inferred)
        h = replace(inferred, **{name: option.value for name, option in resolved.items()})
        assumed = {name: o.value for name, o in resolved.items() if o.is_assumed}
        notes = []
        if assumed:
            values = ", ".join(f"{name} = {value}" for name, value in assumed.items())
            notes.append(
                f"{values}: assumed, the defaults of {self.name}: the tensors do not determine "
                f"them; give --config or --set {next(iter(assumed))}=VALUE"
            )
        return NetworkSpec(
            architecture=self.name,
            task=Task.GRID,
            generation="phase 2",
            variant=h.variant,
            scale=1,
            in_channels=1,
            out_channels=h.classes,
            parameters=_parameters(shapes),
            window=1,
            options=resolved,
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
        check_tensors(checkpoint, shapes, expected_cell_shapes(h), _kind_of)
        unused = [*options.flags, *(["--config"] if options.config else [])]
        notes = (f"{unused[0]} has no effect: phase 1 has no options",) if unused else ()
        return NetworkSpec(
            architecture=self.name,
            task=Task.CELLS,
            generation="phase 1",
            variant="cells",
            scale=1,
            in_channels=1,
            out_channels=h.classes,
            parameters=_parameters(shapes),
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

    def exportable(self, module: nn.Module) -> nn.Module:
        return module

    def ports(self, spec: NetworkSpec, *, video: bool) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
        if video:
            raise PlanError(
                f"--video: a {self.name} network takes no video frames; leave --video out"
            )
        h = spec.structure["hyperparameters"]
        output = Port("output", ("batch", h.classes))
        if isinstance(h, CellHyperparameters):
            return (Port("input", ("batch", 1, CELL, CELL), span=(0, 1)),), (output,)
        ids = Port("input", ("batch", GRID, GRID), "int64", span=(0, h.vocabulary - 1))
        return (ids,), (output,)


def _parameters(shapes: Shapes) -> int:
    """Return the number of elements of all trained tensors."""
    return sum(math.prod(shape) for name, shape in shapes.items() if is_trained(name))


def _kind_of(name: str) -> str:
    """Return the kind of a tensor's dtype: counters of batch norms are integers."""
    return "i" if name.endswith("num_batches_tracked") else "f"


def _resolve(
    checkpoint: Checkpoint, options: NetworkOptions
) -> tuple[dict[str, ResolvedOption], dict[str, Any]]:
    """Resolve the ``OPTIONS``.

    The sources are, by precedence: flag, ``--config``, the config in the checkpoint, default.

    Returns:
        The options, and all entries of both configs. Those of ``--config`` take precedence.
    """
    sources: list[tuple[Source, Mapping[str, Any]]] = [("flag", options.flags)]
    if options.config:
        document, _ = read_document(options.config)
        try:
            sources.append(("config", entries_of(document)))
        except PlanError as error:
            raise PlanError(f"{options.config}: {error}") from error
    embedded = checkpoint.extra.get("config")
    if isinstance(embedded, Mapping) and ("input" in embedded or "model" in embedded):
        sources.append(("metadata", entries_of(embedded)))
    entries: dict[str, Any] = {}
    for _, values in reversed(sources[1:]):
        entries |= values
    return {name: _resolve_one(name, sources) for name in OPTIONS}, entries


def _resolve_one(name: str, sources: list[tuple[Source, Mapping[str, Any]]]) -> ResolvedOption:
    """Return an option from the first source that has it, or its default.

    Raises:
        PlanError: If that source gives an invalid value.
    """
    for source, values in sources:
        if name in values:
            try:
                return ResolvedOption(OPTIONS[name](values[name]), source)
            except (ValueError, TypeError) as error:
                raise PlanError(
                    f"{name} = {brief(values[name])} (from the {source}) is impossible: {error}"
                ) from error
    return ResolvedOption(getattr(Hyperparameters, name), "default")
