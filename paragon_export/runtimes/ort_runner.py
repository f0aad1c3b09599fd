"""Runners: anything that executes a network, behind one method."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from paragon_export.errors import RunError
from paragon_export.runtimes.base import Arrays, failure, guarded_ports_of, shapes_of, title_of
from paragon_export.runtimes.validate import checked
from paragon_export.system.optional import cuda_advice, import_without_telemetry

if TYPE_CHECKING:
    import onnxruntime


CPU_PROVIDER = "CPUExecutionProvider"


class OnnxRunner:
    """An ONNX file in ONNX Runtime, in this process: for models that this tool made.

    Files of others belong into an ``IsolatedRunner``.
    """

    def __init__(
        self,
        model: Path | bytes,
        provider: str = CPU_PROVIDER,
        name: str = "ONNX Runtime",
        *,
        title: str = "",
        in_order: bool = False,
    ) -> None:
        """Load a model file, or a serialized model.

        Args:
            model: Self-contained.
            provider: ONNX Runtime's name of what executes it.
            name: What the runner is called in errors.
            title: What the model is called in errors.
            in_order: Whether the nodes are run as they are and in the order of the file.

        Raises:
            RunError: If ONNX Runtime refuses it, or would run it on another provider.
        """
        ort = import_without_telemetry("onnxruntime")
        self.name = name
        options = ort.SessionOptions()
        options.log_severity_level = 4  # its errors are raised, and told in one line
        # Idle threads that spin would slow whatever else runs beside this session.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if in_order:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.enable_mem_reuse = False  # planning it takes time quadratic in the nodes
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        if provider != CPU_PROVIDER:
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        try:
            data = model if isinstance(model, bytes) else model.read_bytes()
            self.session = ort.InferenceSession(
                data, options, providers=[provider], enable_fallback=0
            )
        except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
            title = title or title_of(model)
            raise failure(f"ONNX Runtime cannot load {title}", error) from error
        if provider != CPU_PROVIDER:
            _check_provider(self.session, provider)
        self._types = {i.name: _numpy_type(i) for i in self.session.get_inputs()}
        self._outputs = [o.name for o in self.session.get_outputs()]
        self._ports = guarded_ports_of(data, [len(o.shape) for o in self.session.get_outputs()])
        self._options = ort.RunOptions()
        self._options.log_severity_level = 4

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        missing = sorted(set(self._types) - set(feeds))
        if missing:
            raise RunError(f"{self.name}: the model also wants {', '.join(missing)}")
        feeds = checked(self._ports, feeds)
        cast = {name: np.asarray(feeds[name], dtype) for name, dtype in self._types.items()}
        try:
            results = self.session.run(None, cast, self._options)
        except Exception as error:  # as above
            raise failure(f"{self.name} fails on {shapes_of(cast)}", error) from error
        return {n: _plain(n, r) for n, r in zip(self._outputs, results, strict=True)}


def _check_provider(session: onnxruntime.InferenceSession, provider: str) -> None:
    """Check that a session runs where it was asked to: ONNX Runtime falls back without an error.

    Arithmetic with shapes may stay on the CPU, where ONNX Runtime puts it on purpose.

    Raises:
        RunError: If another provider comes first, or the CPU gets convolutions or products.
    """
    device, used = provider.removesuffix("ExecutionProvider"), session.get_providers()
    if used[:1] != [provider]:
        raise RunError(
            f"ONNX Runtime has no working {device} here and fell back to {used[0]}; {cuda_advice()}"
        )
    if not hasattr(session, "get_provider_graph_assignment_info"):  # an older ONNX Runtime
        return
    parts = session.get_provider_graph_assignment_info()
    on_cpu = {n.op_type for part in parts if part.ep_name == CPU_PROVIDER for n in part.get_nodes()}
    heavy = sorted(op for op in on_cpu if any(word in op for word in ("Conv", "MatMul", "Gemm")))
    if heavy:
        raise RunError(f"ONNX Runtime would run {', '.join(heavy)} on the CPU, not on {device}")


def _plain(name: str, result: object) -> np.ndarray:
    """Return an output as an array of numbers.

    Raises:
        RunError: If it is text, or no tensor.
    """
    array = np.asarray(result)
    if array.dtype.kind not in "fiub":
        raise RunError(f"output {name} holds {array.dtype}; expected numbers")
    return array


def _numpy_type(port: onnxruntime.NodeArg) -> np.dtype:
    import ml_dtypes

    types = {
        "tensor(float)": np.float32,
        "tensor(float16)": np.float16,
        "tensor(bfloat16)": ml_dtypes.bfloat16,
        "tensor(double)": np.float64,
        "tensor(int64)": np.int64,
    }
    if port.type not in types:
        raise RunError(f"input {port.name} has type {port.type}, which is not served")
    return np.dtype(types[port.type])
