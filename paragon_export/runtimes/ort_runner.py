"""OnnxRunner: run an ONNX model in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from paragon_export.errors import RunError
from paragon_export.runtimes.base import Arrays, failure, guarded_ports_of, shapes_of, title_of
from paragon_export.runtimes.validate import as_numbers, check_complete, checked
from paragon_export.system.optional import cuda_advice, import_without_telemetry

if TYPE_CHECKING:
    import onnxruntime


CPU_PROVIDER = "CPUExecutionProvider"
"""ONNX Runtime's name of its CPU provider."""

SILENT = 4
"""Log severity of ONNX Runtime above errors, which are raised as exceptions anyway."""


class OnnxRunner:
    """An ONNX model in ONNX Runtime, in this process; a :class:`Runner`.

    It is meant for models that this process created. Other files run in an ``IsolatedRunner``. It
    sets no limits on the process.
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
        """Load a model.

        Args:
            model: A self-contained file, or its bytes.
            provider: ONNX Runtime's name of the execution provider.
            name: Name of the runner in error messages.
            title: Name of the model in error messages.
            in_order: Whether to run the nodes unoptimized and in the order of the file.

        Raises:
            RunError: If ONNX Runtime refuses the model, or would run it on another provider.
        """
        ort = import_without_telemetry("onnxruntime")
        self.name = name
        options = _session_options(provider, in_order=in_order)
        try:
            data = model if isinstance(model, bytes) else model.read_bytes()
            self.session = ort.InferenceSession(
                data, options, providers=[provider], enable_fallback=0
            )
        except Exception as error:  # ONNX Runtime raises unrelated classes
            title = title or title_of(model)
            raise failure(f"ONNX Runtime cannot load {title}", error) from error
        if provider != CPU_PROVIDER:
            _check_provider(self.session, provider)
        self._types = {i.name: _numpy_type(i) for i in self.session.get_inputs()}
        self._outputs = [o.name for o in self.session.get_outputs()]
        self._ports = guarded_ports_of(data, [len(o.shape) for o in self.session.get_outputs()])
        self._options = ort.RunOptions()
        self._options.log_severity_level = SILENT

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Run the network once (see ``Runner.infer``)."""
        check_complete(self.name, self._types, feeds)
        feeds = checked(self._ports, feeds)
        cast = {name: np.asarray(feeds[name], dtype) for name, dtype in self._types.items()}
        try:
            results = self.session.run(None, cast, self._options)
        except Exception as error:  # ONNX Runtime raises unrelated classes
            raise failure(f"{self.name} fails on {shapes_of(cast)}", error) from error
        return {n: as_numbers(n, r) for n, r in zip(self._outputs, results, strict=True)}


def _session_options(provider: str, *, in_order: bool) -> onnxruntime.SessionOptions:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = SILENT
    # Idle threads that spin would slow down other processes and sessions.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if in_order:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_mem_reuse = False  # planning it takes time quadratic in the nodes
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    if provider != CPU_PROVIDER:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def _check_provider(session: onnxruntime.InferenceSession, provider: str) -> None:
    """Refuse a session that ONNX Runtime runs on another provider than requested.

    ONNX Runtime falls back to another provider without an error. Arithmetic on shapes may run on the
    CPU, where ONNX Runtime places it on purpose.

    Raises:
        RunError: If another provider comes first, or convolutions or products run on the CPU.
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
        raise RunError(
            f"ONNX Runtime would run {', '.join(heavy)} on the CPU, not on {device}; {cuda_advice()}"
        )


def _numpy_type(port: onnxruntime.NodeArg) -> np.dtype:
    """Return the dtype of an input.

    Raises:
        RunError: If the type is not supported.
    """
    import ml_dtypes

    types = {
        "tensor(float)": np.float32,
        "tensor(float16)": np.float16,
        "tensor(bfloat16)": ml_dtypes.bfloat16,
        "tensor(double)": np.float64,
        "tensor(int64)": np.int64,
    }
    if port.type not in types:
        raise RunError(
            f"input {port.name} has type {port.type}; expected one of {', '.join(types)}"
        )
    return np.dtype(types[port.type])
