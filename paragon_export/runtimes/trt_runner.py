"""Runners: anything that executes a network, behind one method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from paragon_export.errors import RunError
from paragon_export.runtimes.base import Arrays, reason_of_runtime
from paragon_export.runtimes.validate import checked
from paragon_export.specs.network import Port

Shape = tuple[int, ...]


class EngineRunner:
    """A TensorRT engine on the GPU at hand. Untested here: needs a GPU."""

    def __init__(self, engine: bytes, title: str, flavour: str, ports: Sequence[Port] = ()) -> None:
        """Load an engine that this tool built; the caller has checked its manifest.

        ``title`` names it in errors; ``ports`` are the inputs whose arrays are checked.

        Raises:
            RunError: If TensorRT refuses it.
        """
        from paragon_export.runtimes.polygraphy import polygraphy_trt

        self.name = f"TensorRT ({flavour})"
        self._ports = tuple(ports)
        backend = polygraphy_trt(flavour)  # before anything else of Polygraphy is imported
        from polygraphy.exception import PolygraphyException

        try:
            loaded = backend.EngineFromBytes(engine)
            self._runner = backend.TrtRunner(loaded)
            self._runner.activate()
            self._profiles = self._ranges()
            self._profile = 0
        except PolygraphyException as error:
            raise RunError(f"TensorRT cannot load {title}: {reason_of_runtime(error)}") from error

    def channels_of(self, name: str) -> int:
        """Return the channels of the input ``name``, (N, channels, H, W)."""
        return int(self._runner.get_input_metadata()[name].shape[1])

    def _ranges(self) -> list[dict[str, tuple[Shape, Shape]]]:
        """Return the smallest and the largest shape of every input, for each of several profiles.

        Empty where there is one: nothing is to be chosen then.
        """
        engine = self._runner.engine
        if engine.num_optimization_profiles < 2:
            return []
        names = list(self._runner.get_input_metadata())
        found = []
        for index in range(engine.num_optimization_profiles):
            shapes = {name: engine.get_tensor_profile_shape(name, index) for name in names}
            found.append({name: (tuple(s[0]), tuple(s[2])) for name, s in shapes.items()})
        return found

    def _choose_profile(self, shapes: Mapping[str, Shape]) -> None:
        """Select the first profile that holds all shapes; TensorRT refuses them if none does."""
        for index, ranges in enumerate(self._profiles):
            if all(_holds(ranges[name], shape) for name, shape in shapes.items()):
                if index != self._profile:
                    self._runner.set_profile(index)
                    self._profile = index
                return

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        from polygraphy.exception import PolygraphyException

        feeds = checked(self._ports, feeds)
        wanted = self._runner.get_input_metadata()
        cast = {n: np.ascontiguousarray(feeds[n], m.dtype.numpy()) for n, m in wanted.items()}
        try:
            self._choose_profile({name: array.shape for name, array in cast.items()})
            results = self._runner.infer(cast)
        except PolygraphyException as error:
            raise RunError(f"{self.name}: {reason_of_runtime(error)}") from error
        # Polygraphy reuses its output buffers.
        return {name: np.array(array) for name, array in results.items()}


def _holds(limits: tuple[Shape, Shape], shape: Shape) -> bool:
    """Tell whether a shape lies within the smallest and the largest one of a profile."""
    low, high = limits
    return len(low) == len(shape) and all(
        least <= extent <= most for least, extent, most in zip(low, shape, high, strict=True)
    )
