"""EngineRunner: run a TensorRT engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from paragon_export.errors import RunError
from paragon_export.runtimes.base import Arrays, reason_of_runtime
from paragon_export.runtimes.validate import checked
from paragon_export.specs.network import Port


class EngineRunner:
    """A TensorRT engine on a GPU of this machine; a :class:`Runner`."""

    def __init__(self, engine: bytes, title: str, backend: str, ports: Sequence[Port] = ()) -> None:
        """Load an engine.

        Args:
            engine: Its bytes, built by this tool; the caller has checked the manifest.
            title: Name of the engine in error messages.
            backend: ``rtx`` or ``tensorrt``, which built it.
            ports: Inputs whose arrays are checked (see ``validate.checked``).

        Raises:
            RunError: If TensorRT refuses the engine.
            MissingDependencyError: If the backend is not installed.
        """
        from paragon_export.runtimes.polygraphy import polygraphy_trt, python_logging

        self.name, self._backend = f"TensorRT ({backend})", backend
        self._ports = tuple(ports)
        trt = polygraphy_trt(backend)  # before any other import of Polygraphy
        from polygraphy.exception import PolygraphyException

        try:
            with python_logging(backend):
                self._runner = trt.TrtRunner(trt.EngineFromBytes(engine))
                self._runner.activate()
        except PolygraphyException as error:
            raise RunError(f"TensorRT cannot load {title}: {reason_of_runtime(error)}") from error

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Run the network once (see ``Runner.infer``)."""
        from polygraphy.exception import PolygraphyException

        from paragon_export.runtimes.polygraphy import python_logging

        feeds = checked(self._ports, feeds)
        inputs = self._runner.get_input_metadata()
        cast = {n: np.ascontiguousarray(feeds[n], m.dtype.numpy()) for n, m in inputs.items()}
        try:
            with python_logging(self._backend):
                results = self._runner.infer(cast)
        except PolygraphyException as error:
            raise RunError(f"{self.name}: {reason_of_runtime(error)}") from error
        # Copies, because Polygraphy reuses its output buffers.
        return {name: np.array(array) for name, array in results.items()}
