"""Runners: anything that executes a network, behind one method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from paragon_export.errors import RunError
from paragon_export.runtimes.base import Arrays, reason_of_runtime
from paragon_export.runtimes.validate import checked
from paragon_export.specs.network import Port


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
        except PolygraphyException as error:
            raise RunError(f"TensorRT cannot load {title}: {reason_of_runtime(error)}") from error

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        from polygraphy.exception import PolygraphyException

        feeds = checked(self._ports, feeds)
        wanted = self._runner.get_input_metadata()
        cast = {n: np.ascontiguousarray(feeds[n], m.dtype.numpy()) for n, m in wanted.items()}
        try:
            results = self._runner.infer(cast)
        except PolygraphyException as error:
            raise RunError(f"{self.name}: {reason_of_runtime(error)}") from error
        # Polygraphy reuses its output buffers.
        return {name: np.array(array) for name, array in results.items()}
