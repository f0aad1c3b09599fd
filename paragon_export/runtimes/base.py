"""Runners: anything that executes a network, behind one method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from paragon_export.errors import OutOfMemoryError, RunError, StageError, is_memory_error
from paragon_export.specs.network import Port
from paragon_export.system.text import one_line

Arrays = dict[str, np.ndarray]


class Runner(Protocol):
    """Runs one network."""

    name: str

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Run once.

        Args:
            feeds: Input name to array: images (N, C, H, W) in [0, 1] and other ports of the
                graph. Floating arrays are cast to what the network takes. Grids of IDs are of
                any integer type and become int64.

        Returns:
            Output name to array, not clamped; copies that are safe to keep.

        Raises:
            RunError: If the network cannot run on these inputs.
            PlanError: If an ID or a cell is none, before any runtime sees it (see ``feeds``).
        """


def failure(what: str, error: Exception) -> StageError:
    """Return a library's error as one of ours."""
    kind = OutOfMemoryError if is_memory_error(error) else RunError
    return kind(f"{what}: {reason_of_runtime(error)}")


def shapes_of(feeds: Mapping[str, np.ndarray]) -> str:
    """Return names and shapes in words, for errors."""
    return ", ".join(f"{name} {list(np.shape(array))}" for name, array in feeds.items())


def guarded_ports_of(data: bytes, ranks: Sequence[int]) -> tuple[Port, ...]:
    """Return the inputs to be checked of a model with outputs of these ranks: a classifier's."""
    if 2 not in ranks:
        return ()
    from paragon_export.graph.inspection import guarded_ports

    return guarded_ports(data)


def title_of(model: Path | bytes) -> str:
    return "the model" if isinstance(model, bytes) else str(model)


def reason_of_runtime(error: BaseException) -> str:
    return one_line(str(error))[:400]
