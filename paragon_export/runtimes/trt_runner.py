"""EngineRunner: run a TensorRT engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from paragon_export.errors import RunError
from paragon_export.runtimes.base import Arrays, reason_of_runtime
from paragon_export.runtimes.validate import checked
from paragon_export.specs.network import Port
from paragon_export.specs.ports import PortNames

Shape = tuple[int, ...]


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
                self._profiles = self._ranges()
                self._profile = 0
        except PolygraphyException as error:
            raise RunError(f"TensorRT cannot load {title}: {reason_of_runtime(error)}") from error

    def channels_of(self, name: str) -> int:
        """Return the channels of the input ``name``, (N, channels, H, W)."""
        return int(self._runner.get_input_metadata()[name].shape[1])

    @property
    def port_names(self) -> PortNames:
        """How the engine calls its image input and its result (see ``PortNames``)."""
        engine, inputs = self._runner.engine, list(self._runner.get_input_metadata())
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        outputs = [name for name in names if name not in inputs]
        if ("input" in inputs and "output" in outputs) or len(inputs) + len(outputs) != 2:
            return PortNames()
        return PortNames(image=inputs[0], result=outputs[0])

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
        """Run the network once (see ``Runner.infer``)."""
        results = self._run(self._cast(feeds))
        # Copies, because Polygraphy reuses its output buffers.
        return {name: np.array(array) for name, array in results.items()}

    def prepare(self, feeds: Mapping[str, np.ndarray]) -> Callable[[], object]:
        """Copy the inputs to the device (see ``DeviceRunner.prepare``)."""
        from polygraphy import cuda
        from polygraphy.datatype import DataType

        inputs = {
            name: cuda.DeviceArray(array.shape, DataType.from_dtype(array.dtype)).copy_from(array)
            for name, array in self._cast(feeds).items()
        }
        return partial(self._run, inputs, copy_outputs_to_host=False)

    def _cast(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Return the checked inputs in the dtypes of the engine."""
        feeds = checked(self._ports, feeds)
        inputs = self._runner.get_input_metadata()
        return {n: np.ascontiguousarray(feeds[n], m.dtype.numpy()) for n, m in inputs.items()}

    def _run(self, arrays: Mapping[str, Any], **options: Any) -> Mapping[str, Any]:
        """Run the engine on arrays of the host or of the GPU; return Polygraphy's own outputs."""
        from polygraphy.exception import PolygraphyException

        from paragon_export.runtimes.polygraphy import python_logging

        try:
            with python_logging(self._backend):
                self._choose_profile({name: tuple(array.shape) for name, array in arrays.items()})
                return self._runner.infer(dict(arrays), **options)
        except PolygraphyException as error:
            raise RunError(f"{self.name}: {reason_of_runtime(error)}") from error


def _holds(limits: tuple[Shape, Shape], shape: Shape) -> bool:
    """Tell whether a shape lies within the smallest and the largest one of a profile."""
    low, high = limits
    return len(low) == len(shape) and all(
        least <= extent <= most for least, extent, most in zip(low, shape, high, strict=True)
    )
