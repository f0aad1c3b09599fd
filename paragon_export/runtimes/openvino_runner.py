"""OpenVinoRunner: run an ONNX model in OpenVINO."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from paragon_export.runtimes.base import Arrays, failure, guarded_ports_of, shapes_of, title_of
from paragon_export.runtimes.validate import as_numbers, check_complete, checked
from paragon_export.system.optional import require

OPENVINO_SETTINGS = {"INFERENCE_PRECISION_HINT": "f32"}
"""By default OpenVINO computes in bfloat16 on processors that support it."""


class OpenVinoRunner:
    """An ONNX model in OpenVINO, on the CPU, in float32; a :class:`Runner`.

    No compiled model is cached on disk, because it could not be verified.
    """

    def __init__(self, model: Path | bytes, *, title: str = "", threads: int = 0) -> None:
        """Load a self-contained model.

        Args:
            model: A file or its bytes.
            title: Name of the model in error messages.
            threads: Of one run; 0: as many as OpenVINO chooses.

        Raises:
            RunError: If OpenVINO refuses the model.
            MissingDependencyError: If OpenVINO is not installed.
        """
        ov = require("openvino", "openvino")
        self.name = "OpenVINO"
        try:
            data = model if isinstance(model, bytes) else model.read_bytes()
            core = ov.Core()
            settings = OPENVINO_SETTINGS | ({"INFERENCE_NUM_THREADS": threads} if threads else {})
            compiled = core.compile_model(core.read_model(data), "CPU", settings)
        except (RuntimeError, OSError) as error:
            title = title or title_of(model)
            raise failure(f"OpenVINO cannot load {title}", error) from error
        self._request = compiled.create_infer_request()
        self._inputs = {port.any_name: port.element_type.to_dtype() for port in compiled.inputs}
        self._outputs = [port.any_name for port in compiled.outputs]
        self._ports = guarded_ports_of(data, [len(port.partial_shape) for port in compiled.outputs])

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Run the network once (see ``Runner.infer``)."""
        check_complete(self.name, self._inputs, feeds)
        feeds = checked(self._ports, feeds)
        cast = {n: np.asarray(feeds[n], dtype, order="C") for n, dtype in self._inputs.items()}
        try:
            results = self._request.infer(cast)
        except RuntimeError as error:
            raise failure(f"{self.name} fails on {shapes_of(cast)}", error) from error
        # Copies, because OpenVINO reuses its output buffers.
        return {name: as_numbers(name, np.array(results[name])) for name in self._outputs}
