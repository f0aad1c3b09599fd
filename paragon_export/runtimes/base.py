"""Runner: the interface of everything that executes a network, and what its classes share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from paragon_export.errors import OutOfMemoryError, RunError, StageError, is_memory_error
from paragon_export.specs.network import Port
from paragon_export.system.text import one_line

Arrays = dict[str, np.ndarray]
"""Name of an input or output to array."""


class Runner(Protocol):
    """Executes one network."""

    name: str
    """Name of the runtime, for error messages."""

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Run the network once.

        Args:
            feeds: Input name to array, for every input: images (N, C, H, W) in [0, 1], grids of
                IDs, features of the frame before. Floating arrays are cast to the dtype of the
                input. IDs may have any integer dtype and become int64.

        Returns:
            Output name to array, not clamped. The arrays are copies that the caller may keep.

        Raises:
            RunError: If the network cannot run on these inputs.
            PlanError: If an ID or a cell is invalid; no runtime sees it (see ``validate``).
        """


@runtime_checkable
class DeviceRunner(Runner, Protocol):
    """A runner whose network may run on a device with memory of its own."""

    def prepare(self, feeds: Mapping[str, np.ndarray]) -> Callable[[], object]:
        """Copy the inputs to the device.

        Returns:
            A call that runs the network once and returns when the device has finished. The outputs
            stay in the memory of the device.
        """


def prepared(runner: Runner, feeds: Mapping[str, np.ndarray]) -> Callable[[], object]:
    """Return a call that runs a network once, on a device without copies to and from it."""
    if isinstance(runner, DeviceRunner):
        return runner.prepare(feeds)
    return partial(runner.infer, feeds)


def failure(what: str, error: Exception) -> StageError:
    """Return the error of a library as a RunError, or as an OutOfMemoryError if it is one.

    ``what`` says what failed and begins the message.
    """
    kind = OutOfMemoryError if is_memory_error(error) else RunError
    return kind(f"{what}: {reason_of_runtime(error)}")


def shapes_of(feeds: Mapping[str, np.ndarray]) -> str:
    """Return the names and shapes of arrays as text, for error messages."""
    return ", ".join(f"{name} {list(np.shape(array))}" for name, array in feeds.items())


def guarded_ports_of(data: bytes, ranks: Sequence[int]) -> tuple[Port, ...]:
    """Return the inputs whose arrays are checked: those of a classifier, else none.

    Args:
        data: A serialized ONNX model.
        ranks: The ranks of its outputs. A classifier has an output of rank 2.
    """
    if 2 not in ranks:
        return ()
    from paragon_export.graph.inspection import guarded_ports

    return guarded_ports(data)


def title_of(model: Path | bytes) -> str:
    """Return the name of a model in error messages."""
    return "the model" if isinstance(model, bytes) else str(model)


def reason_of_runtime(error: BaseException) -> str:
    """Return the message of a library's error in one line of at most 400 characters."""
    return one_line(str(error))[:400]
