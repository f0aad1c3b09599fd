"""OnnxRunner: run an ONNX model in ONNX Runtime."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from paragon_export.errors import PlanError, RunError
from paragon_export.runtimes.base import Arrays, failure, guarded_ports_of, shapes_of, title_of
from paragon_export.runtimes.validate import as_numbers, check_complete, checked
from paragon_export.system.optional import cuda_advice, import_without_telemetry

if TYPE_CHECKING:
    import onnxruntime


CPU_PROVIDER = "CPUExecutionProvider"
"""ONNX Runtime's name of its CPU provider."""

CUDA_PROVIDER = "CUDAExecutionProvider"
"""ONNX Runtime's name of its provider for NVIDIA GPUs."""

_CUDA_OPTIONS = {"use_tf32": "0"}
"""TensorFloat-32 keeps 10 bits of the mantissa; float32 in the file must stay float32."""

_WITHOUT_TRIALS = {"cudnn_conv_algo_search": "HEURISTIC"}
"""By default ONNX Runtime times all kernels of cuDNN for every convolution and every new size."""

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
        *, title: str = "", in_order: bool = False, threads: int = 0,
        provider_options: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Load a model.

        Args:
            model: A self-contained file, or its bytes.
            provider: ONNX Runtime's name of the execution provider.
            name: Name of the runner in error messages.
            title: Name of the model in error messages.
            in_order: Whether to run the nodes unoptimized and in the order of the file.
            provider_options: Options of the provider, by ONNX Runtime's names.
            threads: Of one run; 0: as many as ONNX Runtime chooses.

        Raises:
            RunError: If ONNX Runtime refuses the model, or would run it on another provider.
        """
        ort = import_without_telemetry("onnxruntime")
        self.name = name
        options = _session_options(provider, in_order=in_order, threads=threads)
        chosen = [(provider, dict(provider_options or {}))]
        try:
            data = model if isinstance(model, bytes) else model.read_bytes()
            self.session = ort.InferenceSession(data, options, chosen, enable_fallback=0)
        except Exception as error:  # ONNX Runtime raises unrelated classes
            raise failure(f"ONNX Runtime cannot load {title or title_of(model)}", error) from error
        self._device = "cuda" if provider == CUDA_PROVIDER else "cpu"
        if provider != CPU_PROVIDER:
            _check_provider(self.session, provider)
        self._types = {i.name: _numpy_type(i) for i in self.session.get_inputs()}
        outputs = self.session.get_outputs()
        self._outputs = _distinct([o.name for o in outputs], title or title_of(model))
        self._ports = guarded_ports_of(data, [len(o.shape) for o in outputs])
        self._options = _run_options()

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Run the network once (see ``Runner.infer``)."""
        cast = self._cast(feeds)
        try:
            results = self.session.run(None, cast, self._options)
        except Exception as error:  # ONNX Runtime raises unrelated classes
            raise failure(f"{self.name} fails on {shapes_of(cast)}", error) from error
        return {n: as_numbers(n, r) for n, r in zip(self._outputs, results, strict=True)}

    def prepare(self, feeds: Mapping[str, np.ndarray]) -> Callable[[], object]:
        """Copy the inputs to the device (see ``DeviceRunner.prepare``)."""
        import onnxruntime as ort

        cast, binding = self._cast(feeds), self.session.io_binding()
        for name, array in cast.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, self._device))
        for name in self._outputs:
            binding.bind_output(name, self._device)

        def run() -> None:
            try:
                self.session.run_with_iobinding(binding, self._options)
            except Exception as error:  # ONNX Runtime raises unrelated classes
                raise failure(f"{self.name} fails on {shapes_of(cast)}", error) from error

        return run

    def _cast(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Return the checked inputs in the dtypes of the model."""
        check_complete(self.name, self._types, feeds)
        feeds = checked(self._ports, feeds)
        return {name: np.asarray(feeds[name], dtype) for name, dtype in self._types.items()}


def _distinct(names: list[str], title: str) -> list[str]:
    """Return the names of outputs.

    Raises:
        RunError: If two are alike.
    """
    if len(set(names)) < len(names):
        raise RunError(f"{title} names two outputs alike: {', '.join(names)}")
    return names


def open_on_cuda(data: bytes, title: str = "", *, for_one_size: bool = False) -> OnnxRunner:
    """Load a model onto the NVIDIA GPU of this machine. Float32 is not computed in TensorFloat-32.

    Args:
        data: A serialized ONNX model.
        title: Name of the model in error messages.
        for_one_size: Find the fastest kernels at the first run of each size, which takes seconds.

    Raises:
        PlanError: If the installed ONNX Runtime was built without CUDA.
        RunError: If it refuses the model, or would run it on the CPU.
    """
    ort = import_without_telemetry("onnxruntime")
    if CUDA_PROVIDER not in ort.get_available_providers():
        raise PlanError(f"this ONNX Runtime has no CUDA; {cuda_advice()}")
    if hasattr(ort, "preload_dlls"):  # ONNX Runtime 1.21 or later
        with redirect_stdout(io.StringIO()):  # it prints the libraries that are missing
            ort.preload_dlls()
    ort.set_default_logger_severity(SILENT)  # the error says what is missing
    options = _CUDA_OPTIONS if for_one_size else _CUDA_OPTIONS | _WITHOUT_TRIALS
    name = "ONNX Runtime CUDA"
    return OnnxRunner(data, CUDA_PROVIDER, name, title=title, provider_options=options)


def _run_options() -> onnxruntime.RunOptions:
    import onnxruntime as ort

    options = ort.RunOptions()
    options.log_severity_level = SILENT
    return options


def _session_options(provider: str, *, in_order: bool, threads: int) -> onnxruntime.SessionOptions:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = SILENT
    options.intra_op_num_threads = threads
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
